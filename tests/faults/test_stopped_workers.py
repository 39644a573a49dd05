"""Workers that are stopped, and workers whose status page user code has overwritten."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import plover
from plover import gpu_function
from tests.support.daemons import PATIENCE_S, daemon, daemon_with

_IMPATIENT = daemon_with(devices="simulated:1", worker_silent_s=1.0, interrupt_grace_s=0.2)


@gpu_function
def pid() -> int:
    return os.getpid()


@gpu_function
def scribble(tally: str, value: int, then: str) -> None:
    """Write all over the status page, as an index out of bounds may."""
    import ctypes
    import time

    with open(tally, "a") as file:
        file.write("x")
    (page,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if "plover-page" in line]
    start, end = (int(word, 16) for word in page.split()[0].split("-"))
    ctypes.memset(start, value, end - start)
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(0.05)


def test_a_call_at_a_worker_that_was_stopped_runs_on_another() -> None:
    with daemon(program=_IMPATIENT) as running, plover.connect(running.address):
        stopped = pid()
        os.kill(stopped, signal.SIGSTOP)
        assert pid.options(timeout=30).submit().result(PATIENCE_S) != stopped


def test_a_call_that_may_not_wait_so_long_at_a_stopped_worker_is_told_why() -> None:
    patient = daemon_with(devices="simulated:1", worker_silent_s=3600.0, interrupt_grace_s=0.2)
    with daemon(program=patient) as running, plover.connect(running.address):
        os.kill(pid(), signal.SIGSTOP)
        with pytest.raises(
            plover.CallTimeout, match="has not begun it .is it stopped.*Another worker takes its place"
        ) as caught:
            pid.options(queue_timeout=1.0).submit().result(PATIENCE_S)
        assert caught.value.phase == "queue"
        assert pid() > 0


@pytest.mark.parametrize("value", [0, 0x41, 0xFF])
def test_a_call_that_overwrites_the_page_and_dies_runs_once(tmp_path: Path, value: int) -> None:
    tally = tmp_path / "tally"
    with daemon() as running, plover.connect(running.address):
        with pytest.raises(plover.WorkerLost, match="signal 9"):
            scribble(str(tally), value, "die")
        assert tally.read_text() == "x"
        assert pid() > 0


@pytest.mark.parametrize("value", [0, 0x41, 0xFF])
def test_a_time_limit_holds_though_the_page_was_overwritten(tmp_path: Path, value: int) -> None:
    tally = tmp_path / "tally"
    with daemon(program=_IMPATIENT) as running, plover.connect(running.address):
        with pytest.raises(plover.WorkerLost, match=r"its status page was overwritten \(does a function write out of"):
            scribble.options(timeout=0.2).submit(str(tally), value, "run").result(PATIENCE_S)
        assert tally.read_text() == "x"
        assert pid() > 0
