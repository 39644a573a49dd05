"""A socket of packets, and who connects to it: a stranger, until its first packet proves who it is.

Zygotes connect to one, and clients that borrow segments to another.

Guarantees: a stranger has one packet and `HELLO_GRACE_S` for it; whoever brings garbage, a wrong token or nothing is
dropped and counted. There are never more than `LIMIT`: a flood costs its own oldest members their place, and so cannot
keep a zygote out, which says hello at once. Descriptors that strangers send are closed.

Assumes: the socket's directory is this user's alone (0700).
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

from plover.daemon.launchers import processes
from plover.daemon.launchers.watching import Watches

#: A zygote says hello as the first thing it does after connecting.
HELLO_GRACE_S = 5.0
LIMIT = 64


class Strangers:
    """The listening socket and the connections that have not proved themselves.

    Args:
        path: where the socket is made, in place of what an earlier daemon left there.
        watcher: who tells of readable descriptors.
        admit: given a connection and its first packet, says whether it takes the connection over.
    """

    def __init__(self, path: Path, watcher: Watches, admit: Callable[[socket.socket, bytes], bool]) -> None:
        self.refused = 0  # how many connections were dropped for what they were
        self._path = path
        self._watcher = watcher
        self._admit = admit
        self._deadlines: dict[socket.socket, float] = {}  # oldest first; exactly those that are watched for a hello
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(LIMIT)
        watcher.watch(self._listener.fileno(), self._accept)

    def __len__(self) -> int:
        return len(self._deadlines)

    def __repr__(self) -> str:
        return f"<{len(self)} strangers at {self._path}, {self.refused} refused>"

    def next_deadline(self) -> float | None:
        """When the oldest stranger's time is over."""
        return next(iter(self._deadlines.values()), None)

    def look_at_the_clock(self, now: float) -> None:
        """Drop those whose time is over."""
        while self._deadlines and (deadline := self.next_deadline()) is not None and deadline <= now:
            self._refuse(next(iter(self._deadlines)))

    def close(self) -> None:
        """Drop all, and take the socket away."""
        for stranger in list(self._deadlines):
            self._let_go(stranger)
            stranger.close()
        self._watcher.unwatch(self._listener.fileno())
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has gone, or no descriptor is left: then it waits for one
            stranger, _ = self._listener.accept()
            stranger.setblocking(False)
            if len(self) >= LIMIT:
                self._refuse(next(iter(self._deadlines)))
            self._deadlines[stranger] = time.monotonic() + HELLO_GRACE_S
            self._watcher.watch(stranger.fileno(), lambda: self._meet(stranger))

    def _meet(self, stranger: socket.socket) -> None:
        packet, descriptors = processes.receive(stranger)
        processes.close(descriptors)
        if packet is None:
            return
        self._let_go(stranger)
        if not self._admit(stranger, packet):
            self.refused += 1
            stranger.close()

    def _refuse(self, stranger: socket.socket) -> None:
        self.refused += 1
        self._let_go(stranger)
        stranger.close()

    def _let_go(self, stranger: socket.socket) -> None:
        del self._deadlines[stranger]
        self._watcher.unwatch(stranger.fileno())
