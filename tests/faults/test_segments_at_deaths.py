"""Whoever dies in the middle of whatever: its segments are back, and nothing is left of them."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from plover.wire import codec
from plover.wire import messages as m
from tests.support.daemons import PATIENCE_S, Daemon, RawPeer, Script
from tests.support.fake_daemon import wait_until

LARGE = 4 << 20
COUNT = LARGE // 8


@pytest.fixture
def own() -> Iterator[Daemon]:
    """A daemon of the test's own; nothing of it is left at the end, nor in shared memory."""
    running = Daemon("simulated:1")
    yield running
    running.close()
    assert_nothing_in_dev_shm()


def until(daemon: Daemon, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    give_up = time.monotonic() + PATIENCE_S
    while not wanted(found := daemon.status()["segments"]):
        assert time.monotonic() < give_up, found
    return dict(found)


def assert_nothing_in_dev_shm() -> None:
    """Of Plover's: other programs use it too."""
    assert not [name for name in os.listdir("/dev/shm") if "plover" in name]


def descriptors(pid: int) -> int:
    """How many segments a process has."""
    found = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found += "plover-segment" in os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


@gpu_function
def die_while_writing(x: Any) -> Any:
    import os

    from plover import segments

    whole = segments.copy

    def half(buffer: Any, target: Any) -> None:
        whole(memoryview(buffer)[: len(target) // 2], target[: len(target) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    segments.copy = half
    return x + 1


def test_a_worker_killed_while_it_writes_a_segment(own: Daemon) -> None:
    with plover.connect(own.address):
        x = np.ones(COUNT)
        for _ in range(3):
            with pytest.raises(plover.WorkerLost, match=r"die_while_writing .*SIGKILL|signal 9|killed"):
                die_while_writing(x)
        until(own, lambda found: found["lent"] <= 1)
        got = gpu_function(lambda x: x + 1)(x)  # into what the dead one had half written
        assert np.all(got == 2)
        found = own.status()["segments"]
        assert found["segments"] <= 3
        del got


def test_a_worker_killed_while_it_reads_and_writes_its_argument(own: Daemon) -> None:
    @gpu_function
    def spoil(x: Any) -> None:
        import os

        x[:] = -1
        os.kill(os.getpid(), 9)

    with plover.connect(own.address):
        x = np.ones(COUNT)
        with pytest.raises(plover.WorkerLost):
            spoil(x)
        assert np.all(x == 1)
        assert np.all(gpu_function(lambda x: x + 1)(x) == 2)
        gc.collect()
    until(own, lambda found: found["lent"] == 0)


def test_a_call_that_is_abandoned_writes_into_nobodys_arguments(own: Daemon) -> None:
    """It goes on after its caller was told; what it writes to then is not given to another call."""

    @gpu_function(timeout=0.3)
    def stubborn(x: Any) -> None:
        import time

        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                x += 1
            except BaseException:
                continue

    with plover.connect(own.address):
        with pytest.raises(plover.CallTimeout):
            stubborn(np.zeros(COUNT))
        total = gpu_function(lambda x: float(x.sum()))
        for number in range(4):
            assert total(np.full(COUNT, float(number))) == number * COUNT


def test_a_killed_client_with_results_and_calls_under_way(own: Daemon) -> None:
    source = (
        "import sys, numpy as np, plover\n"
        "from plover import gpu_function\n"
        "plover.connect(sys.argv[1])\n"
        "f = gpu_function(lambda x: x + 1)\n"
        "kept = [f(np.ones(1 << 19)) for _ in range(3)]\n"
        "born = plover.empty(1 << 19)\n"
        "futures = [f.submit(np.ones(1 << 19)) for _ in range(8)]\n"
        "print('ready', flush=True)\n"
        "import time; time.sleep(1000)\n"
    )
    running = Script(source, own.address)
    try:
        assert running.line() == "ready"
        assert own.status()["segments"]["lent"] >= 4
        running.process.kill()
        running.wait()
        until(own, lambda found: found["lent"] == 0)
    finally:
        running.close()
    with plover.connect(own.address):
        assert np.all(gpu_function(lambda x: x * 2)(np.ones(COUNT)) == 2)


def test_a_killed_daemon_leaves_arrays_as_they_are_and_nothing_else() -> None:
    running = Daemon("simulated:1")
    try:
        with plover.connect(running.address):
            got = gpu_function(lambda x: x + 1)(np.ones(COUNT))
            born = plover.zeros(COUNT)
            running.kill()
            with pytest.raises(plover.PloverError):
                gpu_function(lambda x: x + 1)(got)
            assert np.all(got == 2)
            born += 1
            another = plover.empty(10)
            assert another.size == 10
        assert np.all(born == 1)
    finally:
        running.close()
    mine = descriptors(os.getpid())
    del got, born
    gc.collect()
    wait_until(lambda: descriptors(os.getpid()) <= mine - 2, "the segments are given up")
    assert_nothing_in_dev_shm()


def test_a_peer_that_mentions_a_segment_which_it_was_not_lent_is_refused(own: Daemon) -> None:
    with plover.connect(own.address) as session:
        born = plover.zeros(COUNT)
        (number,) = list(session.connection().segments.entries)  # type: ignore[union-attr]
        with RawPeer(own.address) as peer:
            peer.hello()
            packed = (m.Inline(0, 4), m.Segment(number, 0, 64))
            submit = m.Submit(1, b"f" * 32, "3.11", packed, m.CallOptions(), (m.Inline(0, 4),))
            body = codec.Body()
            body.add(b"four")
            peer.send(codec.write(submit, peer.incarnation, body))
            refused = peer.hear()
            assert isinstance(refused, m.Rejected)
            assert (refused.error, refused.submission) == ("WireError", 1)
            assert refused.reason == f"segment {number} is mentioned by who was not lent it"
            as_payload = (m.Inline(0, 4), m.Segment(number, 0, 64))
            submit = m.Submit(2, b"f" * 32, "3.11", (m.Inline(0, 4),), m.CallOptions(), as_payload)
            peer.send(codec.write(submit, peer.incarnation, body))
            refused = peer.hear()
            assert isinstance(refused, m.Rejected)
            assert "in segment" in refused.reason
        assert own.status()["refused_messages"]["not lent"] == 1
        del born


def test_a_worker_that_lost_its_socket_for_segments_still_gets_its_arguments(own: Daemon) -> None:
    """User code that closes descriptors: its line goes too, so it is replaced; the next call runs."""

    @gpu_function
    def close_all() -> None:
        import os

        os.closerange(3, 64)

    with plover.connect(own.address):
        with pytest.raises(plover.WorkerLost):
            close_all()
        assert np.all(gpu_function(lambda x: x + 1)(np.ones(COUNT)) == 2)


def test_interrupts_lose_no_segment_for_ever(own: Daemon) -> None:
    """Ctrl-C at any moment of many calls; whatever was lost is back with the end of the connection at the latest."""
    source = (
        "import signal, sys, threading, numpy as np, plover, os, time\n"
        "from plover import gpu_function\n"
        "session = plover.connect(sys.argv[1])\n"
        "f = gpu_function(lambda x: x + 1)\n"
        "x = np.ones(1 << 18)\n"
        "assert f(x)[0] == 2\n"
        "armed = False\n"
        "def handle(*_):\n"
        "    global armed\n"
        "    if armed:  # only where it is caught\n"
        "        armed = False\n"
        "        raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGINT, handle)\n"
        "stop = threading.Event()\n"
        "def strike():\n"
        "    n = 0\n"
        "    while not stop.wait(0.002 + n % 13 / 3000):\n"
        "        n += 1\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "struck = done = 0\n"
        "thread = threading.Thread(target=strike)\n"
        "until = time.monotonic() + 6\n"
        "thread.start()\n"
        "while time.monotonic() < until:\n"
        "    try:\n"
        "        armed = True\n"
        "        while time.monotonic() < until:\n"
        "            got = f(x * done)\n"
        "            assert got[0] == got[-1] == done + 1, (got[0], got[-1], done)\n"
        "            got = None\n"
        "            done += 1\n"
        "        armed = False\n"
        "    except KeyboardInterrupt:\n"
        "        struck += 1\n"
        "stop.set()\n"
        "thread.join()\n"
        "assert np.all(f(x) == 2)\n"
        "print('struck' if struck > 20 else struck, 'done' if done else done, flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    running = Script(source, own.address)
    try:
        assert running.line(3 * PATIENCE_S) == "struck done", running.stderr()
        running.wait()
        until(own, lambda found: found["lent"] == 0)
    finally:
        running.close()
