"""The zygote: imports what workers need once, then forks them, and tells the daemon how they end.

It speaks packets of `plover.wire.codec` over a unix socket of the daemon's: `ZygoteHello` with its nest's token, then
`Prepare` comes with the daemon's pidfd, `Prepared` goes back when the imports are done, and from then on each `Fork`
(with what `plover.wire.messages.Fork` lists) is answered by `Forked` (with the worker's pidfd) or `ForkFailed`, and in the
end by `Exited`.

Guarantees: one thread and no driver, so that a fork is sound. A worker's end is told once, after its `Forked`, and what
it left is killed. It ends, with every worker, when the socket ends, the daemon's pidfd fires, or on EndNest or SIGTERM.

Assumes: it was forked under a keeper (`plover_runtime.keeper`), which sweeps if the zygote itself is killed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m
from plover_runtime import child
from plover_runtime.keeper import Death, Wakeups, become_subreaper, children, end_all, kill, reap

#: A packet is one message; the daemon sends none that is larger.
PACKET_LIMIT = 64 * 1024
_DESCRIPTORS_LIMIT = 8
#: So long the zygote waits at its end for what it has killed; the keeper waits for the rest.
_END_GRACE_S = 2.0
#: At a limit of processes, so long a fork is tried again while leftovers die that may fill it.
_ROOM_S = 1.0
#: A kill that the kernel counted explains a SIGKILL that is reaped up to this long afterwards.
_MEMORY_KILL_S = 1.0


class Zygote:
    """The nest's zygote.

    Args:
        address: the path of the daemon's socket.
        token: what proves this nest to the daemon.
        environment: what the zygote changed in its environment for itself, and workers get back.
        fork: makes a process, as `os.fork` does.
    """

    def __init__(
        self, address: str, token: bytes, environment: dict[str, str | None], fork: Callable[[], int] = os.fork
    ) -> None:
        self._environment = environment
        self._os_fork = fork
        self._workers: dict[int, int] = {}  # pid → worker's number; exactly the workers not yet reaped
        self._prepare: m.Prepare | None = None  # set once, by the first packet
        self._daemon_fd = -1  # the daemon's pidfd, from Prepare on
        self._blas: list[Callable[[int], object]] = []  # set with the imports
        self._ended = False
        self._memory_kills = MemoryKills()
        become_subreaper()
        self._wakeups = Wakeups()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(address)
        self._poll = select.poll()
        self._poll.register(self._wakeups.fd, select.POLLIN)
        self._poll.register(self._socket.fileno(), select.POLLIN)
        self._send(m.ZygoteHello(token=token, pid=os.getpid()))

    def __repr__(self) -> str:
        return f"<Zygote workers={sorted(self._workers.values())} ended={self._ended}>"

    def run(self) -> NoReturn:
        """Serve until the end, then leave nothing behind and exit."""
        while not self._ended and not self._wakeups.terminated:
            ready = {fd for fd, _ in self._poll.poll()}
            if self._daemon_fd in ready:
                break
            if self._wakeups.fd in ready:
                self._wakeups.clear()
                self._look_after_children()
            if self._socket.fileno() in ready:
                self._receive()
        for death in end_all(self._wakeups, _END_GRACE_S):
            self._tell_exit(death, out_of_memory=False)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)

    # -- the conversation ----------------------------------------------------------------------------------------------

    def _send(self, message: m.FromZygote, descriptors: tuple[int, ...] = ()) -> None:
        """Send a packet; the end of the daemon is noticed here as well as anywhere."""
        (packet,) = codec.write(message)
        try:
            socket.send_fds(self._socket, [packet], descriptors, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            self._ended = True

    def _receive(self) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(
                self._socket, PACKET_LIMIT, _DESCRIPTORS_LIMIT, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet, descriptors = b"", []
        if not packet:
            self._ended = True
            return
        try:
            match codec.TO_ZYGOTE.read([packet]).message:
                case m.Prepare() as prepare:
                    self._prepare_workers(prepare, descriptors)
                case m.Fork() as fork:
                    self._fork(fork, descriptors)
                case m.EndNest():
                    self._ended = True
        finally:
            for fd in descriptors:
                os.close(fd)

    def _prepare_workers(self, prepare: m.Prepare, descriptors: list[int]) -> None:
        """Import what workers will need. An exception ends the zygote; its traceback is the nest's reason."""
        from plover_runtime import device

        if self._prepare is not None:
            return
        self._prepare = prepare
        if descriptors:
            self._daemon_fd = os.dup(descriptors[0])
            os.set_inheritable(self._daemon_fd, False)
            self._poll.register(self._daemon_fd, select.POLLIN)
        started = time.monotonic()
        device.preload(prepare.device_kind, prepare.memory_bytes)
        import plover_runtime.worker  # noqa: F401  # and with it all that it imports, once for all workers

        self._blas = child.blas_setters()
        # What stands now stays: taken out of the collector's sight, its pages remain shared with the workers.
        gc.collect()
        gc.freeze()
        self._send(m.Prepared(import_s=time.monotonic() - started, versions=versions()))

    # -- workers -------------------------------------------------------------------------------------------------------

    def _fork(self, fork: m.Fork, descriptors: list[int]) -> None:
        if self._prepare is None or len(descriptors) != 6:  # stdout, stderr, records, page, line, segments
            self._send(m.ForkFailed(worker=fork.worker, reason=f"{len(descriptors)} descriptors came, or no Prepare"))
            return
        sys.stdout.flush()  # what lies in a buffer at the fork would be written twice
        sys.stderr.flush()
        zygote = os.getpid()
        try:
            pid = self._fork_process()
        except OSError as error:
            self._send(m.ForkFailed(worker=fork.worker, reason=f"fork failed: {error.strerror}"))
            return
        if pid == 0:
            self._socket.detach()  # `child` closes all descriptors; nothing here may close one of those numbers again
            child.run(zygote, self._wakeups, self._environment, self._blas, self._prepare, fork, descriptors)
        self._workers[pid] = fork.worker
        try:
            pidfd = os.pidfd_open(pid)  # the pid is not reaped before this loop does it, so it is this worker's
        except OSError as error:  # no descriptor left: a worker that nobody can watch must not live
            kill([pid])
            print(f"plover: no pidfd for worker {fork.worker}: {error.strerror}", file=sys.stderr)
            return
        try:
            self._send(m.Forked(worker=fork.worker, pid=pid), (pidfd,))
        finally:
            os.close(pidfd)

    def _fork_process(self) -> int:
        """Fork. At a limit of processes (EAGAIN), or of memory, leftovers may be what fills it: sweep, and try again
        as they die.
        """
        give_up = time.monotonic() + _ROOM_S
        while True:
            try:
                return self._os_fork()
            except OSError:
                if not self._make_room(give_up):
                    raise

    def _make_room(self, give_up: float) -> bool:
        """Whether something has died, by a sweep or by itself. While what was swept dies, it is waited for."""
        poll = select.poll()
        poll.register(self._wakeups.fd, select.POLLIN)
        while True:
            self._wakeups.clear()
            died, dying = self._look_after_children()
            left_s = give_up - time.monotonic()
            if died or not dying or left_s <= 0 or self._wakeups.terminated:
                return died and left_s > 0
            poll.poll(left_s * 1000)

    def _look_after_children(self) -> tuple[bool, bool]:
        """Reap what has died, tell of the workers among it, and kill what they left: every child but live workers.

        Returns whether something had died, and whether something was killed that has not.
        """
        deaths, left = reap()
        killed = self._memory_kills.happened() if deaths else False
        for death in deaths:
            self._tell_exit(death, out_of_memory=killed and death.signal == signal.SIGKILL)
        leftovers = [pid for pid in children() if pid not in self._workers] if left else []
        kill(leftovers)
        return bool(deaths), bool(leftovers)

    def _tell_exit(self, death: Death, *, out_of_memory: bool) -> None:
        worker = self._workers.pop(death.pid, None)
        if worker is not None:
            self._send(m.Exited(worker, death.exit_code, death.signal, out_of_memory))


