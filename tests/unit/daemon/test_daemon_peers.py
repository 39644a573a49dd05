"""Who is at the other end."""

from __future__ import annotations

import pytest

from plover.daemon.peers import ClientPeer, Peers

SECRET = b"s" * 32


@pytest.fixture
def peers() -> Peers:
    return Peers(SECRET, limit=2)


def test_a_client_with_the_secret_is_let_in(peers: Peers) -> None:
    peer = peers.admit_client(b"r1", b"alice", SECRET)
    assert peer == ClientPeer(b"alice", "default")
    assert peers.find(b"r1") == peer
    assert peers.routing_id_of(b"alice") == b"r1"


@pytest.mark.parametrize("secret", [b"", b"s" * 31, b"t" * 32, SECRET + b"s"])
def test_a_client_without_it_is_not(peers: Peers, secret: bytes) -> None:
    assert peers.admit_client(b"r1", b"alice", secret) is None
    assert peers.find(b"r1") is None
    assert peers.routing_id_of(b"alice") is None


def test_a_stranger_is_nobody(peers: Peers) -> None:
    assert peers.find(b"r9") is None
    peers.forget(b"r9")


def test_a_client_that_comes_back_leaves_its_earlier_connection(peers: Peers) -> None:
    peers.admit_client(b"r1", b"alice", SECRET)
    peers.admit_client(b"r2", b"alice", SECRET)
    assert peers.find(b"r1") is None
    assert peers.routing_id_of(b"alice") == b"r2"
    peers.forget(b"r1")  # late news of the earlier one
    assert peers.routing_id_of(b"alice") == b"r2"


def test_a_client_that_is_forgotten_cannot_be_sent_to(peers: Peers) -> None:
    peers.admit_client(b"r1", b"alice", SECRET)
    peers.forget(b"r1")
    assert peers.find(b"r1") is None
    assert peers.routing_id_of(b"alice") is None


def test_past_the_limit_the_oldest_goes(peers: Peers) -> None:
    for number, client in enumerate((b"alice", b"bob", b"carol")):
        peers.admit_client(b"r%d" % number, client, SECRET)
    assert peers.find(b"r0") is None
    assert peers.routing_id_of(b"alice") is None
    assert peers.routing_id_of(b"bob") == b"r1"
    assert peers.routing_id_of(b"carol") == b"r2"


def test_a_client_that_came_back_is_not_the_oldest(peers: Peers) -> None:
    peers.admit_client(b"r0", b"alice", SECRET)
    peers.admit_client(b"r1", b"bob", SECRET)
    peers.admit_client(b"r2", b"alice", SECRET)
    peers.admit_client(b"r3", b"carol", SECRET)
    assert peers.routing_id_of(b"alice") == b"r2"
    assert peers.routing_id_of(b"bob") is None
