"""What a call costs the daemon when much waits: by queued calls, by workers, with 1,000 clients connected.

    python -m benchmarks.scale            a table (some minutes)
    python -m benchmarks.scale --json     for programs
    python -m benchmarks.scale --check    exit status 1 if the cost is not flat within a fifth

Real are the daemon (shell, scheduler, books, sockets), the clients' sockets and every message. The workers are fakes, see
`benchmarks.fakes`. For each size the queue is filled while the workers wait; then a number of calls is finished, and for each
outcome its client submits another call, so that as many wait at the end as at the beginning.

The cost is the daemon's CPU time, of all its threads, by the kernel's own account, which a busy machine blurs less than wall
time. Memory is the growth of the daemon's resident set while the queue is filled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import select
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import zmq

from benchmarks import fakes
from plover import addresses
from plover.versions import PYTHON, versions
from plover.wire import codec
from plover.wire import messages as m

#: The cost may grow by this share from the smallest to the largest.
FLAT = 0.2
_FUNCTIONS = 16
_PAYLOAD = b"p" * 2048
_ARGUMENTS = b"a" * 64
_PATIENCE_S = 300.0
_NEVER = 1 << 40


class Cost(NamedTuple):
    """What was measured at one size."""

    queued: int
    workers: int
    clients: int
    call_us: float
    bytes_per_queued: float


# -- clients -----------------------------------------------------------------------------------------------------------


class _Client:
    """One connected client, by hand: what `plover.client` would send for short calls, without its futures."""

    def __init__(self, context: zmq.Context, address: str, number: int, secret: bytes) -> None:
        self.socket = context.socket(zmq.DEALER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self.socket.setsockopt(option, 0)
        self.socket.connect(address)
        self.socket.send_multipart(codec.write(m.Hello(number.to_bytes(16, "little"), secret, versions())))
        self._function = (number % _FUNCTIONS).to_bytes(32, "little")
        self._incarnation = 0
        self._next = 0
        self._acknowledged: tuple[int, ...] = ()

    def welcome(self) -> None:
        """Wait for the daemon's hand."""
        assert self.socket.poll(_PATIENCE_S * 1000)
        welcome = codec.TO_CLIENT.read(self.socket.recv_multipart()).message
        assert isinstance(welcome, m.Welcome), welcome
        self._incarnation = welcome.incarnation

    def submit(self) -> None:
        """One more call."""
        self._next += 1
        body = codec.Body()
        message = m.Submit(
            self._next,
            self._function,
            PYTHON,
            body.pack([_ARGUMENTS]),
            m.CallOptions(),
            body.pack([_PAYLOAD]) if self._next == 1 else None,
            self._acknowledged,
            "fake",
        )
        self._acknowledged = ()
        self.socket.send_multipart(codec.write(message, self._incarnation, body))

    def ask(self) -> None:
        """For a call that never was; the daemon's answer says that it has taken everything that was sent before."""
        self.socket.send_multipart(codec.write(m.Resume((_NEVER,)), self._incarnation))

    def hear(self) -> None:
        """Wait for that answer."""
        assert self.socket.poll(_PATIENCE_S * 1000)
        answer = codec.TO_CLIENT.read(self.socket.recv_multipart()).message
        assert answer == m.Unknown((_NEVER,)), answer

    def take(self) -> int:
        """The outcomes that came as one message; 0 if there is none."""
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return 0
        messages = codec.split(frames, "daemon")
        for each in messages:
            outcome = codec.TO_CLIENT.read(each).message
            assert isinstance(outcome, m.Outcome), outcome
            assert outcome.status == "succeeded", outcome
            self._acknowledged += (outcome.submission,)
        return len(messages)


class _Bench:
    """A daemon, its fakes and its clients."""

    def __init__(self, clients: int, pid: int, address: str, control: socket.socket) -> None:
        self.pid = pid
        self.bytes_per_queued = 0.0
        self._control = control
        self._address = address
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, clients + 16)
        secret = addresses.read_secret(addresses.socket_path(address))
        self.clients = [_Client(self._context, address, number, secret) for number in range(clients)]
        for client in self.clients:
            client.welcome()
        self._epoll = select.epoll()
        self._by_fd = {}
        for client in self.clients:
            fd = client.socket.getsockopt(zmq.FD)
            self._by_fd[fd] = client
            self._epoll.register(fd, select.EPOLLIN)

    def fill(self, count: int) -> None:
        """So many more calls, from all clients in turns, while the fakes wait; returns when the daemon has them all. Never
        are many under way: libzmq's memory for what was received and not taken yet would count as the queue's.
        """
        while count:
            turn = self.clients[:count]
            count -= len(turn)
            for client in turn:
                client.submit()
                client.ask()
            for client in turn:
                client.hear()

    def work(self, count: int, again: bool) -> None:
        """Let the fakes finish so many calls, and take the outcomes; for each, submit another if asked to."""
        self._control.send(count.to_bytes(8, "little"))
        left = count
        deadline = time.monotonic() + _PATIENCE_S
        todo = list(self.clients)  # a descriptor tells changes only: look at everybody once
        while left:
            for client in todo:
                while taken := client.take():
                    left -= taken
                    for _ in range(taken if again else 0):
                        client.submit()
            if left:
                todo = [self._by_fd[fd] for fd, _ in self._epoll.poll(1.0, len(self.clients))]
                assert time.monotonic() < deadline, f"{left} outcomes did not come"

    def close(self) -> None:
        """Disconnect."""
        self._epoll.close()
        self._context.destroy(linger=0)


