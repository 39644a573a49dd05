"""Clients' processes are watched, and nobody else's."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Callable, Iterator

import pytest

from plover.daemon.lives import Lives
from plover.daemon.peers import ClientPeer
from plover.wire import identity

A, B = ClientPeer(b"a", "default"), ClientPeer(b"b", "default")


class Loop:
    """What is watched, and a poll of it."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self.watched[fd] = callback

    def watch_writing(self, fd: int, wanted: bool) -> None:
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def wait(self) -> None:
        for fd in select.select(list(self.watched), [], [], 10.0)[0]:
            self.watched[fd]()


class Scene:
    def __init__(self) -> None:
        self.loop = Loop()
        self.ended: list[tuple[int, list[ClientPeer]]] = []
        self.lives = Lives(self.loop, lambda pid, clients: self.ended.append((pid, clients)))
        self.process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
        self.pid = self.process.pid
        self.started = identity.started(self.pid)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.end()
    before = len(made.lives)
    made.lives.close()
    assert (len(made.lives), len(made.loop.watched), before) == (0, 0, before)


def test_all_clients_of_a_process_that_dies_are_told(scene: Scene) -> None:
    for peer in (A, B, A):  # one shakes hands again
        scene.lives.greet(peer, scene.pid, scene.started)
    assert len(scene.lives) == 1
    scene.end()
    scene.loop.wait()
    assert (scene.ended, len(scene.lives)) == ([(scene.pid, [A, B])], 0)


def test_who_says_goodbye_is_not_told_and_with_the_last_one_nothing_is_watched(scene: Scene) -> None:
    scene.lives.greet(A, scene.pid, scene.started)
    scene.lives.greet(B, scene.pid, scene.started)
    scene.lives.forget(b"a")
    scene.lives.forget(b"never heard of")
    assert len(scene.loop.watched) == 1
    scene.lives.forget(b"b")
    assert scene.loop.watched == {}
    scene.lives.greet(B, scene.pid, scene.started)
    scene.end()
    scene.loop.wait()
    assert scene.ended == [(scene.pid, [B])]


@pytest.mark.parametrize("wrong", ["another's number", "no number", "no time", "nobody's number"])
def test_who_cannot_be_seen_from_here_is_not_watched(scene: Scene, wrong: str) -> None:
    """In another PID namespace, or on another machine, the number is somebody else's, or nobody's."""
    pid, started = scene.pid, scene.started
    if wrong == "another's number":
        pid = os.getppid()
        started += 1
    elif wrong == "no number":
        pid = 0
    elif wrong == "no time":
        started = 0
    else:
        scene.end()
    scene.lives.greet(A, pid, started)
    assert (len(scene.lives), scene.loop.watched) == (0, {})
