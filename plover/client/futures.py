"""Futures: a real `concurrent.futures.Future` that can be awaited, cancelled while it runs, and asked for its receipt.

Guarantees: a result is unpickled once, by the thread that first asks for it, never while the connection's work is done.
`wait`, `as_completed` and callbacks of `concurrent.futures` see it as any other future. Callbacks that the connection's work
would run are run on a thread of their own, so that they may make calls. `deliver` and `fail` may be interrupted anywhere and
done again. Assumes: the attributes that all futures of the standard library have since Python 3.2.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from plover.errors import CallCancelled, DaemonLost
from plover.exceptions import unpack_exception
from plover.serialize import Buffer, unpack
from plover.wire.messages import Receipt
from plover.wire.messages import call_id as name_of_call

if TYPE_CHECKING:
    from plover.client.connection import Connection

__all__ = ["Future"]

R = TypeVar("R")


class _SealedError(Exception):
    """Stands for a user's exception until somebody asks for it."""


class _Waiters(list[Any]):
    """Where `concurrent.futures.wait` and `as_completed` enter themselves: they never ask the future, so others must work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self._connection.attend()


class Future(concurrent.futures.Future[R]):
    """A call's future result.

    Args:
        call_id: None for what the connection calls the submission.
        connection: None for a call that needs none.
        submission: the call's number there.
    """

    def __init__(self, call_id: str | None, connection: Connection | None = None, submission: int = 0) -> None:
        super().__init__()
        self._call_id = call_id
        self._connection = connection
        if connection is not None:
            self._waiters: list[Any] = _Waiters(connection)
        self._submission = submission
        self._pid = os.getpid()
        self._sealed: Sequence[Buffer] | None = None
        self._receipt: Receipt | None = None
        #: What is raised where the call was cancelled; its tier is known when the call has really ended.
        self._cancelled_as: CallCancelled | None = None
        #: Everybody who waits was told.
        self._announced = False
        #: Holds what a result may refer to (classes of the arguments); dropped once it is unpickled.
        self._keep: Any = None
        #: Applied to the value before anybody sees it (a kernel's arrays go back in place there).
        self._finish: Callable[[Any], Any] | None = None
        self._unseal_lock = threading.Lock()

    @property
    def call_id(self) -> str:
        """The call's name, for logs and for the operator."""
        if self._call_id is None:
            assert self._connection is not None
            self._call_id = name_of_call(self._connection.client, self._submission)
        return self._call_id

    @property
    def receipt(self) -> Receipt | None:
        """What the call cost; None while it is not done."""
        return self._receipt

    def has_ended(self) -> bool:
        """`done()` without its lock, for the connection's work: the state is one attribute, written whole."""
        return self._state not in ("PENDING", "RUNNING")

    def result(self, timeout: float | None = None) -> R:
        """The call's value, or its exception raised.

        Args:
            timeout: seconds to wait; then the built-in `TimeoutError` is raised and the call goes on.

        Raises:
            CallCancelled: it was cancelled.
            PloverError: it could not be run; see the subclass.
            BaseException: whatever the function raised.
        """
        error = self.exception(timeout)
        if error is None:
            return self._result  # type: ignore[return-value]
        try:
            raise error.with_traceback(self._remote_traceback)
        finally:
            del self, error  # no cycle through the traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The call's exception, or None if it has a value; arguments as for `result`."""
        self._check_process()
        if self._connection is not None and not self.has_ended():
            timeout = self._work(self._connection, timeout)
        try:
            if self._connection is None or self.has_ended():
                super().exception(timeout)
            else:
                self._connection.wait_for(functools.partial(super().exception, timeout))
        except concurrent.futures.CancelledError:
            raise self._cancellation().with_traceback(None) from None
        self._unseal()
        return self._exception

    def _work(self, connection: Connection, timeout: float | None) -> float | None:
        """Do the connection's work meanwhile, where it is this thread's turn; returns what is left of the timeout."""
        if timeout is None:
            connection.work_for(self, None)
            return None
        until = time.monotonic() + timeout
        connection.work_for(self, timeout)
        return max(0.0, until - time.monotonic())

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
        return self.result()

    # -- for the connection ---------------------------------------------------------------------------------------------

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """As the standard library's; called when the call has ended, whether or not anybody waits for it."""
        super().add_done_callback(fn)
        if self._connection is not None and not self.done():
            self._connection.attend()

    def deliver(self, failed: bool, buffers: Sequence[Buffer], receipt: Receipt) -> None:
        """The call ended with a value or with the user's exception, still packed."""
        self._receipt = receipt
        if self.has_ended():
            self._announce()
            return
        self._sealed = buffers
        if failed:
            self._end(_SealedError(), None)
        elif self._finish is None:
            self._end(None, None)
        else:
            self._end(*self._finish_early(self._finish, buffers))

    def fail(self, error: BaseException, receipt: Receipt | None = None) -> None:
        """The call ended by a decision of the daemon's or of the connection's."""
        self._receipt = receipt
        if isinstance(error, CallCancelled):
            self._cancellation().tier = error.tier
        if self.done():
            self._announce()
            return
        self._end(error, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """The call ended with an exception, whose traceback stays as it is now however often it is raised."""
        self._remote_traceback = exception.__traceback__ if exception is not None else None
        super().set_exception(exception)

    def _cancellation(self) -> CallCancelled:
        if self._cancelled_as is None:
            self._cancelled_as = CallCancelled(f"call {self.call_id} was cancelled", call_id=self.call_id)
        return self._cancelled_as

    def _end(self, error: BaseException | None, value: Any) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled in between
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(value)
        self._announced = True

    def _announce(self) -> None:
        """An end that was interrupted is told again, to those who were not told."""
        if self._announced or self.cancelled():
            return
        with self._condition:
            for waiter in self._waiters:
                if self not in waiter.finished_futures:
                    waiter.add_result(self)
                waiter.event.set()
            self._condition.notify_all()
        self._invoke_callbacks()
        self._announced = True

    def _invoke_callbacks(self) -> None:
        if not self._done_callbacks:  # type: ignore[attr-defined]
            return
        if self._connection is not None:
            self._connection.call_back(super()._invoke_callbacks)  # type: ignore[misc]
        else:
            super()._invoke_callbacks()  # type: ignore[misc]

    # -- for itself -----------------------------------------------------------------------------------------------------

    _remote_traceback: Any = None

    def _finish_early(
        self, finish: Callable[[Any], Any], buffers: Sequence[Buffer]
    ) -> tuple[BaseException | None, Any]:
        """A kernel's arrays are to be back in place before the future is done, whether or not anybody asks it."""
        error, value = None, None
        try:
            value = finish(unpack(buffers))
        except Exception as raised:
            error = raised
        self._sealed = self._keep = self._finish = None
        return error, value

    def _unseal(self) -> None:
        with self._unseal_lock:
            if self._sealed is None:
                return
            buffers, self._sealed = self._sealed, None
            try:
                if self._exception is None:
                    self._result = unpack(buffers)
                else:
                    self._exception = unpack_exception(buffers)
                    self._remote_traceback = self._exception.__traceback__
            except Exception as error:
                error.add_note(f"The result of call {self.call_id} arrived, but could not be made here.")
                self._exception = error
            self._keep = self._finish = None

    def _check_process(self) -> None:
        if os.getpid() != self._pid and not self.has_ended():
            raise DaemonLost(
                f"call {self.call_id} was made by process {self._pid}, and this is its child {os.getpid()}: "
                "a future belongs to the process that made the call; make the call again here",
                call_id=self.call_id,
            )
