"""ipyparallel: a controller and engines. Single calls go to one engine directly, naps through its load balancer."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import ipyparallel
import numpy as np

from benchmarks.contestant import nap, no_op, plus_one


class IPyParallel:
    """A cluster of this machine."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="b-")
        self._cluster: Any = None
        self._client: Any = None
        self._address = ""

    def start(self, workers: int) -> None:
        """Controller and engines, warm."""
        os.environ["IPYTHONDIR"] = self._directory.name
        self._cluster = ipyparallel.Cluster(n=workers, log_level=40)
        self._client = self._cluster.start_and_connect_sync()
        self._client.wait_for_engines(workers, interactive=False)
        directory = self._cluster.profile_dir
        name = f"ipcontroller-{self._cluster.cluster_id}-client.json"
        self._address = os.path.join(directory, "security", name)
        self._look()
        self.call()

    def _look(self) -> None:
        self._engine = self._client[0]
        self._balanced = self._client.load_balanced_view()

    def address(self) -> str:
        """The connection file."""
        return self._address

    def attach(self, address: str) -> None:
        """Another client."""
        self._client = ipyparallel.Client(address)
        self._look()

    def call(self) -> None:
        """One."""
        self._engine.apply_sync(no_op)

    def burst(self, count: int) -> None:
        """Asynchronous results."""
        for answer in [self._engine.apply_async(no_op) for _ in range(count)]:
            answer.get()

    def echo(self, array: np.ndarray) -> np.ndarray:
        """The array as an argument."""
        result: np.ndarray = self._engine.apply_sync(plus_one, array)
        return result

    def naps(self, count: int, seconds: float) -> None:
        """Asynchronous results."""
        for answer in [self._balanced.apply_async(nap, seconds) for _ in range(count)]:
            answer.get()

    def stop(self) -> None:
        """End the cluster."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.stop_cluster_sync()
        self._directory.cleanup()
