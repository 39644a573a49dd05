"""Who waits for futures with `concurrent.futures.wait` and `as_completed`: they never ask the future, so others must work.

Guarantees: while they wait, the connection's I/O thread or another caller receives what ends the futures. Assumes: they
enter a waiter, whose attribute `event` they wait for, in a future's list of waiters, as since Python 3.2.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from plover.client.unbreakable import Event

if TYPE_CHECKING:
    from plover.client.connection import Connection

__all__ = ["Waiters"]


class Waiters(list[Any]):
    """Where they enter themselves."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, waiter: Any) -> None:
        if not isinstance(waiter.event, Event):
            waiter.event = _End(self._connection)  # nobody waits for it or sets it before it is entered everywhere
        super().append(waiter)
        self._connection.attend()


class _End(Event):
    """What `wait` and `as_completed` wait for."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def wait(self, timeout: float | None = None) -> bool:
        """As any event's, while others do the work."""
        return bool(self._connection.wait_for(functools.partial(super().wait, timeout)))
