"""Who is at the other end: settled at the handshake, and looked up by the socket's routing id from then on.

Guarantees: a client is let in by the secret of the socket's directory, compared in constant time; a worker by the token
that it was launched with. What a message claims otherwise is never asked. Pure. Assumes: one thread.
"""

from __future__ import annotations

import hmac

import msgspec

__all__ = ["ClientPeer", "Peers", "WorkerPeer"]


class ClientPeer(msgspec.Struct, frozen=True):
    """A client that shook hands."""

    client: bytes
    tenant: str


class WorkerPeer(msgspec.Struct, frozen=True):
    """A worker that proved itself."""

    worker: int


class Peers:
    """Who has which routing id. Invariant: `_clients` and `_peers` agree about every client.

    Args:
        secret: what lets clients in.
        limit: how many clients are remembered; the one that shook hands first goes first, and shakes them again.
    """

    def __init__(self, secret: bytes, limit: int = 10_000) -> None:
        self._secret = secret
        self._limit = limit
        self._peers: dict[bytes, ClientPeer | WorkerPeer] = {}
        self._clients: dict[bytes, bytes] = {}

    def find(self, routing_id: bytes) -> ClientPeer | WorkerPeer | None:
        """Who has this routing id."""
        return self._peers.get(routing_id)

    def admit_client(self, routing_id: bytes, client: bytes, secret: bytes) -> ClientPeer | None:
        """A client says hello; None if it does not know the secret. An earlier connection of it is forgotten."""
        if not hmac.compare_digest(secret, self._secret):
            return None
        earlier = self._clients.pop(client, None)
        if earlier is not None:
            self._peers.pop(earlier, None)
        self.forget(routing_id)
        peer = ClientPeer(client, "default")
        self._peers[routing_id] = peer
        self._clients[client] = routing_id
        if len(self._clients) > self._limit:
            oldest = next(iter(self._clients))
            self._peers.pop(self._clients.pop(oldest))
        return peer

    def admit_worker(self, routing_id: bytes, worker: int) -> None:
        """A worker proved itself."""
        self._peers[routing_id] = WorkerPeer(worker)

    def routing_id_of(self, client: bytes) -> bytes | None:
        """Where to send what is for a client."""
        return self._clients.get(client)

    def forget(self, routing_id: bytes) -> None:
        """The peer is gone."""
        peer = self._peers.pop(routing_id, None)
        if isinstance(peer, ClientPeer) and self._clients.get(peer.client) == routing_id:
            del self._clients[peer.client]
