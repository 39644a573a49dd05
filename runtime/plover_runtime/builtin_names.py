"""The built-in names, as they were when the worker began.

A function that replaces ``len`` breaks whatever runs in the process after it, the worker's own loop first, which would then
hang instead of saying anything. Guarantees: after `put_builtins_back` every function and type means what it meant, but for
those that are replaced in good faith and that nothing of Plover's calls (`print`, `open` …), and names that are new.
"""

from __future__ import annotations

import builtins
import operator

__all__ = ["put_builtins_back"]

_FREE = frozenset({"_", "__build_class__", "__import__", "breakpoint", "display", "help", "input", "open", "print"})
_NOW = vars(builtins)
_KEPT = {name: value for name, value in _NOW.items() if name.islower() and name not in _FREE}
_all_of = operator.itemgetter(*_KEPT)
_VALUES = _all_of(_NOW)


def put_builtins_back() -> None:
    """Undo what user code did to them; 2 µs where it did nothing."""
    try:
        if _all_of(_NOW) == _VALUES:
            return
    except BaseException:  # noqa: S110  (a name was deleted, or what was put there cannot be compared)
        pass
    _NOW.update(_KEPT)
