"""Celery with Redis as broker and for results, both over a unix socket; workers are processes of its prefork pool."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from celery import Celery

from benchmarks import contestant

_VARIABLE = "BENCHMARK_REDIS"

app: Any = Celery("benchmark")
app.conf.update(
    task_serializer="pickle",
    result_serializer="pickle",
    accept_content=["pickle"],
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


def _use(path: str) -> None:
    os.environ[_VARIABLE] = path
    app.conf.update(broker_url=f"redis+socket://{path}", result_backend=f"redis+socket://{path}")


if _VARIABLE in os.environ:  # a worker's process
    _use(os.environ[_VARIABLE])

no_op = app.task(contestant.no_op, name="no_op")
plus_one = app.task(contestant.plus_one, name="plus_one")
nap = app.task(contestant.nap, name="nap")


class CeleryQueue:
    """Client, Redis, workers."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="b-")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._path = f"{self._directory.name}/redis.sock"

    def start(self, workers: int) -> None:
        """Redis, workers, and a first call."""
        options = ["--port", "0", "--unixsocket", self._path, "--save", "", "--dir", self._directory.name]
        self._processes.append(subprocess.Popen(["redis-server", *options]))
        while not Path(self._path).exists():
            time.sleep(0.01)
        _use(self._path)
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery", "worker", "--loglevel", "ERROR"]
        options = ["--concurrency", str(workers), "--without-gossip", "--without-mingle", "--without-heartbeat"]
        self._processes.append(subprocess.Popen([*command, *options], env=os.environ | {"C_FORCE_ROOT": "1"}))
        self.call()

    def address(self) -> str:
        """The socket's path."""
        return self._path

    def attach(self, address: str) -> None:
        """Another client."""
        _use(address)

    def call(self) -> None:
        """One."""
        no_op.delay().get()

    def burst(self, count: int) -> None:
        """Asynchronous results."""
        for answer in [no_op.delay() for _ in range(count)]:
            answer.get()

    def echo(self, array: np.ndarray) -> np.ndarray:
        """The array as an argument, through Redis."""
        result: np.ndarray = plus_one.delay(array).get()
        return result

    def naps(self, count: int, seconds: float) -> None:
        """Asynchronous results."""
        for answer in [nap.delay(seconds) for _ in range(count)]:
            answer.get()

    def stop(self) -> None:
        """End workers and Redis."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait()
        self._directory.cleanup()
