"""A condition and an event that an interrupt does not break.

The standard library's are written in Python. An exception between two of their instructions, such as Ctrl-C raises on the
main thread, leaves a lock taken for good, or gives one back twice; then every other thread that touches it hangs.

Guarantees: what is interrupted in here is as if it had not begun, or as if it were done. Assumes: the GIL.
"""

from __future__ import annotations

import _thread
import contextlib
import threading

__all__ = ["Condition", "Event"]


class Condition(_thread.RLock):  # type: ignore[misc]  # typeshed calls it final; it is not
    """What the standard library's functions take for a condition that nobody waits for: a lock, which C code alone takes and
    gives back.
    """

    def notify_all(self) -> None:
        """Nobody waits."""


class Event:
    """An event, used as `threading.Event`, without a lock that is held while it is looked at: each thread that waits enters a
    lock of its own, whose release wakes it.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[threading.Lock] = []

    def __repr__(self) -> str:
        return f"<{'set' if self._is_set else 'unset'}, {len(self._waiting)} wait>"

    def is_set(self) -> bool:
        """Whether it happened."""
        return self._is_set

    def set(self) -> None:
        """It happened. Where this was interrupted it may be told again."""
        self._is_set = True
        for lock in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # it was released before
                lock.release()

    def clear(self) -> None:
        """It did not happen."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Until it happens; returns whether it did within the time, in seconds."""
        lock = threading.Lock()
        lock.acquire()
        self._waiting.append(lock)
        try:
            if not self._is_set:
                lock.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        finally:
            self._waiting.remove(lock)
        return self._is_set
