"""What it costs to send a large array there and back, beside what a copy in memory costs.

All is measured in the same run, in turns, because the machines are noisy: only the ratios mean anything. A rate counts the
bytes both ways; memcpy's is that of `numpy.copyto` between two arrays that were used before. What the same function takes
in this process, between such arrays, is the floor of those that copy nothing.

    python benchmarks/arrays.py            a table of 128 MB, and a sweep of sizes: frames against segments
    python benchmarks/arrays.py --json     for programs
    python benchmarks/arrays.py --check    exit status 1 if a bar is missed
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import plover
from plover import gpu_function, segments
from plover.embedded import EmbeddedDaemon

SIZE = 128_000_000
#: name → least share of memcpy's rate.
BARS = {"echo": 0.45, "x + 1": 0.45, "born shared, out[:] = x": 1.5}
SWEEP = [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20]


@gpu_function
def echo(x: Any) -> Any:
    """There and back."""
    return x


@gpu_function
def add_one(x: Any) -> Any:
    """There, into fresh memory, and back."""
    return x + 1


@gpu_function
def add_into(x: Any, out: Any) -> None:
    """There and back without a copy."""
    import numpy

    numpy.add(x, 1, out=out)


@gpu_function
def copy_into(x: Any, out: Any) -> None:
    """There and back without a copy, but for the function's own."""
    out[:] = x


@gpu_function
def set_threshold(size_bytes: int) -> None:
    """Of the worker."""
    from plover import segments

    segments.THRESHOLD_BYTES = size_bytes


def _time_s(call: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - began)
        del result
    return statistics.median(times)


def _shares(rounds: int, size: int) -> dict[str, float]:
    """Each way's share of memcpy's rate: the median over rounds."""
    x = np.random.default_rng(1).random(size // 8)
    y = np.empty_like(x)
    shared, out = plover.array(x), plover.empty(x.shape)
    ways: dict[str, Callable[[], object]] = {
        "echo": lambda: echo(x),
        "x + 1": lambda: add_one(x),
        "born shared, out[:] = x": lambda: copy_into(shared, out=out),
        "born shared, add(x, 1, out)": lambda: add_into(shared, out=out),
        "the same add, in this process": lambda: add_into.local(x, y),
    }
    for way in ways.values():
        _time_s(way, 3)
    found: dict[str, list[float]] = {name: [] for name in ways}
    rates = []
    for _ in range(rounds):
        copy_s = _time_s(lambda: np.copyto(y, x), 5)
        rates.append(size / copy_s / 1e9)
        for name, way in ways.items():
            found[name].append(2 * copy_s / _time_s(way, 5))
    return {
        "memcpy_gb_s": statistics.median(rates),
        **{name: statistics.median(values) for name, values in found.items()},
    }


def _sweep(address: str, rounds: int, sizes: list[int]) -> dict[int, dict[str, float]]:
    """Round trips of an echo by size, in frames and in segments, in µs."""
    with plover.connect(address) as framed, plover.connect(address) as shared:
        connection = framed.connection()
        unused, connection.segments = connection.segments, None
        assert unused is not None
        unused.leave()
        shared.submit(set_threshold, 0).result()
        before, segments.THRESHOLD_BYTES = segments.THRESHOLD_BYTES, 0
        try:
            table = {}
            for size in sizes:
                x = np.ones(size // 8)
                times: dict[str, list[float]] = {"frames": [], "segments": []}
                for _ in range(rounds):
                    for name, session in (("frames", framed), ("segments", shared)):
                        call = lambda x=x, session=session: session.submit(echo, x).result()  # noqa: E731
                        _time_s(call, 3)
                        times[name].append(_time_s(call, 21) * 1e6)
                table[size] = {name: statistics.median(values) for name, values in times.items()}
        finally:
            segments.THRESHOLD_BYTES = before
            shared.submit(set_threshold, before).result()
    return table


def measure(rounds: int, size: int, sizes: list[int]) -> dict[str, Any]:
    """Shares of memcpy's rate for arrays of this size, and round trips in frames and in segments for others."""
    daemon = EmbeddedDaemon()
    try:
        with plover.connect(daemon.address):
            shares = _shares(rounds, size)
        return {"shares": shares, "sweep_us": _sweep(daemon.address, rounds, sizes)}
    finally:
        daemon.stop()


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, SIZE, SWEEP)
    shares, sweep = result["shares"], result["sweep_us"]
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"128 MB there and back; memcpy: {shares['memcpy_gb_s']:.1f} GB/s")
        for name, share in shares.items():
            if name != "memcpy_gb_s":
                print(f"{name:30}{share:>8.2f} × memcpy{f'≥ {BARS[name]}' if name in BARS else '':>10}")
        print(f"\n{'echo, round trip':30}{'frames':>12}{'segments':>12}")
        for size, row in sweep.items():
            print(f"{size >> 10:>20} KiB      {row['frames']:>9.0f} µs{row['segments']:>9.0f} µs")
    return int(arguments.check and any(shares[name] < bar for name, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
