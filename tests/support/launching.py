"""A small shell for launchers under test: it owns the workers' lines, pumps news, and waits on events with bounds.

Guarantees: nothing sleeps; whatever does not happen in time fails with all news so far. `close` gives back every
descriptor that it made. Assumes: the functions that workers are sent are nested ones, which travel by value.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from plover import serialize
from plover.daemon.launchers.base import (
    AnyNews,
    Launcher,
    NestEnded,
    NestPrepared,
    NestSpec,
    WorkerEnded,
    WorkerForked,
    WorkerSpec,
)
from plover.daemon.launchers.process import ProcessLauncher
from plover.exceptions import unpack_exception
from plover.wire import codec, page
from plover.wire import messages as m
from plover.wire.stream import HungUp, Stream

T = TypeVar("T")

#: What never takes long may take so long on a loaded machine.
PATIENCE_S = 20.0


def wait_gone(pid: int, timeout_s: float = PATIENCE_S) -> bool:
    """Whether a process dies, or is dead, within the time."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(pidfd)


def descendants(pid: int) -> list[int]:
    """All processes below one, however deep."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
    return found


def state(pid: int) -> str:
    """A process's state letter, ``Z`` for a zombie, empty if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def parent(pid: int) -> int:
    """A process's parent."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def open_descriptors() -> set[str]:
    """This process's descriptors, as what they point to."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return {entry for entry in found if not entry.endswith("/fd")}


class Worker:
    """A worker that was asked for, and the test's ends of its pipes."""

    def __init__(self, number: int, nest: int) -> None:
        self.number = number
        self.nest = nest
        self.marker = secrets.token_bytes(16)
        self.greeted = False  # it has said hello
        ours, self.theirs = socket.socketpair()
        self.segments, self.their_segments = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line = Stream(ours, "worker", 1 << 30, 1 << 16)
        self.pid = 0
        self.results: list[tuple[str, Any]] = []
        self.page_fd = page.create()
        self.page = page.StatusPage(self.page_fd)
        self.read_fds: list[int] = []
        self.output = b""  # of both streams

    def read(self, fd: int) -> bool:
        """Read what it wrote on one of its streams; False at the end."""
        data = os.read(fd, 65536)
        self.output += data
        return bool(data)

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (*self.read_fds, self.page_fd):
            os.close(fd)
        self.line.close()
        self.theirs.close()
        self.segments.close()
        self.their_segments.close()
        self.page.close()


