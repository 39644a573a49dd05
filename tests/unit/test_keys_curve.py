"""Sockets with keys, over tcp inside this process: who gets in, and what is known of whom."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator

import pytest
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from plover.wire import curve, sockets

WAIT_MS = 10_000
Context = zmq.Context[zmq.Socket[bytes]]


def _pair() -> tuple[bytes, bytes]:
    public, secret = zmq.curve_keypair()
    return z85.decode(public), z85.decode(secret)


SERVER, ALICE, BOB = _pair(), _pair(), _pair()
NAMES = {ALICE[0]: "alice"}


class Daemon:
    """A ROUTER with an ipc and a tcp address, and what answers whose keys are good."""

    def __init__(self, context: Context, directory: str, admits: curve.Admits | None) -> None:
        self.admits = admits
        self.zap: sockets.Socket | None = None
        if admits is not None:
            self.zap = context.socket(zmq.REP)
            self.zap.bind(curve.ZAP_ADDRESS)
        self.router = context.socket(zmq.ROUTER)
        self.ipc = f"ipc://{directory}/s"
        self.router.bind(self.ipc)
        self.tcp = curve.bind(self.router, "tcp://127.0.0.1:*", SERVER[1])

    def receive(self, timeout_ms: int = WAIT_MS) -> tuple[bytes, str | None, list[bytes]] | None:
        """The next message, answering whatever is asked meanwhile."""
        while True:
            ready = sockets.poll(self.router, [self.zap] if self.zap is not None else [], timeout_ms)
            if self.zap in ready:
                assert self.zap is not None
                assert self.admits is not None
                curve.answer(self.zap, self.admits)
            if self.router in ready:
                routing_id, name, frames = curve.receive(self.router, 1000, 10)
                return routing_id, name, [bytes(memoryview(frame)) for frame in frames]
            if not ready:
                return None


@pytest.fixture
def make() -> Iterator[Callable[..., Daemon]]:
    server: Context = zmq.Context()
    made: list[Daemon] = []

    def make(admits: curve.Admits | None = lambda key, _: NAMES.get(key)) -> Daemon:
        made.append(Daemon(server, directory, admits))
        return made[-1]

    with tempfile.TemporaryDirectory(prefix="plv-") as directory:
        yield make
        server.destroy(linger=0)


@pytest.fixture
def daemon(make: Callable[..., Daemon]) -> Daemon:
    return make()


@pytest.fixture
def dealer() -> Iterator[zmq.Socket[bytes]]:
    context: Context = zmq.Context()
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    yield made
    context.destroy(linger=0)


def _connect(dealer: zmq.Socket[bytes], daemon: Daemon, keys: tuple[bytes, bytes], server: bytes = SERVER[0]) -> None:
    curve.connect(dealer, daemon.tcp, server=server, public=keys[0], secret=keys[1])


def test_a_known_key_gets_in_under_its_name(daemon: Daemon, dealer: zmq.Socket[bytes]) -> None:
    _connect(dealer, daemon, ALICE)
    sockets.send(dealer, [b"head", b"x" * 500])
    came = daemon.receive()
    assert came is not None
    routing_id, name, frames = came
    assert (name, frames) == ("alice", [b"head", b"x" * 500])
    assert len(routing_id) == 16  # not one that libzmq counts
    daemon.router.send_multipart([routing_id, b"answer"])
    assert dealer.poll(WAIT_MS)
    assert dealer.recv() == b"answer"


def test_what_was_bound_before_asks_for_no_key(daemon: Daemon, dealer: zmq.Socket[bytes]) -> None:
    dealer.connect(daemon.ipc)
    sockets.send(dealer, [b"head"])
    came = daemon.receive()
    assert came is not None
    assert came[1:] == (None, [b"head"])


def _heard(dealer: zmq.Socket[bytes], daemon: Daemon, connect: Callable[[], None]) -> int:
    """What the client hears of its handshake, while the daemon answers what it is asked."""
    monitor = dealer.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )
    connect()
    sockets.send(dealer, [b"head"])
    others = [monitor] if daemon.zap is None else [monitor, daemon.zap]
    while monitor not in (ready := sockets.poll(daemon.router, others, WAIT_MS)):
        assert daemon.router not in ready, "something came"
        assert daemon.zap is not None
        assert daemon.admits is not None
        curve.answer(daemon.zap, daemon.admits)
    event = recv_monitor_message(monitor)["event"]
    dealer.disable_monitor()
    monitor.close(0)
    return int(event)


def test_others_do_not(daemon: Daemon, dealer: zmq.Socket[bytes]) -> None:
    heard = _heard(dealer, daemon, lambda: _connect(dealer, daemon, BOB))
    assert heard == zmq.EVENT_HANDSHAKE_FAILED_AUTH


def test_nor_those_without_a_key(daemon: Daemon, dealer: zmq.Socket[bytes]) -> None:
    heard = _heard(dealer, daemon, lambda: dealer.connect(daemon.tcp) and None)
    assert heard in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)  # whoever sees it first


def test_nor_who_expects_another_daemon(daemon: Daemon, dealer: zmq.Socket[bytes]) -> None:
    heard = _heard(dealer, daemon, lambda: _connect(dealer, daemon, ALICE, server=BOB[0]))
    assert heard == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def test_nobody_gets_in_where_nobody_answers(make: Callable[..., Daemon], dealer: zmq.Socket[bytes]) -> None:
    daemon = make(None)
    heard = _heard(dealer, daemon, lambda: _connect(dealer, daemon, ALICE))
    assert heard != zmq.EVENT_HANDSHAKE_SUCCEEDED


def test_a_peer_that_proves_nothing_is_thrown_out(make: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "HANDSHAKE_S", 0.2)
    daemon = make()
    with socket.create_connection(("127.0.0.1", int(daemon.tcp.rpartition(":")[2])), WAIT_MS / 1000) as peer:
        assert peer.recv(10).startswith(b"\xff")  # ZMTP's greeting begins
        while peer.recv(1024):
            pass


def test_who_asks_is_told_from_where(make: Callable[..., Daemon], dealer: zmq.Socket[bytes]) -> None:
    asked = []

    def admits(key: bytes, peer: str) -> str:
        asked.append((key, peer))
        return "x"

    daemon = make(admits)
    _connect(dealer, daemon, BOB)
    sockets.send(dealer, [b"head"])
    assert daemon.receive() is not None
    assert asked == [(BOB[0], "127.0.0.1")]


@pytest.mark.parametrize("frames", [[b"head", b"x" * 2000, b"more"], [b"head", *[b"x"] * 20]], ids=["bytes", "frames"])
def test_a_message_beyond_the_limits_is_read_to_its_end(
    daemon: Daemon, dealer: zmq.Socket[bytes], frames: list[bytes]
) -> None:
    _connect(dealer, daemon, ALICE)
    sockets.send(dealer, frames)
    with pytest.raises(sockets.Oversized, match=f"of {sum(map(len, frames)):,} bytes in {len(frames):,} frames"):
        daemon.receive()
    sockets.send(dealer, [b"next", b"one"])
    came = daemon.receive()
    assert came is not None
    assert came[2] == [b"next", b"one"]


def test_a_message_without_any_frame(daemon: Daemon) -> None:
    """A peer that is no DEALER can send one; seen here over a pair, whose messages have no routing id before them."""
    context: Context = zmq.Context()
    with context.socket(zmq.PAIR) as left, context.socket(zmq.PAIR) as right:
        left.bind("inproc://alone")
        right.connect("inproc://alone")
        right.send(b"peer")
        assert curve.receive(left, 1000, 10) == (b"peer", None, [])
    context.term()


def test_nothing_to_receive_is_said_at_once(daemon: Daemon) -> None:
    with pytest.raises(zmq.Again):
        curve.receive(daemon.router, 1000, 10)


def test_ipv6_is_spoken_only_where_it_is_meant(daemon: Daemon, dealer: zmq.Socket[bytes]) -> None:
    assert not daemon.router.getsockopt(zmq.IPV6)
    curve.connect(dealer, "tcp://[::1]:1", server=SERVER[0], public=ALICE[0], secret=ALICE[1])
    assert dealer.getsockopt(zmq.IPV6)


def test_the_kernel_watches_the_connection(daemon: Daemon, dealer: zmq.Socket[bytes]) -> None:
    _connect(dealer, daemon, ALICE)
    for each in (daemon.router, dealer):
        assert each.getsockopt(zmq.TCP_KEEPALIVE) == 1
        idle, every, count = (
            each.getsockopt(option)
            for option in (zmq.TCP_KEEPALIVE_IDLE, zmq.TCP_KEEPALIVE_INTVL, zmq.TCP_KEEPALIVE_CNT)
        )
        assert idle + every * count == curve.SILENCE_S
        assert each.getsockopt(zmq.TCP_MAXRT) == curve.SILENCE_S * 1000
        assert each.getsockopt(zmq.HEARTBEAT_IVL) == 0  # which would break slow lines, see docs/adr/0013
