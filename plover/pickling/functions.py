"""How the function-like objects of `functools` travel: made anew from what they wrap, without their caches and locks.

Guarantees: one that an importable module has is left to travel by its name; what somebody set on one goes along.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from cloudpickle import cloudpickle as _internals

__all__ = ["BY_TYPE", "is_importable", "is_singledispatch", "reduce_singledispatch"]


def is_importable(obj: Any) -> bool:
    """Whether an object is found where it says that it is, in a module that a worker has, too."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "__main__")
    if module is None or obj.__module__ == "__main__" or _internals._is_registered_pickle_by_value(module):
        return False
    try:
        return _internals._getattribute(module, obj.__qualname__) is obj
    except AttributeError:
        return False


def _extra(obj: Any, made: Iterable[str]) -> dict[str, Any]:
    """What somebody set on a function-like object, beyond what making it sets."""
    left_out = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", *made}
    return {name: value for name, value in vars(obj).items() if name not in left_out}


def _reduce_cached(function: Any) -> Any:
    """A function under `lru_cache`, which says it is a global: it is made anew, its cache empty."""
    if is_importable(function):
        return NotImplemented
    how = function.cache_parameters()
    extra = _extra(function, ("cache_parameters",))
    return _make_cached, (function.__wrapped__, how["maxsize"], how["typed"]), extra or None


def _make_cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def is_singledispatch(function: types.FunctionType) -> bool:
    """Whether `functools.singledispatch` made a function."""
    attributes = function.__dict__
    return "_clear_cache" in attributes and "registry" in attributes


def reduce_singledispatch(function: Any) -> Any:
    """A single-dispatch function, whose own cache holds weak references: it is made anew from its registry."""
    registry = dict(function.registry)
    default = registry.pop(object)
    extra = _extra(function, ("registry", "register", "dispatch", "_clear_cache"))
    return _make_singledispatch, (default,), (list(registry.items()), extra), None, None, _fill_singledispatch


def _make_singledispatch(default: Any) -> Any:
    return functools.singledispatch(default)


def _fill_singledispatch(function: Any, state: tuple[list[tuple[type, Any]], dict[str, Any]]) -> None:
    implementations, extra = state
    for cls, implementation in implementations:
        function.register(cls, implementation)
    vars(function).update(extra)


def _reduce_cached_property(prop: Any) -> Any:
    """On Python 3.11 it holds a lock."""
    return _make_cached_property, (prop.func, prop.attrname, prop.__doc__)


def _make_cached_property(function: Any, name: str | None, doc: str | None) -> Any:
    made: Any = functools.cached_property(function)
    made.attrname, made.__doc__ = name, doc
    return made


BY_TYPE: dict[type, Callable[[Any], Any]] = {
    functools._lru_cache_wrapper: _reduce_cached,
    functools.cached_property: _reduce_cached_property,
}
