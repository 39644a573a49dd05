"""One attempt, from its message to its outcome: arguments → user code → device → result.

Guarantees: whatever the user's code does short of ending the process becomes an outcome; the device is synchronized before
a call counts as done; nothing of the call is kept afterwards but the live function.

Assumes: it runs on the main thread, and `Interrupted` may be raised anywhere while the status page shows the attempt.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Literal

import plover
from plover import context, serialize
from plover.errors import (
    BACK_IN_PIECES,
    DeviceError,
    DeviceOutOfMemory,
    PayloadTooLarge,
    PloverError,
    beyond_limit,
)
from plover.exceptions import pack_exception
from plover.segments import Out
from plover.wire import codec
from plover.wire import messages as m
from plover.wire.page import StatusPage
from plover_runtime import tidy
from plover_runtime.admission import admit_run
from plover_runtime.device import Device
from plover_runtime.functions import Functions, LiveFunction
from plover_runtime.modules import Modules
from plover_runtime.segments import WorkerSegments

_OURS = (str(Path(__file__).parent) + os.sep, str(Path(plover.__file__).parent) + os.sep)


class Interrupted(BaseException):
    """The daemon wants the running attempt to stop; raised by the worker's signal handler in the user's code."""


class PayloadAbsent(Exception):
    """The attempt's function is not live here and its payload did not come along."""


def is_ours(filename: str) -> bool:
    """Whether a frame's file is Plover's own."""
    return filename.startswith(_OURS)


