"""The daemon's end of the conversation with zygotes: what every launcher has in common, however its nests come to life.

Zygotes connect to a unix socket of packets and prove themselves with their nest's token; over it go fork requests with
descriptors, and back come workers' pidfds and wait statuses. The launcher starts the nest's first process, gives this
object a way to kill it, and says when that process has ended. What follows from all that for a nest or a worker, and
when its end is told, stands in `plover.daemon.launchers.nests`.

Guarantees:
    - Nothing blocks: a zygote that does not read is a nest that fails, not a daemon that waits.
    - What a zygote claims is checked: a pidfd is taken only for a child of the very zygote that sent it, so that a
      hostile nest cannot make the daemon signal another process (the daemon's own pidfd is in its hands).
    - A zygote speaks for its own workers only, and is ended where it says what cannot be.

Assumes: one thread; what is below the directory is this user's alone (0700).
"""

from __future__ import annotations

import hmac
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import msgspec

from plover.daemon.launchers import processes
from plover.daemon.launchers.base import AnyNews, NestPrepared, NestSpec, WorkerEnded, WorkerSpec
from plover.daemon.launchers.nests import Nest, Nests, Worker
from plover.daemon.launchers.strangers import Strangers
from plover.daemon.launchers.watching import Watcher
from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m


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
        self._nests = Nests(self.watcher)
        self._own_pidfd = os.pidfd_open(os.getpid())

    def __repr__(self) -> str:
        return f"<Zygotes {self._nests!r} {self.strangers!r}>"

    # -- for the launcher ----------------------------------------------------------------------------------------------

    def open_nest(self, spec: NestSpec, kill: Callable[[], None]) -> str:
        """Expect a nest's zygote; returns its token in hexadecimal.

        `kill` must make the nest's first process end, with all below it, without blocking, however often it is called;
        when that has ended, `process_ended` is due.
        """
        return self._nests.add(spec, kill).token.hex()

    def process_ended(self, nest: int, reason: str) -> None:
        """The nest's first process is gone, or was never there; `reason` is for people."""
        if (ended := self._nests.find(nest)) is not None:
            self._nests.process_ended(ended, reason)

    # -- commands, as in `Launcher` ------------------------------------------------------------------------------------

    def stop_nest(self, nest: int) -> None:
        """End a nest: by EndNest where its zygote listens, by a kill where it does not (yet), or owes a worker."""
        stopping = self._nests.find(nest)
        if stopping is None:
            return
        self._nests.begin_end(stopping, "it was stopped")
        workers = [self._nests.find_worker(number) for number in stopping.workers]
        owes = any(worker is not None and worker.pidfd < 0 for worker in workers)
        if not stopping.prepared or owes or not self._send(stopping, m.EndNest()):
            self._nests.kill(stopping)

    def start_worker(self, spec: WorkerSpec) -> None:
        """Ask for a fork."""
        nest = self._nests.find(spec.nest)
        if nest is None or nest.socket is None or nest.why is not None:
            reason = f"nest {spec.nest} cannot fork: it is not there"
            self._nests.tell(WorkerEnded(spec.worker, None, None, False, reason))
            return
        worker = self._nests.add_worker(spec.worker, nest)
        fork = m.Fork(worker=spec.worker, marker=spec.marker)
        outputs = (spec.stdout_fd, spec.stderr_fd, spec.records_fd)
        if not self._send(nest, fork, (*outputs, spec.page_fd, spec.line_fd, spec.segments_fd)):
            self._nests.end_worker(worker, reason=f"the zygote of nest {spec.nest} does not take requests")

    def interrupt_worker(self, worker: int) -> None:
        """SIGINT, through the pidfd: it can hit nobody else."""
        if (found := self._nests.find_worker(worker)) is not None:
            processes.send_signal(found.pidfd, signal.SIGINT)

    def kill_worker(self, worker: int) -> None:
        """SIGKILL, now or as soon as the worker is known to be forked."""
        if (found := self._nests.find_worker(worker)) is not None:
            found.kill_wanted = True
            processes.send_signal(found.pidfd, signal.SIGKILL)

    # -- news, as in `Launcher` ----------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable while there may be news."""
        return self.watcher.fileno()

    def news(self) -> list[AnyNews]:
        """What has happened since the last call."""
        news = self._nests.news()
        self.strangers.look_at_the_clock(time.monotonic())
        return news

    def next_deadline(self) -> float | None:
        """When something is overdue unless it happens before."""
        due = (self._nests.next_deadline(), self.strangers.next_deadline())
        return min([deadline for deadline in due if deadline is not None], default=None)

    def close(self) -> None:
        """Give all descriptors back; whatever still runs is the launcher's business."""
        self._nests.close()
        self.strangers.close()
        os.close(self._own_pidfd)
        self.watcher.close()

    # -- who connects --------------------------------------------------------------------------------------------------

    def _admit(self, stranger: socket.socket, packet: bytes) -> bool:
        """Whether a first packet is the hello of a nest that has no zygote yet; then the connection is that nest's."""
        pid = processes.peer(stranger)
        nest = self._nest_of(packet)
        if nest is None or pid == os.getpid():  # the pid is whom this daemon may kill one day
            return False
        self._nests.met(nest, stranger, pid, lambda: self._listen(nest))
        prepare = m.Prepare(**msgspec.structs.asdict(nest.spec))  # the same fields
        if not self._send(nest, prepare, (self._own_pidfd,)):
            self._nests.kill(nest, "its zygote took no first packet")
        return True

    def _nest_of(self, packet: bytes) -> Nest | None:
        try:
            hello = codec.FROM_ZYGOTE.read([packet]).message
        except WireError:
            return None
        if not isinstance(hello, m.ZygoteHello):
            return None
        for nest in self._nests.expected():
            if hmac.compare_digest(nest.token, hello.token):
                return nest
        return None

    # -- what is said --------------------------------------------------------------------------------------------------

    def _send(self, nest: Nest, message: m.ToZygote, descriptors: tuple[int, ...] = ()) -> bool:
        """Send a packet; False if the zygote is gone, or so far behind that its socket is full."""
        if nest.socket is None:
            return False
        (packet,) = codec.write(message)
        try:
            socket.send_fds(nest.socket, [packet], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def _listen(self, nest: Nest) -> None:
        """One packet; more make the descriptor readable again, so that no nest keeps the others waiting."""
        if nest.socket is None:
            return
        packet, descriptors = processes.receive(nest.socket)
        try:
            if packet == b"":
                self._nests.hung_up(nest)
            elif packet is not None:
                self._take(nest, codec.FROM_ZYGOTE.read([packet]).message, descriptors)
        except WireError as error:
            self._nests.kill(nest, str(error))
        finally:
            processes.close(descriptors)

    def _take(self, nest: Nest, message: m.FromZygote, descriptors: list[int]) -> None:
        match message:
            case m.Prepared():
                if not nest.prepared:
                    nest.prepared = True
                    self._nests.tell(NestPrepared(nest.spec.nest, nest.pid, message.import_s, message.versions))
            case m.Forked():
                self._take_pidfd(nest, message, descriptors)
            case m.ForkFailed():
                if (worker := self._worker_of(nest, message.worker)) is not None:
                    self._nests.end_worker(worker, reason=message.reason)
            case m.Exited():
                if (worker := self._worker_of(nest, message.worker)) is not None:
                    # The count behind it may be older than a kill of ours, which needs no explanation.
                    memory = message.out_of_memory and not worker.kill_wanted
                    self._nests.end_worker(worker, message.exit_code, message.signal, memory)
            case m.ZygoteHello():
                self._nests.kill(nest, "its zygote said hello twice")
            case _:
                assert_never(message)

    def _worker_of(self, nest: Nest, number: int) -> Worker | None:
        return self._nests.find_worker(number) if number in nest.workers else None

    def _take_pidfd(self, nest: Nest, forked: m.Forked, descriptors: list[int]) -> None:
        worker = self._worker_of(nest, forked.worker)
        if worker is None or worker.pidfd >= 0:
            return
        pid = processes.pid_of(descriptors[0]) if len(descriptors) == 1 else None
        if pid is None or (pid > 0 and processes.parent_of(pid) not in (nest.pid, None)):
            # Also when the zygote has just been killed and the kernel has given its child another parent.
            self._nests.end_worker(worker, reason="its zygote died, or sent something else than its pidfd")
            why = f"its zygote died, or sent something else than the pidfd of worker {worker.number}"
            self._nests.kill(nest, why)
            return
        self._nests.forked(worker, descriptors.pop(), pid if pid > 0 else forked.pid)
