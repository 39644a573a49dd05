"""A worker's log records and warnings, written into its third pipe for the caller. See docs/adr/0014.

Guarantees: what the user's code catches itself (`warnings.catch_warnings`, loggers that do not propagate) stays its own; a
record is written whole, from any thread. Logging never fails a call. Assumes: `begin` is called before each attempt.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import sys
import threading
import warnings
from types import FrameType
from typing import Any, TextIO

from plover.wire.records import LIMIT, Logged, Record, Warned, write

__all__ = ["Records"]

#: The caller's own filters decide what is seen; what is ignored here it could never see.
_FILTERS = [("always", None, Warning, None, 0)]
#: The same warning of the same place is sent so often in a call; a caller whose filters say "always" sees no more of it.
_REPEATS = 100
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Records:
    """The worker's end of the pipe.

    Args:
        fd: of the pipe; a child that the user's code starts does not get it.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._attempt = 0
        #: Something was written for the attempt at hand.
        self.used = False
        #: How often each warning was raised in this attempt.
        self._warned: collections.Counter[tuple[Any, ...]] = collections.Counter()
        self._lock = threading.Lock()
        self._handler = _Handler(self)
        os.register_at_fork(after_in_child=self._forget_lock)

    def begin(self, attempt: int, level: int) -> None:
        """An attempt begins whose caller wants log records of this level and above; nothing of an earlier one is left."""
        self._attempt = attempt
        self.used = False
        if logging.root.level != level:
            logging.root.setLevel(level)
        logging.root.handlers[:] = [self._handler]
        warnings.showwarning = self._show_warning
        self._warned.clear()
        # The daemon's own -W is not the call's.
        warnings.filters[:] = _FILTERS  # type: ignore[index]
        warnings._filters_mutated()  # type: ignore[attr-defined]

    def put(self, record: Record) -> None:
        """Write one record."""
        data = write(record, self._attempt)
        self.used = True
        with self._lock, contextlib.suppress(OSError):
            view = memoryview(data)
            while view:
                view = view[os.write(self.fd, view) :]

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None:
            file.write(warnings.formatwarning(message, category, filename, lineno, line))
            return
        text = _cut(str(message))
        key = text, category, filename, lineno
        self._warned[key] += 1
        if self._warned[key] <= _REPEATS:
            kind = category.__module__, category.__qualname__
            self.put(Warned(kind, text, filename, lineno, _module_of(filename, lineno)))

    def _forget_lock(self) -> None:
        self._lock = threading.Lock()


class _Handler(logging.Handler):
    """The root logger's."""

    def __init__(self, records: Records) -> None:
        super().__init__(logging.NOTSET)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._records.put(_as_data(record))
        except Exception:  # a message whose arguments do not fit it, as the standard library's handlers do
            self.handleError(record)


def _module_of(filename: str, lineno: int) -> str:
    """The module that a warning is of: that of the frame that it names, which is still running. "" if it names none."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_lineno == lineno and frame.f_code.co_filename == filename:
            return str(frame.f_globals.get("__name__", ""))
        frame = frame.f_back
    return ""


def _as_data(record: logging.LogRecord) -> Logged:
    exception = record.exc_text
    if exception is None and record.exc_info:
        exception = logging.Formatter().formatException(record.exc_info)
    return Logged(
        record.name,
        record.levelno,
        _cut(record.getMessage()),
        record.pathname,
        record.lineno,
        record.funcName or "",
        record.created,
        record.threadName or "",
        _cut(exception) if exception else None,
        _cut(record.stack_info) if record.stack_info else None,
        {name: value for name, value in vars(record).items() if name not in _USUAL and _is_plain(value)},
    )


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, bool | float)
        or (isinstance(value, int) and abs(value) < 1 << 63)
        or (isinstance(value, str) and len(value) <= LIMIT)
    )


def _cut(text: str) -> str:
    return text if len(text) <= LIMIT else text[:LIMIT] + f"… ({len(text)} characters)"
