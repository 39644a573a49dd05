"""The shell's side of its workers: line, output pipes, status page, and what was sent to each.

Guarantees: a worker's pipes and page live until its end has been told. Assumes: one thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator

from plover.daemon.config import DaemonLimits
from plover.daemon.launchers.base import Launcher, WorkerSpec
from plover.daemon.output import WorkerOutput
from plover.wire import markers, page
from plover.wire.stream import Stream

__all__ = ["WorkerRecord", "Workers"]


class WorkerRecord:
    """What the shell holds of one worker.

    Attributes:
        line: what is said to it and by it; None before it was launched and once it is gone.
        pid: its process, once it was forked.
        sent: (call, attempt) sent to it without a result yet, in order.
        touched: when a call began or ended there last; monotonic seconds.
    """

    def __init__(self, number: int, nest: int, limits: DaemonLimits) -> None:
        self.number = number
        self.nest = nest
        self.line: Stream | None = None
        self.pid = 0
        self.sent: list[tuple[int, int]] = []
        self._newest = 0  # the largest number of a call that was ever sent to it
        self.touched = 0.0
        word = secrets.token_bytes(markers.WORD_SIZE)
        self.word = word
        with contextlib.ExitStack() as undo:
            self._page_fd = page.create()
            undo.callback(os.close, self._page_fd)
            self.page = page.StatusPage(self._page_fd)
            undo.callback(self.page.close)
            self.output = WorkerOutput(word, limits.output_bytes_per_call, limits.last_output_bytes)
            undo.pop_all()

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.pid} sent={self.sent}>"

    @property
    def name(self) -> str:
        """The worker as people know it."""
        return f"worker {self.number}" + (f" (pid {self.pid})" if self.pid else "")

    def launch(self, launcher: Launcher, line: socket.socket, segments: socket.socket) -> None:
        """Have it forked; the descriptors that it needs are its own from then on, its ends of the line and of the socket over
        which it borrows segments too.
        """
        launcher.start_worker(
            WorkerSpec(
                worker=self.number,
                nest=self.nest,
                marker=self.word,
                stdout_fd=self.output.stdout_fd,
                stderr_fd=self.output.stderr_fd,
                records_fd=self.output.records.worker_fd,
                page_fd=self._page_fd,
                line_fd=line.fileno(),
                segments_fd=segments.fileno(),
            )
        )
        self.output.close_worker_side()
        os.close(self._page_fd)
        line.close()
        segments.close()

    def abandon(self) -> None:
        """It cannot be launched: give everything back."""
        self.output.close_worker_side()
        os.close(self._page_fd)
        self.close()

    def has_sound_page(self, now: float) -> bool:
        """Whether its page says what a worker can say; user code that writes out of bounds may have hit it."""
        begun, begun_at = self.page.running()
        last = self.page.last()
        return (
            self.page.is_whole()
            and (begun_at is None or (begun in self.sent and begun_at <= now))
            and (last is None or last in self.sent or last[0] <= self._newest)
        )

    def last_begun(self, now: float) -> tuple[int, int] | None:
        """At its death: the attempt that it had begun and not reported, which ran or may have run. Any may have, if its page
        says nothing.
        """
        if not self.has_sound_page(now):
            return self.sent[-1] if self.sent else None
        last = self.page.last()
        return last if last in self.sent else None

    def expect(self, call: int, attempt: int) -> None:
        """An attempt is being sent to it."""
        self.sent.append((call, attempt))
        if call > self._newest:
            self._newest = call
        self.output.expect(call, attempt)

    def finished(self, call: int, attempt: int) -> bool:
        """An attempt's result came; False if it was not sent to this worker, or its result came before."""
        if (call, attempt) not in self.sent:
            return False
        self.sent.remove((call, attempt))
        return True

    def close(self) -> None:
        """Give everything back."""
        self.output.close()
        self.page.close()


class Workers:
    """All workers that live or whose end has not been told yet.

    Attributes:
        tenants: whose each nest is; a nest that has ended may still be in it.
    """

    def __init__(self, limits: DaemonLimits) -> None:
        self._limits = limits
        self.tenants: dict[int, str] = {}
        self._by_number: dict[int, WorkerRecord] = {}

    def __iter__(self) -> Iterator[WorkerRecord]:
        return iter(self._by_number.values())

    def __len__(self) -> int:
        return len(self._by_number)

    def add(self, number: int, nest: int) -> WorkerRecord:
        """A worker that is about to be launched.

        Raises:
            OSError: there are no descriptors for it; nothing is left of it.
        """
        worker = WorkerRecord(number, nest, self._limits)
        self._by_number[number] = worker
        return worker

    def find(self, number: int) -> WorkerRecord | None:
        """A worker by its number."""
        return self._by_number.get(number)

    def remove(self, number: int) -> WorkerRecord | None:
        """The worker's end was told; its record must be closed by the caller."""
        return self._by_number.pop(number, None)
