"""Finds what cannot travel: the path from a function, or from an argument, down to the culprit, and what to do about it.

Only after pickling has failed. The value is pickled again by the standard library's pickler in Python, with the same
reducers and a stack beside it; where that fails, the stack is the path. Steps that only pickle sees (tuples of arguments,
dicts of state) are taken out by looking each object up in the one before it.

Guarantees: the search ends within a few `BUDGET_S` (and the time that pickling took), however the object behaves, and never
raises; what was found until then is told. Typically it takes 0.1–1 ms. A `__reduce__` that itself
never returns, or that hands out an endless iterator, cannot be bounded: it hangs the first pickling already.

Assumes: private parts of `pickle._Pickler` of Python 3.11–3.13 (`save` is called for every object).
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _internals

from plover.errors import NotSerializable
from plover.pickling import advice
from plover.pickling.reducers import Reducing
from plover.pickling.variables import Variables

__all__ = ["captured", "explain", "name_of", "short"]

#: A search may take so long …
BUDGET_S = 1.0
#: … and look at so many objects (numbers and texts are not counted: they always travel).
BUDGET_NODES = 300_000
#: Python frames beyond those in use. The pickler in Python takes three where that in C takes one level; much more would
#: let a `__reduce__` that recurses through C run out of stack on Python 3.11, where one limit counts both.
_HEAD_ROOM = 4000
#: Steps of a path that are shown at each end of a long one.
_SHOWN_STEPS = 5

_ATOMS = frozenset({int, float, complex, str, bytes, bool, type(None)})
#: What the pickler in C takes apart without asking anybody.
_BUILT_IN = frozenset({dict, list, tuple, set, frozenset, bytearray, pickle.PickleBuffer})

Reducer = Callable[[Any], Any]
Children = Iterator[tuple[str, Any]]


def explain(
    whole: str,
    root: Any,
    error: Exception,
    reducers: Sequence[Reducer],
    *,
    call: bool = False,
    result: bool = False,
) -> NotSerializable:
    """The error to raise for a value that could not be pickled.

    Args:
        whole: how the path begins.
        root: the value; with `call`, a call's ``(args, kwargs)``.
        error: what pickling it raised.
        reducers: that it was pickled with.
        call: the root is a call's arguments.
        result: it is what a function returned.
    """
    try:
        return _Search(root, reducers, _arguments if call else None).tell(whole, error, result)
    except Exception:  # a user's objects can make anything fail, their repr too
        return NotSerializable(f"cannot send {whole}: {type(error).__name__}", path=whole)


def name_of(function: Any) -> str:
    """A function's name in a path."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return short(str(name or type(function).__qualname__))


def short(name: str) -> str:
    """A qualified name without the functions that it is defined in."""
    return name.rpartition("<locals>.")[2]


class _GaveUp(Exception):
    """The budget is spent."""


class _Nowhere:
    def write(self, data: Any) -> None:
        """What is pickled is not wanted."""


class _Tracer(Reducing, pickle._Pickler):
    """A pickler that remembers where it is.

    Attributes:
        trail: the objects from the root down to the one that raised; None while nothing did.
    """

    dispatch_table = cloudpickle.Pickler.dispatch_table

    def __init__(self, reducers: Sequence[Reducer], budget_s: float) -> None:
        super().__init__(_Nowhere(), protocol=5, buffer_callback=lambda _: None)
        self.reducers = reducers
        self.classes: list[type] = []
        self.globals_ref: dict[int, dict[str, Any]] = {}
        self.trail: list[Any] | None = None
        self._stack: list[Any] = []
        self._nodes = 0
        self._deadline = time.monotonic() + budget_s

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if type(obj) in _ATOMS:
            return
        self._nodes += 1
        if self._nodes > BUDGET_NODES or (self._nodes % 128 == 0 and time.monotonic() > self._deadline):
            raise _GaveUp
        self._stack.append(obj)
        try:
            super().save(obj, save_persistent_id)  # type: ignore[misc]
        except BaseException:
            if self.trail is None:
                self.trail = self._stack.copy()
            raise
        self._stack.pop()

    def reducer_override(self, obj: Any) -> Any:
        return NotImplemented if type(obj) in _BUILT_IN else super().reducer_override(obj)


