"""Plover: a daemon of its own with simulated devices, over ipc or over tcp with keys."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import plover
from benchmarks import contestant
from plover import GpuFunction, gpu_function


def _of_a_script(function: Any) -> Any:
    """The functions of this file as an author has them: in `__main__`, so that they go by value."""
    function.__module__ = "__main__"
    return gpu_function(function)


plus_one_into = _of_a_script(contestant.plus_one_into)
no_op = _of_a_script(contestant.no_op)
plus_one = _of_a_script(contestant.plus_one)
nap = _of_a_script(contestant.nap)


class Plover:
    """Over ipc."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="b-")
        self._process: subprocess.Popen[str] | None = None
        self._address = ""
        self._functions: dict[Callable[[], int], GpuFunction[[], int]] = {}

    def start(self, workers: int) -> None:
        """Start a daemon with so many devices, each of which has one worker."""
        directory = Path(self._directory.name)
        bound = self._listen(directory, workers, f"ipc://{directory}/s/daemon.sock")
        self.attach(bound[0])
        seen: set[str | None] = set()
        while len(seen) < workers:
            futures = [nap.submit(0.01) for _ in range(4 * workers)]
            for future in futures:
                future.result()
            seen |= {future.receipt.worker for future in futures if future.receipt is not None}

    def _listen(self, directory: Path, workers: int, *addresses: str) -> list[str]:
        where = [word for address in addresses for word in ("--bind", address)]
        where += ["--state-dir", str(directory / "state"), "--devices", f"simulated:{workers}"]
        command = [sys.executable, "-m", "plover.cli.main", "start", *where]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return self._process.stdout.readline().partition(" serves ")[2].strip().split(", ")

    def address(self) -> str:
        """The daemon's."""
        return self._address

    def attach(self, address: str) -> None:
        """As an author does it who has a daemon."""
        os.environ["PLOVER_ADDRESS"] = self._address = address
        no_op()

    def call(self) -> None:
        """One."""
        no_op()

    def burst(self, count: int) -> None:
        """Futures."""
        futures = [no_op.submit() for _ in range(count)]
        for future in futures:
            future.result()

    def echo(self, array: np.ndarray) -> np.ndarray:
        """An ordinary array and an ordinary call."""
        result: np.ndarray = plus_one(array)
        return result

    def naps(self, count: int, seconds: float) -> None:
        """Futures, too."""
        futures = [nap.submit(seconds) for _ in range(count)]
        for future in futures:
            future.result()

    def ship(self, function: Callable[[], int]) -> int:
        """Decorated the first time."""
        known = self._functions.get(function)
        if known is None:
            self._functions = {function: (known := gpu_function(function))}
        return known()

    def shared(self, count: int) -> np.ndarray:
        """Born in a segment."""
        array: np.ndarray = plover.empty((count,), "f8")
        return array

    def echo_shared(self, array: np.ndarray, out: np.ndarray) -> None:
        """What the function writes into `out` is the caller's."""
        plus_one_into(array, out=out)

    def stop(self) -> None:
        """End the daemon."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._directory.cleanup()


class PloverTcp(Plover):
    """Over tcp on the loopback, encrypted as always."""

    def start(self, workers: int) -> None:
        """Start a daemon, and trust each other as `plover keys` has it."""
        directory = Path(self._directory.name)
        os.environ["XDG_CONFIG_HOME"] = str(directory / "config")
        bound = self._listen(directory, workers, f"ipc://{directory}/s/daemon.sock", "tcp://127.0.0.1:0")
        user = _keys("show")
        host = _keys("trust", user, "--tenant", "bench", "--address", bound[1])
        _keys("trust", host, "--name", "bench")
        self.attach(bound[1])


def _keys(*arguments: str) -> str:
    command = [sys.executable, "-m", "plover.cli.main", "keys", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
