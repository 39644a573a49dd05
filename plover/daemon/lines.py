"""The daemon's lines to its workers: one pair of sockets each, made before the worker is forked.

Who holds the other end is the worker that was launched with it, so nobody proves anything. What a worker sent before it died
lies in its line when its death is told, and is taken before.

Guarantees: nothing blocks; a worker that sends what is no message of its, or hangs up and lives on, is given up. Assumes: one
thread.
"""

from __future__ import annotations

import functools
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from plover.daemon.workers import WorkerRecord
from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m
from plover.wire.stream import HungUp, Stream

__all__ = ["HANG_UP_S", "Lines", "Watcher"]

log = logging.getLogger("plover.daemon")

#: A worker that dies hangs up a moment before its death is told; one that hung up so long ago lives, and cannot be reached.
HANG_UP_S = 1.0


class Watcher(Protocol):
    """The loop's descriptors."""

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever it is readable."""

    def watch_writing(self, fd: int, wanted: bool) -> None:
        """Call back when it is writable, too, or not any more."""

    def unwatch(self, fd: int) -> None:
        """Not any more; nothing if it was not watched."""


class Lines:
    """All workers' lines.

    Args:
        watcher: the loop.
        incarnation: the daemon's.
        limit_bytes: the largest message that is taken.
        take: takes what a worker said, as frames. It may raise WireError.
        give_up: takes a worker that can be of no more use, and why.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        watcher: Watcher,
        incarnation: int,
        limit_bytes: int,
        take: Callable[[WorkerRecord, list[Any], float], None],
        give_up: Callable[[WorkerRecord, str, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watcher = watcher
        self._incarnation = incarnation
        self._limit = limit_bytes
        self._take = take
        self._give_up = give_up
        self._clock = clock
        self._out: dict[int, WorkerRecord] = {}  # who is to be sent something
        self._hung_up: OrderedDict[int, tuple[float, WorkerRecord]] = OrderedDict()  # by deadline

    def open(self, worker: WorkerRecord) -> socket.socket:
        """Make a worker's line; returns the worker's end, which is the caller's."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        worker.line = Stream(ours, "worker", self._limit, codec.FRAMES_LIMIT + 1)
        self._watcher.watch(ours.fileno(), functools.partial(self._ready, worker))
        return theirs

    def send(self, worker: WorkerRecord, message: m.ToWorker, body: codec.Body) -> None:
        """Send a message to a worker, if it is still there, at the next `flush`."""
        line = worker.line
        if line is not None:
            line.put(codec.write(message, self._incarnation, body))
            self._out[worker.number] = worker

    def flush(self) -> None:
        """Send what waits: what one turn of the loop has for a worker goes to the kernel in one piece."""
        out = self._out
        while out:
            _, worker = out.popitem()
            line = worker.line
            try:
                if line is not None and not line.flush():
                    self._watcher.watch_writing(line.fileno(), True)
            except HungUp:
                pass  # its end is on its way, or was noticed by reading

    def close(self, worker: WorkerRecord, now: float) -> None:
        """A worker is dead: take what it had sent, and give its line back."""
        line, worker.line = worker.line, None
        self._hung_up.pop(worker.number, None)
        if line is None:
            return
        self._watcher.unwatch(line.fileno())
        try:
            while (frames := line.receive(patient=True)) is not None:
                self._take(worker, frames, now)
        except (HungUp, WireError):
            pass
        line.close()

    def due(self) -> float | None:
        """When `keep_time` has something to do."""
        return next(iter(self._hung_up.values()))[0] if self._hung_up else None

    def keep_time(self, now: float) -> None:
        """Give up those that hung up and did not die."""
        while self._hung_up:
            number, (due, worker) = next(iter(self._hung_up.items()))
            if due > now:
                return
            del self._hung_up[number]
            self._give_up(worker, "it closed its connection to the daemon (does the function close descriptors?)", now)

    def _ready(self, worker: WorkerRecord) -> None:
        """A line is readable, or writable after it was not."""
        line = worker.line
        if line is None:
            return
        now = self._clock()
        try:
            if line.is_behind and line.flush():
                self._watcher.watch_writing(line.fileno(), False)
            while (frames := line.receive()) is not None:
                self._take(worker, frames, now)
                if worker.line is not line:
                    return
                now = self._clock()
        except HungUp:
            self._watcher.unwatch(line.fileno())
            self._hung_up[worker.number] = (now + HANG_UP_S, worker)
        except WireError as error:
            self._watcher.unwatch(line.fileno())
            self._give_up(worker, str(error), now)
