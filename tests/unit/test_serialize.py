"""Serialization: out-of-band arrays, stable digests, classes that come home, and culprits by name."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import textwrap
import types
import weakref
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from plover import serialize
from plover.pickling import classes


@pytest.fixture
def main_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for a script: what is defined in it goes by value."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def define(module: types.ModuleType, source: str) -> None:
    exec(textwrap.dedent(source), module.__dict__)


def writable(buffers: list[serialize.Buffer]) -> list[serialize.Buffer]:
    """Buffers as they arrive: each in memory of its own."""
    return [bytes(buffers[0]), *(bytearray(each) for each in buffers[1:])]


class TestValues:
    def test_array_bytes_stand_beside_the_stream(self) -> None:
        array = np.arange(10_000.0)
        stream, data = serialize.pack({"a": array})
        assert len(stream) < 1000
        assert memoryview(data).nbytes == array.nbytes

    def test_array_bytes_are_not_copied(self) -> None:
        array = np.zeros(100)
        _, data = serialize.pack(array)
        array[0] = 5.0
        assert np.frombuffer(data)[0] == 5.0

    def test_arrays_come_out_writable_where_the_buffers_are(self) -> None:
        found = serialize.unpack(writable(serialize.pack([np.arange(5), "text"])))
        found[0][0] = 7
        assert found[0].tolist() == [7, 1, 2, 3, 4]

    def test_a_buffer_that_is_read_only_gives_a_read_only_array(self) -> None:
        stream, data = serialize.pack(np.arange(5))
        assert not serialize.unpack([stream, bytes(data)]).flags.writeable

    def test_arrays_in_fortran_order_keep_it(self) -> None:
        array = np.asfortranarray(np.arange(12).reshape(3, 4))
        found = serialize.unpack(writable(serialize.pack(array)))
        assert found.flags.f_contiguous
        np.testing.assert_array_equal(found, array)

    def test_reducers_are_asked_in_order(self) -> None:
        class Handle:
            pass

        def reduce(obj: Any) -> Any:
            return (serialize.as_is, ("reduced",)) if isinstance(obj, Handle) else NotImplemented

        def never(obj: Any) -> Any:
            return (serialize.as_is, ("too late",)) if isinstance(obj, Handle) else NotImplemented

        assert serialize.unpack(serialize.pack([Handle()], (reduce, never))) == ["reduced"]


class TestDigests:
    def test_a_digest_knows_where_one_buffer_ends(self) -> None:
        assert serialize.digest([b"ab", b"c"]) != serialize.digest([b"a", b"bc"])
        assert serialize.digest([b"ab", bytearray(b"c")]) == serialize.digest([b"ab", memoryview(b"c")])
        assert len(serialize.digest([])) == 32

    def test_a_function_of_main_has_the_same_digest_in_every_process(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent(
                """
                import dataclasses
                from plover import serialize

                @dataclasses.dataclass
                class Point:
                    x: float
                    def norm(self): return abs(self.x)

                class Other(Point):
                    pass

                def helper(p):
                    return Other(p.x)

                def f(p: Point):
                    return helper(p).norm() if p.x else Point(0.0)

                buffers, classes, _ = serialize.pack_function(f)
                print(serialize.digest(buffers).hex(), sorted(each.__name__ for each in classes))
                """
            )
        )
        said = {_run(script, seed) for seed in ("0", "1", "2")}
        assert len(said) == 1
        assert said.pop().endswith("['Other', 'Point']")

    def test_so_has_one_that_captures_what_is_made_anew(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent(
                """
                import abc, dataclasses, enum, functools, typing
                import numba
                from numba import cuda
                from plover import serialize

                T, P, Name = typing.TypeVar("T"), typing.ParamSpec("P"), typing.NewType("Name", str)
                class Box(typing.Generic[T]):
                    __slots__ = ("item",)
                    @functools.cached_property
                    def half(self): return self.item / 2
                class Colour(enum.Flag):
                    RED = 1
                class Shape(abc.ABC): ...
                @dataclasses.dataclass(slots=True)
                class Data:
                    x: int = 1
                @functools.lru_cache
                def cached(x): return x
                @functools.singledispatch
                def kind(x): return "other"
                @kind.register
                def _(x: int): return "int"
                @cuda.jit
                def kernel(x): x[0] = 1
                @numba.njit
                def compiled(x): return x
                @numba.vectorize(["f8(f8)"])
                def wide(x): return x + 1

                def f(): return T, P, Name, Box, Colour.RED, Shape, Data(1), cached, kind, kernel, compiled, wide
                first = serialize.digest(serialize.pack_function(f)[0])
                kernel, compiled, cached(1), kind(1)
                assert serialize.digest(serialize.pack_function(f)[0]) == first
                print(first.hex())
                """
            )
        )
        assert len({_run(script, seed) for seed in ("0", "1")}) == 1

    def test_another_captured_value_is_another_digest(self) -> None:
        def make(value: int) -> Any:
            return lambda: value

        one, again, two = (serialize.digest(serialize.pack_function(make(n))[0]) for n in (1, 1, 2))
        assert one == again
        assert one != two


def _run(script: Path, seed: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


class TestClasses:
    SOURCE = """
        class Point:
            def __init__(self, x): self.x = x
            def label(self): return "{label}"
            counter = 0

        def make(x): return Point(x)
        def label(): return Point(0).label()
    """

    def test_a_class_comes_home_as_itself(self, main_module: types.ModuleType) -> None:
        define(main_module, self.SOURCE.format(label="one"))
        buffers, classes, _ = serialize.pack_function(main_module.make)
        assert classes == [main_module.Point]
        namespace = serialize.ClassNamespace()
        with namespace.entered():
            make = serialize.unpack(buffers)
            value = make(3)
            type(value).counter = 99  # the worker's own class, not the client's
            result = serialize.pack([value, type(value)], (namespace.reduce,))
        assert type(value) is not main_module.Point
        home, cls = serialize.unpack(result)
        assert type(home) is main_module.Point
        assert cls is main_module.Point
        assert (home.x, main_module.Point.counter) == (3, 0)

    def test_arguments_share_the_classes_of_their_function(self, main_module: types.ModuleType) -> None:
        define(main_module, self.SOURCE.format(label="one") + "\n        def ask(p): return isinstance(p, Point)\n")
        function, _, _ = serialize.pack_function(main_module.ask)
        arguments, classes, _ = serialize.pack_arguments("ask", (main_module.Point(1),), {})
        assert classes == [main_module.Point]
        namespace = serialize.ClassNamespace()
        with namespace.entered():
            ask = serialize.unpack(function)
            args, kwargs = serialize.unpack(arguments)
        assert ask(*args, **kwargs) is True

    def test_two_versions_of_a_class_live_side_by_side(self, main_module: types.ModuleType) -> None:
        define(main_module, self.SOURCE.format(label="one"))
        first, kept, _ = serialize.pack_function(main_module.label)
        old = main_module.Point
        define(main_module, self.SOURCE.format(label="two"))
        second, _, _ = serialize.pack_function(main_module.label)
        namespaces = serialize.ClassNamespace(), serialize.ClassNamespace()
        with namespaces[0].entered():
            label_one = serialize.unpack(first)
        with namespaces[1].entered():
            label_two = serialize.unpack(second)
        assert (label_one(), label_two()) == ("one", "two")
        assert kept == [old]
        assert old is not main_module.Point

    def test_one_payload_in_two_namespaces_gives_two_classes(self, main_module: types.ModuleType) -> None:
        define(main_module, self.SOURCE.format(label="one"))
        buffers, _, _ = serialize.pack_function(main_module.make)
        made = []
        for _ in range(2):
            with serialize.ClassNamespace().entered():
                made.append(serialize.unpack(buffers)(1))
        assert type(made[0]) is not type(made[1])

    def test_the_tables_of_the_process_are_back_after_an_error(self) -> None:
        internals = cloudpickle.cloudpickle
        before = internals._DYNAMIC_CLASS_TRACKER_BY_ID
        with pytest.raises(ZeroDivisionError), serialize.ClassNamespace().entered():
            assert internals._DYNAMIC_CLASS_TRACKER_BY_ID is not before
            1 / 0
        assert internals._DYNAMIC_CLASS_TRACKER_BY_ID is before

    def test_a_class_that_no_longer_exists_is_named(self) -> None:
        with pytest.raises(pickle.UnpicklingError, match=r"the class '__main__\.Gone' of this result no longer exists"):
            classes.class_at_home("plover/__main__.Gone#0")

    def test_a_class_of_the_workers_own_goes_home_by_value(self, main_module: types.ModuleType) -> None:
        define(main_module, "def make():\n    class Local:\n        pass\n    return Local()\n")
        buffers, _, _ = serialize.pack_function(main_module.make)
        namespace = serialize.ClassNamespace()
        with namespace.entered():
            value = serialize.unpack(buffers)()
            result = serialize.pack(value, (namespace.reduce,))
        assert type(serialize.unpack(result)).__name__ == "Local"


class TestArguments:
    def test_arguments_come_back(self) -> None:
        buffers, classes, _ = serialize.pack_arguments("f", (1, np.ones(3)), {"k": "v"})
        args, kwargs = serialize.unpack(writable(buffers))
        assert args[0] == 1
        assert args[1].tolist() == [1, 1, 1]
        assert kwargs == {"k": "v"}
        assert classes == []


def _pack_and_let_go(how: str) -> weakref.ref[Any]:
    array = np.ones(100_000)
    if how == "arguments":
        serialize.pack_arguments("f", (array,), {"x": [array]})
    elif how == "result":
        serialize.pack_result("f", {"a": [array]}, ())
    else:
        serialize.pack_function(lambda: array)
    return weakref.ref(array)


@pytest.mark.parametrize("how", ["arguments", "result", "function"])
def test_what_was_packed_is_not_held_by_a_cycle(how: str) -> None:
    """Large arrays are few objects, so the garbage collector would come by seldom."""
    gc.collect()
    gc.disable()
    try:
        assert _pack_and_let_go(how)() is None
    finally:
        gc.enable()
