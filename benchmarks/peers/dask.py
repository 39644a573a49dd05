"""Dask's distributed on one machine: a scheduler here, workers of one thread each in processes of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from distributed import Client, LocalCluster

from benchmarks.contestant import nap, no_op, plus_one


class Dask:
    """Client, scheduler, workers. `pure=False`: the same call is made again, not looked up."""

    def __init__(self) -> None:
        self._cluster: Any = None
        self._client: Any = None

    def start(self, workers: int) -> None:
        """A cluster, warm."""
        self._cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        )
        self._client = Client(self._cluster)
        self.call()

    def address(self) -> str:
        """The scheduler's."""
        address: str = self._cluster.scheduler_address
        return address

    def attach(self, address: str) -> None:
        """Another client."""
        self._client = Client(address)

    def call(self) -> None:
        """One."""
        self._client.submit(no_op, pure=False).result()

    def burst(self, count: int) -> None:
        """Futures."""
        self._client.gather([self._client.submit(no_op, pure=False) for _ in range(count)])

    def echo(self, array: np.ndarray) -> np.ndarray:
        """The array as an argument, through the scheduler."""
        result: np.ndarray = self._client.submit(plus_one, array, pure=False).result()
        return result

    def naps(self, count: int, seconds: float) -> None:
        """Futures."""
        self._client.gather([self._client.submit(nap, seconds, pure=False) for _ in range(count)])

    def stop(self) -> None:
        """End the cluster."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
