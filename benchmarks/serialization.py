"""What it costs to see that a function did not change, and to take large values apart and together again.

    python benchmarks/serialization.py            two tables
    python benchmarks/serialization.py --json     for programs
    python benchmarks/serialization.py --check    exit status 1 if a bar is missed

Captures: the snapshot of a function that did not change, beside pickling it again, in turns in the same run. The bar holds
for what lies within the budget (plover/pickling/captures.py). Large values: `pack` and `unpack` of 64 MiB, beside one copy of
the same bytes into new memory in the same run; a value that is copied once costs about one, one that is not copied nothing.

The machines are noisy, and noise only adds: the captures' figures are the best of many short batches, the values' medians.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import functools
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plover import gpu_function, kernels, serialize
from plover.pickling.captures import Snapshot

#: The bars.
UNCHANGED_BAR_US = 15.0
COPIES_BAR = 2.0

# -- captures ----------------------------------------------------------------------------------------------------------

_SCRIPT = """
factor = 3
def scale(x): return np.asarray(x) * factor
def deeper(x): return scale(x) + factor
def deepest(x): return deeper(x) + np.sin(x)
def annotated(x: np.ndarray, y: list[int] | None = None, *, z: int = 0) -> dict[str, float]: return deepest(x)

@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    def norm(self): return np.hypot(self.x, self.y)
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
def with_classes(x): return Point(x).norm(), Colour.RED

table = {f"key{n}": n * 1000 for n in range(100)}
rows = list(range(1000, 1256))
def with_table(): return table
def with_rows(): return rows

small, large, huge = np.zeros(64 * 128), np.zeros(256 * 128), np.zeros(10_000_000)
def with_small(): return small
def with_large(): return large
def with_huge(): return huge

class Model:
    def __init__(self): self.weights, self.bias, self.sizes = np.ones(100), 3.0, [1, 2, 3]
    def predict(self, x): return self.weights * x + self.bias
model = Model()

@gpu_function
def inner(x): return x + factor
def with_inner(x): return inner(x)

part = functools.partial(scale, 3)
def with_partial(): return part

def make():
    values, plus = [1, 2, 3], 3
    def closure(x): return values, plus, x
    return closure
closure = make()
"""
_KERNELS = """
@cuda.jit
def kernel(x): x[0] = factor
def with_kernel(x): kernel[1, 1](x)
@numba.njit
def compiled(x): return x * factor
def with_compiled(x): return compiled(x)
"""


def _captures() -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "__main__", "np": np, "gpu_function": gpu_function}
    scope |= {"dataclasses": dataclasses, "enum": enum, "functools": functools}
    exec(_SCRIPT, scope)
    found = {
        "modules and constants": scope["scale"],
        "three functions": scope["deepest"],
        "four, annotated": scope["annotated"],
        "a dataclass and an enum": scope["with_classes"],
        "a dict of 100": scope["with_table"],
        "a list of 256": scope["with_rows"],
        "an array of 64 KiB": scope["with_small"],
        "an array of 256 KiB": scope["with_large"],
        "an array of 80 MB (by identity)": scope["with_huge"],
        "a method and its object": scope["model"].predict,
        "a gpu_function": scope["with_inner"],
        "a partial": scope["with_partial"],
        "a closure": scope["closure"],
    }
    if importlib.util.find_spec("numba"):
        scope |= {"numba": importlib.import_module("numba"), "cuda": importlib.import_module("numba.cuda")}
        exec(_KERNELS, scope)
        found |= {"a Numba kernel": scope["with_kernel"], "a CPU function of Numba": scope["with_compiled"]}
        found["a kernel by itself"] = kernels.KernelLaunch(scope["kernel"], "numba")
    return found


def _best_us(call: Callable[[], object], batches: int, count: int) -> float:
    best = float("inf")
    for _ in range(batches):
        began = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, (time.perf_counter() - began) / count)
    return best * 1e6


def measure_captures(rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds a call: the best of interleaved rounds."""
    found: dict[str, dict[str, float]] = {}
    for name, function in _captures().items():
        snapshot = Snapshot.of(function, (kernels.reduce,))
        assert snapshot is not None
        assert snapshot.unchanged()
        series: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(rounds):
            series["unchanged_us"].append(_best_us(snapshot.unchanged, 50, 40))
            series["pickle_us"].append(_best_us(functools.partial(serialize.pack_function, function), 10, 3))
            series["snapshot_us"].append(_best_us(functools.partial(Snapshot.of, function, (kernels.reduce,)), 10, 3))
        found[name] = {key: min(values) for key, values in series.items()}
    return found


