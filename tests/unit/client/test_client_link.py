"""Bells and links, against a socket of ZeroMQ's own."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from plover.client.link import Bell, Link
from plover.client.unbreakable import Condition, Event
from tests.support.fake_daemon import PATIENCE_S, wait_until

PATIENCE_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def rings(bell: Bell) -> bool:
    return bool(select.select([bell.fd], [], [], 0)[0])


class TestBell:
    def test_nobody_sleeps(self, bell: Bell) -> None:
        bell.ring()
        assert not rings(bell)

    def test_somebody_sleeps(self, bell: Bell) -> None:
        bell.asleep = True
        bell.ring()
        bell.ring()
        assert rings(bell)
        assert bell.asleep  # only who sleeps says that it is awake: a ringer may be late
        bell.answer()
        assert not rings(bell)
        bell.answer()

    def test_nobody_answers(self, bell: Bell) -> None:
        bell.asleep = True
        for _ in range(100_000):
            bell.ring()
        while rings(bell):
            bell.answer()

    def test_nobody_is_there_any_more(self, bell: Bell) -> None:
        bell.asleep = True
        bell.close()
        bell.ring()
        bell.answer()


class Peer:
    """The other end of a link."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="plv-", dir="/tmp"))
        self.address = f"ipc://{self.directory}/s"
        self.context = zmq.Context()
        self.bind()
        self.link = Link(self.context, self.address)

    def bind(self) -> None:
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        self.socket.bind(self.address)

    def hear(self) -> bytes:
        """The other's name, when it has said something."""
        name: bytes = self.socket.recv_multipart()[0]
        return name

    def close(self) -> None:
        self.link.end(0)
        self.socket.close(0)
        self.context.term()
        shutil.rmtree(self.directory)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


class TestLink:
    def test_messages(self, peer: Peer) -> None:
        with pytest.raises(zmq.Again):
            peer.link.receive()
        large = bytes(200_000)
        peer.link.send([b"first", large])
        name, *frames = peer.socket.recv_multipart()
        assert frames == [b"first", large]
        peer.socket.send_multipart([name, b"one"])
        peer.socket.send_multipart([name, b"two", large])
        assert peer.link.wait(PATIENCE_MS) == (True, False)
        assert peer.link.receive() == [b"one"]
        wait_until(peer.link.has_more, "the second")
        got: list[Any] = peer.link.receive()
        assert (got[0], bytes(got[1])) == (b"two", large)
        assert not peer.link.has_more()

    def test_nothing_comes(self, peer: Peer) -> None:
        peer.link.bell.asleep = True
        assert peer.link.wait(0) == (False, False)
        assert not peer.link.bell.asleep

    def test_the_bell(self, peer: Peer) -> None:
        peer.link.bell.asleep = True
        peer.link.bell.ring()
        assert peer.link.wait(PATIENCE_MS) == (False, False)
        assert not peer.link.bell.asleep
        assert not rings(peer.link.bell)

    def test_it_breaks_while_the_io_thread_waits_at_it(self, peer: Peer) -> None:
        peer.link.send([b"hello"])
        peer.hear()
        peer.socket.close(0)
        assert peer.link.wait(PATIENCE_MS, with_monitor=True) == (False, True)

    def test_it_breaks_while_the_io_thread_rests(self, peer: Peer, bell: Bell) -> None:
        peer.link.send([b"hello"])
        peer.hear()
        bell.asleep = True
        bell.ring()
        assert peer.link.rest(bell, PATIENCE_MS) is False
        peer.socket.close(0)
        assert peer.link.rest(bell, PATIENCE_MS) is True

    def test_it_ends_and_gives_everything_back(self, peer: Peer) -> None:
        peer.link.send([b"hello"])
        peer.hear()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            another = Link(peer.context, peer.address)
            another.send([b"hello"])
            peer.hear()
            another.end(100)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the descriptors")


class TestUnbreakable:
    def test_an_event(self) -> None:
        event = Event()
        assert repr(event) == "<unset, 0 wait>"
        assert event.wait(0) is False
        assert event.wait(-1) is False
        event.set()
        event.set()
        assert event.is_set()
        assert event.wait() is True
        assert repr(event) == "<set, 0 wait>"
        event.clear()
        assert event.wait(0.001) is False

    def test_an_event_that_is_set_twice_while_somebody_waits(self) -> None:
        event = Event()
        waiting = event._waiting

        class Impatient(list[Any]):
            def append(self, lock: Any) -> None:
                super().append(lock)
                event.set()
                event.set()
                event.clear()

        event._waiting = Impatient(waiting)
        assert event.wait(PATIENCE_S) is False  # it was woken, although it is clear again

    def test_no_python_runs_where_a_condition_is_taken_and_given_back(self) -> None:
        """An interrupt there would leave it taken."""
        for function in (Condition.__enter__, Condition.__exit__, Condition.acquire, Condition.release):
            assert not hasattr(function, "__code__")

    def test_a_condition_is_a_lock_that_may_be_taken_again(self) -> None:
        condition = Condition()
        with condition, condition:
            condition.notify_all()
            assert condition._is_owned()
        assert not condition._is_owned()
