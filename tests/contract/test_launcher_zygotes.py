"""The daemon's end of the zygote conversation, against peers that do not keep to it."""

from __future__ import annotations

import functools
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from plover.daemon.launchers import nests, processes, strangers
from plover.daemon.launchers.base import (
    AnyNews,
    NestEnded,
    NestPrepared,
    NestSpec,
    WorkerEnded,
    WorkerForked,
    WorkerSpec,
)
from plover.daemon.launchers.watching import Watcher
from plover.daemon.launchers.zygotes import Zygotes
from plover.wire import codec
from plover.wire import messages as m
from tests.support.launching import PATIENCE_S, open_descriptors, wait_gone

T = TypeVar("T")

#: A zygote of the test's own: what it does follows.
_PREAMBLE = """
import os, signal, socket, sys
from plover.wire import codec
from plover.wire import messages as m
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect(sys.argv[1])
def say(message, *descriptors):
    socket.send_fds(connection, codec.write(message), descriptors)
def hear():
    packet, descriptors, _, _ = socket.recv_fds(connection, 65536, 8)
    if not packet:
        sys.exit(0)
    return codec.TO_ZYGOTE.read([packet]).message, descriptors
say(m.ZygoteHello(bytes.fromhex(sys.argv[2]), os.getpid()))
prepare, (daemon,) = hear()
say(m.Prepared(0.5, m.Versions("0", "3.11")))
"""
_FORK = """
import ctypes
fork, descriptors = hear()
zygote = os.getpid()
worker = os.fork()
if worker == 0:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no test leaves it behind
    if os.getppid() != zygote:
        os._exit(0)
    connection.close()
    signal.pause()
"""


