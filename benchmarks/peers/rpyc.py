"""RPyC: a server process for each worker, reached through unix sockets. Arrays travel as bytes, which it sends by value.

A client that only asks and does not listen meanwhile, and a server that answers into a full socket, wait for each other:
hence the window.
"""

from __future__ import annotations

import collections
import functools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rpyc
from rpyc.utils.server import ThreadedServer

from benchmarks.contestant import nap, no_op, plus_one

_WINDOW = 64


class _Functions(rpyc.Service):
    def exposed_no_op(self) -> None:
        no_op()

    def exposed_plus_one(self, data: bytes) -> bytes:
        return plus_one(np.frombuffer(data)).tobytes()

    def exposed_nap(self, seconds: float) -> None:
        nap(seconds)


def _serve(path: str) -> None:
    ThreadedServer(_Functions, socket_path=path, protocol_config={"sync_request_timeout": None}).start()


def _in_window(asks: Iterable[Callable[[], Any]]) -> None:
    pending: collections.deque[Any] = collections.deque()
    for ask in asks:
        if len(pending) == _WINDOW:
            pending.popleft().wait()
        pending.append(ask())
    for answer in pending:
        answer.wait()


class Rpyc:
    """One connection to each worker."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="b-")
        self._processes: list[Any] = []
        self._connections: list[Any] = []

    def start(self, workers: int) -> None:
        """The servers."""
        spawn = multiprocessing.get_context("spawn")
        for number in range(workers):
            path = f"{self._directory.name}/{number}"
            process = spawn.Process(target=_serve, args=(path,), daemon=True)
            process.start()
            self._processes.append(process)
            while not Path(path).exists():
                time.sleep(0.01)
        self.attach(self.address())
        self.call()

    def address(self) -> str:
        """The sockets' paths."""
        return " ".join(f"{self._directory.name}/{number}" for number in range(len(self._processes)))

    def attach(self, address: str) -> None:
        """Connect to all."""
        for path in address.split():
            self._connections.append(
                rpyc.utils.factory.unix_connect(path, config={"sync_request_timeout": None})  # no limit, as elsewhere
            )

    def call(self) -> None:
        """One."""
        self._connections[0].root.no_op()

    def burst(self, count: int) -> None:
        """Asynchronous requests."""
        ask = rpyc.async_(self._connections[0].root.no_op)
        _in_window(ask for _ in range(count))

    def echo(self, array: np.ndarray) -> np.ndarray:
        """As bytes."""
        return np.frombuffer(self._connections[0].root.plus_one(array.tobytes()))

    def naps(self, count: int, seconds: float) -> None:
        """In turns."""
        asks = [rpyc.async_(connection.root.nap) for connection in self._connections]
        _in_window(functools.partial(asks[number % len(asks)], seconds) for number in range(count))

    def stop(self) -> None:
        """End the servers."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
        self._directory.cleanup()
