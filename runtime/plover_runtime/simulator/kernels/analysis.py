"""May a kernel's threads wait for each other? If certainly not, they can run one after another.

Looks at the kernel's code and at every Python function that it can reach through globals, closures, defaults and
modules. Guarantees: "no" only where it is sure; whatever it does not understand counts as "yes", which is slower and
never wrong. Assumes that code which is not Python (builtins, NumPy's and math's functions) does not call back.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

#: Attribute and function names that a thread may wait at, or learn of other threads by. ``cas`` and ``exch`` are here
#: because locks are made of them.
WAITING = frozenset(
    "syncthreads syncthreads_count syncthreads_and syncthreads_or syncwarp shfl_sync shfl_up_sync shfl_down_sync "  # noqa: SIM905
    "shfl_xor_sync all_sync any_sync eq_sync ballot_sync match_any_sync match_all_sync activemask nanosleep "
    "threadfence threadfence_block threadfence_system cg this_grid sync shared compare_and_swap cas exch".split()
)
#: Names with which code reaches things that cannot be seen from its names.
_HIDING = frozenset(
    "getattr eval exec globals locals vars __import__ __dict__ operator methodcaller attrgetter".split()  # noqa: SIM905
)

#: Modules whose functions are leaves.
_LEAVES = ("math", "cmath", "numpy", "builtins", "operator", "numba", "plover_runtime")


def may_wait(function: Any, arguments: tuple[Any, ...] = ()) -> bool:
    """Whether a thread of the kernel might wait for another one, as far as can be seen."""
    if any(callable(argument) and not isinstance(argument, np.ndarray) for argument in arguments):
        return True
    seen: set[int] = set()
    todo = [function]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, types.FunctionType):
            names = _names(item.__code__)
            if names & WAITING or names & _HIDING:
                return True
            todo.extend(_reached(item, names))
        elif not _is_leaf(item):
            return True
    return False


def _names(code: types.CodeType) -> set[str]:
    """Every global, attribute and imported name in a code object and those inside it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _reached(function: types.FunctionType, names: set[str]) -> Iterator[Any]:
    for name in names:
        if name in function.__globals__:
            yield from _opened(function.__globals__[name], names)
    for cell in function.__closure__ or ():
        try:
            yield from _opened(cell.cell_contents, names)
        except ValueError:  # an empty cell: a name that is not bound yet
            continue
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield from _opened(default, names)


def _opened(value: Any, names: set[str]) -> Iterator[Any]:
    """The functions behind a value: a dispatcher's Python function, the named members of a module."""
    if isinstance(value, types.ModuleType):
        if value.__name__.split(".")[0] not in _LEAVES:
            for name in names:
                member = value.__dict__.get(name)
                if member is not None:
                    yield from _opened(member, names - {name})
    elif isinstance(inner := getattr(value, "py_func", None), types.FunctionType):
        yield inner
    elif isinstance(value, tuple):
        for item in value:
            yield from _opened(item, names)
    else:
        yield value


def _is_leaf(item: Any) -> bool:
    """Whether a value can be used in a kernel without running Python code that was not looked at."""
    if isinstance(item, (types.BuiltinFunctionType, np.ufunc, np.ndarray, np.generic, np.dtype)):
        return True
    if item is None or isinstance(item, (bool, int, float, complex, str, bytes)):
        return True
    if isinstance(item, type):
        return item.__module__.split(".")[0] in _LEAVES
    if isinstance(item, (functools.partial, types.MethodType)):
        return False
    return type(item).__module__.split(".")[0] in _LEAVES
