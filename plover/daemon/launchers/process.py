"""The `process` launcher: nests as process trees of this host, for development, tests and the embedded daemon.

A nest is a Python process that splits into keeper and zygote (`plover_runtime.keeper`). It gets the daemon's directory
and environment, but not its `sys.path`: what works here works in a container. Plover itself it finds at the end of its
path, where it can shadow nothing.

Guarantees: as `Launcher` asks. Beyond that, should a keeper be killed together with its zygote, what they leave becomes
the daemon's (it is made a subreaper) and is killed before `NestEnded` is told; such processes are known by their nest's
mark in their environment, and nothing else below this process is ever touched.

Assumes: no isolation is asked of it: a nest's processes run as this user and can do what this user can.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import select
import signal
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import msgspec

import plover
from plover.daemon.launchers import processes
from plover.daemon.launchers.base import AnyNews, NestEnded, NestSpec, WorkerSpec
from plover.daemon.launchers.zygotes import Zygotes

#: Of what a zygote writes, so much is kept for people: a traceback's end.
_TAIL_BYTES = 8 * 1024
_TAIL_LINES = 30
#: So long the end of a nest is held back for leftovers that do not die.
_SWEEP_S = 5.0
_CLOSE_S = 15.0
_MARK = "PLOVER_NEST"

#: Its arguments go to the end of the path. `-P` has kept the working directory away from the beginning.
_BOOTSTRAP = (
    "import sys; sys.path += [path for path in sys.argv[1:] if path not in sys.path]; del sys.argv[1:]; "
    "from plover_runtime.__main__ import main; main()"
)


class _Process:
    """A nest's first process. Invariant: `pidfd` and `output_fd` are watched until its end is told."""

    def __init__(self, popen: subprocess.Popen[bytes], output_fd: int, mark: str) -> None:
        self.popen = popen
        self.pidfd = os.pidfd_open(popen.pid)
        self.output_fd = output_fd
        self.mark = mark
        self.tail = b""
        self.asked = False  # to end, by SIGTERM

    def __repr__(self) -> str:
        return f"<process {self.popen.pid} asked={self.asked}>"

    def kill(self) -> None:
        """Ask the keeper to kill everything and end; if it was asked before, kill the keeper."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL if self.asked else signal.SIGTERM)
        self.asked = True

    def read(self) -> bool:
        """Read what was written; False at its end, or when there is no more now."""
        try:
            data = os.read(self.output_fd, 65536)
        except BlockingIOError:
            return False
        self.tail = (self.tail + data)[-_TAIL_BYTES:]
        return bool(data)

    def reason(self) -> str:
        """Why it ended, for people; to be asked when it has."""
        code = self.popen.wait()
        if code < 0:
            why = f"its first process was killed by signal {-code}"
        else:
            why = f"its zygote ended with exit code {code}" if code else "its zygote ended"
        while self.read():
            pass
        lines = self.tail.decode(errors="backslashreplace").strip().splitlines()[-_TAIL_LINES:]
        return "\n".join([f"{why}; its last lines:", *lines]) if lines else why


class _Sweep:
    """The end of a nest, held back until its leftovers are dead. Invariant: `pidfds` are watched."""

    def __init__(self, news: NestEnded, mark: str) -> None:
        self.news = news
        self.mark = mark
        self.pidfds: set[int] = set()
        self.deadline = time.monotonic() + _SWEEP_S


class ProcessLauncher:
    """Starts nests as processes of this host. See `Launcher`.

    Args:
        directory: for the zygotes' socket and, unless the environment says otherwise, the compilers' caches.
        python: the interpreter of the nests.
        cwd: their working directory, None for this process's own.
        open_files: their soft limit of descriptors, None for this process's own.
    """

    def __init__(
        self,
        directory: Path,
        *,
        python: str = sys.executable,
        cwd: str | os.PathLike[str] | None = None,
        open_files: int | None = None,
    ) -> None:
        self._directory = directory
        self._python = python
        self._cwd = cwd
        self._open_files = open_files
        self._zygotes = Zygotes(directory)
        self._processes: dict[int, _Process] = {}  # of nests whose first process has not been reaped
        self._marks: dict[int, str] = {}  # of nests whose end has not been told
        self._sweeps: list[_Sweep] = []
        self._closed = False
        self._was_subreaper = processes.set_subreaper(True)

    def __repr__(self) -> str:
        return f"<ProcessLauncher processes={self._processes} {self._zygotes!r}>"

    # -- commands ------------------------------------------------------------------------------------------------------

    def start_nest(self, spec: NestSpec) -> None:
        """Start a nest's first process."""
        mark = self._marks[spec.nest] = secrets.token_hex(16)
        spec = msgspec.structs.replace(spec, cache_directory=str(self._caches(spec) / "bundles"))
        token = self._zygotes.open_nest(spec, lambda: self._kill(spec.nest))
        try:
            process = self._processes[spec.nest] = self._start(self._environment(spec, token, mark), mark)
        except (OSError, ValueError) as error:
            self._zygotes.process_ended(spec.nest, f"its Python could not be started: {error}")
            return
        self._zygotes.watcher.watch(process.output_fd, lambda: self._read(process))
        self._zygotes.watcher.watch(process.pidfd, lambda: self._process_ended(spec.nest))

    def _start(self, environment: dict[str, str], mark: str) -> _Process:
        """A process, or nothing that is left of one."""
        with contextlib.ExitStack() as undo:
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, read_fd)
            os.set_blocking(read_fd, False)
            try:
                popen = subprocess.Popen(  # the operator's own Python
                    [self._python, "-P", "-c", _BOOTSTRAP, *_import_roots()],
                    stdin=subprocess.DEVNULL,
                    stdout=write_fd,
                    stderr=write_fd,
                    cwd=self._cwd,
                    env=environment,
                    start_new_session=True,  # a terminal's Ctrl-C and hang-up are the daemon's business
                )
            finally:
                os.close(write_fd)
            undo.callback(popen.wait)
            undo.callback(popen.kill)
            process = _Process(popen, read_fd, mark)
            undo.pop_all()
        return process

    def stop_nest(self, nest: int) -> None:
        """End a nest and everything in it."""
        self._zygotes.stop_nest(nest)

    def start_worker(self, spec: WorkerSpec) -> None:
        """Ask a nest for a worker."""
        self._zygotes.start_worker(spec)

    def interrupt_worker(self, worker: int) -> None:
        """Send a worker SIGINT."""
        self._zygotes.interrupt_worker(worker)

    def kill_worker(self, worker: int) -> None:
        """SIGKILL a worker."""
        self._zygotes.kill_worker(worker)

    # -- news ----------------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable while there may be news."""
        return self._zygotes.fileno()

    def news(self) -> list[AnyNews]:
        """What has happened since the last call. A nest's end is told when nothing of it is left."""
        news: list[AnyNews] = []
        for item in self._zygotes.news():
            if isinstance(item, NestEnded):
                self._sweeps.append(_Sweep(item, self._marks.pop(item.nest)))
            else:
                news.append(item)
        for sweep in list(self._sweeps):
            if self._swept(sweep):
                self._sweeps.remove(sweep)
                news.append(sweep.news)
        return news

    def next_deadline(self) -> float | None:
        """When something is overdue unless it happens before."""
        due = [sweep.deadline for sweep in self._sweeps]
        if (deadline := self._zygotes.next_deadline()) is not None:
            due.append(deadline)
        return min(due, default=None)

    def close(self) -> None:
        """Kill everything, wait until it is gone, give all descriptors back."""
        if self._closed:
            return
        self._closed = True
        for nest in self._marks:
            self._zygotes.stop_nest(nest)
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        give_up = time.monotonic() + _CLOSE_S
        while (self._marks or self._sweeps) and time.monotonic() < give_up:
            deadline = min(give_up, self.next_deadline() or give_up)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1)
            self.news()
        for nest in list(self._processes):
            self._processes[nest].popen.kill()
            self._process_ended(nest)
        self._zygotes.close()
        processes.set_subreaper(self._was_subreaper)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _environment(self, spec: NestSpec, token: str, mark: str) -> dict[str, str]:
        environment = dict(os.environ)
        environment.pop("PYTHONPATH", None)
        environment.pop("NUMBA_ENABLE_CUDASIM", None)  # the simulated device sets it before it imports Numba
        environment |= {
            "PLOVER_ZYGOTE_SOCKET": self._zygotes.address,
            "PLOVER_ZYGOTE_TOKEN": token,
            "PLOVER_DAEMON_PID": str(os.getpid()),
            _MARK: mark,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the driver's order is another, where devices are named by number
            "CUDA_VISIBLE_DEVICES": ",".join(spec.devices) if spec.device_kind == "cuda" else "",
        }
        if self._open_files is not None:
            environment["PLOVER_OPEN_FILES"] = str(self._open_files)
        caches = self._caches(spec)
        for name, folder in (("CUPY_CACHE_DIR", "cupy"), ("NUMBA_CACHE_DIR", "numba"), ("CUDA_CACHE_PATH", "cuda")):
            if name not in environment:
                (caches / folder).mkdir(parents=True, exist_ok=True)
                environment[name] = str(caches / folder)
        return environment

    def _caches(self, spec: NestSpec) -> Path:
        """What a tenant's workers keep on disk."""
        return self._directory / "caches" / f"tenant-{urllib.parse.quote(spec.tenant, safe='')}"

    def _kill(self, nest: int) -> None:
        if nest in self._processes:
            self._processes[nest].kill()

    def _read(self, process: _Process) -> None:
        if not process.read():
            # An end before that of the process: it closed both. Nothing more will come, and it would stay readable.
            self._zygotes.watcher.unwatch(process.output_fd)

    def _process_ended(self, nest: int) -> None:
        process = self._processes.pop(nest)
        reason = process.reason()
        self._zygotes.watcher.unwatch(process.pidfd)
        self._zygotes.watcher.unwatch(process.output_fd)
        os.close(process.pidfd)
        os.close(process.output_fd)
        self._zygotes.process_ended(nest, reason)

    # -- leftovers -----------------------------------------------------------------------------------------------------

    def _swept(self, sweep: _Sweep) -> bool:
        """Whether nothing is left of a nest; kills what is. Each death wakes `news`, which asks again."""
        if not sweep.pidfds:
            try:
                self._kill_leftovers(sweep)
            except OSError:  # no descriptor is left: once more at the deadline
                return sweep.deadline <= time.monotonic()
        if sweep.pidfds and sweep.deadline > time.monotonic():
            return False
        for pidfd in list(sweep.pidfds):
            self._leftover_died(sweep, pidfd)
        return True

    def _kill_leftovers(self, sweep: _Sweep) -> None:
        for pid in _marked_children(sweep.mark):
            pidfd = os.pidfd_open(pid)  # a child that nobody has reaped: the pid is its own
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            sweep.pidfds.add(pidfd)
            self._zygotes.watcher.watch(pidfd, functools.partial(self._leftover_died, sweep, pidfd))

    def _leftover_died(self, sweep: _Sweep, pidfd: int) -> None:
        self._zygotes.watcher.unwatch(pidfd)
        processes.reap(pidfd)
        os.close(pidfd)
        sweep.pidfds.discard(pidfd)


def _import_roots() -> list[str]:
    """The directories that `plover` and `plover_runtime` are imported from, in a checkout or installed in any way."""
    roots = [str(Path(plover.__path__[0]).resolve().parent)]
    spec = importlib.util.find_spec("plover_runtime")  # looks for it without importing it
    if spec is not None and spec.submodule_search_locations:
        roots.append(str(Path(next(iter(spec.submodule_search_locations))).resolve().parent))
    return roots


def _marked_children(mark: str) -> list[int]:
    """Children of this process with a nest's mark in the environment that they, or who forked them, were given."""
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for pid in processes.children():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.append(pid)
    return found
