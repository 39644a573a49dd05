"""A worker's log records and warnings → the call that they belong to, which each of them names. See docs/adr/0014.

Guarantees: reading never blocks; what goes beyond a call's limit, or is no record, is read and thrown away. What a record
says is never looked at. Assumes: one thread.
"""

from __future__ import annotations

import os

from plover.wire.page import unpack
from plover.wire.records import HEAD, LARGEST

__all__ = ["RecordPipe"]

_CHUNK = 256 * 1024


class RecordPipe:
    """The third pipe of a worker, read by the daemon.

    Args:
        limit_bytes: how much a call may write.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.fd, self.worker_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.fd, False)
        self._limit = limit_bytes
        self._rest = b""
        self._written: dict[int, int] = {}  # bytes by attempt, until it ends
        self._lost = False  # what came was no record: where the next one begins, nobody knows

    def read(self) -> tuple[list[tuple[tuple[int, int], bytes]], bool]:
        """What the pipe holds now, as (attempt, records), and whether it is still open."""
        found: list[tuple[tuple[int, int], bytes]] = []
        while True:
            try:
                data = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return found, True
            if not data:
                return found, False
            found += self._take(data)

    def end(self, attempt: int) -> None:
        """The attempt writes nothing any more."""
        self._written.pop(attempt, None)

    def close(self) -> None:
        """Give the reading end back."""
        os.close(self.fd)

    def _take(self, data: bytes) -> list[tuple[tuple[int, int], bytes]]:
        data = self._rest + data
        found: list[tuple[tuple[int, int], bytes]] = []
        at = 0
        while not self._lost and len(data) - at >= HEAD.size:
            length, attempt = HEAD.unpack_from(data, at)
            end = at + HEAD.size + length
            if length > LARGEST:
                self._lost = True
                break
            if end > len(data):
                break
            written = self._written[attempt] = self._written.get(attempt, 0) + end - at
            whose = unpack(attempt)
            if whose is not None and written <= self._limit:
                found.append((whose, data[at:end]))
            at = end
        self._rest = b"" if self._lost else data[at:]
        return found
