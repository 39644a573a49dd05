"""Workers without Python's user code: the worker's side of the protocol for any number of them, in one process.

What is real: the line to the daemon, the output pipes with their markers, the status page, every message. What is not:
nobody forks, unpickles, or runs anything, and all fakes share one process and so one core.

`Launcher` hands the daemon's ends over to that process (`serve`) and tells the daemon's shell what it expects to hear.
"""

from __future__ import annotations

import collections
import functools
import os
import select
import signal
import socket
import time
from typing import Any, NoReturn

from plover.daemon.launchers import base
from plover.versions import versions
from plover.wire import codec, markers
from plover.wire import messages as m
from plover.wire.page import StatusPage, pack
from plover.wire.stream import HungUp, Stream

__all__ = ["Launcher", "serve"]

_NOTHING = b"\x80\x05N."  # None, pickled
_LIMIT_BYTES = 1 << 30


class Launcher:
    """See `plover.daemon.launchers.base.Launcher`. Every nest is warm at once, every worker lives at once and for ever.

    Args:
        fakes: leads to the process of the fakes.
    """

    def __init__(self, fakes: socket.socket) -> None:
        self._fakes = fakes
        self._news: list[base.AnyNews] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def _tell(self, news: base.AnyNews) -> None:
        self._news.append(news)
        os.eventfd_write(self._wake, 1)

    def start_nest(self, spec: base.NestSpec) -> None:
        """It is warm."""
        self._tell(base.NestPrepared(spec.nest, os.getpid(), 0.0, versions()))

    def stop_nest(self, nest: int) -> None:
        """It is gone."""
        self._tell(base.NestEnded(nest, "it was stopped"))

    def start_worker(self, spec: base.WorkerSpec) -> None:
        """Hand its descriptors over."""
        socket.send_fds(self._fakes, [spec.marker], [spec.line_fd, spec.stdout_fd, spec.stderr_fd, spec.page_fd])
        self._tell(base.WorkerForked(spec.worker, os.getpid()))

    def interrupt_worker(self, worker: int) -> None:
        """Nothing runs that could be interrupted."""

    def kill_worker(self, worker: int) -> None:
        """It is gone, as far as the daemon hears."""
        self._tell(base.WorkerEnded(worker, None, int(signal.SIGKILL), False))

    def fileno(self) -> int:
        """Readable while there is news."""
        return self._wake

    def news(self) -> list[base.AnyNews]:
        """What has happened."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return []
        news, self._news = self._news, []
        return news

    def next_deadline(self) -> float | None:
        """Nothing is ever overdue."""
        return None

    def close(self) -> None:
        """The end of the socket ends the fakes."""
        self._fakes.close()
        os.close(self._wake)


class _Fake:
    """One worker that finishes what it is sent, in order."""

    def __init__(self, word: bytes, line_fd: int, stdout_fd: int, stderr_fd: int, page_fd: int) -> None:
        end = socket.socket(fileno=line_fd)
        end.setblocking(False)
        self.line = Stream(end, "daemon", _LIMIT_BYTES, codec.FRAMES_LIMIT + 1)
        self.waiting: collections.deque[tuple[int, m.Run]] = collections.deque()
        self._word = word
        self._pipes = (stdout_fd, stderr_fd)
        self._page = StatusPage(page_fd)
        os.close(page_fd)
        self.line.send(codec.write(m.WorkerHello(os.getpid(), versions(), 0.0)))

    def take(self) -> None:
        """Everything that has come."""
        while (frames := self.line.receive()) is not None:
            incoming = codec.TO_WORKER.read(frames)
            self.waiting.append((incoming.incarnation, incoming.message))

    def finish(self) -> None:
        """The next call."""
        incarnation, run = self.waiting.popleft()
        began = self._page.begin(run.call, run.attempt)
        self._page.end()
        marker = markers.make(self._word, pack(run.call, run.attempt))
        for fd in self._pipes:
            os.write(fd, marker)
        body = codec.Body()
        times = m.Timings(began, began, time.monotonic(), True, True)
        self.line.send(
            codec.write(m.Finished(run.call, run.attempt, "succeeded", times, body.pack([_NOTHING])), incarnation, body)
        )


def serve(launching: socket.socket, control: socket.socket) -> NoReturn:
    """Be all fakes, until the daemon or the benchmark ends.

    Args:
        launching: brings new workers' descriptors.
        control: each eight bytes allow so many more calls to be finished; what is sent meanwhile waits.
    """
    epoll = select.epoll()
    fakes: dict[int, _Fake] = {}
    allowed = 0
    epoll.register(launching, select.EPOLLIN)
    epoll.register(control, select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if fd == launching.fileno():
                word, fds, _, _ = socket.recv_fds(launching, markers.WORD_SIZE, 4)
                if not word:
                    os._exit(0)
                fake = _Fake(word, *fds)
                fakes[fake.line.fileno()] = fake
                epoll.register(fake.line.fileno(), select.EPOLLIN)
            elif fd == control.fileno():
                data = control.recv(8)
                if not data:
                    os._exit(0)
                allowed += int.from_bytes(data, "little")
            else:
                try:
                    fakes[fd].take()
                except HungUp:
                    epoll.unregister(fd)
        # In turns, one call each, as workers do that run side by side.
        ready = [fake for fake in fakes.values() if fake.waiting]
        while allowed and ready:
            for fake in ready[:allowed]:
                fake.finish()
            allowed -= min(allowed, len(ready))
            ready = [fake for fake in ready if fake.waiting]


def run_daemon(launching: socket.socket, address: str, directory: str, workers: int, queued: int, told: Any) -> None:
    """A daemon as `plover.daemon.run.serve` starts it: the same shell, scheduler and sockets; the launcher is the fakes'.

    Limits of time and of the queue are raised: calls wait here until the benchmark lets them run.
    """
    from pathlib import Path

    from plover.daemon import run
    from plover.daemon.config import DaemonConfig
    from plover.daemon.scheduler.config import Limits

    day_s = 86400.0
    limits = Limits(
        queued_calls_per_tenant=2 * queued,
        client_lease_s=day_s,
        worker_silent_s=day_s,
        worker_start_s=day_s,
        nest_start_s=day_s,
    )
    run.ProcessLauncher = functools.partial(_made, launching)  # type: ignore[misc,assignment]
    run.serve(
        DaemonConfig(
            addresses=(address,),
            state_dir=Path(directory),
            devices=f"simulated:{workers}",
            scheduler_limits=limits,
        ),
        on_ready=lambda: told.put(os.getpid()),
    )


def _made(launching: socket.socket, *_: object, **__: object) -> Launcher:
    return Launcher(launching)
