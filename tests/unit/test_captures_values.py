"""Snapshots of captured values: what changes inside them is noticed, up to the budget."""

from __future__ import annotations

import collections
import copy
import decimal
import enum
import functools
import gc
import math
import textwrap
import types
import typing
import weakref
from typing import Any

import numpy as np
import pytest

from plover import kernels, serialize
from plover.pickling import captures
from plover.pickling.captures import Snapshot
from tests.support.preconditions import needs_module

REDUCERS = (kernels.reduce,)


def script(source: str, **names: Any) -> dict[str, Any]:
    """The globals of a script: what is defined in it goes by value."""
    scope: dict[str, Any] = {"__name__": "__main__", **names}
    exec(textwrap.dedent(source), scope)
    return scope


def snapshot(function: Any) -> Snapshot:
    """A snapshot that could be taken, and that says at first that nothing changed."""
    taken = Snapshot.of(function, REDUCERS)
    assert taken is not None
    assert taken.unchanged()
    return taken


def packed(function: Any) -> list[bytes]:
    return [bytes(buffer) for buffer in serialize.pack_function(function)[0]]


class Wrapping:
    """Each time it is pickled it is another, newly made object."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __reduce__(self) -> Any:
        return Wrapping, (collections.UserList([slice(0, 5), collections.UserDict(inner=self.inner)]),)


class TestValues:
    @pytest.mark.parametrize(
        ("make", "change"),
        [
            (lambda: [1, 2], lambda v: v.append(3)),
            (lambda: [1, 2], lambda v: v.__setitem__(0, True)),
            (lambda: [1, 2], lambda v: v.__setitem__(0, 1.0)),
            (lambda: [0.0], lambda v: v.__setitem__(0, -0.0)),
            (lambda: {"a": 1}, lambda v: v.update(a=2)),
            (lambda: {1: "a"}, lambda v: (v.pop(1), v.update({True: "a"}))),
            (lambda: {"a": {"b": [1]}}, lambda v: v["a"]["b"].append(2)),
            (lambda: {1, 2}, lambda v: v.add(3)),
            (lambda: ([1],), lambda v: v[0].append(2)),
            (list, lambda v: v.append(1)),
            (dict, lambda v: v.update(a=1)),
            (lambda: bytearray(b"abc"), lambda v: v.__setitem__(0, 0)),
            (lambda: bytearray(b"abc"), lambda v: v.extend(b"d")),
            (lambda: collections.deque([1]), lambda v: v.append(2)),
            (lambda: collections.OrderedDict(a=1), lambda v: v.update(a=2)),
            (lambda: collections.defaultdict(list, a=[1]), lambda v: v["a"].append(2)),
            (lambda: collections.Counter("ab"), lambda v: v.update("a")),
            (lambda: types.SimpleNamespace(a=1), lambda v: setattr(v, "a", 2)),
            (lambda: functools.partial(print, [1]), lambda v: v.args[0].append(2)),
            (lambda: functools.partial(print, a=1), lambda v: v.keywords.update(a=2)),
            (lambda: np.zeros(5), lambda v: v.__setitem__(3, 1)),
            (lambda: np.zeros((2, 3), order="F"), lambda v: v.__setitem__((1, 2), 1)),
            (lambda: np.zeros(9)[::2], lambda v: v.__setitem__(3, 1)),
            (lambda: np.zeros(5, "M8[s]"), lambda v: v.__setitem__(3, np.datetime64(1, "s"))),
            (lambda: np.zeros(5, "f8, i4"), lambda v: v["f1"].__setitem__(3, 1)),
            (lambda: np.zeros(5, ">f4"), lambda v: v.__setitem__(3, 1)),
            (lambda: np.array(3.0), lambda v: v.__setitem__((), 4)),
            (lambda: np.zeros(6), lambda v: v.resize((2, 3), refcheck=False)),
            (lambda: np.zeros(6), lambda v: setattr(v.flags, "writeable", False)),
            (lambda: np.array(["a", [1]], dtype=object), lambda v: v[1].append(2)),
            (lambda: np.array(["a", [1]], dtype=object), lambda v: v.__setitem__(0, "b")),
            (lambda: (np.zeros(3),), lambda v: v[0].__setitem__(0, 1)),
            (lambda: np.ma.array([1.0, 2.0], mask=[0, 1]), lambda v: v.mask.__setitem__(0, True)),
            (lambda: np.ma.array([1.0, 2.0], mask=[0, 1]), lambda v: v.data.__setitem__(0, 5)),
            (lambda: np.random.default_rng(0), lambda v: v.random()),
            (lambda: memoryview(bytearray(4)), lambda v: v.__setitem__(0, 5)),
            (lambda: types.MappingProxyType({"a": [1]}), lambda v: v["a"].append(1)),
            (lambda: Wrapping([1]), lambda v: v.inner.append(2)),
            (lambda: Wrapping(1), lambda v: setattr(v, "inner", 2)),
        ],
    )
    def test_a_change_inside_is_noticed(self, make: Any, change: Any) -> None:
        value = make()
        taken = snapshot(lambda: value)
        assert packed(lambda: value) is not None
        assert taken.unchanged()
        change(value)
        assert not taken.unchanged()

    @pytest.mark.parametrize("body", ["value", "print, value", "value, print", "nowhere, value", "float(value.sum())"])
    @pytest.mark.parametrize("shape", [3, (20, 20), ()])
    def test_a_change_inside_a_global_is_noticed_beside_names_that_are_no_globals(self, body: str, shape: Any) -> None:
        scope = script(f"def f(): return {body}", value=np.zeros(shape))
        taken = snapshot(scope["f"])
        scope["value"] += 1
        assert not taken.unchanged()

    @pytest.mark.parametrize(
        "value",
        [
            1,
            10**30,
            "text",
            b"bytes",
            2.5,
            None,
            ...,
            decimal.Decimal("1.5"),
            np.float32(3),
            np.dtype("f8"),
            range(5),
            len,
            math.sin,
            np.sin,
            str.join,
            [].append,
            {}.get,
            object.__new__,
            typing.Optional[int],  # noqa: UP045
            list[int],
            int | None,
            typing.TypeVar("T"),
            slice(1, 2),
            enum.Flag,
            copy.copy,
        ],
    )
    def test_other_values_are_told_without_pickling(self, value: Any) -> None:
        snapshot(lambda: value)

    def test_an_equal_but_other_object_counts_as_changed(self) -> None:
        value: Any = [1]
        taken = snapshot(lambda: value)
        value = [1]
        assert not taken.unchanged()

    def test_what_makes_new_objects_each_time_is_not_told(self) -> None:
        class Odd:
            def __reduce__(self) -> Any:
                return Odd, (object(),)

        odd = Odd()
        assert Snapshot.of(lambda: odd, REDUCERS) is None

    def test_unless_it_is_large(self) -> None:
        class Odd:
            def __reduce__(self) -> Any:
                return Odd, (object(), bytes(captures.ARRAY_BYTES))

        odd = Odd()
        taken = snapshot(lambda: odd)
        odd = Odd()
        assert not taken.unchanged()

    def test_a_frame_of_pandas(self) -> None:
        pandas = needs_module("pandas")
        frame = pandas.DataFrame({"a": np.arange(5), "b": list("abcde")})
        taken = snapshot(lambda: frame)
        frame.iloc[0, 0] = 7
        assert not taken.unchanged()
        taken = snapshot(lambda: frame)
        frame["c"] = 1
        assert not taken.unchanged()

    def test_what_fails_when_it_is_looked_at_is_not_told(self) -> None:
        class Wrong:
            def __reduce__(self) -> Any:
                raise ValueError("no")

        wrong = Wrong()
        assert Snapshot.of(lambda: wrong, REDUCERS) is None

    def test_what_fails_later_counts_as_changed(self) -> None:
        class Moody:
            fails = False

            def __reduce__(self) -> Any:
                if Moody.fails:
                    raise ValueError("no")
                return Moody, ()

        moody = Moody()
        taken = snapshot(lambda: moody)
        Moody.fails = True
        assert not taken.unchanged()


class TestBudget:
    """Beyond it, an object counts as changed only when another stands in its place."""

    @pytest.mark.parametrize(
        ("make", "change"),
        [
            (lambda more: np.zeros(captures.ARRAY_BYTES + more, "u1"), lambda v: v.__setitem__(0, 1)),
            (lambda more: bytearray(captures.ARRAY_BYTES + more), lambda v: v.__setitem__(0, 1)),
            (lambda more: [0] * (captures.ENTRIES + more), lambda v: v.__setitem__(0, 1)),
            (lambda more: dict.fromkeys(range(captures.ENTRIES + more)), lambda v: v.__setitem__(0, 1)),
            (lambda more: set(range(captures.ENTRIES + more)), lambda v: v.add(-1)),
            (lambda more: collections.deque([0] * (captures.ENTRIES - 10 + 20 * more)), lambda v: v.append(1)),
        ],
    )
    def test_the_limit_of_one_object(self, make: Any, change: Any) -> None:
        value = make(0)

        def f() -> Any:
            return value

        taken = snapshot(f)
        change(value)
        assert not taken.unchanged()
        value = make(1)
        taken = snapshot(f)
        change(value)
        assert taken.unchanged()
        value = make(1)
        assert not taken.unchanged()

    def test_the_limit_of_all_together(self) -> None:
        count = captures.TOTAL_BYTES // captures.ARRAY_BYTES + 1
        arrays = [np.zeros(captures.ARRAY_BYTES, "u1") for _ in range(count)]
        taken = snapshot(lambda: arrays)
        arrays[-1][0] = 1
        assert taken.unchanged()
        arrays[0][0] = 1
        assert not taken.unchanged()
        lists = [[0] * 250 for _ in range(captures.TOTAL_ENTRIES // 250 + 1)]
        taken = snapshot(lambda: lists)
        lists[-1][0] = 1
        assert taken.unchanged()
        lists[0][0] = 1
        assert not taken.unchanged()

    def test_what_a_large_container_holds_is_not_followed(self) -> None:
        inner = [1]
        outer = [inner] * (captures.ENTRIES + 1)
        taken = snapshot(lambda: outer)
        inner.append(2)
        assert taken.unchanged()

    def test_an_array_is_not_kept_alive(self) -> None:
        scope = script("def f(): return data, rows", data=np.zeros(1_000_000), rows=[np.zeros(5)])
        taken = snapshot(scope["f"])
        dead = weakref.ref(scope["data"])
        scope["data"] = None
        gc.collect()
        assert dead() is None
        assert not taken.unchanged()