@contextlib.contextmanager
def _bench(workers: int, clients: int, queued: int) -> Iterator[_Bench]:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="plvs-", dir="/tmp") as directory:
        launching, fakes_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control, control_end = socket.socketpair()
        address = f"ipc://{directory}/s/daemon.sock"
        told = spawn.Queue()
        processes = [
            spawn.Process(target=fakes.serve, args=(fakes_end, control_end), daemon=True),
            spawn.Process(
                target=fakes.run_daemon,
                args=(launching, address, f"{directory}/state", workers, queued, told),
                daemon=True,
            ),
        ]
        for process in processes:
            process.start()
        for end in (launching, fakes_end, control_end):
            end.close()
        try:
            bench = _Bench(clients, told.get(timeout=60), address, control)
            yield bench
            bench.close()
        finally:
            for process in processes:
                process.kill()  # a daemon that is asked to stop would first tell all who wait
                process.join()
            control.close()


# -- measuring ---------------------------------------------------------------------------------------------------------


def _cpu_s(pid: int) -> float:
    """CPU time of all its threads."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def measure(sizes: Iterable[tuple[int, int]], clients: int, calls: int, rounds: int) -> list[Cost]:
    """Fill a queue for each size, then have so many calls done in each while it stays full, all sizes in turns: the least of
    the rounds, since a busy machine can only add.

    Args:
        sizes: (queued, workers) each.
        clients: connected to each daemon.
        calls: in each round.
        rounds: how many.
    """
    with contextlib.ExitStack() as stack:
        benches = {}
        for queued, workers in sizes:
            bench = benches[queued, workers] = stack.enter_context(_bench(workers, clients, queued))
            for warm in (clients, max(clients, 20 * workers)):  # functions and workers are known, estimates are real
                bench.fill(warm)
                bench.work(warm, again=False)
            empty = _resident_bytes(bench.pid)
            bench.fill(queued)
            bench.bytes_per_queued = (_resident_bytes(bench.pid) - empty) / queued
            bench.work(calls, again=True)
        costs: dict[tuple[int, int], list[float]] = {size: [] for size in benches}
        for _ in range(rounds):
            for size, bench in benches.items():
                before = _cpu_s(bench.pid)
                bench.work(calls, again=True)
                costs[size].append((_cpu_s(bench.pid) - before) / calls)
        return [Cost(*size, clients, min(costs[size]) * 1e6, benches[size].bytes_per_queued) for size in benches]


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queued", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--calls", type=int, default=1_000, help="of each round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most_workers, few = max(arguments.workers), sorted(arguments.queued)[len(arguments.queued) // 2]
    by_queue = [(queued, most_workers) for queued in arguments.queued]
    by_workers = [(few, workers) for workers in arguments.workers]
    sizes = dict.fromkeys(by_queue + by_workers)
    costs = measure(sizes, arguments.clients, arguments.calls, arguments.rounds)
    call_us = {(cost.queued, cost.workers): cost.call_us for cost in costs}
    growth = {
        what: max(call_us[each] for each in series) / min(call_us[each] for each in series) - 1
        for what, series in (("queued calls", by_queue), ("workers", by_workers))
    }
    if arguments.json:
        print(json.dumps({"costs": [cost._asdict() for cost in costs], "growth": growth}, indent=2))
    else:
        for cost in costs:
            print(
                f"{cost.queued:>8,} queued, {cost.workers:>3} workers, {cost.clients:,} clients: "
                f"{cost.call_us:>6.1f} µs of the daemon's CPU a call"
            )
        most = max(costs)
        print(f"{most.bytes_per_queued:,.0f} bytes of the daemon's memory a queued call, at {most.queued:,}")
        print(", ".join(f"over {what} {share:+.0%}" for what, share in growth.items()), f"(bar: {FLAT:+.0%})")
    return int(arguments.check and any(share > FLAT for share in growth.values()))


if __name__ == "__main__":
    sys.exit(main())
