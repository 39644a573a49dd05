"""How each type of object is taken apart, where cloudpickle's way is wrong, slow, or silent about what cannot work.

cloudpickle asks `reducer_override` about every object that is not a plain built-in one. Here the answer is looked up by
the object's type, once a type; everything else is left to cloudpickle.

Guarantees: recognizing an object imports nothing. What is refused is refused here, by `plover.pickling.advice.Refused`,
before any of it is read. The handlers of single libraries are in `functions`, `typings` and `compiled`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cloudpickle
import numpy as np
from cloudpickle import cloudpickle as _internals

from plover.bundles.references import References
from plover.pickling import advice, buffers, classes, compiled, functions, mentions, named, typings

__all__ = ["Reducing", "is_plain", "reduction"]

Handler = Callable[[Any], Any]


class Reducing:
    """Mixed into a pickler: cloudpickle's way of reducing functions and classes, mended.

    Attributes:
        reducers: asked first about every object; each answers with what `__reduce__` may return, or `NotImplemented`.
        classes: the classes that went by value, in order.
        references: takes note of the modules that are mentioned; None where nobody asks, as in a worker.
    """

    reducers: Sequence[Handler]
    classes: list[type]
    references: References | None = None
    globals_ref: dict[int, dict[str, Any]]

    _function_reduce = cloudpickle.Pickler._function_reduce
    _dynamic_function_reduce = cloudpickle.Pickler._dynamic_function_reduce
    _function_getnewargs = cloudpickle.Pickler._function_getnewargs

    def reducer_override(self, obj: Any) -> Any:
        """What pickle asks about an object: how it is reduced, or `NotImplemented` for its own way."""
        for reduce in self.reducers:
            reduced = reduce(obj)
            if reduced is not NotImplemented:
                return reduced
        kind = type(obj)
        references = self.references
        if kind is types.FunctionType:
            if functions.is_singledispatch(obj) and not functions.is_importable(obj):
                return functions.reduce_singledispatch(obj)
            reduced = self._function_reduce(obj)
            if references is not None:
                mentions.of_function(references, obj, reduced)
            return reduced
        if issubclass(kind, type):
            if not classes.goes_by_value(obj):
                if references is not None:
                    references.refer(obj.__module__)
                return _internals._class_reduce(obj)
            classes.name_class(obj)
            self.classes.append(obj)
            return _reduce_class(obj)
        handler = _handler_of(kind)
        reduced = NotImplemented if handler is None else handler(obj)
        if references is not None:
            mentions.of_object(references, obj, reduced, stands_where_it_says=handler is not None)
        return reduced


def _reduce_class(cls: Any) -> Any:
    """cloudpickle's way, mended: real slots, private ones too, and the qualified name."""
    reduced = _internals._dynamic_class_reduce(cls)
    attributes = reduced[2][0]
    # copyreg keeps it in a class once an instance was pickled: the bytes would not be the same before and after.
    attributes.pop("__slotnames__", None)
    if issubclass(cls, enum.Enum):
        return reduced
    attributes["__qualname__"] = "".join(cls.__qualname__)
    if isinstance(attributes.get("__slots__"), str | tuple | list) and not issubclass(cls, tuple):
        # Those of a tuple are empty, and NamedTuple makes them itself.
        reduced[1][3]["__slots__"] = attributes.pop("__slots__")
        for name, value in list(attributes.items()):
            if isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls:
                del attributes[name]
    return reduced


def reduction(obj: Any, reducers: Iterable[Handler]) -> Handler:
    """What tells how an object that is neither function nor class is pickled: asked about it, it answers as `__reduce__`."""
    for reduce in reducers:
        if reduce(obj) is not NotImplemented:
            return reduce
    handler = _handler_of(type(obj))
    if handler is not None and handler(obj) is not NotImplemented:
        return handler
    return cloudpickle.Pickler.dispatch_table.get(type(obj)) or _REDUCE


_REDUCE: Handler = operator.methodcaller("__reduce_ex__", 5)


def is_plain(obj: Any, reducers: Iterable[Handler]) -> bool:
    """Whether pickling an object is its class and its attributes, and nobody has another way for it."""
    kind: Any = type(obj)
    if any(reduce(obj) is not NotImplemented for reduce in reducers) or _handler_of(kind) is not None:
        return False
    state = getattr(kind, "__getstate__", None)
    return (
        kind not in cloudpickle.Pickler.dispatch_table
        and not _has_own_reduce(kind)
        and kind.__getattribute__ is object.__getattribute__
        and (state is getattr(object, "__getstate__", None) or state is _DATACLASS_STATE)
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and not issubclass(kind, list | dict)
        and not {"__reduce_ex__", "__getstate__"} & getattr(obj, "__dict__", {}).keys()
    )


