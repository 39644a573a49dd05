"""A client's process that is killed: what it wanted is wanted no more, and the daemon knows at once."""

from __future__ import annotations

import os
import signal
import time

import plover
from tests.support.daemons import PATIENCE_S, Daemon, RawPeer, daemon
from tests.support.fake_daemon import wait_until
from tests.support.talking import HEAR, talking

_PROGRAM = (
    HEAR
    + """
import sys, time
import plover
from plover import gpu_function

plover.connect(sys.argv[1])

@gpu_function
def last(seconds):
    time.sleep(seconds)

running, queued = last.submit(600), last.submit(600)
say("submitted")
hear()
"""
)


def _counts(running: Daemon) -> tuple[int, int]:
    """Queued calls, and those at workers."""
    scheduler = running.status()["scheduler"]
    return sum(scheduler["queued"].values()), scheduler["calls"].get("dispatched", 0)


def test_its_queued_and_its_running_call_are_cancelled_and_nobody_elses() -> None:
    with daemon() as own, plover.connect(own.address) as session:
        with talking(_PROGRAM, own.address) as client:
            assert client.line() == "submitted"
            wait_until(lambda: _counts(own) == (1, 1), "one runs, one waits")
            (view,) = own.status()["scheduler"]["clients"]
            assert (view["calls"], view["state"]) == (2, "present")
            mine = session.submit(abs_of, -1)
            os.kill(client.process.pid, signal.SIGKILL)
            killed = time.monotonic()
            assert mine.result(PATIENCE_S) == 1
            assert time.monotonic() - killed < 10.0  # the lease is 30 s, the call 600 s
        wait_until(lambda: _counts(own) == (0, 0), "nothing is left")
        scheduler = own.status()["scheduler"]
        assert scheduler["ended"] == {"cancelled": 2, "succeeded": 1}
        assert scheduler["clients"] == []
        assert f"process {client.process.pid} has ended without a goodbye" in own.log()


def abs_of(x: int) -> int:
    return abs(x)


def test_what_a_client_says_of_itself_need_not_be_true() -> None:
    """A number that means another process here is not believed: only that client's lease counts."""
    with daemon() as own, RawPeer(own.address) as peer:
        peer.hello(pid=os.getpid(), started=1)
        assert own.status()["scheduler"]["clients_present"] >= 1
