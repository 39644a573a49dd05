"""What a call may not leave behind in its worker's interpreter, and what it looks for in vain there.

Guarantees: built-in functions that a call replaced, modules that it took out of `sys.modules`, and a recursion limit that it
lowered are the worker's own again before its outcome is made, so that neither Plover's code nor another function meets them;
settings of the process before the next call begins. Who asks for a terminal is told how to have one. What cannot be put back
is `plover_runtime.fitness`'s to notice.

Assumes: imported before any user code runs; `remember` is called when the worker is complete, and everything here on the
main thread.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes an enum of each answer, at ten times the cost
import builtins
import gc
import logging
import operator
import os
import sys
import threading
from typing import Any, NoReturn

from plover import context
from plover.errors import PloverError

__all__ = ["explain_terminal", "put_back", "remember", "restore", "without_terminal"]

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


def restore() -> str | None:
    """Put back what Plover's own code cannot do without. Nothing before the first ``return`` may call a built-in function.

    Returns:
        What a call did that makes this worker one to be replaced, if it did; in a few words.
    """
    try:
        if _look(_NOW) == _LOOKED:
            return _restore_modules()
    except Exception:  # one was deleted, or the new one cannot be compared
        _NOW["Exception"] = _OWN["Exception"]
    for name, value in _OWN.items():
        if name not in _NOW or _NOW[name] is not value:
            _NOW[name] = value
    return _restore_modules()


# -- modules -----------------------------------------------------------------------------------------------------------

_MODULES = sys.modules
#: Without one of these, somebody has emptied it.
_look_up = operator.itemgetter("sys", "os", "builtins", "pickle", "numpy", "msgspec", "cloudpickle", "plover", __name__)
_getrecursionlimit, _setrecursionlimit = sys.getrecursionlimit, sys.setrecursionlimit


def _restore_modules() -> str | None:
    own = _own
    if own is None:
        return None
    if _getrecursionlimit() < own.recursion_limit:
        _setrecursionlimit(own.recursion_limit)
    try:
        if sys.modules is _MODULES and _look_up(_MODULES) == own.looked_up:
            return None
    except (KeyError, AttributeError):
        pass
    sys.modules = _MODULES
    _MODULES.update(own.modules)
    return "it emptied sys.modules, or replaced what is in there"


# -- settings of the process -------------------------------------------------------------------------------------------

_getsignal, _setsignal, _setitimer, _sigmask = (
    _signal.getsignal,
    _signal.signal,
    _signal.setitimer,
    _signal.pthread_sigmask,
)
_umask = os.umask
#: Private, and 20 times as fast to look through as `os.environ`.
_VARIABLES: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
#: What another call, or Plover itself, would be surprised by.
_SIGNALS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGCHLD, _signal.SIGALRM, _signal.SIGPIPE)


class _Own:
    """What the worker had before its first call."""

    def __init__(self) -> None:
        self.modules = dict(_MODULES)
        self.looked_up = _look_up(_MODULES)
        self.recursion_limit = _getrecursionlimit()
        self.handlers = [(number, _getsignal(number)) for number in _SIGNALS]
        self.umask = _umask(0o077)
        _umask(self.umask)
        self.sigmask = _sigmask(_signal.SIG_BLOCK, ())
        self.environment = dict(os.environ)
        self.names = frozenset(_VARIABLES)
        self.hooks = (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook)
        self.stdin = sys.stdin


_own: _Own | None = None


def remember() -> None:
    """The worker is complete: what it has now is what each call is to find."""
    global _own
    _own = _Own()


def put_back() -> None:
    """Before the next call: signal handlers, timers, hooks, umask, garbage collection, variables that were taken away. What
    was added (variables, a higher recursion limit) stays, as what a module does when it is imported must.
    """
    own = _own
    assert own is not None
    for number, handler in own.handlers:
        if _getsignal(number) is not handler:
            _setsignal(number, handler)
    _setitimer(_signal.ITIMER_REAL, 0)
    _sigmask(_signal.SIG_SETMASK, own.sigmask)
    _umask(own.umask)
    if (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook) != own.hooks:
        sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook = own.hooks
    if not gc.isenabled():
        gc.enable()
    if sys.gettrace() is not None:
        sys.settrace(None)
    if sys.getprofile() is not None:
        sys.setprofile(None)
    if not own.names <= _VARIABLES.keys():
        for name in own.environment.keys() - os.environ.keys():
            os.environ[name] = own.environment[name]
    logging.root.manager.disable = logging.NOTSET
    if sys.stdin is not own.stdin:
        sys.stdin = own.stdin


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
