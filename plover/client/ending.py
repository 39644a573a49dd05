"""How a call's future ends, whoever ends it: its state, and what the connection does to it.

Guarantees: `deliver` and `fail` may be interrupted anywhere and done again; they end a future that others are entered at
(`wait`, callbacks) only on the connection's own thread, which is never interrupted, so that each is told exactly once.
Callbacks that the connection's work would run are run on a thread of their own, so that they may make calls.

Assumes: the attributes that all futures of the standard library have since Python 3.2. A signal handler that makes calls does
not interrupt its own thread in the middle of `wait` or `as_completed`: those hold locks that end a future, whosever it is.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from plover.client.unbreakable import Condition, Event
from plover.client.waiters import Waiters
from plover.errors import CallCancelled, DaemonLost
from plover.serialize import Buffer, unpack
from plover.wire.messages import Receipt
from plover.wire.messages import call_id as name_of_call

if TYPE_CHECKING:
    from plover.client.connection import Connection

__all__ = ["Ending"]

R = TypeVar("R")

#: Who ends a future waits so long for somebody who is just looking at it, and leaves it to another thread then.
_PATIENCE_S = 0.005
#: Nobody looks at one for so long: an interrupt in the middle of `concurrent.futures.wait` left its lock behind.
_LEFT_BEHIND_S = 10.0

_log = logging.getLogger("concurrent.futures")


class _SealedError(Exception):
    """Stands for a user's exception until somebody asks for it."""