@contextlib.contextmanager
def _head_room() -> Iterator[None]:
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, depth + _HEAD_ROOM))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class _Search:
    """One search: from a root, whose own children may have names of their own."""

    def __init__(self, root: Any, reducers: Sequence[Reducer], children: Callable[[Any], Children] | None) -> None:
        self._root = root
        self._reducers = reducers
        self._children_of_root = children

    def tell(self, whole: str, error: Exception, result: bool) -> NotSerializable:
        """The path and the advice, in one error."""
        trail, cause = self._trace(self._root, error)
        found = trail is not None
        if trail is None:
            trail, cause, found = self._narrow(error)
        labels, culprit, kind = self._read(trail)
        kind = getattr(cause, "kind", None) or kind
        if isinstance(cause, RecursionError) or "deep recursion" in str(cause):
            kind = advice.TOO_DEEP
        if len(trail) > 1 or result:
            labels = [*_abbreviated(labels), _describe(culprit) if found else f"somewhere in {_describe(culprit)}"]
        path = " → ".join([whole, *labels])
        if kind is None:
            own = advice.says_how(type(culprit))
            kind = (advice.UNNATURAL if own else advice.GENERAL)._replace(what=f"{type(cause).__name__}: {cause}")
        return NotSerializable(
            f"cannot send {path}: {kind.what}. {kind.returned if result else kind.remedy}.", path=path
        )

    def _trace(self, root: Any, error: Exception, budget_s: float | None = None) -> tuple[list[Any] | None, Exception]:
        """The objects down to the culprit, and what it raised; none where this pickler does not fail, or takes too long."""
        tracer = _Tracer(self._reducers, BUDGET_S if budget_s is None else budget_s)
        try:
            with _head_room():
                tracer.dump(root)
        except _GaveUp:
            return None, error
        except Exception as cause:
            return tracer.trail, cause
        return None, error

    def _narrow(self, error: Exception) -> tuple[list[Any], Exception, bool]:
        """For what is too large to be searched: step by step into the child that the fast pickler fails on."""
        deadline = time.monotonic() + 2 * BUDGET_S
        trail = [self._root]
        while time.monotonic() < deadline:
            failing = self._failing([child for _, child in self._children(trail[-1])], deadline)
            if not failing:
                break
            below, cause = self._trace(failing[0], error, BUDGET_S / 5)
            if below is not None:
                return [*trail, *below], cause, True
            trail += failing
        return trail, error, False

    def _failing(self, parts: list[Any], deadline: float) -> list[Any]:
        """The first of these that cannot be pickled, if any; by halves, which costs about one pickling of all."""
        while len(parts) > 1:
            if time.monotonic() > deadline:
                return []
            middle = len(parts) // 2
            parts = parts[:middle] if self._fails(parts[:middle]) else parts[middle:]
        return parts if parts and self._fails(parts) else []

    def _fails(self, parts: list[Any]) -> bool:
        from plover.serialize import Packer

        try:
            Packer(self._reducers).pack(parts)
        except Exception:
            return True
        return False

    def _read(self, trail: list[Any]) -> tuple[list[str], Any, advice.Kind | None]:
        """A trail as labels, the object that they end at, and the kind that it is of, the outermost that there is."""
        labels: list[str] = []
        places = {id(obj): place for place, obj in reversed(list(enumerate(trail)))}
        parent, index = trail[0], 1
        while (kind := advice.kind_of(type(parent))) is None and index < len(trail):
            found = self._next(parent, places, index)
            label, index = found if found is not None else ("as pickled", index)
            if found is None and type(trail[index]) not in (tuple, list, dict):
                label = ""
            if found is None and index == len(trail) - 1 and label:
                break  # a container of pickle's own: what it was made for is the culprit
            if label:
                labels.append(label)
            parent = trail[index]
            index += 1
        return labels, parent, kind

    def _next(self, parent: Any, places: dict[int, int], index: int) -> tuple[str, int] | None:
        """The next object of the trail that is a child of this one, by its label; what lies between is pickle's."""
        best: tuple[str, int] | None = None
        for label, child in self._children(parent):
            place = places.get(id(child), -1)
            if place >= index and (best is None or place < best[1]):
                best = label, place
                if place == index:
                    break
        return best

    def _children(self, parent: Any) -> Children:
        if parent is self._root and self._children_of_root is not None:
            return self._children_of_root(parent)
        return children(parent)


