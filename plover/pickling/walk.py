"""Takes a `Snapshot`: visits once everything that pickling a function would visit, nearest first.

Guarantees: the snapshot's places are the ones that decide the payload's bytes, each object in them was visited, and no user
code runs but what pickling would run (`__reduce__`, `__getstate__`). Assumes: as for `plover.pickling.captures`.
"""

from __future__ import annotations

import abc
import collections
import copyreg
import enum
import sys
import types
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from cloudpickle import cloudpickle as _internals

from plover.pickling import captures
from plover.pickling.captures import ABSENT, Array, Snapshot
from plover.pickling.functions import is_singledispatch
from plover.pickling.immutables import inside_constant, is_constant
from plover.pickling.reduced import BeyondBudget, Reduced, Unstable
from plover.pickling.reducers import is_plain, reduction
from plover.serialize import pack

__all__ = ["Walk"]

#: What making a single-dispatch function sets; it travels as its registry.
_SINGLEDISPATCH = frozenset({"registry", "register", "dispatch", "_clear_cache", "__wrapped__"})

#: What decorated functions travel as; their options never change.
_OURS = {
    ("plover.decorator", "GpuFunction"): ["_target", "_options"],
    ("plover.decorator", "GpuKernel"): ["_kernel", "_options", "_launch"],
    ("plover.wire.messages", "CallOptions"): [],
}