class Rig:
    """A launcher and what a shell would do with it."""

    def __init__(self, launcher: Launcher, directory: Path) -> None:
        self.launcher = launcher
        self.news: list[AnyNews] = []
        self.workers: dict[int, Worker] = {}
        self._ends: dict[int, Worker] = {}  # pipes that are not at their end
        self._numbers = iter(range(1, 1 << 30))
        self._poll = select.poll()
        self._poll.register(launcher.fileno(), select.POLLIN)

    def close(self) -> None:
        """Close the launcher, and check that each end was told once."""
        self.launcher.close()
        for worker in self.workers.values():
            worker.close()
        ends = [item.worker for item in self.news if isinstance(item, WorkerEnded)]
        assert len(ends) == len(set(ends)), self.news
        nests = [item.nest for item in self.news if isinstance(item, NestEnded)]
        assert len(nests) == len(set(nests)), self.news

    # -- waiting -------------------------------------------------------------------------------------------------------

    def until(self, found: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
        """Pump until `found` returns something."""
        give_up = time.monotonic() + timeout_s
        while True:
            if (value := found()) is not None:
                return value
            now = time.monotonic()
            assert now < give_up, f"not within {timeout_s} s; news so far: {self.news}; output: {self.outputs()}"
            due = min(give_up, self.launcher.next_deadline() or give_up)
            ready = dict(self._poll.poll(int(max(0.0, due - now) * 1000) + 1))
            self.news += self.launcher.news()
            for fd in self._ends.keys() & ready.keys():
                worker = self._ends[fd]
                if not (self._take(worker) if fd == worker.line.fileno() else worker.read(fd)):
                    self._poll.unregister(fd)
                    del self._ends[fd]

    def outputs(self) -> dict[int, bytes]:
        """What each worker wrote."""
        return {worker.number: bytes(worker.output) for worker in self.workers.values()}

    def find(self, kind: type[T], **fields: object) -> T | None:
        """The news of a kind with these fields."""
        for item in self.news:
            if isinstance(item, kind) and all(getattr(item, name) == value for name, value in fields.items()):
                return item
        return None

    def expect(self, kind: type[T], timeout_s: float = PATIENCE_S, **fields: object) -> T:
        """Wait for news of a kind with these fields."""
        return self.until(lambda: self.find(kind, **fields), timeout_s)

    @staticmethod
    def _take(worker: Worker) -> bool:
        """Take one message of a worker; False at the end of its line."""
        try:
            frames = worker.line.receive()
        except HungUp:
            return False
        incoming = codec.FROM_WORKER.read(frames or [])
        match incoming.message:
            case m.WorkerHello():
                worker.greeted = True
            case m.Finished() as finished:
                unpack = unpack_exception if finished.status == "failed" else serialize.unpack
                value = unpack(incoming.take(finished.packed)) if finished.packed else None
                worker.results.append((finished.status, value))
        return True

    # -- commands ------------------------------------------------------------------------------------------------------

    def spec(self, **changes: Any) -> NestSpec:
        """A nest of one simulated device."""
        fields: dict[str, Any] = {
            "nest": next(self._numbers),
            "tenant": "default",
            "environment": "default",
            "device_kind": "simulated",
            "devices": ("simulated:0",),
            "memory_bytes": 1 << 28,
        }
        return NestSpec(**(fields | changes))

    def start_nest(self, **changes: Any) -> NestPrepared:
        """Start a nest and wait until it is prepared."""
        spec = self.spec(**changes)
        self.launcher.start_nest(spec)
        self.until(lambda: self.find(NestPrepared, nest=spec.nest) or self.find(NestEnded, nest=spec.nest))
        prepared = self.find(NestPrepared, nest=spec.nest)
        assert prepared is not None, self.news
        return prepared

    def ask_worker(self, nest: int) -> Worker:
        """Ask for a worker, and do not wait."""
        worker = Worker(next(self._numbers), nest)
        self.workers[worker.number] = worker
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        self.launcher.start_worker(
            WorkerSpec(
                worker=worker.number,
                nest=nest,
                marker=worker.marker,
                stdout_fd=pipes[0][1],
                stderr_fd=pipes[1][1],
                records_fd=pipes[2][1],
                page_fd=worker.page_fd,
                line_fd=worker.theirs.fileno(),
                segments_fd=worker.their_segments.fileno(),
            )
        )
        for read_fd, write_fd in pipes:
            os.close(write_fd)
            worker.read_fds.append(read_fd)
            self._ends[read_fd] = worker
            self._poll.register(read_fd, select.POLLIN)
        worker.theirs.close()
        worker.their_segments.close()
        self._ends[worker.line.fileno()] = worker
        self._poll.register(worker.line.fileno(), select.POLLIN)
        return worker

    def start_worker(self, nest: int) -> Worker:
        """Start a worker and wait until it has said hello."""
        worker = self.ask_worker(nest)
        worker.pid = self.expect(WorkerForked, worker=worker.number).pid
        self.until(lambda: worker.greeted or self.find(WorkerEnded, worker=worker.number))
        assert worker.greeted, (self.news, self.outputs())
        return worker

    def forget(self, worker: Worker) -> None:
        """Give back what the test holds of a worker that has ended."""
        for fd in (*worker.read_fds, worker.line.fileno()):
            if self._ends.pop(fd, None):
                self._poll.unregister(fd)
        del self.workers[worker.number]
        worker.close()

    def send(self, worker: Worker, function: Callable[..., Any], *args: Any) -> int:
        """Have a worker run a function, and do not wait; returns the call's number."""
        body = codec.Body()
        payload, _, _ = serialize.pack_function(function)
        arguments, _, _ = serialize.pack_arguments("f", args, {})
        digest = serialize.digest(payload)
        number = next(self._numbers)
        run = m.Run(number, 1, f"c{number}", "f", digest, body.pack(arguments), body.pack(payload))
        worker.line.send(codec.write(run, 1, body))
        return number

    def run(self, worker: Worker, function: Callable[..., Any], *args: Any) -> Any:
        """Have a worker run a function, and wait for what it returns."""
        self.send(worker, function, *args)
        before = len(worker.results)
        status, value = self.until(lambda: worker.results[before] if len(worker.results) > before else None)
        assert status == "succeeded", (status, value)
        return value


def leave_processes() -> Callable[[bool], list[int]]:
    """A function for a worker that starts processes which nobody ends, and returns their pids: a child, one with a
    session and group of its own, a double-forked orphan; all ignore SIGTERM. `bare` clears their environment too.
    """

    def leave(bare: bool) -> list[int]:
        import os
        import signal
        import subprocess

        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # kept across exec, so by all of them
        environment: dict[str, str] | None = {} if bare else None
        command = ["/bin/sleep", "1000"]
        started = [subprocess.Popen(command, env=environment, start_new_session=new).pid for new in (False, True)]
        read_fd, write_fd = os.pipe()
        middle = os.fork()
        if middle == 0:
            os.setsid()
            orphan = os.fork()
            if orphan:
                os.write(write_fd, str(orphan).encode())
                os._exit(0)
            os.execve(command[0], command, {} if bare else os.environ)
        os.waitpid(middle, 0)
        started.append(int(os.read(read_fd, 20)))
        os.close(read_fd)
        os.close(write_fd)
        return started

    return leave


def own() -> None:
    """Own a launcher with a nest, two workers and what these started; print their pids; wait to be killed.

    To be run as a process: ``python -m tests.support.launching FOLDER [PYTHON]``. With a Python of the nests' own it also
    forks a child that holds all its descriptors, and goes on when it is killed.
    """
    directory = Path(sys.argv[1])
    python = sys.argv[2] if len(sys.argv) > 2 else None
    rig = Rig(ProcessLauncher(directory / "launcher", python=python or sys.executable), directory)
    nest = rig.start_nest()
    started = [pid for _ in range(2) for pid in rig.run(rig.start_worker(nest.nest), leave_processes(), True)]
    workers = [worker.pid for worker in rig.workers.values()]
    held = []
    if python:
        held.append(os.fork())
        if held == [0]:
            signal.pause()
    print(json.dumps({"zygote": nest.pid, "workers": workers, "started": started, "held": held}), flush=True)
    rig.until(lambda: None, 60)


if __name__ == "__main__":
    own()
