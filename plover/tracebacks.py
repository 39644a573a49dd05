"""What a traceback shows of Plover itself: nothing, where an error is the caller's to look at.

A public method that lets an error out calls `leave_out_ours` in an ``except`` and then raises it again with a bare
``raise``, which, unlike ``raise error``, adds no entry for the frame that it stands in. So the caller's own line is followed
by the remote frames at once, however often the same exception is raised. Nothing of this runs where a call succeeds.

Guarantees: only the traceback's first entries go, and only of errors that were delivered or are meant for people; a fault of
Plover's own keeps all of them. Causes and contexts stay. Assumes: CPython, for what a bare ``raise`` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from plover.errors import PloverError

__all__ = ["leave_out_ours"]

_OURS = str(Path(__file__).parent) + os.sep
#: What is raised on purpose, or by the caller's own Ctrl-C or `timeout`.
_MEANT = (PloverError, KeyboardInterrupt, TimeoutError)


def leave_out_ours(error: BaseException, futures: Iterable[Any] = ()) -> None:
    """Take Plover's frames off an error that is about to be raised again.

    Args:
        error: what was caught.
        futures: those that it may have come from; then the frames of where it was raised are all that stays.
    """
    for future in futures:
        if future._exception is error:
            BaseException.with_traceback(
                error, future._remote_traceback
            )  # a frozen dataclass refuses to be assigned to
            return
    if isinstance(error, _MEANT):
        BaseException.with_traceback(error, _behind_ours(error.__traceback__))


def _behind_ours(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OURS):
        tb = tb.tb_next
    return tb