class Walk:
    """One walk.

    Invariants: `_seen` has every object that was met, by its id, and keeps it alive; `_todo` those not yet visited.
    """

    def __init__(self, reducers: tuple[Callable[[Any], Any], ...]) -> None:
        self._reducers = reducers
        self._snapshot = Snapshot()
        self._seen: dict[int, Any] = {}
        self._todo: collections.deque[Any] = collections.deque()
        self._names: dict[int, tuple[Any, dict[str, None]]] = {}  # names of one dictionary, for all that use them
        self._arrays: dict[int, Array] = {}
        self._bytes_left = captures.TOTAL_BYTES
        self._entries_left = captures.TOTAL_ENTRIES

    def run(self, root: Any) -> Snapshot | None:
        """Walk from a root to the end; None if something changed meanwhile."""
        self._add(root)
        while self._todo:
            obj = self._todo.popleft()
            if not is_constant(obj):
                self._visit(obj)
        return self._finish()

    def _finish(self) -> Snapshot | None:
        snapshot = self._snapshot
        snapshot.lookups += [(names_of.get, list(names)) for names_of, names in self._names.values()]
        snapshot.finish()
        for position, obj in enumerate(snapshot.objects):
            if id(obj) not in self._seen and obj is not ABSENT and position >= len(snapshot.sized):
                return None  # another object stands there than when it was visited
            if type(obj) is np.ndarray:
                snapshot.objects[position] = None
                snapshot.holes.append((position, self._arrays[id(obj)]))
        snapshot.arrays = list(self._arrays.values())
        return snapshot

    def _add(self, *objects: Any) -> None:
        for obj in objects:
            if id(obj) not in self._seen:
                self._seen[id(obj)] = obj
                self._todo.append(obj)

    def _note(self, *objects: Any) -> None:
        """Objects whose identity counts, but not what is inside."""
        for obj in objects:
            self._seen.setdefault(id(obj), obj)

    def _visit(self, obj: Any) -> None:
        visit = _VISITS.get(type(obj))
        if visit is not None:
            visit(self, obj)
        elif isinstance(obj, type):
            self._class(obj)
        elif (names := _OURS.get((type(obj).__module__, type(obj).__qualname__))) is not None:
            self._read(obj, names)
        elif (inside := inside_constant(obj)) is not None:
            self._add(*inside)
        elif _is_member(obj) or is_plain(obj, self._reducers):
            self._instance(obj)
        else:
            self._reduce(obj)

    # -- places ---------------------------------------------------------------------------------------------------------

    def _look_up(self, dictionary: Any, names: Iterable[str]) -> None:
        """Names of a dictionary, which need not be there."""
        self._names.setdefault(id(dictionary), (dictionary, {}))[1].update(dict.fromkeys(names))
        self._add(*(dictionary[name] for name in names if name in dictionary))

    def _read(self, obj: Any, names: list[str]) -> None:
        """Attributes of an object, which need not be there."""
        self._snapshot.lookups.append((partial(getattr, obj), names))
        self._add(*(getattr(obj, name) for name in names if hasattr(obj, name)))

    def _entries(self, container: Any, limit: int = captures.ENTRIES) -> bool:
        """Watch a container's entries, if they are within the budget; its elements are still to be added."""
        size = len(container)
        if size > limit or size > self._entries_left:
            return False
        self._entries_left -= size
        if not size:
            self._snapshot.empty.append(container)
            return False
        self._snapshot.sized.append(container)
        self._snapshot.live.append(container)
        return True

    def _mapping(self, mapping: Any, limit: int = captures.ENTRIES, *, unvisited: frozenset[str] = frozenset()) -> None:
        """Watch a dictionary: its keys and values."""
        if self._entries(mapping, limit):
            self._snapshot.live.append(mapping.values())
            for key, value in mapping.items():
                self._add(key)
                (self._note if key in unvisited else self._add)(value)

    def _sequence(self, sequence: Any) -> None:
        """Watch a list or a set."""
        if self._entries(sequence):
            self._add(*sequence)

    # -- code -----------------------------------------------------------------------------------------------------------

    def _function(self, function: Any) -> None:
        if self._by_reference(function):
            return
        snapshot = self._snapshot
        snapshot.functions.append(function)
        if is_singledispatch(function):
            self._note(*captures.FUNCTION_PARTS(function))
            self._mapping(function.__dict__, unvisited=_SINGLEDISPATCH)
            self._mapping(function.registry)
            return
        self._add(*captures.FUNCTION_PARTS(function), *(function.__closure__ or ()))
        names = list(_internals._extract_code_globals(function.__code__))
        self._look_up(function.__globals__, names)

    def _cell(self, cell: Any) -> None:
        try:
            self._add(cell.cell_contents)
        except ValueError:
            self._snapshot.empty_cells.append(cell)
        else:
            self._snapshot.cells.append(cell)

    def _class(self, cls: Any) -> None:
        if cls.__module__ == "builtins" or cls in _internals._BUILTIN_TYPE_NAMES or self._by_reference(cls):
            return
        copyreg._slotnames(cls)  # type: ignore[attr-defined]  # keeps its answer in the class: let it do so before, not after
        snapshot = self._snapshot
        snapshot.classes.append(cls)
        self._add(*captures.CLASS_PARTS(cls), type(cls), *cls.__bases__)
        attributes = vars(cls)
        unvisited = frozenset({"_abc_impl", "__weakref__", "__dict__"})
        self._mapping(attributes, self._entries_left, unvisited=unvisited)
        if isinstance(cls, abc.ABCMeta):
            registry = captures.abc_registry(cls)
            snapshot.registries.append((cls, registry))
            self._add(*(each for ref in registry if (each := ref()) is not None))

    def _by_reference(self, obj: Any) -> bool:
        """Whether a function or a class travels as its name: then what matters is that it is still found by it."""
        found = _internals._lookup_module_and_qualname(obj)
        if found is None or _internals._is_registered_pickle_by_value(found[0]):
            return False
        module, name = found
        if "." in name or name not in vars(module):
            self._snapshot.lookups.append((partial(_resolve, module), [name]))
        else:
            self._look_up(vars(module), [name])
        return True

    def _module(self, module: types.ModuleType) -> None:
        self._snapshot.modules = len(sys.modules)
        if not _internals._should_pickle_by_reference(module):
            self._mapping(vars(module), self._entries_left, unvisited=frozenset({"__builtins__"}))

    def _method(self, method: Any) -> None:
        self._add(method.__func__, method.__self__)

    def _wrapper(self, wrapper: Any) -> None:
        self._add(wrapper.__func__)

    def _builtin(self, function: Any) -> None:
        if isinstance(function.__self__, type):
            self._add(function.__self__)
        else:
            self._reduce(function)

    def _property(self, prop: Any) -> None:
        self._read(prop, ["fget", "fset", "fdel", "__doc__"])

    # -- values ---------------------------------------------------------------------------------------------------------

    def _tuple(self, values: Any) -> None:
        if len(values) <= min(captures.ENTRIES, self._entries_left):
            self._entries_left -= len(values)
            self._add(*values)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        within = not array.dtype.hasobject and array.nbytes <= min(captures.ARRAY_BYTES, self._bytes_left)
        if within:
            self._bytes_left -= array.nbytes
        self._arrays[id(array)] = Array(array, within)
        if array.dtype.hasobject:
            self._reduce(array)

    def _bytearray(self, content: bytearray) -> None:
        if len(content) <= min(captures.ARRAY_BYTES, self._bytes_left):
            self._bytes_left -= len(content)
            self._snapshot.contents.append((content, content[:]))

    def _instance(self, obj: Any) -> None:
        kind = type(obj)
        self._add(kind)
        self._snapshot.instances.append(obj)
        attributes = getattr(obj, "__dict__", None)
        if attributes is not None:
            self._snapshot.dictionaries.append(obj)
            self._note(attributes)
            self._mapping(attributes, max(captures.ENTRIES, len(attributes)))
        slots = copyreg._slotnames(kind)  # type: ignore[attr-defined]
        if slots:
            self._read(obj, slots)

    def _reduce(self, obj: Any) -> None:
        how = partial(reduction, reducers=self._reducers)
        try:
            reduced = Reduced(obj, how, min(captures.ENTRIES, self._entries_left), self._bytes_left)
        except BeyondBudget:
            return
        except Unstable:
            if self._is_small(obj):
                raise
            return
        self._snapshot.reduced.append(reduced)
        self._add(*reduced.kept)

    def _is_small(self, obj: Any) -> bool:
        """Whether an object that cannot be compared may be pickled again at each call instead."""
        buffers = pack(obj, self._reducers)
        return sum(memoryview(buffer).nbytes for buffer in buffers) <= captures.ARRAY_BYTES


def _is_member(obj: Any) -> bool:
    """Whether an object is a member of an enum, and travels as enums do."""
    return isinstance(type(obj), enum.EnumMeta) and type(obj).__reduce_ex__.__module__ == "enum"


def _resolve(module: Any, name: str, absent: Any) -> Any:
    try:
        return _internals._getattribute(module, name)
    except AttributeError:
        return absent


_VISITS: dict[type, Callable[..., None]] = {
    types.FunctionType: Walk._function,
    types.CellType: Walk._cell,
    types.ModuleType: Walk._module,
    types.MethodType: Walk._method,
    classmethod: Walk._wrapper,
    staticmethod: Walk._wrapper,
    property: Walk._property,
    types.BuiltinMethodType: Walk._builtin,
    tuple: Walk._tuple,
    frozenset: Walk._tuple,
    list: Walk._sequence,
    set: Walk._sequence,
    dict: Walk._mapping,
    types.MappingProxyType: Walk._mapping,
    np.ndarray: Walk._array,
    bytearray: Walk._bytearray,
}
