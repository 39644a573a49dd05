"""Ray on one machine: actors, each a process that waits for calls, and tasks, which its scheduler places."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np

from benchmarks.contestant import nap, no_op, plus_one

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

import ray

_NAMESPACE = "benchmark"


class _Functions:
    def no_op(self) -> None:
        no_op()

    def plus_one(self, array: np.ndarray) -> np.ndarray:
        result: np.ndarray = plus_one(array)
        return result

    def nap(self, seconds: float) -> None:
        nap(seconds)


class Tasks:
    """Remote functions."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="b-")
        self._address = ""
        self._no_op: Any = ray.remote(no_op)
        self._plus_one: Any = ray.remote(plus_one)
        self._nap: Any = ray.remote(nap)

    def start(self, workers: int) -> None:
        """A cluster of this machine, warm."""
        context = ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            namespace=_NAMESPACE,
            object_store_memory=1 << 30,
            _temp_dir=self._directory.name,
        )
        self._address = context.address_info["address"]
        self._made(workers)
        self.call()

    def _made(self, workers: int) -> None:
        """Whatever a started cluster needs beside."""

    def address(self) -> str:
        """The cluster's."""
        return self._address

    def attach(self, address: str) -> None:
        """Join as another driver."""
        ray.init(address=address, log_to_driver=False, namespace=_NAMESPACE)

    def call(self) -> None:
        """One."""
        ray.get(self._no_op.remote())

    def burst(self, count: int) -> None:
        """References."""
        ray.get([self._no_op.remote() for _ in range(count)])

    def echo(self, array: np.ndarray) -> np.ndarray:
        """Through its shared memory."""
        result: np.ndarray = ray.get(self._plus_one.remote(array))
        return result

    def naps(self, count: int, seconds: float) -> None:
        """References."""
        ray.get([self._nap.remote(seconds) for _ in range(count)])

    def stop(self) -> None:
        """End the cluster."""
        ray.shutdown()
        self._directory.cleanup()


class Actors(Tasks):
    """An actor for each worker; naps go to them in turns."""

    def __init__(self) -> None:
        super().__init__()
        self._actors: list[Any] = []

    def _made(self, workers: int) -> None:
        kind: Any = ray.remote(_Functions)
        self._actors = [kind.options(name=str(number)).remote() for number in range(workers)]
        self._use_first()

    def _use_first(self) -> None:
        first = self._actors[0]
        self._no_op, self._plus_one = first.no_op, first.plus_one

    def attach(self, address: str) -> None:
        """Find the first actor."""
        super().attach(address)
        self._actors = [ray.get_actor("0")]
        self._use_first()

    def naps(self, count: int, seconds: float) -> None:
        """In turns."""
        actors = self._actors
        ray.get([actors[number % len(actors)].nap.remote(seconds) for number in range(count)])
