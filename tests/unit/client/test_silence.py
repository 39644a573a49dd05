"""Why a daemon does not answer, in words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plover import addresses
from plover.client import silence


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plv-", dir="/tmp") as directory:
        yield Path(directory) / "d.sock"


def test_somebody_who_listens_and_does_nothing(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        assert addresses.listener(path) == os.getpid()
        told = silence.explain(f"ipc://{path}", 3)
    assert told.startswith(f"no daemon answered at ipc://{path} within 3 s. Process {os.getpid()}, '")
    assert f"end it with `kill {os.getpid()}`" in told


def test_nobody_any_more(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert "nobody listens there now. Start one with `plover start --bind " in silence.explain(f"ipc://{path}", 3)


def test_so_many_wait_that_no_more_are_let_in(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(str(path))
        listening.listen(0)
        waiting.connect(str(path))
        assert addresses.is_alive(path)
        assert "takes nobody in" in silence.explain(f"ipc://{path}", 3)


def test_elsewhere_nothing_is_known() -> None:
    assert silence.explain("tcp://gpu1:7707", 3) == (
        "no daemon answered at tcp://gpu1:7707 within 3 s: see whether one runs there with `plover status`, and start it "
        "with `plover start`"
    )


def test_a_process_that_is_gone_and_one_without_a_command_line() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert silence._command(child.pid) == "of which nothing can be seen from here"
    assert not silence.is_stopped(child.pid)
