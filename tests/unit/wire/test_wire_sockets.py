"""The socket functions, over pairs inside this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from plover.wire import sockets


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


Context = zmq.Context[zmq.Socket[bytes]]
Pair = tuple[sockets.Socket, sockets.Socket]


@pytest.fixture
def pair(context: Context) -> Pair:
    left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    left.bind("inproc://pair")
    right.connect("inproc://pair")
    return left, right


@pytest.mark.parametrize(
    "frames",
    [
        [b"one"],
        [b"first", b"second"],
        [b"first", b"", bytearray(b"x" * (sockets.NO_COPY_SIZE - 1)), memoryview(b"y" * sockets.NO_COPY_SIZE)],
    ],
    ids=["one", "two", "large"],
)
def test_what_is_sent_arrives_frame_by_frame(pair: Pair, frames) -> None:  # type: ignore[no-untyped-def]
    left, right = pair
    sockets.send(left, frames)
    received = sockets.receive(right, wait=True)
    assert isinstance(received[0], bytes)
    assert [bytes(memoryview(frame)) for frame in received] == [bytes(frame) for frame in frames]


def test_two_messages_stay_two(pair: Pair) -> None:
    left, right = pair
    sockets.send(left, [b"a", b"b"])
    sockets.send(left, [b"c"])
    assert len(sockets.receive(right, wait=True)) == 2
    assert sockets.receive(right, wait=True) == [b"c"]


def test_large_frames_arrive_in_writable_memory(pair: Pair) -> None:
    left, right = pair
    sockets.send(left, [b"head", bytes(sockets.NO_COPY_SIZE)])
    assert not memoryview(sockets.receive(right, wait=True)[1]).readonly


def test_nothing_to_receive_is_said_at_once(pair: Pair) -> None:
    with pytest.raises(zmq.Again):
        sockets.receive(pair[1], wait=False)


def test_a_router_says_who_sent(context: Context) -> None:
    with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        router.bind("inproc://router")
        dealer.setsockopt(zmq.ROUTING_ID, b"peer")
        dealer.connect("inproc://router")
        sockets.send(dealer, [b"head", b"body"])
        assert sockets.poll(router, [], 1000) == [router]
        routing_id, frames = sockets.receive_with_identity(router, 1000, 10)
        assert routing_id == b"peer"
        assert [bytes(memoryview(frame)) for frame in frames] == [b"head", b"body"]
        with pytest.raises(zmq.Again):
            sockets.receive_with_identity(router, 1000, 10)


def test_a_routing_id_without_a_message_is_an_empty_message(context: Context) -> None:
    """A peer that is no DEALER can send a message of no frame after its routing id; seen as one of a single frame."""
    with context.socket(zmq.PAIR) as puller, context.socket(zmq.PAIR) as pusher:
        puller.bind("inproc://alone")
        pusher.connect("inproc://alone")
        pusher.send(b"peer")
        assert sockets.receive_with_identity(puller, 1000, 10) == (b"peer", [])


@pytest.mark.parametrize("frames", [[b"head", bytes(2000), b"more"], [b"head", *[b"x"] * 20]], ids=["bytes", "frames"])
def test_a_message_beyond_the_limits_is_read_to_its_end_and_thrown_away(context: Context, frames: list[bytes]) -> None:
    with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        router.bind("inproc://limits")
        dealer.setsockopt(zmq.ROUTING_ID, b"peer")
        dealer.connect("inproc://limits")
        sockets.send(dealer, frames)
        sockets.send(dealer, [b"the next"])
        assert sockets.poll(router, [], 1000) == [router]
        with pytest.raises(
            sockets.Oversized, match=f"of {sum(map(len, frames)):,} bytes in {len(frames):,} frames"
        ) as caught:
            sockets.receive_with_identity(router, 1000, 10)
        assert caught.value.routing_id == b"peer"
        assert sockets.has_message(router)
        assert sockets.receive_with_identity(router, 1000, 10) == (b"peer", [b"the next"])
        assert not sockets.has_message(router)


def test_poll_returns_what_is_ready_as_it_was_given(pair: Pair) -> None:
    left, right = pair
    assert sockets.poll(right, [left], 0) == []
    sockets.send(left, [b"x"])
    assert sockets.poll(right, [left], 1000) == [right]
