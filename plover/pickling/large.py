"""Warns of a function that takes along much data: it belongs in the call's arguments.

Captured data is sent with the function, kept by the daemon and by every worker that knows the function, and compared at
each call; beyond the budget of `plover.pickling.captures` a change inside is not even noticed.

Guarantees: one warning for a function and an object, which names the object and its size. Never raises anything else,
unless warnings are errors.
"""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plover import serialize
from plover.pickling import advice, culprits

__all__ = ["LargeCapture", "warn"]

#: An object is named by something inside it if that is so much of it.
_MOST = 0.9

_OURS = str(Path(__file__).parents[1]) + os.sep  # plover/


class LargeCapture(UserWarning):
    """A function captures so much data that it should be an argument."""


#: function → ids of the objects that were warned of.
_told: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()


def warn(function: Any, size_bytes: int, reducers: Sequence[Callable[[Any], Any]]) -> None:
    """Warn of a packed function that is large.

    Args:
        function: what was packed.
        size_bytes: the size of its payload.
        reducers: that it was packed with.
    """
    path, culprit, size = _heaviest(function, size_bytes, reducers)
    try:
        told = _told.setdefault(getattr(function, "__func__", function), set())
    except TypeError:  # something that can be called, but not referred to weakly
        told = set()
    if id(culprit) in told:
        return
    if not path:
        what = f"{culprits.name_of(function)} captures {_mebibytes(size_bytes)} in all"
    else:
        kind = advice.type_name(type(culprit))
        what = f"{' → '.join([culprits.name_of(function), *path])} takes {_mebibytes(size)} ({kind}) along with the function"
    warnings.warn(
        f"{what}: pass it as an argument. What a function captures is kept by the daemon and by each worker, and a change "
        "inside an object of this size may not be noticed.",
        LargeCapture,
        stacklevel=_level_of_caller(),
    )
    told.add(id(culprit))


def _heaviest(function: Any, size_bytes: int, reducers: Sequence[Callable[[Any], Any]]) -> tuple[list[str], Any, int]:
    """The object that makes a function large, by its path; down to where the data is no more in one place."""
    path: list[str] = []
    found, size = function, size_bytes
    for _ in range(20):
        parts = ((_size(part, reducers), label, part) for label, part in culprits.children(found))
        heaviest = max(parts, key=lambda each: each[0], default=(0, "", None))
        if heaviest[0] < (_MOST * size if path else serialize.LARGE_CAPTURE_BYTES):
            break
        size, label, found = heaviest
        path += [label] if label else []
    return path, found, size


def _size(part: Any, reducers: Sequence[Callable[[Any], Any]]) -> int:
    try:
        buffers = serialize.Packer(reducers).pack(part)
    except Exception:  # by itself it cannot be pickled: a descriptor of a class …
        return 0
    return sum(buffer.nbytes if isinstance(buffer, memoryview) else len(buffer) for buffer in buffers)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _level_of_caller() -> int:
    """How many frames up the first is that is not Plover's, as `warnings.warn` counts in its caller."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    return level
