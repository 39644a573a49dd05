"""A zygote whose fork fails: it sweeps and tries again while that can make room, and no longer."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plover.wire import codec
from plover.wire import messages as m
from tests.support.daemons import PATIENCE_S, Script

#: A real zygote in a process of its own. Its fork fails while there is a leftover, or so often; each failure is told.
_ZYGOTE = """
import errno, os, sys
from plover_runtime import device, keeper, zygote

address, token, failures, leftovers, number = sys.argv[1], bytes.fromhex(sys.argv[2]), *map(int, sys.argv[3:])
left = []
tries = 0

def leave():
    # as if a worker had died and left something: a child of the zygote's that is no worker
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read_fd)
        os.write(write_fd, b"1")
        zygote.signal.pause()
    os.close(write_fd)
    os.read(read_fd, 1)
    os.close(read_fd)
    return pid

def fork():
    global tries
    tries += 1
    alive = [pid for pid in left if os.path.exists(f"/proc/{pid}")]
    if alive or tries <= failures:
        raise OSError(number, os.strerror(number))
    print(tries, flush=True)
    os._exit(0)  # as far as this test goes

device.preload = lambda *_: None
made = zygote.Zygote(address, token, {}, fork)
left += [leave() for _ in range(leftovers)]
send = made._send
def tell(message, descriptors=()):
    send(message, descriptors)
    if type(message).__name__ == "ForkFailed":
        print(tries, flush=True)
made._send = tell
made.run()
"""


class Daemon:
    """The other end of the zygote's socket."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "z")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.address)
        self._listener.listen()
        self._listener.settimeout(PATIENCE_S)
        self.zygote: socket.socket | None = None

    def serve(self) -> None:
        """Take the zygote's hello, prepare it, and ask for a fork."""
        self.zygote, _ = self._listener.accept()
        self.zygote.settimeout(PATIENCE_S)
        assert isinstance(self.hear(), m.ZygoteHello)
        prepare = m.Prepare(
            nest=1, tenant="t", environment="e", device_kind="simulated", devices=("d",), memory_bytes=5,
        )  # fmt: skip
        self.say(prepare)
        assert isinstance(self.hear(), m.Prepared)
        with open(os.devnull) as null:
            self.say(m.Fork(worker=7, marker=b"m"), *[null.fileno()] * 6)

    def say(self, message: Any, *descriptors: int) -> None:
        """Send a packet."""
        assert self.zygote is not None
        socket.send_fds(self.zygote, codec.write(message), descriptors)

    def hear(self) -> Any:
        """The next packet's message."""
        assert self.zygote is not None
        return codec.FROM_ZYGOTE.read([self.zygote.recv(65536)]).message

    def close(self) -> None:
        """Give the sockets back."""
        self._listener.close()
        if self.zygote is not None:
            self.zygote.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon of the test's own."""
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.close()


def _run(daemon: Daemon, *, failures: int, leftovers: int, number: int) -> Script:
    arguments = [daemon.address, "00" * 32, str(failures), str(leftovers), str(number)]
    script = Script(_ZYGOTE, *arguments)
    daemon.serve()
    return script


def test_a_fork_works_when_what_filled_the_limit_is_swept(daemon: Daemon) -> None:
    script = _run(daemon, failures=0, leftovers=3, number=errno.EAGAIN)
    try:
        assert int(script.line()) > 1
    finally:
        script.close()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_nothing_makes_room_for_fails_at_once(daemon: Daemon, number: int) -> None:
    script = _run(daemon, failures=1000, leftovers=0, number=number)
    try:
        assert daemon.hear() == m.ForkFailed(worker=7, reason=f"fork failed: {os.strerror(number)}")
        assert script.line() == "1"  # the first try, and no other
        daemon.say(m.EndNest())
        assert script.wait()[0] == 0
    finally:
        script.close()


def test_a_fork_that_fails_for_good_fails_although_it_swept(daemon: Daemon) -> None:
    script = _run(daemon, failures=1000, leftovers=2, number=errno.EAGAIN)
    try:
        assert daemon.hear() == m.ForkFailed(worker=7, reason="fork failed: Resource temporarily unavailable")
        assert 1 < int(script.line()) <= 4  # once more for each round of deaths
        daemon.say(m.EndNest())
        assert script.wait()[0] == 0
    finally:
        script.close()
