"""The daemon's doors: the addresses that clients come in by, shut while there are too many of them.

libzmq lets everybody in, before a key or a secret is asked for, and aborts when it has no descriptor left for the next one
(4.3.5, `ipc_listener.cpp`). It has no option against that: `ZMQ_MAX_SOCKETS` counts sockets, not connections, and unbinding
ends the connections that came in by the address. So its monitor counts for us, and a door is shut from the outside: the
kernel drops what comes to a tcp port (a socket filter that lets nothing through), and at a unix socket's path another one
lies, a waiting room, where who connects is neither greeted nor sent away. Who waits there connects again when it closes.

The tcp doors are shut first, at three quarters: strangers must not keep the host's own users out.

Guarantees: when the last door is shut, at most `descriptors.OVERRUN` connections more than allowed have been made: the
monitor's pipe has room for 1 + 1000 events (our high-water mark and libzmq's default one), and libzmq's thread, which tells
of one connection before it makes the next, waits when it is full. Who is in stays in. Doors open again by themselves.

Assumes: one thread. A socket's directory is this user's own.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import zmq

from plover.daemon.descriptors import Budget, count_open
from plover.wire import sockets

__all__ = ["Doors"]

log = logging.getLogger("plover.daemon")

#: Shut doors are looked at so often. Who does not shake hands is thrown out after some seconds (`curve.HANDSHAKE_S`).
LOOK_S = 0.25
#: A client takes so many descriptors: its connection, and its process.
_EACH = 2
_EVENTS = "inproc://plover.doors"
_EVENT = struct.Struct("=hi")  # zmq_socket_monitor(3): what happened, and to which descriptor
# <asm-generic/socket.h>, <linux/filter.h>; Python has no names for them
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_NOTHING_PASSES = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: of each packet, 0 bytes
_BACKLOG = 128


class Door(Protocol):
    """One address."""

    name: str

    def shut(self) -> None:
        """Let nobody in."""

    def open(self) -> None:
        """Let them in again."""

    def close(self) -> None:
        """The address is given up."""


class _Port:
    """A tcp port that libzmq listens at.

    Args:
        name: the address.
        fd: libzmq's descriptor.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._listener = socket.socket(fileno=os.dup(fd))

    def shut(self) -> None:
        """Whoever connects meanwhile tries again and again, as TCP does."""
        code = ctypes.create_string_buffer(_NOTHING_PASSES)
        program = struct.pack("@HP", 1, ctypes.addressof(code))
        self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def open(self) -> None:
        """As before."""
        self._listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """Give the copy back."""
        self._listener.close()


class _Path:
    """A unix socket's path. While it is shut, libzmq's socket is at another one."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self._inside = path.with_name(path.name + ".full")
        self._inside.unlink(missing_ok=True)  # a daemon was killed while its door was shut
        self._room: socket.socket | None = None

    def shut(self) -> None:
        """The waiting room in its place, without a moment in which there is none: a client would start a daemon."""
        room = socket.socket(socket.AF_UNIX)
        bound = self._path.with_name("~")  # short enough where the path is
        try:
            bound.unlink(missing_ok=True)
            room.bind(str(bound))
            bound.chmod(0o600)
            room.listen(_BACKLOG)
            os.link(self._path, self._inside)
            bound.replace(self._path)
        except OSError:
            room.close()
            bound.unlink(missing_ok=True)
            self._inside.unlink(missing_ok=True)
            raise
        self._room = room

    def open(self) -> None:
        """libzmq's socket back in its place; who waited connects again."""
        self._inside.replace(self._path)
        self.close()

    def close(self) -> None:
        """Nobody waits any more."""
        self._inside.unlink(missing_ok=True)
        if self._room is not None:
            self._room.close()
            self._room = None


class Doors:
    """All doors of the daemon.

    Args:
        zmq_socket: that listens, before it does.
        context: its.
        budget: of descriptors.
        count: how many are open.
    """

    def __init__(
        self,
        zmq_socket: sockets.Socket,
        context: zmq.Context[zmq.Socket[bytes]],
        budget: Budget,
        count: Callable[[], int] = count_open,
    ) -> None:
        self._budget = budget
        self._count = count
        self._open: dict[Door, int] = {}  # and how many descriptors are too many for it
        self._shut: dict[Door, int] = {}
        self._left = 0  # so many more may be opened before they must be counted again
        self._due: float | None = None  # when to look again; not None iff a door is shut
        self._socket = zmq_socket
        zmq_socket.monitor(_EVENTS, zmq.EVENT_ACCEPTED | zmq.EVENT_LISTENING)
        self._monitor: sockets.Socket = context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 1)  # see OVERRUN
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(_EVENTS)
        sockets.has_message(self._monitor)  # libzmq writes to its descriptor only for who has seen all that was before

    def __repr__(self) -> str:
        return f"<Doors open={[door.name for door in self._open]} shut={[door.name for door in self._shut]}>"

    @property
    def shut(self) -> list[str]:
        """The addresses at which nobody is let in now."""
        return [door.name for door in self._shut]

    def add_path(self, name: str, path: Path) -> None:
        """A unix socket was bound."""
        self._open[_Path(name, path)] = self._budget.full

    def add_port(self, name: str) -> None:
        """A tcp port was bound, as the last address."""
        base, full = self._budget.base, self._budget.full
        listeners = [fd for event, fd in self._told() if event == zmq.EVENT_LISTENING]
        self._open[_Port(name, listeners[-1])] = base + (full - base) * 3 // 4

    def fileno(self) -> int:
        """Readable when somebody came in; call `take` then."""
        return int(self._monitor.getsockopt(zmq.FD))

    def take(self, now: float) -> None:
        """Some came in: shut the doors if they were too many."""
        for _ in self._told():
            self._left -= _EACH
            if self._left <= 0:  # at once: libzmq's thread goes on while this loop does
                self._look(now)

    def due(self) -> float | None:
        """When `keep_time` has something to do."""
        return self._due

    def keep_time(self, now: float) -> None:
        """See whether doors can be opened again."""
        if self._due is not None and now >= self._due:
            self._look(now)

    def close(self) -> None:
        """Give everything back; before the socket is closed."""
        for door in [*self._open, *self._shut]:
            door.close()
        for _ in self._told():
            pass  # libzmq's thread may wait for that, and holds the lock that the next line needs
        self._socket.disable_monitor()
        self._monitor.close(0)

    def _told(self) -> Iterator[tuple[int, int]]:
        """What libzmq has told: an event, and the descriptor that was made."""
        while sockets.has_message(self._monitor):
            yield _EVENT.unpack(self._monitor.recv_multipart()[0])

    def _look(self, now: float) -> None:
        count, base = self._count(), self._budget.base
        for door, full in list(self._open.items()):
            if count >= full and self._move(door, door.shut):
                self._shut[door] = self._open.pop(door)
                log.warning("%s lets nobody in for a while: %d files are open, for clients mostly", door.name, count)
        for door, full in list(self._shut.items()):
            if count < full - (full - base) // 8 and self._move(door, door.open):
                self._open[door] = self._shut.pop(door)
                log.info("%s lets clients in again", door.name)
        left = [full - count for full in self._open.values()]
        self._left = min([each for each in left if each > 0], default=self._budget.full)
        self._due = now + LOOK_S if self._shut or any(each <= 0 for each in left) else None

    def _move(self, door: Door, how: Callable[[], None]) -> bool:
        try:
            how()
        except OSError as error:
            log.error("%s cannot be shut or opened now: %s", door.name, error)
            return False
        return True
