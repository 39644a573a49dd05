"""Pyro5: a daemon process for each worker, reached through unix sockets. It has no asynchronous calls: a burst is one of its
batches, and naps need a thread for each worker. Arrays travel as bytes, packed by msgpack (its default takes far longer).
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import Pyro5.api

from benchmarks.contestant import nap, no_op, plus_one

Pyro5.api.config.SERIALIZER = "msgpack"


@Pyro5.api.expose
class Functions:
    def no_op(self) -> None:
        no_op()

    def plus_one(self, data: bytes) -> bytes:
        return plus_one(np.frombuffer(data)).tobytes()

    def nap(self, seconds: float) -> None:
        nap(seconds)


def _serve(path: str) -> None:
    daemon = Pyro5.api.Daemon(unixsocket=path)
    daemon.register(Functions, "functions")
    daemon.requestLoop()


class Pyro:
    """One proxy for each worker."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="b-")
        self._processes: list[Any] = []
        self._addresses: list[str] = []
        self._proxies: list[Any] = []

    def start(self, workers: int) -> None:
        """The daemons."""
        spawn = multiprocessing.get_context("spawn")
        for number in range(workers):
            path = f"{self._directory.name}/{number}"
            process = spawn.Process(target=_serve, args=(path,), daemon=True)
            process.start()
            self._processes.append(process)
            self._addresses.append(f"PYRO:functions@./u:{path}")
            while not Path(path).exists():
                time.sleep(0.01)
        self.attach(self.address())
        self.call()

    def address(self) -> str:
        """The objects' URIs."""
        return " ".join(self._addresses)

    def attach(self, address: str) -> None:
        """A proxy each."""
        self._proxies = [Pyro5.api.Proxy(uri) for uri in address.split()]

    def call(self) -> None:
        """One."""
        self._proxies[0].no_op()

    def burst(self, count: int) -> None:
        """A batch."""
        batch = Pyro5.api.BatchProxy(self._proxies[0])
        for _ in range(count):
            batch.no_op()
        for _ in batch():
            pass

    def echo(self, array: np.ndarray) -> np.ndarray:
        """As bytes."""
        return np.frombuffer(self._proxies[0].plus_one(array.tobytes()))

    def naps(self, count: int, seconds: float) -> None:
        """A thread for each worker."""

        def share(proxy: Any) -> None:
            proxy._pyroClaimOwnership()
            for _ in range(count // len(self._proxies)):
                proxy.nap(seconds)

        threads = [threading.Thread(target=share, args=(proxy,)) for proxy in self._proxies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for proxy in self._proxies:
            proxy._pyroClaimOwnership()

    def stop(self) -> None:
        """End the daemons."""
        for process in self._processes:
            process.terminate()
        self._directory.cleanup()
