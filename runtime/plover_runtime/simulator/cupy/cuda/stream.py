"""cupy.cuda.stream: streams and events of a device that does everything at once.

Guarantees: the current stream is kept by thread, as in CuPy, and events tell real times. Assumes nothing runs
asynchronously: work is finished when the call that starts it returns, so no missing synchronisation can show here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .. import _names
from .._core import not_simulated
from .runtime import CUDARuntimeError

_current = threading.local()


class Event:
    """A point in time."""

    __module__ = "cupy.cuda.stream"

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        if interprocess and not disable_timing:
            raise ValueError("Timing must be disabled for interprocess events")
        self._timed = not disable_timing
        self._time: float | None = None
        self.ptr = id(self)

    @property
    def done(self) -> bool:
        return True

    def record(self, stream: Any = None) -> None:
        self._time = time.perf_counter()

    def synchronize(self) -> None:
        pass


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds from one recorded event to another."""
    times = [event._time if event._timed else None for event in (start_event, end_event)]
    if times[0] is None or times[1] is None:
        raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle: invalid resource handle")
    return (times[1] - times[0]) * 1e3


class Stream:
    """A queue of work that is always empty."""

    __module__ = "cupy.cuda.stream"

    null: Stream
    ptds: Stream

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        if null and ptds:
            raise ValueError("null and ptds cannot be both True")
        self.is_non_blocking = non_blocking
        self.priority = priority or 0
        self.ptr = 0 if null else 2 if ptds else id(self)
        self._before: list[Stream] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Stream, ExternalStream)) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ptr} (device 0)>"

    def __enter__(self) -> Stream:
        self._before.append(get_current_stream())
        _current.stream = self
        return self

    def __exit__(self, *exc: object) -> None:
        _current.stream = self._before.pop()

    def use(self) -> Stream:
        _current.stream = self
        return self

    @property
    def done(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def add_callback(self, callback: Callable[[Stream, int, Any], object], arg: Any) -> None:
        callback(self, 0, arg)

    def launch_host_func(self, callback: Callable[[Any], object], arg: Any) -> None:
        callback(arg)

    def is_capturing(self) -> bool:
        return False

    def begin_capture(self, mode: Any = None) -> None:
        raise not_simulated("cupy.cuda.Stream.begin_capture")

    def end_capture(self) -> None:
        raise not_simulated("cupy.cuda.Stream.end_capture")


class ExternalStream(Stream):
    """Somebody else's stream, by its address; as empty as any."""

    __module__ = "cupy.cuda.stream"

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__()
        self.ptr = ptr


Stream.null = Stream(null=True)
Stream.ptds = Stream(ptds=True)


def get_current_stream(device_id: int = -1) -> Stream:
    return getattr(_current, "stream", Stream.null)


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.cuda.stream", name)
