"""Nests and workers from their beginning to their told end: who lives, who is to be killed, what is overdue.

Guarantees:
    - Each worker's end is told once, and all of a nest's before its own `NestEnded`, once. Both come within bounds,
      also when a process cannot be killed (it hangs in a driver): then the reason says so.
    - A worker's death is known from its pidfd; a wait status that its zygote sends is waited for, but not for long.
    - Nothing blocks.

Assumes: one thread. Whatever a zygote claims was checked before it comes here (`plover.daemon.launchers.zygotes`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable

from plover.daemon.launchers import processes
from plover.daemon.launchers.base import AnyNews, NestEnded, NestSpec, WorkerEnded, WorkerForked
from plover.daemon.launchers.watching import Watcher

#: After a pidfd has fired, the wait status is a packet away.
STATUS_GRACE_S = 1.0
#: So long a nest may take to end by itself, then after each kill, before the next step: a kill, or giving up on it.
END_GRACE_S = 3.0
KILLS = 3
_HUNG_UP = "its zygote hung up"


class Nest:
    """A nest. Invariants: `socket` is set from its hello to the connection's end; `why` from when it begins to end."""

    def __init__(self, spec: NestSpec, kill: Callable[[], None]) -> None:
        self.spec = spec
        self.kill = kill
        self.token = secrets.token_bytes(32)
        self.met = False  # a zygote has proved itself: the token is spent
        self.socket: socket.socket | None = None
        self.pid = 0  # the zygote's, as the kernel says
        self.pidfd = -1  # the zygote's, until it has died
        self.unreaped: list[int] = []  # pidfds of its dead whom their parent did not live to reap, as far as we know
        self.prepared = False
        self.process_ended = False
        self.why: str | None = None
        self.deadline: float | None = None  # of the next step towards its end, once that has begun
        self.kills = 0
        self.workers: set[int] = set()

    def __repr__(self) -> str:
        return f"<nest {self.spec.nest} zygote={self.pid} prepared={self.prepared} why={self.why!r} {self.workers}>"


class Worker:
    """A worker that was asked for. Invariant: `pidfd` is -1 until its `Forked` came."""

    def __init__(self, number: int, nest: Nest) -> None:
        self.number = number
        self.nest = nest
        self.pidfd = -1
        self.kill_wanted = False
        self.status_deadline: float | None = None  # set when its pidfd has fired and its status has not come

    def __repr__(self) -> str:
        return f"<worker {self.number} pidfd={self.pidfd} status_deadline={self.status_deadline}>"


