"""How the objects of `typing` travel that a script made and that say they were globals: made anew.

Guarantees: one that an importable module has is left to travel by its name; a `TypeVar` stays one and the same in a process.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle as _internals

from plover.pickling import classes
from plover.pickling.named import SCRIPT

__all__ = ["BY_TYPE"]


def _reduce_typevar(variable: Any) -> Any:
    """cloudpickle's way, but with an id that is the same in every process."""
    if not _is_at(variable):
        classes.name_class(variable)
    return _internals._typevar_reduce(variable)


def _is_at(obj: Any) -> bool:
    """Whether an object of `typing` is found in the module that it says it is of, and that is importable."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "__main__")
    return obj.__module__ not in SCRIPT and getattr(module, obj.__name__, None) is obj


def _reduce_parameters(spec: Any) -> Any:
    """ParamSpec and TypeVarTuple, which say that they are globals."""
    return NotImplemented if _is_at(spec) else (_make_parameters, (type(spec).__name__, spec.__name__))


def _make_parameters(kind: str, name: str) -> Any:
    return getattr(typing, kind)(name)


def _reduce_newtype(new: Any) -> Any:
    if _is_at(new):
        return NotImplemented
    return _make_newtype, (new.__name__, new.__supertype__, new.__module__, new.__qualname__)


def _make_newtype(name: str, supertype: Any, module: str, qualname: str) -> Any:
    new_type: Any = typing.NewType  # not a declaration
    made = new_type(name, supertype)
    made.__module__, made.__qualname__ = module, qualname
    return made


BY_TYPE: dict[type, Callable[[Any], Any]] = {
    typing.TypeVar: _reduce_typevar,
    typing.ParamSpec: _reduce_parameters,
    typing.TypeVarTuple: _reduce_parameters,
    typing.NewType: _reduce_newtype,
}
