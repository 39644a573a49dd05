"""The daemon's end of the conversation with zygotes: what every launcher has in common, however its nests come to life.

Zygotes connect to a unix socket of packets and prove themselves with their nest's token; over it go fork requests with
descriptors, and back come workers' pidfds and wait statuses. The launcher starts the nest's first process, gives this
object a way to kill it, and says when that process has ended.

Guarantees:
    - Nothing blocks: a zygote that does not read is a nest that fails, not a daemon that waits.
    - Each worker's end is told once, and all of a nest's before its own `NestEnded`, once. Both come within bounds,
      also when a process cannot be killed (it hangs in a driver): then the reason says so.
    - A worker's wait status comes from its zygote, its death from its pidfd; who dies with its zygote has none.
    - What a zygote claims is checked: a pidfd is taken only for a child of the very zygote that sent it, so that a
      hostile nest cannot make the daemon signal another process (the daemon's own pidfd is in its hands).

Assumes: one thread; what is below the directory is this user's alone (0700).
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import msgspec

from plover.daemon.launchers import processes
from plover.daemon.launchers.base import (
    AnyNews,
    NestEnded,
    NestPrepared,
    NestSpec,
    WorkerEnded,
    WorkerForked,
    WorkerSpec,
)
from plover.daemon.launchers.strangers import Strangers
from plover.daemon.launchers.watching import Watcher
from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m

#: After a pidfd has fired, the wait status is a packet away.
STATUS_GRACE_S = 1.0
#: So long a nest may take to end by itself, then after each kill, before the next step: a kill, or giving up on it.
END_GRACE_S = 3.0
KILLS = 3
_HUNG_UP = "its zygote hung up"


class _Nest:
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


class _Worker:
    """A worker that was asked for. Invariant: `pidfd` is -1 until its `Forked` came."""

    def __init__(self, number: int, nest: _Nest) -> None:
        self.number = number
        self.nest = nest
        self.pidfd = -1
        self.kill_wanted = False
        self.status_deadline: float | None = None  # set when its pidfd has fired and its status has not come

    def __repr__(self) -> str:
        return f"<worker {self.number} pidfd={self.pidfd} status_deadline={self.status_deadline}>"


class Zygotes:
    """All zygotes of a launcher, and their workers.

    Args:
        directory: where the socket is made; created, or made, 0700.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        self.address = str(directory / "zygotes")
        self.watcher = Watcher()
        self.strangers = Strangers(Path(self.address), self.watcher, self._admit)
        self._nests: dict[int, _Nest] = {}  # exactly those whose end has not been told
        self._workers: dict[int, _Worker] = {}  # exactly those whose end has not been told
        self._news: list[AnyNews] = []
        self._collecting = False  # within `news`, which needs no waking
        self._own_pidfd = os.pidfd_open(os.getpid())

    def __repr__(self) -> str:
        return f"<Zygotes nests={list(self._nests.values())} workers={len(self._workers)} {self.strangers!r}>"

    # -- for the launcher ----------------------------------------------------------------------------------------------

    def open_nest(self, spec: NestSpec, kill: Callable[[], None]) -> str:
        """Expect a nest's zygote; returns its token in hexadecimal.

        `kill` must make the nest's first process end, with all below it, without blocking, however often it is called;
        when that has ended, `process_ended` is due.
        """
        nest = self._nests[spec.nest] = _Nest(spec, kill)
        return nest.token.hex()

    def process_ended(self, nest: int, reason: str) -> None:
        """The nest's first process is gone, or was never there; `reason` is for people."""
        if (ended := self._nests.get(nest)) is not None and not ended.process_ended:
            ended.process_ended = True
            if ended.why == _HUNG_UP:  # the process has more to say about it
                ended.why = reason
            self._begin_end(ended, reason)
            self._settle(ended)

    # -- commands, as in `Launcher` ------------------------------------------------------------------------------------

    def stop_nest(self, nest: int) -> None:
        """End a nest: by EndNest where its zygote listens, by a kill where it does not (yet)."""
        stopping = self._nests.get(nest)
        if stopping is None:
            return
        self._begin_end(stopping, "it was stopped")
        if not stopping.prepared or not self._send(stopping, m.EndNest()):
            self._kill_nest(stopping)

    def start_worker(self, spec: WorkerSpec) -> None:
        """Ask for a fork."""
        nest = self._nests.get(spec.nest)
        if nest is None or nest.socket is None or nest.why is not None:
            self._tell(WorkerEnded(spec.worker, None, None, False, f"nest {spec.nest} cannot fork: it is not there"))
            return
        self._workers[spec.worker] = worker = _Worker(spec.worker, nest)
        nest.workers.add(spec.worker)
        fork = m.Fork(worker=spec.worker, token=spec.token, marker=spec.marker)
        if not self._send(nest, fork, (spec.stdout_fd, spec.stderr_fd, spec.page_fd)):
            self._end_worker(worker, reason=f"the zygote of nest {spec.nest} does not take requests")

    def interrupt_worker(self, worker: int) -> None:
        """SIGINT, through the pidfd: it can hit nobody else."""
        if (found := self._workers.get(worker)) is not None:
            processes.send_signal(found.pidfd, signal.SIGINT)

    def kill_worker(self, worker: int) -> None:
        """SIGKILL, now or as soon as the worker is known to be forked."""
        if (found := self._workers.get(worker)) is not None:
            found.kill_wanted = True
            processes.send_signal(found.pidfd, signal.SIGKILL)

    # -- news, as in `Launcher` ----------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable while there may be news."""
        return self.watcher.fileno()

    def news(self) -> list[AnyNews]:
        """What has happened since the last call."""
        self._collecting = True
        self.watcher.dispatch()
        self._look_at_the_clock(time.monotonic())
        self._collecting = False
        news, self._news = self._news, []
        return news

    def next_deadline(self) -> float | None:
        """When something is overdue unless it happens before."""
        due = [worker.status_deadline for worker in self._workers.values()]
        due += [nest.deadline for nest in self._nests.values()]
        due.append(self.strangers.next_deadline())
        return min([deadline for deadline in due if deadline is not None], default=None)

    def close(self) -> None:
        """Give all descriptors back; whatever still runs is the launcher's business."""
        for worker in list(self._workers.values()):
            self._end_worker(worker)
        for nest in list(self._nests.values()):
            self._hang_up(nest)
            self._forget_zygote(nest)
            self._bury(nest)
        self.strangers.close()
        os.close(self._own_pidfd)
        self.watcher.close()

    def _tell(self, *news: AnyNews) -> None:
        self._news += news
        if not self._collecting:
            self.watcher.wake()

    def _admit(self, stranger: socket.socket, packet: bytes) -> bool:
        """Whether a first packet is the hello of a nest that has no zygote yet; then the connection is that nest's."""
        pid = processes.peer(stranger)
        nest = self._nest_of(packet)
        if nest is None or pid == os.getpid():  # the pid is whom this daemon may kill one day
            return False
        nest.met, nest.pid, nest.socket = True, pid, stranger
        self.watcher.watch(stranger.fileno(), lambda: self._listen(nest))
        with contextlib.suppress(OSError):  # it may have gone already
            nest.pidfd = os.pidfd_open(pid)
            self.watcher.watch(nest.pidfd, lambda: self._zygote_died(nest))
        prepare = m.Prepare(**msgspec.structs.asdict(nest.spec))  # the same fields
        if not self._send(nest, prepare, (self._own_pidfd,)):
            self._kill_nest(nest, "its zygote took no first packet")
        return True

    def _nest_of(self, packet: bytes) -> _Nest | None:
        try:
            hello = codec.FROM_ZYGOTE.read([packet]).message
        except WireError:
            return None
        if not isinstance(hello, m.ZygoteHello):
            return None
        for nest in self._nests.values():
            if not nest.met and nest.why is None and hmac.compare_digest(nest.token, hello.token):
                return nest
        return None

    # -- zygotes -------------------------------------------------------------------------------------------------------

    def _send(self, nest: _Nest, message: m.ToZygote, descriptors: tuple[int, ...] = ()) -> bool:
        """Send a packet; False if the zygote is gone, or so far behind that its socket is full."""
        if nest.socket is None:
            return False
        (packet,) = codec.write(message)
        try:
            socket.send_fds(nest.socket, [packet], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def _listen(self, nest: _Nest) -> None:
        """One packet; more make the descriptor readable again, so that no nest keeps the others waiting."""
        if nest.socket is None:
            return
        packet, descriptors = processes.receive(nest.socket)
        try:
            if packet == b"":
                self._hang_up(nest)
                self._begin_end(nest, _HUNG_UP)
                self._settle(nest)
            elif packet is not None:
                self._take(nest, codec.FROM_ZYGOTE.read([packet]).message, descriptors)
        except WireError as error:
            self._kill_nest(nest, str(error))
        finally:
            processes.close(descriptors)

    def _take(self, nest: _Nest, message: m.FromZygote, descriptors: list[int]) -> None:
        match message:
            case m.Prepared():
                if not nest.prepared:
                    nest.prepared = True
                    self._tell(NestPrepared(nest.spec.nest, nest.pid, message.import_s, message.versions))
            case m.Forked():
                self._take_pidfd(nest, message, descriptors)
            case m.ForkFailed():
                if (worker := self._worker_of(nest, message.worker)) is not None:
                    self._end_worker(worker, reason=message.reason)
            case m.Exited():
                if (worker := self._worker_of(nest, message.worker)) is not None:
                    # The count behind it may be older than a kill of ours, which needs no explanation.
                    memory = message.out_of_memory and not worker.kill_wanted
                    self._end_worker(worker, message.exit_code, message.signal, memory)
            case m.ZygoteHello():
                self._kill_nest(nest, "its zygote said hello twice")
            case _:
                assert_never(message)

    def _worker_of(self, nest: _Nest, number: int) -> _Worker | None:
        return self._workers.get(number) if number in nest.workers else None

    def _take_pidfd(self, nest: _Nest, forked: m.Forked, descriptors: list[int]) -> None:
        worker = self._worker_of(nest, forked.worker)
        if worker is None or worker.pidfd >= 0:
            return
        pid = processes.pid_of(descriptors[0]) if len(descriptors) == 1 else None
        if pid is None or (pid > 0 and processes.parent_of(pid) not in (nest.pid, None)):
            # Also when the zygote has just been killed and the kernel has given its child another parent.
            self._end_worker(worker, reason="its zygote died, or sent something else than its pidfd")
            self._kill_nest(nest, f"its zygote died, or sent something else than the pidfd of worker {worker.number}")
            return
        worker.pidfd = descriptors.pop()
        self.watcher.watch(worker.pidfd, lambda: self._worker_died(worker))
        self._tell(WorkerForked(worker.number, pid if pid > 0 else forked.pid))
        if worker.kill_wanted or nest.why is not None:
            processes.send_signal(worker.pidfd, signal.SIGKILL)

    def _zygote_died(self, nest: _Nest) -> None:
        self._forget_zygote(nest)
        self._settle(nest)

    def _forget_zygote(self, nest: _Nest) -> None:
        if nest.pidfd >= 0:
            self.watcher.unwatch(nest.pidfd)
            nest.unreaped.append(nest.pidfd)
            nest.pidfd = -1

    def _hang_up(self, nest: _Nest) -> None:
        if nest.socket is not None:
            self.watcher.unwatch(nest.socket.fileno())
            nest.socket.close()
            nest.socket = None

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _worker_died(self, worker: _Worker) -> None:
        """Its pidfd fired: the wait status is on its way, unless there is no zygote to send it."""
        if worker.nest.socket is None:
            self._end_worker(worker, reason="it died with its nest")
        else:
            worker.status_deadline = time.monotonic() + STATUS_GRACE_S
            self.watcher.unwatch(worker.pidfd)  # it stays readable for ever

    def _end_worker(
        self,
        worker: _Worker,
        code: int | None = None,
        number: int | None = None,
        memory: bool = False,
        reason: str = "",
    ) -> None:
        """Tell a worker's end and forget it."""
        del self._workers[worker.number]
        worker.nest.workers.discard(worker.number)
        if worker.pidfd >= 0:
            self.watcher.unwatch(worker.pidfd)
            if code is None and number is None:
                worker.nest.unreaped.append(worker.pidfd)
            else:
                os.close(worker.pidfd)
        self._tell(WorkerEnded(worker.number, code, number, memory, reason))
        self._settle(worker.nest)

    def _begin_end(self, nest: _Nest, why: str) -> None:
        """A nest begins to end; the first reason stays."""
        if nest.why is None:
            nest.why = why
            nest.deadline = time.monotonic() + END_GRACE_S

    def _kill_nest(self, nest: _Nest, why: str = "it was stopped") -> None:
        self._begin_end(nest, why)
        nest.kills += 1
        nest.deadline = time.monotonic() + END_GRACE_S
        nest.kill()
        if nest.kills > 1:  # its first process does not do it
            processes.send_signal(nest.pidfd, signal.SIGKILL)

    def _settle(self, nest: _Nest) -> None:
        """Without its zygote a nest's workers end; without workers, connection and processes it has ended."""
        if nest.why is None or nest.socket is not None:
            return
        for worker in [self._workers[number] for number in nest.workers]:
            if worker.number not in self._workers:
                continue  # told by a settling within this one
            if worker.pidfd < 0:
                self._end_worker(worker, reason="its nest ended before it was forked")
            elif worker.status_deadline is not None:
                self._end_worker(worker, reason="it died with its nest")
            else:
                processes.send_signal(worker.pidfd, signal.SIGKILL)
        if nest.process_ended and nest.pidfd < 0 and not nest.workers and nest.spec.nest in self._nests:
            self._bury(nest)
            del self._nests[nest.spec.nest]
            self._tell(NestEnded(nest.spec.nest, nest.why))

    def _bury(self, nest: _Nest) -> None:
        """Reap whom the deaths above them have made children of ours; at the nest's end, as they are so only then."""
        for pidfd in nest.unreaped:
            processes.reap(pidfd)
        processes.close(nest.unreaped)

    def _look_at_the_clock(self, now: float) -> None:
        self.strangers.look_at_the_clock(now)
        for worker in list(self._workers.values()):
            if worker.status_deadline is not None and worker.status_deadline <= now:
                self._end_worker(worker, reason="its zygote did not say how it died")
        for nest in list(self._nests.values()):
            if nest.deadline is not None and nest.deadline <= now:
                self._overdue(nest)

    def _overdue(self, nest: _Nest) -> None:
        if nest.kills < KILLS:
            self._kill_nest(nest)
            return
        nest.why = f"{nest.why}; something in it could not be killed"
        nest.process_ended = True
        self._hang_up(nest)
        self._forget_zygote(nest)
        for worker in [self._workers[number] for number in nest.workers]:
            self._end_worker(worker, reason="it could not be killed")
        self._settle(nest)
