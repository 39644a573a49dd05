"""The daemon's lines to its workers: bad words, hang-ups, deaths, and what does not go at once."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plover.daemon.config import DaemonLimits
from plover.daemon.lines import HANG_UP_S, Lines
from plover.daemon.workers import WorkerRecord, Workers
from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m
from plover.wire.stream import HungUp, Stream


class Rig:
    """One worker's line, the worker's end of it, and a loop that a test turns by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.callbacks: dict[int, Callable[[], None]] = {}
        self.writing: dict[int, bool] = {}
        self.taken: list[m.FromWorker] = []
        self.given_up: list[str] = []
        self.lines = Lines(self, 7, 1 << 20, self._take, self._give_up, lambda: self.now)
        self.workers = Workers(DaemonLimits())
        self.worker = self.workers.add(1, nest=1)
        self.end = self.lines.open(self.worker)
        self.far = Stream(self.end, "daemon", 1 << 30, 1000)

    def _take(self, worker: WorkerRecord, frames: list[Any], now: float) -> None:
        assert worker is self.worker
        self.taken.append(codec.FROM_WORKER.read(frames).message)

    def _give_up(self, worker: WorkerRecord, reason: str, now: float) -> None:
        assert worker is self.worker
        self.given_up.append(reason)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self.callbacks[fd] = callback

    def watch_writing(self, fd: int, wanted: bool) -> None:
        assert fd in self.callbacks
        self.writing[fd] = wanted

    def unwatch(self, fd: int) -> None:
        self.callbacks.pop(fd, None)

    def turn(self) -> None:
        """What the loop does when a watched descriptor is ready."""
        for fd, callback in list(self.callbacks.items()):
            wanted = select.POLLIN | (select.POLLOUT if self.writing.get(fd) else 0)
            poll = select.poll()
            poll.register(fd, wanted)
            if poll.poll(0):
                callback()

    def say(self, message: m.FromWorker) -> None:
        self.far.send(codec.write(message))

    def close(self) -> None:
        self.lines.close(self.worker, self.now)
        self.far.close()
        self.worker.output.close_worker_side()
        os.close(self.worker._page_fd)
        self.worker.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


HELLO = m.WorkerHello(5, versions(), 0.1)
LOST = m.PayloadMissing(1, 1)


def run(size: int = 0) -> tuple[m.Run, codec.Body]:
    body = codec.Body()
    return m.Run(1, 1, "id", "f", b"d", body.pack([b"x" * size])), body


def test_what_a_worker_says_is_taken(rig: Rig) -> None:
    rig.say(HELLO)
    rig.say(LOST)
    rig.turn()
    assert rig.taken == [HELLO, LOST]


def test_what_is_said_to_it_arrives(rig: Rig) -> None:
    message, body = run(10)
    rig.lines.send(rig.worker, message, body)
    rig.lines.flush()
    incoming = codec.TO_WORKER.read(rig.far.receive() or [])
    assert (incoming.message, incoming.incarnation) == (message, 7)


def test_what_does_not_go_at_once_goes_when_there_is_room(rig: Rig) -> None:
    message, body = run(4_000_000)
    rig.lines.send(rig.worker, message, body)
    rig.lines.flush()
    (wanted,) = rig.writing.values()
    assert wanted
    rig.end.setblocking(False)
    far, frames = Stream(rig.end, "daemon", 1 << 30, 1000), None
    while frames is None:
        rig.turn()
        frames = far.receive()
    assert len(frames[1]) == 4_000_000
    rig.turn()
    assert list(rig.writing.values()) == [False]


def test_a_worker_that_says_what_none_may_say_is_given_up(rig: Rig) -> None:
    rig.far.send([b"garbage of some length"])
    rig.turn()
    assert len(rig.given_up) == 1
    assert "the worker sent bytes that are not Plover's" in rig.given_up[0]
    assert not rig.callbacks


def test_a_worker_that_sends_too_much_is_given_up(rig: Rig) -> None:
    rig.end.send((1 << 40).to_bytes(8, "little"))
    rig.turn()
    assert "the limits are" in rig.given_up[0]


def test_one_that_hangs_up_and_lives_is_given_up_after_a_moment(rig: Rig) -> None:
    rig.end.shutdown(socket.SHUT_RDWR)
    rig.turn()
    assert not rig.given_up
    assert rig.lines.due() == rig.now + HANG_UP_S
    rig.lines.keep_time(rig.now)
    assert not rig.given_up
    rig.lines.keep_time(rig.now + HANG_UP_S)
    assert "closed its connection" in rig.given_up[0]
    assert rig.lines.due() is None


def test_one_that_hangs_up_and_dies_is_not(rig: Rig) -> None:
    rig.far.close()
    rig.turn()
    rig.lines.close(rig.worker, rig.now)
    rig.lines.keep_time(rig.now + HANG_UP_S)
    assert not rig.given_up


def test_what_it_said_before_it_died_is_taken(rig: Rig) -> None:
    rig.say(HELLO)
    rig.say(LOST)
    rig.far.close()
    rig.lines.close(rig.worker, rig.now)
    assert rig.taken == [HELLO, LOST]
    assert rig.worker.line is None
    assert not rig.callbacks


def test_a_message_that_its_death_cut_off_is_not(rig: Rig) -> None:
    rig.say(HELLO)
    rig.end.send((2000).to_bytes(8, "little") + b"half")
    rig.lines.close(rig.worker, rig.now)
    assert rig.taken == [HELLO]


def test_garbage_as_last_words_is_passed_over(rig: Rig) -> None:
    rig.far.send([b"garbage of some length"])
    rig.lines.close(rig.worker, rig.now)
    assert not rig.taken
    assert not rig.given_up


def test_nothing_is_sent_to_one_that_is_gone(rig: Rig) -> None:
    rig.far.close()
    rig.lines.send(rig.worker, *run())
    rig.lines.close(rig.worker, rig.now)
    rig.lines.send(rig.worker, *run())


def test_one_that_is_taken_away_by_what_it_says(rig: Rig) -> None:
    rig.say(HELLO)
    rig.say(LOST)
    take = rig._take

    def take_and_close(worker: WorkerRecord, frames: list[Any], now: float) -> None:
        take(worker, frames, now)
        if len(rig.taken) == 1:
            rig.lines.close(worker, now)

    rig.lines._take = take_and_close
    rig.turn()
    assert rig.taken == [HELLO, LOST]
    with pytest.raises(HungUp):
        rig.far.receive()
