"""The debugger and the standard input of a foreground worker.

Guarantees: of Plover, nothing stands in the debugger's stack, and it never stops there; what is typed for a later call, or
for the script itself, is not read here. Assumes: Linux; `get_stack` of `pdb` (Python 3.11 to 3.13) gives what ``w`` shows.
"""

from __future__ import annotations

import io
import os
import pdb
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["install"]

#: Where the debugger never stops.
_SKIPPED = ["plover", "plover.*", "plover_runtime", "plover_runtime.*"]


def install(is_ours: Callable[[str], bool]) -> None:
    """From now on `pdb`, and `breakpoint` with it, is the user's own.

    Args:
        is_ours: whether a file is Plover's own.
    """

    class Debugger(pdb.Pdb):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"skip": _SKIPPED, **kwargs})

        def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[tuple[FrameType, int]], int]:
            stack, index = super().get_stack(f, t)
            return _users_own(stack, index, is_ours)

    pdb.Pdb = Debugger  # type: ignore[misc]
    if not sys.stdin.isatty():
        sys.stdin = sys.__stdin__ = _line_by_line(sys.stdin)  # type: ignore[misc]


def _users_own(
    stack: list[tuple[FrameType, int]], index: int, is_ours: Callable[[str], bool]
) -> tuple[list[tuple[FrameType, int]], int]:
    """A stack without what led to the user's function, and without what Plover did between its functions and kernels."""
    ours = [is_ours(frame.f_code.co_filename) for frame, _ in stack]
    first = ours.index(True) if True in ours else -1
    kept = [number for number in range(len(stack)) if number == index or (number > first and not ours[number])]
    return [stack[number] for number in kept], kept.index(index)


class _ByteByByte(io.RawIOBase):
    """A descriptor of which no more is read than is asked for: a line ends where it ends, and others read on there."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.read(self._fd, min(1, len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def _line_by_line(stdin: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(_ByteByByte(0), 1), encoding=stdin.encoding, errors=stdin.errors)
