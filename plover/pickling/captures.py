"""What a function's payload depends on, remembered so that a later call can tell in microseconds whether it changed.

A `Snapshot` walks what the pickler would walk: code, defaults, used globals, cells, attributes, class dictionaries, and
everything in them, a kernel's Python function too. It keeps lists of places to read again and of the objects that stood
there, and compares by identity; only what can change without a new object is compared by content.

Guarantees, within the budget below: whenever pickling the function again would give other bytes, `unchanged()` is False.
It never raises: whatever is in doubt counts as changed. Beyond the budget an object counts as changed only when another
stands in its place. `Snapshot.of` is None where a small object is pickled by code that makes new objects each time which
cannot be compared: then only pickling again can tell.

Budget: an array or a bytearray of up to `ARRAY_BYTES`, a container of up to `ENTRIES` entries; and together, in the order in
which they are met from the function on, up to `TOTAL_BYTES` and `TOTAL_ENTRIES`.

Arrays are referred to weakly, so that a large one that the script drops is freed at once; what cannot be referred to
weakly, or is small, is kept until the next call. Assumes: nobody changes what `plover.pickling.immutables` calls
constant, or renames a module; private parts of cloudpickle 3 (the globals that code uses, what goes by reference).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any

import numpy as np
from cloudpickle import cloudpickle as _internals

from plover.pickling.reduced import Reduced

__all__ = ["ARRAY_BYTES", "ENTRIES", "Snapshot"]

#: An array up to this size is compared by content: 256 KiB take 4 µs out of the cache (`bytearray ==` is a memcmp; the `==`
#: of NumPy takes 9 µs, a hash 250).
ARRAY_BYTES = 256 * 1024
#: So many entries of a container are compared, by identity: 2.2 µs for 100, 4.5 with their keys.
ENTRIES = 256
TOTAL_BYTES = 4 * 1024 * 1024
TOTAL_ENTRIES = 10_000

_SMALL = 256
_BY_VALUE = _internals._PICKLE_BY_VALUE_MODULES
ABSENT: Any = object()
_NOWHERE: Any = object()
_ABSENTS = repeat(ABSENT)

FUNCTION_PARTS = attrgetter(
    "__code__",
    "__defaults__",
    "__kwdefaults__",
    "__dict__",
    "__annotations__",
    "__name__",
    "__qualname__",
    "__module__",
    "__doc__",
)
CLASS_PARTS = attrgetter("__bases__", "__name__", "__qualname__", "__class__")
CONTENTS = attrgetter("cell_contents")
DICTIONARY = attrgetter("__dict__")


class Array:
    """An array as it was: its layout, and its bytes if it is within the budget."""

    __slots__ = ("_copy", "_layout", "_plain", "ref")

    def __init__(self, array: np.ndarray[Any, Any], with_content: bool) -> None:
        self.ref = weakref.ref(array)
        self._layout = _layout(array) if with_content else None
        self._plain = array.dtype.kind in "biufc" and array.flags.c_contiguous
        self._copy = bytearray(array.tobytes()) if with_content else None

    def is_as_before(self) -> bool:
        """Whether the array still lives, and has the content that it had."""
        array = self.ref()
        if array is None or self._copy is None:
            return array is not None
        if _layout(array) != self._layout:
            return False
        # `==` would ask the array where the bytearray does not know: only True is an answer.
        return bytearray.__eq__(self._copy, array if self._plain else array.tobytes()) is True


_layout = attrgetter("shape", "strides", "dtype", "flags.writeable")


class Snapshot:
    """A function's captures as they were.

    Attributes:
        lookups: ways to read names, and the names: what a module's dictionary has, or an object's slots.
        functions, classes, instances, dictionaries, cells: each has parts that are read again.
        live: containers, read again by iterating over them; dictionaries stand for their keys, beside their values.
        sized: the same containers, for their lengths, which are compared by identity too: small integers are single objects
            in CPython. Those too large for that are `large`.
        objects: what was read from all of these places, in order; None where an array stood, which `holes` has by position.
        arrays: all that were met, wherever they stand.
        empty: containers that have to stay so.
        contents: bytearrays and their copies.
        registries: abstract classes and what was registered with them.
        reduced: objects that say themselves how they are pickled.
        modules: how many modules were imported, where that matters: a captured package takes along its imported submodules,
            and a module that is not imported any more would go by value.
    """

    def __init__(self) -> None:
        self.lookups: list[tuple[Callable[..., Any], list[str]]] = []
        self.functions: list[Any] = []
        self.classes: list[type] = []
        self.instances: list[Any] = []
        self.dictionaries: list[Any] = []
        self.cells: list[Any] = []
        self.empty_cells: list[Any] = []
        self.live: list[Any] = []
        self.sized: list[Any] = []
        self.empty: list[Any] = []
        self.large: list[tuple[Any, int]] = []
        self.objects: list[Any] = []
        self.holes: list[tuple[int, Array]] = []
        self.arrays: list[Array] = []
        self.contents: list[tuple[bytearray, bytearray]] = []
        self.registries: list[tuple[type, set[Any]]] = []
        self.reduced: list[Reduced] = []
        self.modules: int | None = None
        self._plain = False  # nothing but identities matters
        self._others = True  # there are places besides lookups, functions and containers
        #: The most frequent case by itself, which halves its time: one function that uses globals.
        self._single: tuple[Any, Callable[..., Any], list[str]] | None = None
        self._by_value = frozenset(_BY_VALUE)

    @staticmethod
    def of(function: Any, reducers: tuple[Callable[[Any], Any], ...] = ()) -> Snapshot | None:
        """Take a function's snapshot; do it before pickling, so that what changes meanwhile is noticed later.

        Args:
            function: anything that can be pickled.
            reducers: that it is pickled with.
        """
        from plover.pickling.walk import Walk

        try:
            return Walk(reducers).run(function)
        except Exception:  # whatever a user's objects do when they are looked at; pickling will say it
            return None

    def places(self) -> Iterator[Any]:
        """What stands in all the places now, in the order of `objects`; lengths first, or the rest would not be aligned."""
        if self._single is not None:
            function, get, names = self._single
            return chain(map(get, names, _ABSENTS), FUNCTION_PARTS(function))
        now: list[Iterable[Any]] = [map(len, self.sized)]
        now += [map(get, names, _ABSENTS) for get, names in self.lookups]
        now += map(FUNCTION_PARTS, self.functions)
        if self._others:
            now += map(CLASS_PARTS, self.classes)
            now += map(type, self.instances), map(DICTIONARY, self.dictionaries), map(CONTENTS, self.cells)
        now += self.live
        return chain.from_iterable(now)

    def unchanged(self) -> bool:
        """Whether pickling the function again would give the same bytes; False where that is not known.

        1 µs for a function that captures modules and constants, whose pickling takes 40.
        """
        try:
            objects = self.objects if not self.arrays else self._with_arrays()
            return (
                all(map(is_, self.places(), objects))
                and not any(self.empty)
                and self.modules in (None, len(sys.modules))
                and self._by_value == _BY_VALUE
                and (self._plain or self._same_insides())
            )
        except Exception:  # a cell emptied, a dictionary changed by another thread, a user's __reduce__ …
            return False

    def _with_arrays(self) -> list[Any]:
        """What is to stand in the places; what stands in none of them where an array changed (ABSENT does, for built-ins)."""
        if not all(array.is_as_before() for array in self.arrays):
            return [_NOWHERE]
        objects = self.objects.copy()
        for position, array in self.holes:
            objects[position] = array.ref()
        return objects

    def _same_insides(self) -> bool:
        """What identities do not tell."""
        return (
            all(len(large) == size for large, size in self.large)
            and all(now == before for now, before in self.contents)
            and all(map(_is_empty, self.empty_cells))
            and all(abc_registry(cls) == known for cls, known in self.registries)
            and all(each.is_as_before() for each in self.reduced)
        )

    def finish(self) -> None:
        """Read all places for the first time; nothing is added afterwards."""
        self.large = [(each, len(each)) for each in self.sized if len(each) > _SMALL]
        self.sized = [each for each in self.sized if len(each) <= _SMALL]
        self._plain = not (self.large or self.contents or self.empty_cells or self.registries or self.reduced)
        self._others = bool(self.classes or self.instances or self.cells)
        if not self._others and not self.live and len(self.functions) == len(self.lookups) == 1:
            self._single = (self.functions[0], *self.lookups[0])
        self.objects = list(self.places())


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is ABSENT
    except ValueError:
        return True


def abc_registry(cls: type) -> set[Any]:
    """The weak references to what was registered with an abstract class."""
    return _internals.abc._get_dump(cls)[0]  # type: ignore[no-any-return]
