"""Pools of processes on this machine: the standard library's, and loky's. There is no daemon: each client has its own."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import numpy as np

from benchmarks.contestant import nap, no_op, plus_one


class Pool:
    """concurrent.futures.ProcessPoolExecutor."""

    def __init__(self) -> None:
        self._pool: Any = None

    def _make(self, workers: int) -> Any:
        return concurrent.futures.ProcessPoolExecutor(workers)

    def start(self, workers: int) -> None:
        """A pool, warm."""
        self._pool = self._make(workers)
        self.call()

    def address(self) -> str:
        """None: a pool belongs to its client."""
        return ""

    def attach(self, address: str) -> None:
        """A pool of one."""
        self._pool = self._make(1)

    def call(self) -> None:
        """One."""
        self._pool.submit(no_op).result()

    def burst(self, count: int) -> None:
        """Futures."""
        for future in [self._pool.submit(no_op) for _ in range(count)]:
            future.result()

    def echo(self, array: np.ndarray) -> np.ndarray:
        """Pickled through a pipe."""
        result: np.ndarray = self._pool.submit(plus_one, array).result()
        return result

    def naps(self, count: int, seconds: float) -> None:
        """Futures."""
        for future in [self._pool.submit(nap, seconds) for _ in range(count)]:
            future.result()

    def stop(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown()


class Loky(Pool):
    """loky's reusable executor, as joblib has it."""

    def _make(self, workers: int) -> Any:
        import loky

        return loky.get_reusable_executor(workers, timeout=None)
