"""Who is at the other end: settled at the handshake, and looked up by the socket's routing id from then on.

Guarantees: a client of this machine is let in by the secret of the socket's directory, compared in constant time; a guest by
the key that its connection proved. What a message claims otherwise is never asked. Pure. Assumes: one thread.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator

import msgspec

__all__ = ["ClientPeer", "GuestPeer", "Peers"]


class ClientPeer(msgspec.Struct, frozen=True):
    """A client that shook hands."""

    client: bytes
    tenant: str


class GuestPeer(ClientPeer, frozen=True):
    """A client that came over tcp, and the key that it proved."""

    key: str


class Peers:
    """Who has which routing id. Invariants: `_clients` agrees with `_peers` and `_guests` about every client; nobody is in
    both of these.

    Args:
        secret: what lets clients in.
        limit: how many clients are remembered; the one that shook hands first goes first, and shakes them again.
    """

    def __init__(self, secret: bytes, limit: int = 10_000) -> None:
        self._secret = secret
        self._limit = limit
        self._peers: dict[bytes, ClientPeer] = {}
        self._guests: dict[bytes, GuestPeer] = {}
        self._clients: dict[bytes, bytes] = {}

    def find(self, routing_id: bytes) -> ClientPeer | None:
        """The client of this machine that has this routing id."""
        return self._peers.get(routing_id)

    def find_guest(self, routing_id: bytes) -> GuestPeer | None:
        """The guest that has this routing id."""
        return self._guests.get(routing_id)

    def guests(self) -> Iterator[tuple[bytes, GuestPeer]]:
        """All guests, with their routing ids; they may be forgotten meanwhile."""
        return iter(list(self._guests.items()))

    def is_known(self, routing_id: bytes) -> bool:
        """Whether somebody shook hands under this routing id."""
        return routing_id in self._peers or routing_id in self._guests

    def may_speak(self, routing_id: bytes, key: str | None) -> bool:
        """Whether a message under this routing id, from a connection that proved this key (None: one of this machine), can
        be from who shook hands under it. A peer chooses its routing id itself, and could choose that of one who left.
        """
        guest = self._guests.get(routing_id)
        if guest is not None:
            return guest.key == key
        return key is None or routing_id not in self._peers

    def admit_client(self, routing_id: bytes, client: bytes, secret: bytes) -> ClientPeer | None:
        """A client says hello; None if it does not know the secret. An earlier connection of it is forgotten."""
        if not hmac.compare_digest(secret, self._secret):
            return None
        self._make_room(routing_id, client)
        peer = ClientPeer(client, "default")
        self._peers[routing_id] = peer
        self._remember(routing_id, client)
        return peer

    def admit_guest(self, routing_id: bytes, client: bytes, tenant: str, key: str) -> GuestPeer:
        """A client whose connection proved a trusted key says hello."""
        self._make_room(routing_id, client)
        peer = GuestPeer(client, tenant, key)
        self._guests[routing_id] = peer
        self._remember(routing_id, client)
        return peer

    def _make_room(self, routing_id: bytes, client: bytes) -> None:
        earlier = self._clients.pop(client, None)
        if earlier is not None:
            self._remove(earlier)
        self.forget(routing_id)

    def _remember(self, routing_id: bytes, client: bytes) -> None:
        self._clients[client] = routing_id
        if len(self._clients) > self._limit:
            oldest = next(iter(self._clients))
            self._remove(self._clients.pop(oldest))

    def routing_id_of(self, client: bytes) -> bytes | None:
        """Where to send what is for a client."""
        return self._clients.get(client)

    def forget(self, routing_id: bytes) -> None:
        """The peer is gone."""
        peer = self._remove(routing_id)
        if peer is not None and self._clients.get(peer.client) == routing_id:
            del self._clients[peer.client]

    def _remove(self, routing_id: bytes) -> ClientPeer | None:
        return self._peers.pop(routing_id, None) or self._guests.pop(routing_id, None)