class Daemon:
    """`Zygotes` and what a launcher does with it."""

    def __init__(self, folder: Path) -> None:
        self.zygotes = Zygotes(folder / "nests")
        self.news: list[AnyNews] = []
        self.kills: list[int] = []
        self.zygote: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        self.zygotes.close()
        if self.zygote is not None:
            self.zygote.kill()
            self.zygote.wait()

    def open_nest(self, script: str = "", *, kill: bool = True) -> str:
        """Expect nest 1, and start a zygote for it if there is a script."""

        def do_kill() -> None:
            self.kills.append(1)
            if kill and self.zygote is not None:
                self.zygote.kill()
                self.zygotes.process_ended(1, "the launcher killed it")

        spec = NestSpec(nest=1, tenant="t", environment="e", device_kind="simulated", devices=("d",), memory_bytes=5)
        token = self.zygotes.open_nest(spec, do_kill)
        if script:
            command = [sys.executable, "-c", _PREAMBLE + script, self.zygotes.address, token]
            self.zygote = subprocess.Popen(command)
        return token

    def start_worker(self, number: int = 7) -> None:
        """Ask nest 1 for a worker."""
        with open(os.devnull) as null:
            fd = null.fileno()
            self.zygotes.start_worker(
                WorkerSpec(
                    worker=number,
                    nest=1,
                    marker=b"m",
                    stdout_fd=fd,
                    stderr_fd=fd,
                    records_fd=fd,
                    page_fd=fd,
                    line_fd=fd,
                    segments_fd=fd,
                )
            )

    def until(self, found: Callable[[], T | None]) -> T:
        """Pump until `found` returns something."""
        poll = select.poll()
        poll.register(self.zygotes.fileno(), select.POLLIN)
        give_up = time.monotonic() + PATIENCE_S
        while (value := found()) is None:
            now = time.monotonic()
            assert now < give_up, (self.news, self.zygotes)
            poll.poll(max(0.0, min(give_up, self.zygotes.next_deadline() or give_up) - now) * 1000 + 1)
            self.news += self.zygotes.news()
        return value

    def expect(self, kind: type[T]) -> T:
        """Wait for news of a kind."""
        return self.until(lambda: next((item for item in self.news if isinstance(item, kind)), None))

    def refused(self, count: int) -> None:
        """Wait until so many connections have been refused."""
        self.until(lambda: True if self.zygotes.strangers.refused >= count else None)
        assert self.zygotes.strangers.refused == count


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Gives all descriptors back, whatever happened."""
    before = open_descriptors()
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.close()
    assert open_descriptors() == before


def _connect(daemon: Daemon) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(PATIENCE_S)
    connection.connect(daemon.zygotes.address)
    return connection


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_a_callback_is_not_called_for_what_its_number_meant_before() -> None:
    watcher, called = Watcher(), []
    pairs = [os.pipe() for _ in range(2)]

    def close_the_other(mine: int, other: int) -> None:
        called.append(mine)
        watcher.unwatch(mine)
        watcher.unwatch(other)
        watcher.watch(other, lambda: called.append(-1))  # as if the number had been given to somebody else

    for (mine, write_fd), (other, _) in (pairs, pairs[::-1]):
        os.write(write_fd, b"x")
        watcher.watch(mine, functools.partial(close_the_other, mine, other))
    watcher.dispatch()
    assert len(called) == 1
    assert called != [-1]
    watcher.close()
    for pair in pairs:
        for fd in pair:
            os.close(fd)


# -- strangers ---------------------------------------------------------------------------------------------------------


def test_the_socket_is_this_users_alone(daemon: Daemon) -> None:
    assert Path(daemon.zygotes.address).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "packet",
    [
        b"garbage",
        b"\x00" * 65_000,
        b"x" * 100_000,  # more than a packet may be
        codec.write(m.ZygoteHello(token=b"\x01" * 32, pid=1))[0],
        codec.write(m.ZygoteHello(token=b"", pid=1))[0],
        codec.write(m.Forked(worker=1, pid=1))[0],
        codec.write(m.EndNest())[0],
    ],
    ids=["garbage", "zeros", "too-long", "wrong-token", "no-token", "no-hello", "the-wrong-side"],
)
def test_who_does_not_prove_himself_is_dropped_and_counted(daemon: Daemon, packet: bytes) -> None:
    daemon.open_nest()
    with _connect(daemon) as stranger:
        stranger.send(packet)
        daemon.refused(1)
        assert stranger.recv(1) == b""
    assert daemon.news == []


def test_descriptors_of_strangers_are_closed(daemon: Daemon) -> None:
    before = len(open_descriptors())
    read_fd, write_fd = os.pipe()
    with _connect(daemon) as stranger:
        socket.send_fds(stranger, [b"garbage"], [write_fd] * 12)  # more than are taken, too
        daemon.refused(1)
    os.close(write_fd)
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)
    assert len(open_descriptors()) == before


def test_silence_is_dropped_in_time(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "HELLO_GRACE_S", 0.05)
    with _connect(daemon) as stranger:
        daemon.refused(1)
        assert stranger.recv(1) == b""
    assert daemon.zygotes.next_deadline() is None


def test_a_flood_of_strangers_keeps_no_zygote_out(daemon: Daemon) -> None:
    flood: list[socket.socket] = []
    known = daemon.zygotes.strangers
    for _ in range(strangers.LIMIT + 10):
        flood.append(_connect(daemon))
        daemon.until(lambda: len(known) + known.refused == len(flood) or None)
    assert daemon.zygotes.strangers.refused == 10
    daemon.open_nest("hear()")
    assert daemon.expect(NestPrepared).import_s == 0.5
    for stranger in flood:
        stranger.close()


def test_the_daemon_itself_is_no_zygote(daemon: Daemon) -> None:
    token = daemon.open_nest()
    with _connect(daemon) as connection:
        connection.send(codec.write(m.ZygoteHello(bytes.fromhex(token), 1))[0])
        daemon.refused(1)


def test_a_token_is_good_for_one_zygote(daemon: Daemon) -> None:
    token = daemon.open_nest("hear()")
    daemon.expect(NestPrepared)
    second = [sys.executable, "-c", _PREAMBLE, daemon.zygotes.address, token]
    with subprocess.Popen(second, stdout=subprocess.PIPE, stderr=subprocess.STDOUT):
        daemon.refused(1)
    assert len(daemon.news) == 1


# -- zygotes that misbehave --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("say(m.Forked(7, 1), daemon)", "something else"),  # a kill of this worker would hit the daemon
        ("say(m.Forked(7, 1), descriptors[0])", "something else"),
        ("say(m.Forked(7, 1))", "something else"),
        ("say(m.Forked(7, 1), *[os.pidfd_open(worker)] * 2)", "something else"),
        ("say(m.ZygoteHello(b'', 1))", "twice"),
        ("connection.send(b'nonsense')", "the zygote sent"),
    ],
    ids=["the-daemons-pidfd", "no-pidfd", "nothing", "two", "hello-again", "nonsense"],
)
def test_a_zygote_that_lies_is_ended(daemon: Daemon, answer: str, reason: str) -> None:
    daemon.open_nest(_FORK + answer + "\nhear()")
    daemon.expect(NestPrepared)
    daemon.start_worker()
    assert reason in daemon.expect(NestEnded).reason
    assert daemon.kills
    assert [type(item) for item in daemon.news] == [NestPrepared, WorkerEnded, NestEnded]


def test_news_of_workers_that_are_not_its_own_is_ignored(daemon: Daemon) -> None:
    daemon.open_nest(
        "say(m.Forked(8, 1), os.pidfd_open(os.getpid()))\nsay(m.Exited(8, 0, None, False))\nsay(m.ForkFailed(9, ''))\n"
        "say(m.Prepared(1.0, m.Versions('', '')))\nhear()\nsay(m.ForkFailed(7, 'no room'))\nhear()"
    )
    daemon.expect(NestPrepared)
    daemon.start_worker()
    assert daemon.expect(WorkerEnded) == WorkerEnded(7, None, None, False, "no room")
    assert len(daemon.news) == 2


def test_a_zygote_that_does_not_read_fails_forks_and_blocks_nobody(daemon: Daemon) -> None:
    daemon.open_nest("signal.pause()")
    daemon.expect(NestPrepared)
    for number in range(10_000):
        daemon.start_worker(number)
        daemon.news += daemon.zygotes.news()
        if daemon.news[-1:] != [] and isinstance(daemon.news[-1], WorkerEnded):
            break
    assert "does not take" in daemon.expect(WorkerEnded).reason


def test_a_status_that_never_comes_is_unknown_after_a_while(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nests, "STATUS_GRACE_S", 0.05)
    daemon.open_nest(_FORK + "say(m.Forked(7, 1), os.pidfd_open(worker))\nhear()")
    daemon.expect(NestPrepared)
    daemon.start_worker()
    daemon.expect(WorkerForked)
    daemon.zygotes.kill_worker(7)
    ended = daemon.expect(WorkerEnded)
    assert (ended.exit_code, ended.signal) == (None, None)
    assert "did not say" in ended.reason


def test_a_status_before_the_hang_up_is_not_lost(daemon: Daemon) -> None:
    """A packet that the zygote did not read makes a reset of its end, which must not hide its last word."""
    daemon.open_nest(
        _FORK + "say(m.Forked(7, 1), os.pidfd_open(worker))\nos.kill(worker, 9)\nos.waitpid(worker, 0)\n"
        "connection.recv(1, socket.MSG_PEEK)\nsay(m.Exited(7, None, 9, True))"
    )
    assert daemon.zygote is not None
    daemon.expect(NestPrepared)
    daemon.start_worker(7)
    daemon.expect(WorkerForked)
    daemon.start_worker(8)  # never read
    assert wait_gone(daemon.zygote.pid)
    ends = daemon.until(lambda: [item for item in daemon.news if isinstance(item, WorkerEnded)][:2] or None)
    assert WorkerEnded(7, None, 9, True) in ends


def test_what_cannot_be_killed_is_given_up(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nests, "END_GRACE_S", 0.05)
    monkeypatch.setattr(processes, "send_signal", lambda *_: None)
    daemon.open_nest(_FORK + "say(m.Forked(7, 1), os.pidfd_open(worker))\nsignal.pause()", kill=False)
    daemon.expect(NestPrepared)
    daemon.start_worker()
    forked = daemon.expect(WorkerForked)
    daemon.zygotes.stop_nest(1)
    assert "could not be killed" in daemon.expect(NestEnded).reason
    assert daemon.kills == [1] * nests.KILLS
    assert [type(item) for item in daemon.news] == [NestPrepared, WorkerForked, WorkerEnded, NestEnded]
    os.kill(forked.pid, 9)
    assert wait_gone(forked.pid)