# -- large values ------------------------------------------------------------------------------------------------------

SIZE = 64 * 1024 * 1024


def _values() -> dict[str, Any]:
    count = SIZE // 8
    plain = np.arange(count, dtype="f8")
    found = {
        "array": plain,
        "array, Fortran order": np.asfortranarray(plain.reshape(1024, -1)),
        "array, every third item": np.arange(3.0 * count)[::3],
        "array, transposed in three axes": plain.reshape(64, 128, -1).transpose(1, 0, 2),
        "datetime64": plain.view("M8[ns]"),
        "timedelta64": plain.view("m8[ns]"),
        "records": np.zeros(SIZE // 12, "f8, i4"),
        "big endian": plain.astype(">f8"),
        "text": np.zeros(SIZE // 16, "U4"),
        "masked array": np.ma.array(np.zeros(SIZE // 9), mask=np.zeros(SIZE // 9, "?")),
        "bytes": bytes(SIZE),
        "bytearray": bytearray(SIZE),
        "bytes in a list in a dict": {"blobs": [bytes(SIZE // 2), bytes(SIZE // 2)]},
        "memoryview": memoryview(bytearray(SIZE)),
    }
    if importlib.util.find_spec("pandas"):
        pandas = importlib.import_module("pandas")
        columns = {"a": np.zeros(count // 2), "b": np.arange(count // 2).view("M8[ns]")}
        found["pandas DataFrame"] = pandas.DataFrame(columns)
    if importlib.util.find_spec("pyarrow"):
        found["Arrow table"] = importlib.import_module("pyarrow").table({"a": plain})
    return found


def measure_values(rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds for pack and unpack, and as copies: medians over interleaved rounds."""
    found: dict[str, dict[str, float]] = {}
    for name, value in _values().items():
        series: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(rounds):
            copy_ms = _best_us(_copier(value), 1, 1) / 1e3
            pack_ms, unpack_ms = _there_and_back(value)
            series["pack_ms"].append(pack_ms)
            series["unpack_ms"].append(unpack_ms)
            series["copy_ms"].append(copy_ms)
            series["copies"].append((pack_ms + unpack_ms) / copy_ms)
        found[name] = {key: statistics.median(values) for key, values in series.items()}
    return found


def _copier(value: Any) -> Callable[[], object]:
    """Copies as many bytes, lying as they do, into new memory."""
    if isinstance(value, np.ndarray) and not value.flags.forc:
        return functools.partial(np.ascontiguousarray, value)
    return memoryview(bytearray(SIZE)).tobytes


def _there_and_back(value: Any) -> tuple[float, float]:
    began = time.perf_counter()
    buffers = serialize.pack(value)
    packed = time.perf_counter()
    serialize.unpack(buffers)
    return (packed - began) * 1e3, (time.perf_counter() - packed) * 1e3


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    captures, values = measure_captures(arguments.rounds), measure_values(arguments.rounds)
    if arguments.output:
        arguments.output.write_text(json.dumps({"captures": captures, "values": values}, indent=2) + "\n")
    if arguments.json:
        print(json.dumps({"captures": captures, "values": values}, indent=2))
    else:
        print(
            f"{'a function that captures':34}{'unchanged':>12}{'pickle':>12}{'snapshot':>12}   bar {UNCHANGED_BAR_US} µs"
        )
        for name, row in captures.items():
            print(f"{name:34}{row['unchanged_us']:>9.1f} µs{row['pickle_us']:>9.0f} µs{row['snapshot_us']:>9.0f} µs")
        print(f"\n{'64 MiB of':34}{'pack':>12}{'unpack':>12}{'one copy':>12}{'copies':>10}   bar {COPIES_BAR}")
        for name, row in values.items():
            times = "".join(f"{row[key]:>9.2f} ms" for key in ("pack_ms", "unpack_ms", "copy_ms"))
            print(f"{name:34}{times}{row['copies']:>10.2f}")
    missed = any(row["unchanged_us"] > UNCHANGED_BAR_US for row in captures.values())
    missed |= any(row["copies"] > COPIES_BAR for row in values.values())
    return int(arguments.check and missed)


if __name__ == "__main__":
    sys.exit(main())
