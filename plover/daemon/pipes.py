"""When to look into workers' output pipes, beside the moment when a result comes.

A short call's output is read with its result; watching its pipes would wake the loop for each marker, which costs a
short call more than all the rest. So a worker's pipes are watched only when it has begun and ended no call for a while.

Guarantees: what a long call writes is seen within `LOOK_S` of the writing. Assumes: one thread.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable

from plover.daemon.lines import Watcher
from plover.daemon.output import Piece
from plover.daemon.workers import WorkerRecord

__all__ = ["LOOK_S", "Pipes"]

LOOK_S = 0.02


class Pipes:
    """The pipes of all workers.

    Args:
        watcher: the loop.
        show: takes what was written.
    """

    def __init__(self, watcher: Watcher, show: Callable[[list[Piece]], None]) -> None:
        self._watcher = watcher
        self._show = show
        #: Workers whose pipes are not watched, and when they are to be looked at, the soonest first. A worker that was
        #: touched meanwhile is put back then, so that touching it costs nothing.
        self._left_alone: OrderedDict[int, tuple[WorkerRecord, float]] = OrderedDict()

    def touch(self, worker: WorkerRecord, now: float) -> None:
        """Something began or ended on the worker: leave its pipes alone for a moment."""
        worker.touched = now
        if worker.number not in self._left_alone:
            self._unwatch(worker)
            self._left_alone[worker.number] = worker, now + LOOK_S

    def forget(self, worker: WorkerRecord) -> None:
        """The worker is gone."""
        self._left_alone.pop(worker.number, None)
        self._unwatch(worker)

    def due(self) -> float | None:
        """When `keep_time` has something to do."""
        return next(iter(self._left_alone.values()))[1] if self._left_alone else None

    def keep_time(self, now: float) -> None:
        """Watch the pipes of those that were not touched for long enough."""
        while self._left_alone:
            number, (worker, due) = next(iter(self._left_alone.items()))
            if due > now:
                return
            del self._left_alone[number]
            if worker.touched + LOOK_S > now:
                self._left_alone[number] = worker, worker.touched + LOOK_S
            else:
                for fd in worker.output.fds:
                    self._watcher.watch(fd, functools.partial(self._read, worker, fd))

    def _read(self, worker: WorkerRecord, fd: int) -> None:
        pieces, is_open = worker.output.read(fd)
        self._show(pieces)
        if not is_open:
            self._watcher.unwatch(fd)

    def _unwatch(self, worker: WorkerRecord) -> None:
        for fd in worker.output.fds:
            self._watcher.unwatch(fd)
