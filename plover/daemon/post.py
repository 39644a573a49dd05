"""The daemon's ROUTER: messages out, frames in, and refusals, which are counted.

Guarantees: a peer that has gone is no error here: a worker's death comes by its pidfd, a client comes back or its lease
ends. A message of more bytes or frames than allowed is read to its end, thrown away, and refused.

Assumes: one thread; bound addresses are ipc sockets in directories of this user's own.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from plover import addresses
from plover.daemon.peers import Peers
from plover.wire import codec, sockets
from plover.wire import messages as m

__all__ = ["Post"]


class Post:
    """The socket that clients and workers share.

    Args:
        bind: ``ipc://`` addresses.
        incarnation: the daemon's.
        peers: who has which routing id.
        message_limit_bytes: the largest message that is taken.

    Attributes:
        refused: how many messages were, by the reason's kind.
        socket: for polling only.
    """

    def __init__(self, bind: Sequence[str], incarnation: int, peers: Peers, message_limit_bytes: int) -> None:
        self.refused: collections.Counter[str] = collections.Counter()
        self._addresses = tuple(bind)
        self._incarnation = incarnation
        self._peers = peers
        self._limit = message_limit_bytes
        self._context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self.socket.setsockopt(option, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.MAXMSGSIZE, message_limit_bytes)
        for address in self._addresses:
            self.socket.bind(address)
            Path(addresses.socket_path(address)).chmod(0o600)

    def receive(self) -> tuple[bytes, list[Any]]:
        """The next message's peer and frames; one beyond the limits is refused, and the next is looked for.

        Raises:
            zmq.Again: there is none now.
        """
        while True:
            try:
                return sockets.receive_with_identity(self.socket, self._limit, codec.FRAMES_LIMIT)
            except sockets.Oversized as error:
                reason = f"{error} is more than this daemon takes: {self._limit} bytes in {codec.FRAMES_LIMIT} frames"
                self.reject(error.routing_id, "PayloadTooLarge", reason, kind="too large")

    def has_more(self) -> bool:
        """Whether another message is there."""
        return sockets.has_message(self.socket)

    def send(self, routing_id: bytes, message: m.ToClient | m.ToWorker, body: codec.Body = codec.EMPTY) -> None:
        """Send a message to a peer, if it is still there."""
        try:
            sockets.send(self.socket, [routing_id, *codec.write(message, self._incarnation, body)])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise

    def send_to_client(self, client: bytes, message: m.ToClient, body: codec.Body = codec.EMPTY) -> None:
        """Send a message to a client, if it is connected."""
        routing_id = self._peers.routing_id_of(client)
        if routing_id is not None:
            self.send(routing_id, message, body)

    def reject(self, routing_id: bytes, error: str, reason: str, kind: str, submission: int | None = None) -> None:
        """Say that a message is not taken, and why.

        Args:
            routing_id: whose it was.
            error: an exception's name in `plover.errors`.
            reason: its text.
            kind: what it is counted as.
            submission: the call that it was about, where that is known.
        """
        self.refused[kind] += 1
        known = self._peers.find(routing_id) is not None
        self.send(routing_id, m.Rejected(error, reason, submission, self._incarnation if known else 0))

    def close(self) -> None:
        """Let the last messages out, and take the sockets away."""
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.close()
        self._context.term()
        for address in self._addresses:
            addresses.socket_path(address).unlink(missing_ok=True)