class Invoker:
    """Runs attempts on one device.

    Args:
        device: the open device.
        page: the worker's status page.
        payload_limit_bytes: how large a result may be.
        modules: what the worker has of the author's own.
        segments: where large arguments and results lie.
    """

    def __init__(
        self,
        device: Device,
        page: StatusPage,
        payload_limit_bytes: int,
        modules: Modules,
        segments: WorkerSegments,
    ) -> None:
        self._device = device
        self._page = page
        self._limit = payload_limit_bytes
        self._modules = modules
        self._segments = segments
        self._functions = Functions()
        self._pid = os.getpid()
        #: Why this worker's device is of no more use; set once, by a sticky error.
        self.unwell: str | None = None
        #: What a call did that makes another worker necessary; set once, when it was found.
        self.harm: str | None = None

    def run(self, incoming: codec.Incoming[m.Run]) -> tuple[m.Finished, codec.Body]:
        """Run one attempt.

        Raises:
            PayloadAbsent, BundlesAbsent: the attempt must be sent again, with what is missing.
            Unfit: another worker must run it.
        """
        run = incoming.message
        body = codec.Body()
        refusal = admit_run(self._modules, incoming)
        function = self._functions.find(run.function)
        if function is None and run.payload is None:
            raise PayloadAbsent
        times = [0.0, 0.0, 0.0]
        status: Literal["succeeded", "failed", "interrupted"] = "interrupted"
        packed: list[serialize.Buffer] = []
        arguments = self._segments.take(incoming)  # before the attempt begins: no interrupt loses a segment
        try:
            if not self._page.is_cancelled(run.call, run.attempt):
                times[0] = self._page.begin(run.call, run.attempt)
                status, packed = self._attempt(incoming, arguments, function, times, refusal)
            self._page.end()
        except Interrupted:
            self._page.end()
            self._restore()  # it may have struck in the middle of that
            status, packed = "interrupted", []
        finally:
            context.set_current(None)
        ended = times[2] or time.monotonic()  # of what did not come so far, all that it did was loading, or running
        loaded = times[1] or ended
        timings = m.Timings(times[0] or ended, loaded, ended, function is not None, self._device.simulated)
        pieces = self._segments.place(packed, run.shares)
        del packed
        arguments.clear()
        self._segments.settle()
        return m.Finished(run.call, run.attempt, status, timings, body.pack(pieces)), body

    def _attempt(
        self,
        incoming: codec.Incoming[m.Run],
        arguments: list[serialize.Buffer],
        function: LiveFunction | None,
        times: list[float],
        refusal: Exception | None,
    ) -> tuple[Literal["succeeded", "failed"], list[serialize.Buffer]]:
        run = incoming.message
        try:
            if refusal is not None:
                raise refusal
            if function is None:
                assert run.payload is not None
                function = self._functions.load(run.function, incoming.take(run.payload), run.name)
            with function.classes.entered():
                args, kwargs = serialize.unpack(arguments)
            arguments.clear()
            out = kwargs.get("out")
            if type(out) is Out:
                out = kwargs["out"] = out.array
            else:
                out = None
            context.set_current(
                context.CurrentCall(
                    run.call_id,
                    run.attempt,
                    run.name,
                    ", ".join(self._device.names),
                    self._device.simulated,
                    function.cache,
                )
            )
            times[1] = time.monotonic()
            try:
                value = function.target(*args, **kwargs)
            finally:
                self._restore()
                self._leave_if_forked()
            if out is not None:
                value = (value, out)
            del args, kwargs, out
            self._device.synchronize()
            times[2] = time.monotonic()
            return "succeeded", self._pack(value, function, run)
        except Interrupted:
            raise
        except BaseException as error:  # SystemExit, KeyboardInterrupt, CancelledError and the user's own, too
            self._restore()  # what loading replaced
            return "failed", self._fail_somehow(error, function, run)

    def _restore(self) -> None:
        harm = tidy.restore()
        if harm is not None:
            self.harm = harm

    def _leave_if_forked(self) -> None:
        """A child that the user's code forked, and that came back out of it, must not go on as a second worker."""
        if os.getpid() != self._pid:
            if sys.exception() is None:
                os._exit(0)
            traceback.print_exc()
            os._exit(1)

    def _pack(self, value: Any, function: LiveFunction, run: m.Run) -> list[serialize.Buffer]:
        with function.classes.entered():
            packed = serialize.pack_result(run.name, value, (self._device.reduce, function.classes.reduce))
        size = sum(buffer.nbytes if isinstance(buffer, memoryview) else len(buffer) for buffer in packed)
        if size > self._limit:
            raise PayloadTooLarge(
                beyond_limit(
                    f"the result of {run.name} ({run.call_id})", size, "payload_bytes", self._limit, BACK_IN_PIECES
                ),
                size_bytes=size,
                limit_bytes=self._limit,
            )
        return packed

    def _fail_somehow(self, error: BaseException, function: LiveFunction | None, run: m.Run) -> list[serialize.Buffer]:
        try:
            return self._fail(error, function, run)
        except Interrupted:
            raise
        except BaseException as failure:  # a class that raises whatever is asked of it
            told = PloverError(
                f"{run.name} ({run.call_id}) raised {type(error).__name__}, which could not be sent: looking at it raised "
                f"{type(failure).__name__}. Give its class attributes and a __reduce__ that work"
            )
            return pack_exception(told)

    def _fail(self, error: BaseException, function: LiveFunction | None, run: m.Run) -> list[serialize.Buffer]:
        """The exception as buffers, after a look at what it says about the device."""
        tidy.explain_terminal(error)
        told = self._about_device(error, run)
        classes = function.classes if function is not None else serialize.ClassNamespace()
        with classes.entered():
            packed = pack_exception(told, (self._device.reduce, classes.reduce), is_ours, self._limit)
        # The traceback holds the frames, and these the arrays: without this, the memory stays taken.
        traceback.clear_frames(error.__traceback__)
        if isinstance(told, DeviceOutOfMemory):
            error.__traceback__ = None
            del error
            self._device.release_memory()
        return packed

    def _about_device(self, error: BaseException, run: m.Run) -> BaseException:
        diagnosis = self._device.diagnose(error)
        if diagnosis == "none":
            try:
                self._device.synchronize()  # an asynchronous fault may lie behind what the user's code noticed
            except Exception as later:
                diagnosis, error = self._device.diagnose(later), later
        if diagnosis == "memory":
            free, total = self._device.memory()
            return _instead(
                error,
                DeviceOutOfMemory(
                    f"{run.name} ({run.call_id}) asked for more memory than the device has: {error}; "
                    f"{free} of {total} bytes are free. Use smaller arrays, or work in parts",
                    free_bytes=free,
                    total_bytes=total,
                ),
            )
        if diagnosis == "sticky":
            self.unwell = f"{type(error).__name__}: {error}"
            return _instead(
                error,
                DeviceError(
                    f"{run.name} ({run.call_id}) broke the context of device {', '.join(self._device.names)}: {error}. "
                    "The worker is being replaced; look for out-of-bounds accesses in the kernel",
                    call_id=run.call_id,
                    device=", ".join(self._device.names),
                ),
            )
        return error


def _instead(error: BaseException, told: BaseException) -> BaseException:
    told.__cause__ = error
    return told.with_traceback(error.__traceback__)