class Ending(concurrent.futures.Future[R]):
    """A future as the connection sees it; its only kind is `plover.client.futures.Future`, whose arguments these are."""

    _remote_traceback: Any = None
    #: What threads wait for; made by the first of them.
    _ended: Event | None = None

    def __init__(self, call_id: str | None, connection: Connection | None = None, submission: int = 0) -> None:
        # What the standard library's `__init__` does, but for the condition.
        self._condition: Any = Condition()
        self._state = "PENDING"
        self._result = self._exception = None
        self._waiters: list[Any] = [] if connection is None else Waiters(connection)
        self._done_callbacks: list[Callable[[Any], object]] = []
        # Our own.
        self._call_id = call_id
        self._connection = connection
        self._submission = submission
        self._pid = os.getpid()
        #: For who looks at it (see `plover.looks`): when it was made, in monotonic seconds, and the function's name.
        self._made_at = time.monotonic()
        self._function = ""
        self._sealed: Sequence[Buffer] | None = None
        self._receipt: Receipt | None = None
        #: What is raised where the call was cancelled; its tier is known when the call has really ended.
        self._cancelled_as: CallCancelled | None = None
        #: Holds what a result may refer to (classes of the arguments); dropped once it is unpickled.
        self._keep: Any = None
        #: Applied to the value before anybody sees it (a kernel's arrays go back in place there).
        self._finish: Callable[[Any], Any] | None = None
        self._unseal_lock = threading.RLock()

    @property
    def call_id(self) -> str:
        """The call's name, for logs and for the operator."""
        if self._call_id is None:
            assert self._connection is not None
            self._call_id = name_of_call(self._connection.client, self._submission)
        return self._call_id

    @property
    def title(self) -> str:
        """The call for people, as the daemon names it too: its function and its id."""
        return f"{self._function or 'the call'} ({self.call_id})"

    @property
    def receipt(self) -> Receipt | None:
        """What the call cost; None while it is not done."""
        return self._receipt

    def has_ended(self) -> bool:
        """`done()` for the connection's own work."""
        return self._state not in ("PENDING", "RUNNING")  # without the lock: one attribute, written whole

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED")

    # -- for the connection ---------------------------------------------------------------------------------------------

    def deliver(self, failed: bool, buffers: Sequence[Buffer], receipt: Receipt, by_io: bool = True) -> bool:
        """The call ended with a value or with the user's exception, still packed.

        Returns:
            False where nothing was done, because only the connection's own thread may.
        """
        if failed:
            return self._end(by_io, receipt, buffers, _SealedError())
        if self._finish is None or self.has_ended():
            return self._end(by_io, receipt, buffers, None)
        value, error = self._finish_early(self._finish, buffers)
        return self._end(by_io, receipt, None, error, value)

    def fail(self, error: BaseException, receipt: Receipt | None = None, by_io: bool = True) -> bool:
        """The call ended by a decision of the daemon's or of the connection's; returns as `deliver`."""
        if isinstance(error, CallCancelled):
            self._cancellation().tier = error.tier
        return self._end(by_io, receipt, None, error)

    def announce(self) -> None:
        """It has ended: wake those who wait in `result`. It may be told again, where an interrupt came before."""
        if self._ended is not None:
            self._ended.set()

    def disown(self) -> None:
        """In a child of the process, where none of its other threads is: the call is the parent's; nobody ends it here."""
        self._condition = Condition()  # the old one's holder may be a thread that is not here
        self._unseal_lock = threading.RLock()
        if not self.has_ended():
            self._waiters = []
            self._done_callbacks = []
            self._exception = self._parents()
            self._state = "FINISHED"

    def set_exception(self, exception: BaseException | None) -> None:
        """The call ended with an exception, whose traceback stays as it is now however often it is raised."""
        self._remote_traceback = exception.__traceback__ if exception is not None else None
        super().set_exception(exception)
        self.announce()

    def set_result(self, result: R) -> None:
        """The call ended with a value."""
        super().set_result(result)
        self.announce()

    def _end(
        self,
        by_io: bool,
        receipt: Receipt | None,
        sealed: Sequence[Buffer] | None,
        error: BaseException | None,
        value: Any = None,
    ) -> bool:
        """End it, unless it has ended: then those who wait are told again."""
        what = (by_io, receipt, sealed, error, value)
        if not by_io and self._condition._is_owned():
            return False  # in a signal handler or a destructor, in the middle of this thread's looking at it
        if threading.get_ident() == _main_thread:  # an interrupt may strike between any two calls
            with self._condition:
                ended = self._set(*what)
        elif not (self._waiters and self._is_looked_at()) and self._condition.acquire(timeout=_PATIENCE_S):
            try:
                ended = self._set(*what)
            finally:
                self._condition.release()
        else:  # who looks at it may be in a signal handler or a destructor, and wait for another call meanwhile
            if by_io:
                threading.Thread(target=self._end_patiently, args=what, name="plover-late", daemon=True).start()
            return by_io
        if ended:
            self.announce()
            if self._done_callbacks:
                self._invoke_callbacks()
        return ended

    def _is_looked_at(self) -> bool:
        """Whether an `as_completed` is taking what has ended so far."""
        return any(hasattr(waiter, "lock") and waiter.lock.locked() for waiter in list(self._waiters))

    def _end_patiently(self, *what: Any) -> None:
        condition = self._condition
        if condition.acquire(timeout=_LEFT_BEHIND_S):
            self._set(*what)
            condition.release()
        else:
            self._set(*what)
            self._condition = Condition()
        self.announce()
        self._invoke_callbacks()

    def _set(
        self,
        by_io: bool,
        receipt: Receipt | None,
        sealed: Sequence[Buffer] | None,
        error: BaseException | None,
        value: Any,
    ) -> bool:
        """Assumes: the condition is held. The state is written when all is in place."""
        if self._state == "FINISHED":
            return True
        if (self._waiters or self._done_callbacks) and not by_io:
            return False
        self._receipt = receipt
        if self._state != "PENDING":  # cancelled
            self._keep = self._finish = None
            return True
        if sealed is None:
            self._keep = self._finish = None
        self._sealed, self._result, self._exception = sealed, value, error
        self._remote_traceback = error.__traceback__ if error is not None else None
        self._state = "FINISHED"
        for waiter in self._waiters:
            (waiter.add_result if error is None else waiter.add_exception)(self)
        return True

    # -- for itself -----------------------------------------------------------------------------------------------------

    def _finish_early(
        self, finish: Callable[[Any], Any], buffers: Sequence[Buffer]
    ) -> tuple[Any, BaseException | None]:
        """A kernel's arrays are to be back in place before the future is done, whether or not anybody asks it."""
        try:
            return finish(unpack(buffers)), None
        except Exception as error:
            return None, error

    def _invoke_callbacks(self) -> None:
        if not self._done_callbacks:
            return
        if self._connection is not None:
            self._connection.call_back(self._call_back)
        else:
            self._call_back()

    def _call_back(self) -> None:
        """Each callback once, however often and by how many threads this is called."""
        while self._done_callbacks:
            callback = self._done_callbacks.pop(0)
            try:
                callback(self)
            except Exception:
                _log.exception("exception calling callback for %r", self)

    def _cancellation(self) -> CallCancelled:
        if self._cancelled_as is None:
            self._cancelled_as = CallCancelled(f"{self.title} was cancelled", call_id=self.call_id)
        return self._cancelled_as

    def _parents(self) -> DaemonLost:
        return DaemonLost(
            f"{self.title} was made by process {self._pid}, and this is its child {os.getpid()}: "
            "a future belongs to the process that made the call; make the call again here",
            call_id=self.call_id,
        )


# -- the main thread ---------------------------------------------------------------------------------------------------

_main_thread = threading.main_thread().ident


def _after_fork() -> None:
    """In a child the thread that forked is the main one."""
    global _main_thread
    _main_thread = threading.get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