def _abbreviated(labels: list[str]) -> list[str]:
    left_out = len(labels) - 2 * _SHOWN_STEPS
    if left_out <= 0:
        return labels
    return [*labels[:_SHOWN_STEPS], f"… ({left_out} more) …", *labels[-_SHOWN_STEPS:]]


def _describe(culprit: Any) -> str:
    if isinstance(culprit, types.ModuleType):
        return f"module {culprit.__name__!r}"
    if isinstance(culprit, type):
        return f"class {short(culprit.__qualname__)}"
    if isinstance(culprit, types.FunctionType):
        return f"function {short(culprit.__qualname__)}"
    return advice.type_name(type(culprit))


# -- what is inside what -----------------------------------------------------------------------------------------------


def children(parent: Any) -> Children:
    """The objects right inside one, each with its label; an empty label where the step says nothing to a person."""
    kind = type(parent)
    if kind is dict or kind is types.MappingProxyType:
        for key, value in parent.items():
            yield f"[{_brief(key)}]", value
            yield "a key", key
    elif kind is Variables:
        yield from ((f"variable {name!r}", value) for name, value in parent.items())
    elif kind in (list, tuple):
        for index, value in enumerate(parent):
            yield f"[{index}]", value
    elif kind in (set, frozenset):
        for value in parent:
            yield "an element", value
    elif kind is types.FunctionType:
        yield from captured(parent)
    elif kind is types.MethodType:
        yield "", parent.__func__
        yield "self", parent.__self__
    elif kind is functools.partial:
        yield ".func", parent.func
        yield from ((f".args[{index}]", value) for index, value in enumerate(parent.args))
        yield from ((f".keywords[{name!r}]", value) for name, value in parent.keywords.items())
    elif kind is property:
        yield from (("", function) for function in (parent.fget, parent.fset, parent.fdel))
    elif kind is types.CellType:
        with contextlib.suppress(ValueError):
            yield "", parent.cell_contents
    elif isinstance(parent, type):
        yield from ((f".{name}", value) for name, value in vars(parent).items())
        yield from (("a base", base) for base in parent.__bases__)
    else:
        yield from _inside(parent)


def _inside(parent: Any) -> Children:
    """What any other object holds, as far as it shows it."""
    for name in ("py_func", "__wrapped__", "__func__"):  # dispatchers, wrappers, descriptors: the function is the thing
        inner = getattr(parent, name, None)
        if inner is not None:
            yield "", inner
    ours = (getattr(type(parent), "__module__", None) or "").startswith("plover.")
    for name, value in _attributes(parent):
        yield "" if ours else f".{name}", value
    if isinstance(parent, dict):
        yield from ((f"[{_brief(key)}]", value) for key, value in dict.items(parent))
    elif isinstance(parent, list | tuple):
        yield from ((f"[{index}]", value) for index, value in enumerate(parent))


def _attributes(parent: Any) -> Iterator[tuple[str, Any]]:
    attributes = getattr(parent, "__dict__", None)
    if isinstance(attributes, dict):
        yield from attributes.items()
    for base in type(parent).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            with contextlib.suppress(AttributeError):
                yield name, getattr(parent, name)


def captured(function: types.FunctionType) -> Children:
    """What a function takes along: closure, globals, defaults, attributes, annotations."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not bound yet
            yield f"closure {name!r}", cell.cell_contents
    for name in _internals._extract_code_globals(code):
        if name in function.__globals__:
            yield f"global {name!r}", function.__globals__[name]
    defaults = function.__defaults__ or ()
    first = code.co_argcount - len(defaults)
    for name, value in zip(code.co_varnames[first : code.co_argcount], defaults, strict=False):
        yield f"default of {name!r}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"default of {name!r}", value
    for name, value in function.__dict__.items():
        yield f".{name}", value
    for name, value in function.__annotations__.items():
        yield f"annotation of {name!r}", value


def _arguments(root: Any) -> Children:
    args, kwargs = root
    for index, value in enumerate(args):
        yield "" if type(value) is Variables else f"argument {index}", value
    yield from ((f"argument {name!r}", value) for name, value in kwargs.items())


def _brief(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 40 else f"{text[:37]}…"
