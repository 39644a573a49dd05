"""What a call may not leave behind in its worker's interpreter, and what it looks for in vain there.

Guarantees: built-in functions that a call replaced are the worker's own again before its outcome is made, so that neither
Plover's code nor another function meets them. Who asks for a terminal is told how to have one.

Assumes: imported before any user code runs.
"""

from __future__ import annotations

import builtins
import operator
import os
import sys
from typing import Any, NoReturn

from plover import context
from plover.errors import PloverError

__all__ = ["explain_terminal", "restore_builtins", "without_terminal"]

_NOW = vars(builtins)
_OWN = dict(_NOW)
#: Looking at all 157 takes 2.6 µs after each call, at these 0.4: what Plover's own code calls, and what is replaced most.
_WATCHED = """
    len isinstance issubclass type tuple list dict set frozenset bytes bytearray memoryview int float str bool object super
    map zip range enumerate sorted iter next min max sum any all getattr setattr hasattr vars id repr print open input
    __import__ BaseException Exception
"""
_look = operator.itemgetter(*_WATCHED.split())
_LOOKED = _look(_OWN)


def restore_builtins() -> None:
    """Put back what is not the worker's own. Nothing in here may call a built-in function."""
    try:
        if _look(_NOW) == _LOOKED:
            return
    except Exception:  # one was deleted, or the new one cannot be compared
        _NOW["Exception"] = _OWN["Exception"]
    for name, value in _OWN.items():
        if name not in _NOW or _NOW[name] is not value:
            _NOW[name] = value


# -- a terminal --------------------------------------------------------------------------------------------------------


def without_terminal() -> None:
    """From now on `breakpoint` says what to do instead, unless the environment names another debugger."""
    if not os.environ.get("PYTHONBREAKPOINT"):
        sys.breakpointhook = _no_breakpoint


def _no_breakpoint(*_: Any, **__: Any) -> NoReturn:
    raise PloverError(f"breakpoint() has no terminal here: {_advice()}")


def explain_terminal(error: BaseException) -> None:
    """A note for who asked for input: the end of it is all that comes."""
    if type(error).__name__ == "BdbQuit" or (type(error) is EOFError and str(error) == "EOF when reading a line"):
        error.add_note(f"There is no terminal to read from where a call runs: {_advice()}")


def _advice() -> str:
    try:
        name = context.current_call().name
    except RuntimeError:
        name = "function"
    return f"plover.debug({name}, …) runs the call in yours, where input() and debuggers work"
