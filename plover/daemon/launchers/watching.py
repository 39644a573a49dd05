"""Descriptors and who wants to know of them: one epoll, so that a launcher is one descriptor to the shell.

Guarantees: nothing blocks; a callback is never called for what its descriptor's number meant before. Assumes: one
thread, but for `wake`, which any thread may call.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from typing import Protocol


class Watches(Protocol):
    """What tells of readable descriptors: this file's own, or the daemon's loop."""

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back while it is readable."""

    def unwatch(self, fd: int) -> None:
        """No more calls."""


class Watcher:
    """Calls back for readable descriptors, when asked to.

    Invariant: `_callbacks` has exactly the descriptors that the epoll has.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._wake_fd, self._woken)

    def __repr__(self) -> str:
        return f"<Watcher of {len(self._callbacks)} descriptors>"

    def fileno(self) -> int:
        """Readable while a descriptor is, or after `wake`."""
        return self._epoll.fileno()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back from `dispatch` while `fd` is readable or at its end."""
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """No more calls, if there were any to come; to be said before `fd` is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Make `fileno` readable until the next `dispatch`."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wake_fd, 1)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def dispatch(self) -> None:
        """Call back for all that is readable now."""
        for fd, callback in [(fd, self._callbacks[fd]) for fd, _ in self._epoll.poll(0)]:
            # An earlier callback may have closed it, and its number may be another's by now.
            if self._callbacks.get(fd) is callback:
                callback()

    def close(self) -> None:
        """Give the own descriptors back; whatever is still watched is its owner's to close."""
        os.close(self._wake_fd)
        self._epoll.close()
