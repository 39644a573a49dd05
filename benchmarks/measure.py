"""The measuring loops: the same code for every contestant, in the process of its client.

Guarantees: each answer is a small dict of floats; a slow contestant is asked for less, so that every loop ends within
seconds. Assumes: the contestant was started, and nothing else uses it meanwhile.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from benchmarks.contestant import Contestant, Shares, Ships

__all__ = ["Measure"]

#: The least that says something about a median, and about the slowest hundredth.
_FEW_CALLS = 30
_NAP_S = 0.001


class Measure:
    """One contestant under measurement.

    Args:
        contestant: whom.
        workers: how many it was started with.
    """

    def __init__(self, contestant: Contestant, workers: int) -> None:
        self._contestant = contestant
        self._workers = workers
        self._array: np.ndarray | None = None

    def round_trips(self, count: int, limit_s: float) -> dict[str, float]:
        """Single calls, one after the other: the median and the 99th percentile."""
        call = self._contestant.call
        times: list[float] = []
        give_up = time.perf_counter() + limit_s
        while len(times) < count:
            began = time.perf_counter()
            call()
            ended = time.perf_counter()
            times.append(ended - began)
            if ended > give_up and len(times) >= _FEW_CALLS:
                break
        times.sort()
        return {"p50_us": times[len(times) // 2] * 1e6, "p99_us": times[len(times) * 99 // 100] * 1e6}

    def burst(self, count: int) -> dict[str, float]:
        """Calls a second, all asked for before the first is waited for."""
        began = time.perf_counter()
        self._contestant.burst(count)
        return {"per_s": count / (time.perf_counter() - began)}

    def echo(self, size_bytes: int) -> dict[str, float]:
        """An array there, and another of its size back: bytes a second in both directions together, and as a share of what
        copying them would reach (warm memory into warm memory), measured just before and after.
        """
        if self._array is None or self._array.nbytes != size_bytes:
            self._array = np.arange(size_bytes // 8, dtype="f8")
            self._echo(self._array)
        array = self._array
        spare = np.empty_like(array)
        spare.fill(0)
        before = _memcpy(array, spare)
        elapsed = self._echo(array)
        rate = 2 * size_bytes / elapsed / 1e9
        copying = (before + _memcpy(array, spare)) / 2
        return {"gb_s": rate, "memcpy_gb_s": copying, "of_memcpy": rate / copying}

    def _echo(self, array: np.ndarray) -> float:
        began = time.perf_counter()
        back = self._contestant.echo(array)
        elapsed = time.perf_counter() - began
        assert back.shape == array.shape
        assert (back[0], back[-1]) == (array[0] + 1, array[-1] + 1)
        return elapsed

    def shared(self, size_bytes: int) -> dict[str, float]:
        """As `echo`, but both arrays were made in shared memory, and stay there."""
        assert isinstance(self._contestant, Shares), "it has no arrays that are born in shared memory"
        array, out = (self._contestant.shared(size_bytes // 8) for _ in range(2))
        array[:] = np.arange(len(array), dtype="f8")
        spare = np.empty_like(array)
        self._contestant.echo_shared(array, out)
        before = _memcpy(array, spare)
        began = time.perf_counter()
        self._contestant.echo_shared(array, out)
        rate = 2 * size_bytes / (time.perf_counter() - began) / 1e9
        assert (out[0], out[-1]) == (array[0] + 1, array[-1] + 1)
        return {"shared_gb_s": rate, "shared_of_memcpy": rate / ((before + _memcpy(array, spare)) / 2)}

    def naps(self, count: int) -> dict[str, float]:
        """Many short calls on all workers: the time that it should take at best, by the time that it takes."""
        began = time.perf_counter()
        self._contestant.naps(count, _NAP_S)
        return {"of_ideal": count * _NAP_S / self._workers / (time.perf_counter() - began)}

    def shipped(self, size_bytes: int) -> dict[str, float]:
        """The first and the second call of a function that nobody has seen before, and that holds so many bytes."""
        assert isinstance(self._contestant, Ships)
        function = _holding(os.urandom(size_bytes))
        times = []
        for _ in range(2):
            began = time.perf_counter()
            assert self._contestant.ship(function) == size_bytes
            times.append((time.perf_counter() - began) * 1e3)
        return {"first_ms": times[0], "second_ms": times[1]}


def _memcpy(source: np.ndarray, target: np.ndarray) -> float:
    began = time.perf_counter()
    np.copyto(target, source)
    return source.nbytes / (time.perf_counter() - began) / 1e9


def _holding(data: bytes) -> Any:
    def function() -> int:
        return len(data)

    function.__module__ = "__main__"  # as in a script: it goes by value
    return function
