"""Futures: a real `concurrent.futures.Future` that can be awaited, cancelled while it runs, and asked for its receipt.

Guarantees: a result is unpickled once, by the thread that first asks for it, never while the connection's work is done.
`wait`, `as_completed` and callbacks of `concurrent.futures` see it as any other future. Assumes: as `ending`, which is the
connection's side of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from plover.client.ending import Ending
from plover.client.unbreakable import Event
from plover.exceptions import unpack_exception
from plover.serialize import unpack
from plover.tracebacks import leave_out_ours

__all__ = ["Future"]

R = TypeVar("R")


class Future(Ending[R]):
    """A call's future result.

    Args:
        call_id: None for what the connection calls the submission.
        connection: None for a call that needs none.
        submission: the call's number there.
    """

    def __repr__(self) -> str:
        from plover.looks import future_text

        return future_text(self)

    def _repr_html_(self) -> str:
        from plover.looks import future_html

        return future_html(self)

    def done(self) -> bool:
        """Whether it has ended, cancelled or not. Who asks this does not wait, so others do the work from now on."""
        if self._connection is not None and not self.has_ended():
            self._connection.attend()
        return self.has_ended()

    def running(self) -> bool:
        """Whether the call is known to run: it has written something (output, a log record, a warning), and is not done.

        The daemon does not tell when a run begins, since a message for that would cost every call. So False says nothing of
        a call that writes nothing: ask `done()` whether it has ended, and `plover status` what each worker runs. One whose
        worker was lost, and which is tried again, counts as running still. A running call can be cancelled, other than one
        of a thread pool.
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

    # -- for itself -----------------------------------------------------------------------------------------------------

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