class Nests:
    """All nests of a launcher and their workers, until their ends are told.

    Args:
        watcher: who tells of readable descriptors, and is woken for news that no descriptor brings.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._nests: dict[int, Nest] = {}  # exactly those whose end has not been told
        self._workers: dict[int, Worker] = {}  # exactly those whose end has not been told
        self._news: list[AnyNews] = []
        self._collecting = False  # within `news`, which needs no waking

    def __repr__(self) -> str:
        return f"<Nests {list(self._nests.values())} workers={len(self._workers)}>"

    def find(self, nest: int) -> Nest | None:
        """A nest whose end has not been told."""
        return self._nests.get(nest)

    def find_worker(self, worker: int) -> Worker | None:
        """A worker whose end has not been told."""
        return self._workers.get(worker)

    def expected(self) -> list[Nest]:
        """The nests whose zygotes have not connected, and may."""
        return [nest for nest in self._nests.values() if not nest.met and nest.why is None]

    # -- news ----------------------------------------------------------------------------------------------------------

    def tell(self, news: AnyNews) -> None:
        """Add to the news, and have somebody come and ask for them."""
        self._news.append(news)
        if not self._collecting:
            self._watcher.wake()

    def news(self) -> list[AnyNews]:
        """Look at all that is readable and at the clock; what has happened since the last call."""
        self._collecting = True
        self._watcher.dispatch()
        self._look_at_the_clock(time.monotonic())
        self._collecting = False
        news, self._news = self._news, []
        return news

    def next_deadline(self) -> float | None:
        """When something is overdue unless it happens before."""
        due = [worker.status_deadline for worker in self._workers.values()]
        due += [nest.deadline for nest in self._nests.values()]
        return min([deadline for deadline in due if deadline is not None], default=None)

    def close(self) -> None:
        """Give all descriptors back; whatever still runs is the launcher's business."""
        for worker in list(self._workers.values()):
            self.end_worker(worker)
        for nest in list(self._nests.values()):
            self._close_socket(nest)
            self._forget_zygote(nest)
            self._bury(nest)

    # -- beginnings ----------------------------------------------------------------------------------------------------

    def add(self, spec: NestSpec, kill: Callable[[], None]) -> Nest:
        """A nest that is being started. `kill` makes its first process end, without blocking, however often it is called."""
        nest = self._nests[spec.nest] = Nest(spec, kill)
        return nest

    def met(self, nest: Nest, connection: socket.socket, pid: int, listen: Callable[[], None]) -> None:
        """The nest's zygote has proved itself; `listen` is called while there is something to read from it."""
        nest.met, nest.pid, nest.socket = True, pid, connection
        self._watcher.watch(connection.fileno(), listen)
        with contextlib.suppress(OSError):  # it may have gone already
            nest.pidfd = os.pidfd_open(pid)
            self._watcher.watch(nest.pidfd, lambda: self._zygote_died(nest))

    def add_worker(self, number: int, nest: Nest) -> Worker:
        """A worker that is being asked for."""
        worker = self._workers[number] = Worker(number, nest)
        nest.workers.add(number)
        return worker

    def forked(self, worker: Worker, pidfd: int, pid: int) -> None:
        """The worker's process lives. Takes the pidfd over; who was to be killed meanwhile is killed."""
        worker.pidfd = pidfd
        self._watcher.watch(pidfd, lambda: self._worker_died(worker))
        self.tell(WorkerForked(worker.number, pid))
        if worker.kill_wanted or worker.nest.why is not None:
            processes.send_signal(pidfd, signal.SIGKILL)

    # -- ends of workers -----------------------------------------------------------------------------------------------

    def end_worker(
        self,
        worker: Worker,
        code: int | None = None,
        number: int | None = None,
        memory: bool = False,
        reason: str = "",
    ) -> None:
        """Tell a worker's end and forget it."""
        del self._workers[worker.number]
        worker.nest.workers.discard(worker.number)
        if worker.pidfd >= 0:
            self._watcher.unwatch(worker.pidfd)
            if code is None and number is None:
                worker.nest.unreaped.append(worker.pidfd)
            else:
                os.close(worker.pidfd)
        self.tell(WorkerEnded(worker.number, code, number, memory, reason))
        self._settle(worker.nest)

    def _worker_died(self, worker: Worker) -> None:
        """Its pidfd fired: the wait status is on its way, unless there is no zygote to send it."""
        if worker.nest.socket is None:
            self.end_worker(worker, reason="it died with its nest")
        else:
            worker.status_deadline = time.monotonic() + STATUS_GRACE_S
            self._watcher.unwatch(worker.pidfd)  # it stays readable for ever

    # -- ends of nests -------------------------------------------------------------------------------------------------

    def begin_end(self, nest: Nest, why: str) -> None:
        """A nest begins to end; the first reason stays."""
        if nest.why is None:
            nest.why = why
            nest.deadline = time.monotonic() + END_GRACE_S

    def kill(self, nest: Nest, why: str = "it was stopped") -> None:
        """Make a nest end, whatever it does."""
        self.begin_end(nest, why)
        nest.kills += 1
        nest.deadline = time.monotonic() + END_GRACE_S
        nest.kill()
        if nest.kills > 1:  # its first process does not do it
            processes.send_signal(nest.pidfd, signal.SIGKILL)

    def hung_up(self, nest: Nest) -> None:
        """The nest's connection is at its end."""
        self._close_socket(nest)
        self.begin_end(nest, _HUNG_UP)
        self._settle(nest)

    def process_ended(self, nest: Nest, reason: str) -> None:
        """The nest's first process is gone, or was never there; `reason` is for people."""
        if not nest.process_ended:
            nest.process_ended = True
            if nest.why == _HUNG_UP:  # the process has more to say about it
                nest.why = reason
            self.begin_end(nest, reason)
            self._settle(nest)

    def _close_socket(self, nest: Nest) -> None:
        if nest.socket is not None:
            self._watcher.unwatch(nest.socket.fileno())
            nest.socket.close()
            nest.socket = None

    def _zygote_died(self, nest: Nest) -> None:
        self._forget_zygote(nest)
        self._settle(nest)

    def _forget_zygote(self, nest: Nest) -> None:
        if nest.pidfd >= 0:
            self._watcher.unwatch(nest.pidfd)
            nest.unreaped.append(nest.pidfd)
            nest.pidfd = -1

    def _settle(self, nest: Nest) -> None:
        """Without its zygote a nest's workers end; without workers, connection and processes it has ended."""
        if nest.why is None or nest.socket is not None:
            return
        for worker in [self._workers[number] for number in nest.workers]:
            if worker.number not in self._workers:
                continue  # told by a settling within this one
            if worker.pidfd < 0:
                self.end_worker(worker, reason="its nest ended before it was forked")
            elif worker.status_deadline is not None:
                self.end_worker(worker, reason="it died with its nest")
            else:
                processes.send_signal(worker.pidfd, signal.SIGKILL)
        if nest.process_ended and nest.pidfd < 0 and not nest.workers and nest.spec.nest in self._nests:
            self._bury(nest)
            del self._nests[nest.spec.nest]
            self.tell(NestEnded(nest.spec.nest, nest.why))

    def _bury(self, nest: Nest) -> None:
        """Reap whom the deaths above them have made children of ours; at the nest's end, as they are so only then."""
        for pidfd in nest.unreaped:
            processes.reap(pidfd)
        processes.close(nest.unreaped)

    # -- the clock -----------------------------------------------------------------------------------------------------

    def _look_at_the_clock(self, now: float) -> None:
        for worker in list(self._workers.values()):
            if worker.status_deadline is not None and worker.status_deadline <= now:
                self.end_worker(worker, reason="its zygote did not say how it died")
        for nest in list(self._nests.values()):
            if nest.deadline is not None and nest.deadline <= now:
                self._overdue(nest)

    def _overdue(self, nest: Nest) -> None:
        if nest.kills < KILLS:
            self.kill(nest)
            return
        nest.why = f"{nest.why}; something in it could not be killed"
        nest.process_ended = True
        self._close_socket(nest)
        self._forget_zygote(nest)
        for worker in [self._workers[number] for number in nest.workers]:
            self.end_worker(worker, reason="it could not be killed")
        self._settle(nest)
