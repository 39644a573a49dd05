"""The socket to one daemon, and bells that wake whoever waits at it.

A link is one socket for its whole life: a new connection is a new link, so that who still holds an old one never touches
the new. Assumes: one thread at a time uses a link, but for `rest`, which is the I/O thread's, and bells, which are anybody's.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Any

import zmq

from plover.wire import sockets

__all__ = ["Bell", "Link"]


class Bell:
    """Wakes one thread that polls. Ring it after the news is where the thread will look; the thread calls `listen` before
    it looks and then polls, and `answer` when it is awake. Ringing somebody who is awake costs nothing.
    """

    def __init__(self) -> None:
        self._in, self._out = socket.socketpair()
        self._in.setblocking(False)
        self._out.setblocking(False)
        self._awake = True
        self.fd = self._out.fileno()

    def listen(self) -> None:
        """From now on a ring is heard."""
        self._awake = False

    def ring(self) -> None:
        """There is news."""
        if not self._awake:
            self._awake = True
            with contextlib.suppress(OSError):  # full: it rings; closed: nobody listens
                self._in.send(b"\0")

    def answer(self) -> None:
        """Awake, called by the bell."""
        with contextlib.suppress(OSError):
            self._out.recv(4096)

    def awake(self) -> None:
        """Awake, called by anything else."""
        self._awake = True

    def close(self) -> None:
        """Give the descriptors back."""
        self._in.close()
        self._out.close()


class Link:
    """A DEALER to the daemon.

    Args:
        context: the connection's.
        address: ``ipc://…``.
        bell: wakes who polls here.

    Attributes:
        monitor: tells the I/O thread that the connection broke.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, bell: Bell) -> None:
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self._socket.setsockopt(option, 0)
        self.monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._bell = bell
        self._others = (bell.fd,)
        self._others_and_monitor = (bell.fd, self.monitor)

    def end(self, linger_ms: int) -> None:
        """Close the socket; what was sent has so long to go out."""
        self._socket.disable_monitor()
        self.monitor.close(0)
        self._socket.close(linger_ms)

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
            elif ready is self.monitor:
                broke = self._heard()
            else:
                self._bell.answer()
        self._bell.awake()
        return came, broke

    def rest(self, bell: Bell, timeout_ms: int) -> bool:
        """Poll for nothing but a break of the connection, which it returns, and a bell. The I/O thread may do so in
        anybody's turn: the monitor is a socket of its own.
        """
        broke = False
        for ready in sockets.poll(self.monitor, (bell.fd,), timeout_ms):
            if ready is self.monitor:
                broke = self._heard()
            else:
                bell.answer()
        bell.awake()
        return broke

    def _heard(self) -> bool:
        self.monitor.recv_multipart()
        return True
