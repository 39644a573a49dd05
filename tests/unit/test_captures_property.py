"""Random graphs of captured objects, changed at random: whenever pickling shows a change, the snapshot does."""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import types
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plover import kernels, serialize
from plover.pickling.captures import Snapshot

_CLASSES = """
import dataclasses, enum
class Plain: pass
class Slotted: __slots__ = ("a", "b", "__dict__")
class Stated:
    def __getstate__(self): return dict(self.__dict__)
class Reduced:
    def __reduce__(self): return Reduced, (), self.__dict__
@dataclasses.dataclass
class Data:
    a: object = None
    b: object = None
class Colour(enum.Enum):
    RED = 1
    BLUE = (2, 3)
class Items(list): pass
class Named(dict): pass
"""


def _script() -> dict[str, Any]:
    """The globals of a script with these classes: what is defined in it goes by value."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(_CLASSES, scope)
    return scope


def _packed(function: Any) -> list[bytes]:
    return [bytes(buffer) for buffer in serialize.pack_function(function)[0]]


_ATOMS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.0, -0.0, 1.0, True, False, None, "a", "b", "longer text", b"a", 10**20, math, len, 1j]),
)
_DTYPES = st.sampled_from(["f8", "i4", "u1", ">i2", "M8[s]", "f4, i2", "?", "U3"])
_NAMES = st.sampled_from(["a", "b", "c"])


class Graph:
    """Random objects that refer to one another, and ways to change each of them."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw
        self.scope = _script()
        self.objects: list[Any] = []

    def atom(self) -> Any:
        return self._draw(_ATOMS)

    def any(self) -> Any:
        """One of the objects, or an atom."""
        if self.objects and self._draw(st.integers(0, 2)):
            return self._draw(st.sampled_from(range(len(self.objects))).map(self.objects.__getitem__))
        return self.atom()

    def some(self) -> list[Any]:
        return [self.any() for _ in range(self._draw(st.integers(0, 3)))]

    def grow(self) -> None:
        """Another object."""
        kinds = [getattr(self, name) for name in dir(self) if name.startswith("make_")]
        self.objects.append(self._draw(st.sampled_from(kinds))())

    def make_list(self) -> Any:
        return self.some()

    def make_items(self) -> Any:
        return self.scope["Items"](self.some())

    def make_dict(self) -> Any:
        return {self._draw(_NAMES): value for value in self.some()}

    def make_named(self) -> Any:
        return self.scope["Named"](self.make_dict())

    def make_tuple(self) -> Any:
        return (self.any(), self.any())

    def make_set(self) -> Any:
        return {self.atom() for _ in range(self._draw(st.integers(0, 3)))}

    def make_bytearray(self) -> Any:
        return bytearray(self._draw(st.binary(max_size=4)))

    def make_deque(self) -> Any:
        return collections.deque(self.some())

    def make_ordered(self) -> Any:
        return collections.OrderedDict(self.make_dict())

    def make_array(self) -> Any:
        shape = self._draw(st.sampled_from([(), (0,), (3,), (2, 2)]))
        array = np.zeros(shape, self._draw(_DTYPES), order=self._draw(st.sampled_from(["C", "F"])))
        return array[::2] if shape == (3,) and self._draw(st.booleans()) else array

    def make_objects(self) -> Any:
        array = np.empty(2, dtype=object)
        array[0], array[1] = self.any(), self.any()
        return array

    def make_instance(self) -> Any:
        obj = self.scope[self._draw(st.sampled_from(["Plain", "Slotted", "Stated", "Reduced", "Data"]))]()
        for value in self.some():
            setattr(obj, self._draw(_NAMES), value)
        return obj

    def make_class(self) -> Any:
        return type("Made", (self.scope["Plain"],), {self._draw(_NAMES): value for value in self.some()})

    def make_enum(self) -> Any:
        return self.scope["Colour"][self._draw(st.sampled_from(["RED", "BLUE"]))]

    def make_partial(self) -> Any:
        return functools.partial(self.make_function(), self.any(), a=self.any())

    def make_method(self) -> Any:
        return types.MethodType(self.make_function(), self.make_instance())

    def make_function(self) -> Any:
        """With globals, defaults, attributes and a cell."""
        scope = {"__name__": "__main__"}
        scope |= {self._draw(_NAMES): value for value in self.some()}
        cell = self.any()
        exec("def outer(cell):\n    def made(x=None, *, y=None): return a, b, cell\n    return made\n", scope)
        made = scope["outer"](cell)
        made.__defaults__ = (self.any(),)
        made.__kwdefaults__ = {"y": self.any()}
        return made

    # -- changes --------------------------------------------------------------------------------------------------------

    def change(self) -> None:
        """Change one of the objects, if it can be changed."""
        obj = self._draw(st.sampled_from(range(len(self.objects))).map(self.objects.__getitem__))
        if isinstance(obj, list | collections.deque):
            obj.append(self.any()) if not obj or self._draw(st.booleans()) else obj.__setitem__(0, self.any())
        elif isinstance(obj, dict):
            obj[self._draw(_NAMES)] = self.any()
        elif isinstance(obj, set):
            obj.add(self.atom()) if self._draw(st.booleans()) else obj.clear()
        elif isinstance(obj, bytearray):
            obj[:] = self._draw(st.binary(max_size=4))
        elif isinstance(obj, np.ndarray):
            self._change_array(obj)
        elif isinstance(obj, types.FunctionType):
            self._change_function(obj)
        elif isinstance(obj, functools.partial):
            obj.keywords["a"] = self.any()
        elif isinstance(obj, types.MethodType):
            obj.__self__.a = self.any()
        elif not isinstance(obj, tuple):
            setattr(obj, self._draw(_NAMES), self.any())

    def _change_array(self, array: Any) -> None:
        if array.dtype.hasobject:
            array[0] = self.any()
        elif array.size and self._draw(st.booleans()):
            array[...] = np.frombuffer(bytes([self._draw(st.integers(0, 1))]) * array.dtype.itemsize, array.dtype)[0]
        else:
            array.flags.writeable = False

    def _change_function(self, function: Any) -> None:
        change = self._draw(st.sampled_from(["global", "forget", "default", "keyword", "cell", "attribute", "code"]))
        if change == "global":
            function.__globals__[self._draw(_NAMES)] = self.any()
        elif change == "forget":
            function.__globals__.pop(self._draw(_NAMES), None)
        elif change == "default":
            function.__defaults__ = (self.any(),)
        elif change == "keyword":
            function.__kwdefaults__["y"] = self.any()
        elif change == "cell":
            function.__closure__[-1].cell_contents = self.any()
        elif change == "attribute":
            setattr(function, self._draw(_NAMES), self.any())
        else:
            exec(
                "def outer(cell):\n    def made(x=None, *, y=None): return a, c, cell\n    return made\n",
                function.__globals__,
            )
            function.__code__ = function.__globals__["outer"](0).__code__


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_whenever_the_bytes_change_the_snapshot_says_so(data: st.DataObject) -> None:
    graph = Graph(data)
    for _ in range(data.draw(st.integers(1, 6))):
        graph.grow()
    graph.objects.append(graph.make_function())
    root = graph.objects[-1]
    before = _packed(root)
    taken = Snapshot.of(root, (kernels.reduce,))
    assert taken is not None
    assert taken.unchanged()
    assert _packed(root) == before
    assert taken.unchanged()
    for _ in range(data.draw(st.integers(1, 3))):
        with contextlib.suppress(ValueError, TypeError):  # a read-only array, an unhashable element
            graph.change()
    if _packed(root) != before:
        assert not taken.unchanged()
