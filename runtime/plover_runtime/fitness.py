"""Whether a worker's interpreter still does what Plover needs of it, after a call that may have taken it apart.

What a call may change is put back by `plover_runtime.tidy`. What it must not have touched is looked at here, and a worker
that has lost any of it is replaced: nobody knows what else holds on to what was there.

Guarantees: `damage` costs 2 to 3 µs where nothing is wrong, and never raises. Assumes: imported before any user code runs.
"""

from __future__ import annotations

import io
import linecache
import logging
import operator
import os
import pickle
import sys
import threading
import time
import types
import warnings
from typing import Any

import numpy as np

from plover import serialize
from plover.exceptions import pack_exception, unpack_exception

__all__ = ["damage", "test"]

#: What Plover's own code, and other people's, look up in them at each call.
_NEEDED: list[tuple[types.ModuleType, str]] = [
    (pickle, "dumps loads PickleBuffer"),
    (os, "environ open write dup2 fchdir getpid sched_yield"),
    (time, "monotonic monotonic_ns"),
    (io, "BytesIO TextIOWrapper"),
    (threading, "Lock Thread"),
    (warnings, "warn_explicit filters"),
    (logging, "root LogRecord"),
    (linecache, "cache getline"),
    (np, "ndarray frombuffer"),
]
_LOOKS = [(vars(module), operator.itemgetter(*names.split())) for module, names in _NEEDED]
_OWN = [look(namespace) for namespace, look in _LOOKS]
_FINDERS = tuple(sys.meta_path)


def damage() -> str | None:
    """What of it is gone or another's, in a few words; None if all is there."""
    try:
        if [look(namespace) for namespace, look in _LOOKS] == _OWN and len(sys.meta_path) >= len(_FINDERS):
            return None
    except Exception:  # gone, or cannot even be compared
        return _what()
    return _what()


def _what() -> str:
    for (module, names), (namespace, _), own in zip(_NEEDED, _LOOKS, _OWN, strict=True):
        for name, value in zip(names.split(), own, strict=True):
            if namespace.get(name) is not value:
                return f"it deleted or replaced {module.__name__}.{name}"
    return "it emptied sys.meta_path, so that nothing can be imported"


def test() -> str | None:
    """After a call that failed: whether values and exceptions can still be sent, for it may have failed because they cannot.

    Takes some 100 µs.
    """
    try:
        value: dict[str, Any] = {"numbers": np.arange(3), "text": ["x", 1.5, None]}
        again = serialize.unpack(serialize.pack(value))
        error = unpack_exception(pack_exception(ValueError("x")))
        if again["numbers"].tolist() == [0, 1, 2] and again["text"] == value["text"] and type(error) is ValueError:
            return None
    except Exception as failure:
        return f"since then sending a value fails with {type(failure).__name__}: {failure}"
    return "since then what is sent arrives changed"
