"""ZeroMQ sockets, as fast as pyzmq can drive them.

pyzmq's `Socket` wraps its compiled core in Python: every option is looked up in an enum and every send takes a detour that
costs more than the send. On the path of each call these functions talk to the core directly, with plain integers.

Guarantees: the same semantics as `send_multipart` and `recv_multipart`. Assumes: pyzmq keeps `zmq.backend.Socket`, the core
class, in public (its documentation names it for writers of other backends); the socket is not closed meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq
import zmq.backend

__all__ = [
    "NO_COPY_SIZE",
    "Oversized",
    "Socket",
    "has_message",
    "poll",
    "receive",
    "receive_with_identity",
    "send",
]

Socket = zmq.Socket[bytes]

#: Frames from this size on pass without a copy; below it pyzmq's own bookkeeping costs more than the copy.
NO_COPY_SIZE = 64 * 1024


class Oversized(Exception):
    """A message that is not taken: whose, of how many bytes in how many frames."""

    def __init__(self, routing_id: bytes, size_bytes: int, frames: int) -> None:
        super().__init__(f"a message of {size_bytes:,} bytes in {frames:,} frames")
        self.routing_id = routing_id


_send = zmq.backend.Socket.send
_recv = zmq.backend.Socket.recv
_get = zmq.backend.Socket.get
_SNDMORE = int(zmq.SNDMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_RCVMORE = int(zmq.RCVMORE)
_POLLIN = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)


def poll(socket: Socket, others: Sequence[Any], timeout_ms: int) -> list[Any]:
    """Wait for messages on `socket`, or for any of `others` (sockets, or descriptors) to become readable.

    Returns what is ready, each as it was given. A negative timeout waits without end.
    """
    items: Any = [(socket, _POLLIN), *((other, _POLLIN) for other in others)]
    ready: Any = zmq.zmq_poll(items, timeout_ms)
    return [item for item, _ in ready]


def has_message(socket: Socket) -> bool:
    """Whether a message can be received now: a third of what an attempt costs that ends in `zmq.Again`."""
    return bool(int(_get(socket, _EVENTS)) & _POLLIN)


def send(socket: Socket, frames: Sequence[Any]) -> None:
    """Send a message. The first frame is copied, large ones are not: they must not change until they are sent."""
    last = len(frames) - 1
    if last == 0:
        _send(socket, frames[0], 0, True, False)
        return
    _send(socket, frames[0], _SNDMORE, True, False)
    for number in range(1, last + 1):
        frame = frames[number]
        _send(socket, frame, _SNDMORE if number < last else 0, len(frame) < NO_COPY_SIZE, False)


def receive(socket: Socket, wait: bool) -> list[Any]:
    """A message's frames: the first as bytes, the others as the writable memory that they came in.

    Raises:
        zmq.Again: there is none now, and `wait` is not set.
    """
    frames: list[Any] = [_recv(socket, 0 if wait else _NOBLOCK, True, False)]
    while _get(socket, _RCVMORE):
        frames.append(_recv(socket, 0, False, False))
    return frames


def receive_with_identity(socket: Socket, limit_bytes: int, limit_frames: int) -> tuple[bytes, list[Any]]:
    """A ROUTER's next message: the peer's routing id, and the frames as `receive` gives them.

    Raises:
        zmq.Again: there is none now.
        Oversized: it is beyond a limit. It was read to its end and thrown away.
    """
    routing_id = _recv(socket, _NOBLOCK, True, False)
    if not _get(socket, _RCVMORE):
        return routing_id, []
    frames: list[Any] = [_recv(socket, 0, True, False)]
    if not _get(socket, _RCVMORE):
        return routing_id, frames
    size, count = len(frames[0]), 1
    while _get(socket, _RCVMORE):
        frame = _recv(socket, 0, False, False)
        size, count = size + len(frame), count + 1
        if size <= limit_bytes and count <= limit_frames:
            frames.append(frame)
        else:
            frames.clear()
    if not frames:
        raise Oversized(routing_id, size, count)
    return routing_id, frames