#: What a dataclass with slots has: its fields, which are its slots.
_DATACLASS_STATE = getattr(dataclasses, "_dataclass_getstate", None)

_handlers: weakref.WeakKeyDictionary[type, Handler | None] = weakref.WeakKeyDictionary()


def _handler_of(kind: type) -> Handler | None:
    try:
        return _handlers[kind]
    except KeyError:
        handler = _handlers[kind] = _find_handler(kind)
        return handler
    except TypeError:  # a metaclass that makes its classes unhashable
        return _find_handler(kind)


def _find_handler(kind: type) -> Handler | None:
    named = _BY_TYPE.get(kind)
    if named is None:
        names = {(getattr(base, "__module__", ""), base.__qualname__) for base in kind.__mro__}
        named = next((handler for name, handler in _BY_NAME.items() if name in names), None)
    if named is not None:
        return named
    told = advice.kind_of(kind)
    if told is not None and told.refused:
        return functools.partial(_refuse, told)
    if kind in cloudpickle.Pickler.dispatch_table or not kind.__flags__ & _HEAP_TYPE:
        return None
    return _reduce_own_way if _has_own_reduce(kind) else None


def _has_own_reduce(kind: Any) -> bool:
    return kind.__reduce__ is not object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: what a class statement makes

# -- refusals ----------------------------------------------------------------------------------------------------------


def _refuse(kind: advice.Kind, obj: Any) -> Any:
    if obj is sys.stdout or obj is sys.stderr:
        return getattr, (sys, "stdout" if obj is sys.stdout else "stderr")
    raise refusal(obj, kind)


def refusal(obj: Any, kind: advice.Kind) -> advice.Refused:
    """What is raised about an object that must not travel."""
    name = f"module {obj.__name__!r}" if isinstance(obj, types.ModuleType) else advice.type_name(type(obj))
    return advice.Refused(f"cannot send {name}: {kind.what}. {kind.remedy}.", path=name, kind=kind)


def _reduce_module(module: types.ModuleType) -> Any:
    """A module that stands in `sys.modules` goes by its name: then there must be something to import by that name.

    It may also be a parent that makes it when it is imported, as `six` does.
    """
    name = module.__name__
    if sys.modules.get(name) is not module or name == "__main__":
        return NotImplemented
    while name:
        found = sys.modules.get(name)
        if any(getattr(found, attribute, None) is not None for attribute in ("__spec__", "__loader__", "__file__")):
            return NotImplemented
        name = name.rpartition(".")[0]
    raise refusal(module, advice.MODULE)


def _reduce_own_way(obj: Any) -> Any:
    """An object with a `__reduce__` of its own: it may say that it is a global, but not one of ``__main__``."""
    reduced = obj.__reduce_ex__(5)
    if type(reduced) not in (str, tuple):
        name = type(obj).__qualname__
        raise pickle.PicklingError(f"{name}.__reduce__ returned {type(reduced).__name__}, not a string or a tuple")
    if isinstance(reduced, str) and pickle.whichmodule(obj, reduced) in named.SCRIPT:  # type: ignore[attr-defined]
        raise refusal(obj, advice.MAIN_ONLY)
    return reduced


def _reduce_view(view: memoryview) -> Any:
    try:
        return buffers.reduce_view(view)
    except ValueError as error:
        raise refusal(view, advice.VIEW) from error


def _reduce_code(code: types.CodeType) -> Any:
    """cloudpickle's way, with the code's own file: since 3.1.3 it says ``<dynamic-code>``, of which nobody has the source."""
    make, arguments = _internals._code_reduce(code)
    return make, tuple([code.co_filename if each == "<dynamic-code>" else each for each in arguments])


def _reduce_missing(missing: Any) -> Any:
    """What dataclasses ask for by identity: the worker's own, or a field without a default would have one there."""
    return getattr, (dataclasses, "MISSING")


# A child of multiprocessing has the script by this name, which is not `__main__` to cloudpickle, and nobody else has it.
_internals._PICKLE_BY_VALUE_MODULES.add("__mp_main__")

_BY_TYPE: dict[type, Handler] = {
    types.CodeType: _reduce_code,
    np.ndarray: buffers.reduce_array,
    memoryview: _reduce_view,
    types.ModuleType: _reduce_module,
    type(dataclasses.MISSING): _reduce_missing,
    **functions.BY_TYPE,
    **typings.BY_TYPE,
}
_BY_NAME: dict[tuple[str, str], Handler] = {
    ("numpy.ma", "MaskedArray"): buffers.reduce_masked,  # by name: importing numpy.ma takes 10 ms
    ("numpy.ma.core", "MaskedArray"): buffers.reduce_masked,
    **compiled.BY_NAME,
    ("plover.remote", "Remote"): operator.methodcaller("by_value"),
}
