"""What stands under an object's own name: how pickle sends functions and classes, for objects that are neither.

Guarantees: nothing is imported. Assumes: CPython's frames, and that a pickler of cloudpickle's, of whoever's copy of it, is
run by a `dump` in a module of that name.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from cloudpickle import cloudpickle as _internals

__all__ = ["SCRIPT", "found"]

#: The script's own module, and what a child of multiprocessing calls it: no other process need have it.
SCRIPT = ("__main__", "__mp_main__")


def found(obj: Any) -> Any:
    """What is found by an object's ``__module__`` and ``__qualname__``; None if nothing is, or if it is to go by value.

    For an object's `__reduce__`, which is to call this itself: cloudpickle sends by value what the script defines, and
    pickle by name, but neither tells an object who asks. So the frame is looked at that asks.
    """
    module = sys.modules.get(obj.__module__ or "")
    name = getattr(obj, "__qualname__", None)
    if module is None or name is None:
        return None
    by_value = obj.__module__ in SCRIPT or _internals._is_registered_pickle_by_value(module)
    if by_value and _is_cloudpickle(sys._getframe(2).f_globals):
        return None
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        return None


def _is_cloudpickle(names: dict[str, Any]) -> bool:
    """Whether a frame is of cloudpickle, or of the copy that joblib or Ray brings."""
    return str(names.get("__name__")).rpartition(".")[2] == "cloudpickle"
