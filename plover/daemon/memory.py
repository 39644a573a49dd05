"""Memory for segments: made, read and given back.

A segment is a memfd, sealed against any change of its size. Its pages are allocated here, so that they are charged to the
daemon and not to whoever touches them first; that takes tens of milliseconds a hundred megabytes, and so has a thread.

Guarantees: what cannot be had is told, and leaves nothing behind. Assumes: Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import queue
import threading
from collections.abc import Callable

from plover.daemon import host_memory

__all__ = ["Maker", "create", "free"]

#: <fcntl.h>
_PUNCH_HOLE = 0x02
_KEEP_SIZE = 0x01
#: So much of the host's memory is left alone.
_LEFT_ALONE = 0.05


def create(size_bytes: int) -> int:
    """A segment's descriptor, close-on-exec.

    Raises:
        OSError: there is no memory, or no descriptor, to be had.
    """
    available, total = host_memory.available_bytes(), host_memory.total_bytes()
    if available is not None and available - size_bytes < total * _LEFT_ALONE:
        raise OSError(f"{available} bytes of memory are left on this host, or to the daemon's control group")
    fd = os.memfd_create("plover-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        os.posix_fallocate(fd, 0, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def free(fd: int, size_bytes: int) -> None:
    """Give a segment's memory back to the host, whoever still has it mapped, and close it."""
    libc = ctypes.CDLL(None)
    offset, size = ctypes.c_long(0), ctypes.c_long(size_bytes)
    libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size)  # where it fails, the last mapping's end frees it
    os.close(fd)


class Maker:
    """Makes segments, one after another, on a thread that begins with the first.

    Attributes:
        fd: readable when something was made, or could not be.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._jobs: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, int, str]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def make(self, number: int, size_bytes: int) -> None:
        """Begin to make a segment."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="plover-segments", daemon=True)
            self._thread.start()
        self._jobs.put((number, size_bytes))

    def take(self, receive: Callable[[int, int, str], None]) -> None:
        """Call back with the number, the descriptor (-1 where there is none), and the reason of each that is done."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while not self._done.empty():
            receive(*self._done.get())

    def close(self) -> None:
        """End the thread, and close what was made for nobody."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
        while not self._done.empty():
            fd = self._done.get()[1]
            if fd >= 0:
                os.close(fd)
        os.close(self.fd)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            number, size_bytes = job
            try:
                self._done.put((number, create(size_bytes), ""))
            except OSError as error:
                reason = f"no shared memory of {size_bytes} bytes can be had: {error.strerror or error}"
                self._done.put((number, -1, reason))
            os.eventfd_write(self.fd, 1)
