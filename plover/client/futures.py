"""Futures: a real `concurrent.futures.Future` that can be awaited, cancelled while it runs, and asked for its receipt.

Guarantees: a result is unpickled once, by the thread that first asks for it, never while the connection's work is done.
`wait`, `as_completed` and callbacks of `concurrent.futures` see it as any other future. Callbacks that the connection's work
would run are run on a thread of their own, so that they may make calls. `deliver` and `fail` may be interrupted anywhere and
done again; they end a future that others are entered at (`wait`, callbacks) only on the connection's own thread, which is
never interrupted, so that each is told exactly once.

Assumes: the attributes that all futures of the standard library have since Python 3.2. A signal handler that makes calls does
not interrupt its own thread in the middle of `wait` or `as_completed`: those hold locks that end a future, whosever it is.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from plover.client.unbreakable import Condition, Event
from plover.client.waiters import Waiters
from plover.errors import CallCancelled, DaemonLost
from plover.exceptions import unpack_exception
from plover.serialize import Buffer, unpack
from plover.tracebacks import leave_out_ours
from plover.wire.messages import Receipt
from plover.wire.messages import call_id as name_of_call

if TYPE_CHECKING:
    from plover.client.connection import Connection

__all__ = ["Future"]

R = TypeVar("R")

#: Who ends a future waits so long for somebody who is just looking at it, and leaves it to another thread then.
_PATIENCE_S = 0.005
#: Nobody looks at one for so long: an interrupt in the middle of `concurrent.futures.wait` left its lock behind.
_LEFT_BEHIND_S = 10.0

_log = logging.getLogger("concurrent.futures")


class _SealedError(Exception):
    """Stands for a user's exception until somebody asks for it."""


class Future(concurrent.futures.Future[R]):
    """A call's future result.

    Args:
        call_id: None for what the connection calls the submission.
        connection: None for a call that needs none.
        submission: the call's number there.
    """

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

    def __repr__(self) -> str:
        from plover.looks import future_text

        return future_text(self)

    def _repr_html_(self) -> str:
        from plover.looks import future_html

        return future_html(self)

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

    def done(self) -> bool:
        """Whether it has ended, cancelled or not. Who asks this does not wait, so others do the work from now on."""
        if self._connection is not None and not self.has_ended():
            self._connection.attend()
        return self.has_ended()

    def has_ended(self) -> bool:
        """`done()` for the connection's own work."""
        return self._state not in ("PENDING", "RUNNING")  # without the lock: one attribute, written whole

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED")

    def running(self) -> bool:
        """Whether the call is known to run: it has written something (output, a log record, a warning), and is not done.

        The daemon does not tell when a run begins, since a message for that would cost every call. So False says nothing of
        a call that writes nothing: ask `done()` whether it has ended, and `plover status` what each worker runs. Other than
        one of a thread pool, a running call can be cancelled.
        """
        return self._connection is not None and not self.done() and self._connection.stage(self._submission) == "begun"

    # -- for whoever waits ----------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> R:
        """The call's value, or its exception raised.

        A wait that is interrupted (Ctrl-C, a notebook's stop button) cancels the call, as it does where the function itself
        is called: who stops waiting for one call does not want it any more. `concurrent.futures.wait` and `as_completed`,
        which wait for many, leave calls alone.

        Args:
            timeout: seconds to wait; then the built-in `TimeoutError` is raised and the call goes on.

        Raises:
            CallCancelled: it was cancelled.
            PloverError: it could not be run; see the subclass.
            BaseException: whatever the function raised.
        """
        context = None
        try:
            error = self.exception(timeout)
            if error is None:
                return self._result  # type: ignore[return-value]
            context = error.__context__
            raise error
        except BaseException as raised:
            leave_out_ours(raised, (self,))
            if context is not None:
                BaseException.__setattr__(
                    raised, "__context__", context
                )  # the user's own, and not what is being handled where it is raised again
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The call's exception, or None if it has a value; arguments as for `result`."""
        if self._state != "FINISHED":
            try:
                self._wait(timeout)
            except KeyboardInterrupt:
                self.cancel()
                raise
            if self.cancelled():
                raise self._cancellation().with_traceback(None)
        if self._sealed is not None:
            self._unseal()
        return self._exception

    def _wait(self, timeout: float | None) -> None:
        """Do the connection's work meanwhile, where it is this thread's turn, or wait until others have done it."""
        if self._connection is None:
            self._sleep(timeout)
        elif not self.has_ended():
            self._check_process()
            until = None if timeout is None else time.monotonic() + timeout
            self._connection.work_for(self, timeout)
            if not self.has_ended():
                left = None if until is None else until - time.monotonic()
                self._connection.wait_for(functools.partial(self._sleep, left))
        if not self.has_ended():
            raise TimeoutError

    def _sleep(self, timeout: float | None) -> None:
        event: Event = vars(self).setdefault("_ended", Event())
        if not self.has_ended():
            event.wait(timeout)

    def cancel(self) -> bool:
        """Cancel the call, queued or running; False only if it is done.

        The future is cancelled at once. `CallCancelled.tier` is known when the call has really ended.
        """
        with self._condition:
            if self._state == "FINISHED":
                return False
            if self.cancelled():
                return True
        if not super().cancel():
            return False
        self.announce()
        with self._condition:
            if self._state == "CANCELLED":  # two threads may come here at once
                self.set_running_or_notify_cancel()
        if self._connection is not None:
            self._connection.cancel(self._submission)
        return True

    def __await__(self) -> Generator[Any, None, R]:
        return self._in_event_loop().__await__()

    async def _in_event_loop(self) -> R:
        """Not `asyncio.wrap_future`: a future of asyncio's cannot hold a StopIteration, and would never end."""
        import asyncio  # takes 50 ms, and most scripts never need it

        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        def wake(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish)

        self.add_done_callback(wake)
        try:
            await done
        except asyncio.CancelledError:
            self.cancel()
            raise
        try:
            return self.result()
        except BaseException as error:
            leave_out_ours(error, (self,))
            raise

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """As the standard library's; called when the call has ended, whether or not anybody waits for it."""
        super().add_done_callback(fn)
        if self._connection is not None and not self.has_ended():
            self._connection.attend()

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

    _remote_traceback: Any = None
    #: What threads wait for; made by the first of them.
    _ended: Event | None = None

    def _cancellation(self) -> CallCancelled:
        if self._cancelled_as is None:
            self._cancelled_as = CallCancelled(f"{self.title} was cancelled", call_id=self.call_id)
        return self._cancelled_as

    def _finish_early(
        self, finish: Callable[[Any], Any], buffers: Sequence[Buffer]
    ) -> tuple[Any, BaseException | None]:
        """A kernel's arrays are to be back in place before the future is done, whether or not anybody asks it."""
        try:
            return finish(unpack(buffers)), None
        except Exception as error:
            return None, error

    def _unseal(self) -> None:
        """An interrupt leaves it sealed."""
        with self._unseal_lock:
            sealed = self._sealed
            if sealed is None:
                return
            result, error = None, self._exception
            try:
                if error is None:
                    result = unpack(sealed)
                else:
                    error = unpack_exception(sealed)
            except Exception as raised:
                raised.add_note(f"The result of {self.title} arrived, but could not be made here.")
                error = raised
            if self._sealed is sealed:  # and no signal handler was faster
                self._result, self._exception = result, error
                self._remote_traceback = error.__traceback__ if error is not None else None
                self._sealed = self._keep = self._finish = None

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise self._parents()

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