class MemoryKills:
    """The kernel's count of processes that it killed for memory, in this process's cgroup.

    Assumes: nothing about the host but Linux. cgroup v2 has the count in `memory.events`, v1 in `memory.oom_control`;
    at the root of either there is only the host's own, in /proc/vmstat. Under v2 a cgroup may go without the memory
    controller: then it is its nearest ancestor with one that is charged, and counts. In a container the cgroup's path may
    be the host's, which is not visible, while the mount shows the container's: hence the root is tried in the end.
    """

    def __init__(self) -> None:
        self._path = next((path for path in self._candidates() if self._read(path) is not None), "")
        self._seen = self._read(self._path) or 0
        self._at = float("-inf")

    @staticmethod
    def _candidates() -> list[str]:
        paths = []
        with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                nearest = path.rstrip("/")
                if controllers == "":
                    name, roots = "memory.events", ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
                    parts = nearest.split("/")
                    groups = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]  # the last is the root: ""
                elif "memory" in controllers.split(","):
                    name, roots, groups = "memory.oom_control", ["/sys/fs/cgroup/memory"], [nearest, ""]
                else:
                    continue
                paths += [f"{root}{group}/{name}" for group in groups for root in roots]
        return [*paths, "/proc/vmstat"]

    @staticmethod
    def _read(path: str) -> int | None:
        try:
            with open(path) as file:
                return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), None)
        except (OSError, ValueError, IndexError):
            return None

    def happened(self) -> bool:
        """Whether there was such a kill since the last look, or just before it: deaths of one kill may come apart."""
        now, count = time.monotonic(), self._read(self._path) or 0
        if count > self._seen:
            self._seen, self._at = count, now
        return now - self._at <= _MEMORY_KILL_S
