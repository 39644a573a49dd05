"""stdout, stderr and records of a worker → the call that wrote them.

A worker's two pipes are the daemon's own. What comes out of them before an attempt's marker (`plover.wire.markers`) is that
attempt's; what comes after belongs to the next one, or to nobody.

Guarantees: reading never blocks; a call's output past the limit is read and thrown away, with one line that says so, for a
full pipe would block the worker. The last bytes are kept for the hour of death. Assumes: one thread.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import Literal

from plover.daemon.records import RecordPipe
from plover.wire import markers
from plover.wire.page import pack, unpack

__all__ = ["Piece", "WorkerOutput"]

Stream = Literal[1, 2, 3]
#: (call, attempt), stream, bytes
Piece = tuple[tuple[int, int], Stream, bytes]

_CHUNK = 256 * 1024
#: Read at first, since most calls write nothing but a marker: a large buffer costs 10 µs to allocate and give back.
_FIRST = 4096


class _Pipe:
    """One stream of a worker. Invariant: `attempts` are those sent to the worker whose marker was not seen here."""

    __slots__ = ("attempts", "fd", "kept", "left", "stream")

    def __init__(self, fd: int, stream: Stream) -> None:
        self.fd = fd
        self.stream = stream
        self.kept = b""  # the beginning of what may become a marker
        self.attempts: deque[tuple[int, int]] = deque()
        self.left: int | None = None  # bytes that the first attempt may still write; None before it wrote any


def _new_pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    pipe = os.pipe2(os.O_CLOEXEC)
    for end in pipe:
        undo.callback(os.close, end)
    return pipe


class WorkerOutput:
    """A worker's output pipes, read by the daemon.

    Args:
        word: the worker's random word, for its markers.
        limit_bytes: how much a call may write to each stream.
        last_bytes: how much of the end is kept.

    Raises:
        OSError: there are no descriptors for it; nothing is left of it.
    """

    def __init__(self, word: bytes, limit_bytes: int, last_bytes: int) -> None:
        self._word = word
        self._limit = limit_bytes
        self._last_bytes = last_bytes
        #: The end of what was written last, by the attempt that is first in line or by nobody.
        self.last = b""
        with contextlib.ExitStack() as undo:
            read_out, self.stdout_fd = _new_pipe(undo)
            read_err, self.stderr_fd = _new_pipe(undo)
            self.records = RecordPipe(limit_bytes)
            undo.pop_all()
        self.pipes = (_Pipe(read_out, 1), _Pipe(read_err, 2))
        self.fds = (read_out, read_err, self.records.fd)
        for pipe in self.pipes:
            os.set_blocking(pipe.fd, False)

    def close_worker_side(self) -> None:
        """The worker has its ends: give ours back."""
        os.close(self.stdout_fd)
        os.close(self.stderr_fd)
        os.close(self.records.worker_fd)

    def expect(self, call: int, attempt: int) -> None:
        """An attempt is being sent to the worker."""
        for pipe in self.pipes:
            pipe.attempts.append((call, attempt))

    def forget(self, call: int, attempt: int) -> None:
        """The worker will not run this attempt after all: no marker will come."""
        for pipe in self.pipes:
            if (call, attempt) in pipe.attempts:
                pipe.attempts.remove((call, attempt))

    def read(self, fd: int) -> tuple[list[Piece], bool]:
        """What one pipe holds now, and whether it is still open."""
        if fd == self.records.fd:
            records, is_open = self.records.read()
            return [(whose, 3, data) for whose, data in records], is_open
        pipe = self.pipes[0] if self.pipes[0].fd == fd else self.pipes[1]
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return [], True
        return self._take(pipe, data), bool(data)

    def complete(self, call: int, attempt: int, with_records: bool = False) -> list[Piece]:
        """The attempt's result is here, so both its markers are in the pipes: what there is before them, and its records."""
        pieces: list[Piece] = []
        if with_records:
            pieces += self.read(self.records.fd)[0]
            self.records.end(pack(call, attempt))
        marker = markers.make(self._word, pack(call, attempt))
        for pipe in self.pipes:
            size = _FIRST
            while (call, attempt) in pipe.attempts:
                try:
                    data = os.read(pipe.fd, size)
                except BlockingIOError:
                    data = b""
                size = _CHUNK
                if data == marker and not pipe.kept:  # nothing was written: what nearly every call does
                    self._end(pipe, (call, attempt))
                    break
                if not data:  # a worker that did not write its marker: do not wait for it
                    pipe.attempts.remove((call, attempt))
                    break
                pieces += self._take(pipe, data)
        return pieces

    def drain(self) -> list[Piece]:
        """The worker is dead: everything that it left in its pipes."""
        pieces: list[Piece] = []
        for pipe in self.pipes:
            while True:
                try:
                    data = os.read(pipe.fd, _CHUNK)
                except BlockingIOError:
                    break
                if not data:
                    break
                pieces += self._take(pipe, data)
            if pipe.kept:
                pieces += self._write(pipe, pipe.kept)
                pipe.kept = b""
        return pieces + self.read(self.records.fd)[0]

    def close(self) -> None:
        """Give the reading ends back."""
        for pipe in self.pipes:
            os.close(pipe.fd)
        self.records.close()

    def _take(self, pipe: _Pipe, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        data = pipe.kept + data
        while True:
            before, ended, data = markers.split(data, self._word)
            if before:
                pieces += self._write(pipe, before)
            if ended is None:
                pipe.kept = data
                return pieces
            self._end(pipe, unpack(ended))

    def _end(self, pipe: _Pipe, ended: tuple[int, int] | None) -> None:
        if ended in pipe.attempts:
            while pipe.attempts.popleft() != ended:
                pass
        pipe.left = None
        self.last = b""

    def _write(self, pipe: _Pipe, data: bytes) -> list[Piece]:
        self.last = (self.last + data)[-self._last_bytes :]
        if not pipe.attempts:
            return []
        if pipe.left is None:
            pipe.left = self._limit
        if pipe.left < 0:
            return []
        shown, pipe.left = data[: pipe.left], pipe.left - len(data)
        if pipe.left < 0:
            shown += f"\nplover: this call wrote more than {self._limit} bytes; the rest is not shown\n".encode()
        return [(pipe.attempts[0], pipe.stream, shown)]
