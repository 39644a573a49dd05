"""Signals at every point where Python handles them, one point after another: no luck, no timing.

CPython notices a signal at calls, at the beginnings of functions and at backward jumps, and nowhere else. A trace function
counts these points in the code under test. At the chosen one it ends the tracing and leaves a signal behind, which the
interpreter comes to when the code goes on: inside a C function that looks for signals itself, behind it, or at a function's
beginning, exactly as with a signal from outside. A destructor that the garbage collector runs is struck in directly.

Assumes: CPython 3.11 or newer; signals are for the main thread.
"""

from __future__ import annotations

import _thread
import contextlib
import dis
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

__all__ = ["Points", "interrupted", "traced"]

#: At these the interpreter looks for signals (before Python 3.12 a call is two instructions, and this is the first).
_CALLS = ("PRECALL", "CALL_FUNCTION_EX") if "PRECALL" in dis.opmap else ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
_SECOND_HALF = dis.opmap["CALL"] if "PRECALL" in dis.opmap else -1
_LOOKS = {dis.opmap[name] for name in (*_CALLS, "RESUME", "JUMP_BACKWARD") if name in dis.opmap}


class Points:
    """The points of what is traced, and the one to strike at.

    Args:
        at: which; counted from 0.
        within: parts of file names; only code in these files has points.
        strike: called at the point; None for a SIGINT.
        thread: the name of the thread to strike on; None for any that is traced.
        again: for another SIGINT, so many points after the first one was handled (see `go_on`).

    Attributes:
        count: how many points there have been.
        struck: where it struck, each time.
        is_due: the last of them is not over: its call lasts.
    """

    def __init__(
        self,
        at: int,
        within: tuple[str, ...],
        strike: Callable[[], None] | None = None,
        again: int | None = None,
        thread: str | None = None,
    ) -> None:
        self.count = 0
        self.struck: list[str] = []
        self.is_due = False
        self._at = at
        self._again = again
        self._within = within
        self._strike = strike
        self._thread = thread
        self._codes: dict[CodeType, bytes | None] = {}

    def arm(self, at: int) -> None:
        """Count anew from here, and strike there; -1 for nowhere."""
        self.count, self._at, self.is_due = 0, at, False

    def go_on(self) -> None:
        """Called by the signal's handler: count again from here, if there is to be another strike."""
        if self._again is not None:
            self.count, self._at, self._again = 0, self._again, None
            sys.settrace(self.enter)

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        """The trace function."""
        code = frame.f_code
        if code not in self._codes:
            inside = any(part in code.co_filename for part in self._within)
            self._codes[code] = code.co_code if inside else None
        if self._codes[code] is None or (self._thread and self._thread != threading.current_thread().name):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._local

    def _local(self, frame: FrameType, event: str, argument: Any) -> Any:
        content = self._codes[frame.f_code]
        if event != "opcode" or content is None:
            return self._local
        opcode = content[frame.f_lasti]
        if (
            self.is_due and self._strike is not None and opcode != _SECOND_HALF
        ):  # the call has been made, or its function has begun
            self.is_due = False
            sys.settrace(None)
            self._strike()
        elif opcode in _LOOKS:
            number, self.count = self.count, self.count + 1
            if number == self._at:
                self.struck.append(f"{frame.f_code.co_qualname}, line {frame.f_lineno}")
                self.is_due = True
                if self._strike is None:
                    sys.settrace(None)
                    (_,) = map(_thread.interrupt_main, (signal.SIGINT,))  # no call: it is noticed in what is traced
        return self._local


@contextlib.contextmanager
def interrupted(points: Points, handler: Callable[[], None] | None = None) -> Iterator[None]:
    """Strike in the block, on this thread; its KeyboardInterrupt ends with the block.

    Args:
        points: where.
        handler: what the signal's handler does; None to raise KeyboardInterrupt, as Python's own.
    """

    def handle(*_: Any) -> None:
        points.go_on()
        if handler is None:
            raise KeyboardInterrupt
        handler()

    before = signal.signal(signal.SIGINT, handle)
    outer = sys.gettrace()  # that of who measures coverage
    try:
        sys.settrace(points.enter)
        yield
        for _ in range(3):  # a signal that was left behind at the very end is noticed here
            pass
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(outer)
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def traced(points: Points) -> Iterator[None]:
    """Strike on any thread that is started in the block."""
    outer = threading.gettrace()
    threading.settrace(points.enter)
    try:
        yield
    finally:
        threading.settrace(outer)  # type: ignore[arg-type]
