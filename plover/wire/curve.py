"""ZeroMQ sockets over tcp: CURVE keys, dead peers, and who sent a message.

Guarantees: a socket connected or bound here speaks CURVE and nothing else: no byte of a message leaves a client before the
daemon proved that it holds the secret of the key that the client expects, and none reaches a daemon from a client whose key
it does not take. A peer that vanished without a word is noticed within `SILENCE_S`, however long a frame is on its way.

Assumes: libzmq copies a socket's options when it binds or connects (zmq_setsockopt(3)), so an address that was bound before
keeps what it was bound with. Keys are 32 bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import zmq
import zmq.backend

from plover.wire import sockets

__all__ = ["HANDSHAKE_S", "SILENCE_S", "ZAP_ADDRESS", "Admits", "answer", "bind", "connect", "receive"]

#: After this long without a sign of life the kernel gives a connection up.
SILENCE_S = 25
_ASK_AFTER_S = 10
_ASK_EVERY_S = 5
#: A peer that has not proved its key after this long is thrown out: until then libzmq holds whatever it sends. More than a
#: client waits, so that a daemon that hangs is not taken for one that throws out.
HANDSHAKE_S = 15.0
#: Where libzmq asks whether a key is let in (RFC 27).
ZAP_ADDRESS = "inproc://zeromq.zap.01"
_DOMAIN = b"plover"

#: Takes a key and the peer's network address; returns the peer's name, or None.
Admits = Callable[[bytes, str], str | None]

_recv = zmq.backend.Socket.recv
_get = zmq.backend.Socket.get
_NOBLOCK = int(zmq.NOBLOCK)
_RCVMORE = int(zmq.RCVMORE)


def _notice_dead_peers(socket: sockets.Socket) -> None:
    """By TCP's own means: ZMTP's heartbeats wait behind large frames (docs/adr/0013)."""
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, _ASK_AFTER_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, _ASK_EVERY_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, (SILENCE_S - _ASK_AFTER_S) // _ASK_EVERY_S)
    socket.setsockopt(zmq.TCP_MAXRT, SILENCE_S * 1000)


def connect(socket: sockets.Socket, endpoint: str, *, server: bytes, public: bytes, secret: bytes) -> None:
    """Connect a DEALER to a daemon.

    Args:
        socket: fresh.
        endpoint: ``tcp://…`` with a numeric host.
        server: the key that the daemon must prove to have.
        public: this client's key.
        secret: its secret.
    """
    # Whoever knows a connection's routing id could take it over when it breaks, and libzmq counts those that it gives out.
    socket.setsockopt(zmq.ROUTING_ID, b"\x01" + secrets.token_bytes(15))
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.IPV6, "[" in endpoint)
    _notice_dead_peers(socket)
    socket.connect(endpoint)


def bind(socket: sockets.Socket, address: str, secret: bytes) -> str:
    """Listen at a tcp address, for clients with keys; what was bound before is not touched, what is bound later is.

    Returns:
        The address, with the port that the system chose where it was to.

    Raises:
        zmq.ZMQError: it cannot be bound.
    """
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody answers: nobody is let in
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(HANDSHAKE_S * 1000))
    socket.setsockopt(zmq.IPV6, "[" in address)
    _notice_dead_peers(socket)
    socket.bind(address)
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def answer(zap: sockets.Socket, admits: Admits) -> None:
    """Answer libzmq's questions whether a key is let in, all that have come.

    Args:
        zap: a REP socket bound to `ZAP_ADDRESS` in the context of the socket that listens.
        admits: decides.
    """
    while sockets.has_message(
        zap
    ):  # also looked at after the last answer, or its descriptor would not tell of the next
        _version, number, _domain, address, _identity, _mechanism, key = zap.recv_multipart()
        name = admits(key, address.decode(errors="replace"))
        verdict = [b"400", b"this key is not trusted", b""] if name is None else [b"200", b"OK", name.encode()]
        zap.send_multipart([b"1.0", number, *verdict, b""])


def receive(socket: sockets.Socket, limit_bytes: int, limit_frames: int) -> tuple[bytes, str | None, list[Any]]:
    """Like `sockets.receive_with_identity`, and says whom the key belongs to that the message came under.

    Returns:
        The routing id, the name that `answer` gave (None over ipc), and the frames.

    Raises:
        zmq.Again, Oversized: as there.
    """
    first = _recv(socket, _NOBLOCK, False, False)  # only a frame that is not copied knows where it came from
    try:
        name: str | None = str(first.get("User-Id"))
    except zmq.ZMQError:
        name = None
    routing_id = bytes(first.bytes)
    if not _get(socket, _RCVMORE):
        return routing_id, name, []
    frames: list[Any] = [_recv(socket, 0, True, False)]
    size, count = len(frames[0]), 1
    while _get(socket, _RCVMORE):
        frame = _recv(socket, 0, False, False)
        size, count = size + len(frame), count + 1
        if size <= limit_bytes and count <= limit_frames:
            frames.append(frame)
        else:
            frames.clear()
    if not frames:
        raise sockets.Oversized(routing_id, size, count)
    return routing_id, name, frames
