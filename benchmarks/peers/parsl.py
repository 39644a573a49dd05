"""Parsl's high-throughput executor: interchange, manager, workers. There is no daemon: each client starts its own."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import parsl as library
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from benchmarks.contestant import nap, no_op, plus_one


class Parsl:
    """Apps on one executor."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="b-")
        self._no_op: Any = library.python_app(no_op)
        self._plus_one: Any = library.python_app(plus_one)
        self._nap: Any = library.python_app(nap)

    def start(self, workers: int) -> None:
        """The executor, warm."""
        executor = HighThroughputExecutor(
            label="bench",
            address="127.0.0.1",
            max_workers_per_node=workers,
            cores_per_worker=0.01,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )
        library.load(Config(executors=[executor], run_dir=self._directory.name, usage_tracking=0, strategy="none"))
        self.call()

    def address(self) -> str:
        """None: it belongs to its client."""
        return ""

    def attach(self, address: str) -> None:
        """An executor of one worker."""
        self.start(1)

    def call(self) -> None:
        """One."""
        self._no_op().result()

    def burst(self, count: int) -> None:
        """Futures."""
        for future in [self._no_op() for _ in range(count)]:
            future.result()

    def echo(self, array: np.ndarray) -> np.ndarray:
        """The array as an argument."""
        result: np.ndarray = self._plus_one(array).result()
        return result

    def naps(self, count: int, seconds: float) -> None:
        """Futures."""
        for future in [self._nap(seconds) for _ in range(count)]:
            future.result()

    def stop(self) -> None:
        """End it all."""
        library.dfk().cleanup()
        library.clear()
        self._directory.cleanup()
