"""The daemon's ROUTER: messages out, frames in, and refusals, which are counted.

Guarantees: a peer that has gone is no error here: a worker's death comes by its pidfd, a client comes back or its lease
ends. A message of more bytes or frames than allowed is read to its end, thrown away, and refused. A tcp address is bound
with CURVE keys or not at all, and each message that comes over it is taken only under the key of who shook hands.

Assumes: one thread; bound ipc addresses are sockets in directories of this user's own.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import zmq

from plover import addresses
from plover.daemon.descriptors import Budget
from plover.daemon.doors import Doors
from plover.daemon.guests import Gate
from plover.daemon.peers import GuestPeer, Peers
from plover.wire import codec, curve, sockets
from plover.wire import messages as m

__all__ = ["Post"]


class Post:
    """The socket that clients and workers share.

    Args:
        bind: ``ipc://`` and ``tcp://`` addresses.
        incarnation: the daemon's.
        peers: who has which routing id.
        message_limit_bytes: the largest message that is taken.
        budget: of descriptors.

    Attributes:
        addresses: what is bound; tcp addresses with their ports.
        refused: how many messages were, by the reason's kind.
        socket: for polling only.
        doors: shut while too many clients are in.
        gate: lets guests in; None where no tcp address is bound.
        key: what the connection proved that the last message came over; None for one of this machine.

    Raises:
        AccessDenied: an address is somebody else's, or a key file is open to others.
        PloverError: a tcp address cannot be bound.
    """

    def __init__(
        self, bind: Sequence[str], incarnation: int, peers: Peers, message_limit_bytes: int, budget: Budget
    ) -> None:
        self.refused: collections.Counter[str] = collections.Counter()
        self.gate: Gate | None = None
        self.key: str | None = None
        self._incarnation = incarnation
        self._peers = peers
        self._limit = message_limit_bytes
        self._context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self.socket.setsockopt(option, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.MAXMSGSIZE, message_limit_bytes)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, int(curve.HANDSHAKE_S * 1000))
        self.doors = Doors(self.socket, self._context, budget)
        self.addresses: tuple[str, ...] = ()
        self._out: dict[bytes, list[list[Any]]] = {}  # what waits for `flush`, by routing id, in order
        try:
            self._bind(bind)
        except BaseException:
            self.close()
            raise

    def _bind(self, bind: Sequence[str]) -> None:
        """The ipc addresses first: what is bound after the keys are set asks for keys."""
        bound = {}
        local = [address for address in bind if not address.startswith("tcp://")]
        for address in local:
            self.socket.bind(address)
            path = addresses.socket_path(address)
            path.chmod(0o600)
            self.doors.add_path(address, path)
            bound[address] = address
            self.addresses += (address,)
        for address in [each for each in bind if each not in local]:
            if self.gate is None:
                self.gate = Gate(self._context, self.refused)
            bound[address] = self.gate.bind(self.socket, address)
            self.doors.add_port(bound[address])
        self.addresses = tuple(bound[address] for address in bind)

    def receive(self) -> tuple[bytes, list[Any]]:
        """The next message's peer and frames; one beyond the limits is refused, and the next is looked for.

        Raises:
            zmq.Again: there is none now.
        """
        while True:
            try:
                if self.gate is None:
                    return sockets.receive_with_identity(self.socket, self._limit, codec.FRAMES_LIMIT)
                routing_id, self.key, frames = curve.receive(self.socket, self._limit, codec.FRAMES_LIMIT)
                if self._peers.may_speak(routing_id, self.key):
                    return routing_id, frames
                reason = "this connection took the routing id of another one, which had shaken hands"
                self.reject(routing_id, "AccessDenied", reason, kind="taken routing id")
            except sockets.Oversized as error:
                reason = (
                    f"{error} is more than this daemon takes at once, {self._limit:,} bytes in {codec.FRAMES_LIMIT:,} "
                    "frames: send less in a call"
                )
                self.reject(error.routing_id, "PayloadTooLarge", reason, kind="too large")

    def has_more(self) -> bool:
        """Whether another message is there."""
        return sockets.has_message(self.socket)

    def send(self, routing_id: bytes, message: m.ToClient | m.ToWorker, body: codec.Body = codec.EMPTY) -> None:
        """Send a message to a peer, if it is still there, at the next `flush`. Its buffers must not change any more."""
        waiting = self._out.get(routing_id)
        if waiting is None:
            waiting = self._out[routing_id] = []
        waiting.append(codec.write(message, self._incarnation, body))

    def flush(self) -> None:
        """Send what waits, joined: one message for all that one turn of the loop has for a peer."""
        out = self._out
        while out:
            routing_id, messages = out.popitem()
            try:
                for frames in codec.join(messages) if len(messages) > 1 else messages:
                    sockets.send(self.socket, [routing_id, *frames])
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
        known = self._peers.is_known(routing_id)
        self.send(routing_id, m.Rejected(error, reason, submission, self._incarnation if known else 0))

    def forget_distrusted(self) -> list[GuestPeer]:
        """Read the list of trusted keys again, and forget the guests who are not in it any more, or under another tenant.
        Each is told. Returns them.
        """
        assert self.gate is not None
        gone = []
        if self.gate.reread():
            for routing_id, guest in self._peers.guests():
                if self.gate.tenant_of(guest.key) != guest.tenant:
                    reason = "this daemon's operator does not trust this client's key any more, or changed its tenant"
                    self.reject(routing_id, "AccessDenied", reason, kind="revoked key")
                    self._peers.forget(routing_id)
                    gone.append(guest)
        return gone

    def close(self) -> None:
        """Let the last messages out, and take the sockets away."""
        self.flush()
        self.doors.close()
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.close()
        if self.gate is not None:
            self.gate.close()
        self._context.term()
        for address in self.addresses:
            if address.startswith("ipc://"):
                addresses.socket_path(address).unlink(missing_ok=True)
