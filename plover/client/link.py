"""The socket to one daemon, and bells that wake whoever waits at it.

A link is one socket with one bell for its whole life: a new connection is a new link, so that who still holds an old one
never touches the new, and never hears what is meant for others. Assumes: one thread at a time uses a link, but for `rest`,
which is the I/O thread's, and bells, which anybody rings.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Any

import zmq

from plover.addresses import Plugged
from plover.wire import sockets

__all__ = ["Bell", "Link"]


class Bell:
    """Wakes one thread that polls. Ring it after the news is where the thread will look; the thread sets `asleep` before
    it looks and then polls, and calls `answer` when the bell woke it. Ringing somebody who is awake costs nothing.

    Invariant: only that thread writes `asleep`. A ringer that is interrupted, or late, must not silence the others.
    """

    def __init__(self) -> None:
        self._in, self._out = socket.socketpair()
        self._in.setblocking(False)
        self._out.setblocking(False)
        self.asleep = False
        self.fd = self._out.fileno()

    def ring(self) -> None:
        """There is news."""
        if self.asleep:
            with contextlib.suppress(OSError):  # full: it rings; closed: nobody listens
                self._in.send(b"\0")

    def answer(self) -> None:
        """Awake."""
        with contextlib.suppress(OSError):
            self._out.recv(4096)

    def close(self) -> None:
        """Give the descriptors back."""
        self._in.close()
        self._out.close()


class Link:
    """A DEALER to the daemon.

    Args:
        context: the connection's.
        address: ``ipc://…``, or a `Plugged` one of another kind.

    Attributes:
        bell: wakes who polls here.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.bell = Bell()
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self._socket.setsockopt(option, 0)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        if isinstance(address, Plugged):
            address.plug(self._socket)
        else:
            self._socket.connect(address)
        self._others = (self.bell.fd,)
        self._others_and_monitor = (self.bell.fd, self._monitor)

    def end(self, linger_ms: int) -> None:
        """Close the socket; what was sent has so long to go out."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)
        self.bell.close()

    def send(self, frames: Sequence[Any]) -> None:
        """Send a message; its large frames must not change until they are sent."""
        sockets.send(self._socket, frames)

    def receive(self) -> list[Any]:
        """The next message's frames.

        Raises:
            zmq.Again: there is none now.
        """
        return sockets.receive(self._socket, wait=False)

    def has_more(self) -> bool:
        """Whether another message is there."""
        return sockets.has_message(self._socket)

    def wait(self, timeout_ms: int, with_monitor: bool = False) -> tuple[bool, bool]:
        """Poll; returns whether a message came, and whether the connection broke. A rung bell is answered."""
        came = broke = False
        others = self._others_and_monitor if with_monitor else self._others
        for ready in sockets.poll(self._socket, others, timeout_ms):
            if ready is self._socket:
                came = True
            elif ready is self._monitor:
                broke = self._heard()
            else:
                self.bell.answer()
        self.bell.asleep = False
        return came, broke

    def rest(self, bell: Bell, timeout_ms: int) -> bool:
        """Poll for nothing but a break of the connection, which it returns, and a bell of the I/O thread's own. It may do
        so in anybody's turn: the monitor is a socket of its own.
        """
        broke = False
        for ready in sockets.poll(self._monitor, (bell.fd,), timeout_ms):
            if ready is self._monitor:
                broke = self._heard()
            else:
                bell.answer()
        bell.asleep = False
        return broke

    def _heard(self) -> bool:
        self._monitor.recv_multipart()
        return True
