"""What a call costs, beside the floor that the machine sets: a raw pyzmq client → relay → worker loop.

Both are measured in the same run, in turns, because the machines are noisy: only the ratios mean anything.

    python benchmarks/calls.py            a table
    python benchmarks/calls.py --json     for programs
    python benchmarks/calls.py --check    exit status 1 if a bar is missed

The floor: three processes and two hops over ipc, like Plover's; a ROUTER/ROUTER relay with a Poller that copies frames from
one side to the other, a worker that echoes, a client that waits (round trips) or sends everything first (rate).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from plover import gpu_function

#: The bars of the first version.
ROUND_TRIP_BAR = 2.0
RATE_BAR = 0.15


# -- the floor ---------------------------------------------------------------------------------------------------------


def _relay(directory: str) -> None:
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    for socket, name in ((front, "front"), (back, "back")):
        for option in (zmq.SNDHWM, zmq.RCVHWM):
            socket.setsockopt(option, 0)
        socket.bind(f"ipc://{directory}/{name}")
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    worker = back.recv_multipart()[0]
    while True:
        ready = dict(poller.poll())
        if front in ready:
            client, body = front.recv_multipart()
            back.send_multipart([worker, client, body])
        if back in ready:
            _, client, body = back.recv_multipart()
            front.send_multipart([client, body])


def _echo(directory: str) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    for option in (zmq.SNDHWM, zmq.RCVHWM):
        socket.setsockopt(option, 0)
    socket.connect(f"ipc://{directory}/back")
    socket.send(b"ready")
    while True:
        socket.send_multipart(socket.recv_multipart())


class Floor:
    """The raw loop, running."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="plover-bench-")
        spawn = multiprocessing.get_context("spawn")
        self._processes = [
            spawn.Process(target=target, args=(self._directory.name,), daemon=True) for target in (_relay, _echo)
        ]
        for process in self._processes:
            process.start()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option in (zmq.SNDHWM, zmq.RCVHWM):
            self._socket.setsockopt(option, 0)
        self._socket.connect(f"ipc://{self._directory.name}/front")
        self.call()

    def call(self) -> None:
        """One round trip of 64 bytes."""
        self._socket.send(b"x" * 64)
        self._socket.recv()

    def burst(self, count: int) -> None:
        """Everything sent, then everything received."""
        for _ in range(count):
            self._socket.send(b"x" * 64)
        for _ in range(count):
            self._socket.recv()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
            process.join()
        self._context.destroy(linger=0)
        self._directory.cleanup()


# -- Plover ------------------------------------------------------------------------------------------------------------


@gpu_function
def no_op() -> None:
    """Nothing: what is left is Plover."""


def _burst(count: int) -> None:
    futures = [no_op.submit() for _ in range(count)]
    for future in futures:
        future.result()


# -- measuring ---------------------------------------------------------------------------------------------------------


def _p50_us(call: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def _rate(burst: Callable[[int], object], count: int) -> float:
    began = time.perf_counter()
    burst(count)
    return count / (time.perf_counter() - began)


def measure(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Medians over interleaved rounds, and of the rounds' ratios."""
    floor = Floor()
    no_op()
    series: dict[str, list[float]] = {name: [] for name in ("floor_us", "plover_us", "floor_rate", "plover_rate")}
    _p50_us(floor.call, calls // 4)
    _p50_us(no_op, calls // 4)
    for _ in range(rounds):
        series["floor_us"].append(_p50_us(floor.call, calls))
        series["plover_us"].append(_p50_us(no_op, calls))
        series["floor_rate"].append(_rate(floor.burst, 2000))
        series["plover_rate"].append(_rate(_burst, 2000))
    floor.close()
    ratios = {
        "round_trip": [p / f for p, f in zip(series["plover_us"], series["floor_us"], strict=True)],
        "rate": [p / f for p, f in zip(series["plover_rate"], series["floor_rate"], strict=True)],
    }
    return {
        "medians": {name: statistics.median(values) for name, values in series.items()},
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
    }


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, arguments.calls)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        medians, ratios = result["medians"], result["ratios"]
        print(f"{'':30}{'raw pyzmq':>12}{'Plover':>12}{'ratio':>10}{'bar':>10}")
        print(
            f"{'warm no-op, p50':30}{medians['floor_us']:>9.0f} µs{medians['plover_us']:>9.0f} µs"
            f"{ratios['round_trip']:>9.2f}×{'≤ 2.0×':>10}"
        )
        print(
            f"{'2,000 no-ops at once':30}{medians['floor_rate']:>10.0f}/s{medians['plover_rate']:>10.0f}/s"
            f"{ratios['rate']:>9.2f}×{'≥ 0.15×':>10}"
        )
    missed = result["ratios"]["round_trip"] > ROUND_TRIP_BAR or result["ratios"]["rate"] < RATE_BAR
    return int(arguments.check and missed)


if __name__ == "__main__":
    sys.exit(main())
