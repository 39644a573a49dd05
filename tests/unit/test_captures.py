"""Snapshots of what a function captures: every change that pickling would show is noticed, and nothing else costs."""

from __future__ import annotations

import math
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plover import gpu_function, kernels, serialize
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


class TestCode:
    def test_a_global_bound_to_another_object(self) -> None:
        scope = script("def f(): return factor, math", factor=3, math=math)
        taken = snapshot(scope["f"])
        for value in (3.0, True, "text", None, np):
            scope["factor"] = value
            assert not taken.unchanged()
        scope["factor"] = 3
        assert taken.unchanged()
        del scope["factor"]
        assert not taken.unchanged()

    def test_a_global_that_was_not_there(self) -> None:
        scope = script("def f(): return later")
        taken = snapshot(scope["f"])
        scope["later"] = None
        assert not taken.unchanged()

    def test_a_builtin_that_a_global_comes_to_hide(self) -> None:
        scope = script("def f(): return len")
        taken = snapshot(scope["f"])
        scope["len"] = len
        assert not taken.unchanged()

    def test_cells(self) -> None:
        value, later = 1, 0
        del later

        def f() -> Any:
            return value, later  # noqa: F821

        taken = snapshot(f)
        value = 2
        assert not taken.unchanged()
        value = 1
        assert taken.unchanged()
        later = 0
        assert not taken.unchanged()
        taken = snapshot(f)
        del later
        assert not taken.unchanged()

    @pytest.mark.parametrize(
        "change",
        [
            lambda f: setattr(f, "__code__", (lambda a, b=1, *, c=2: None).__code__),
            lambda f: setattr(f, "__defaults__", (5,)),
            lambda f: setattr(f, "__kwdefaults__", {"c": 3}),
            lambda f: f.__kwdefaults__.update(c=3),
            lambda f: setattr(f, "mark", 1),
            lambda f: setattr(f, "__doc__", "other"),
            lambda f: setattr(f, "__name__", "other"),
            lambda f: setattr(f, "__annotations__", {"a": int}),
            lambda f: f.__annotations__.update(a=int),
        ],
    )
    def test_parts_of_a_function(self, change: Callable[[Any], None]) -> None:
        f = script("def f(a, b=1, *, c=2): return a")["f"]
        taken = snapshot(f)
        change(f)
        assert not taken.unchanged()

    def test_functions_behind_functions(self) -> None:
        scope = script(
            """
            def deep(x): return x * factor
            def middle(x): return deep(x)
            def f(x): return middle(x)
            """,
            factor=2,
        )
        taken = snapshot(scope["f"])
        scope["factor"] = 3
        assert not taken.unchanged()

    def test_recursion_ends(self) -> None:
        scope = script("def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)")
        taken = snapshot(scope["even"])
        scope["odd"].mark = 1
        assert not taken.unchanged()

    @pytest.mark.parametrize("where", ["table['f']", "row[0]", "pair[1]", "part.func", "method.__func__"])
    def test_functions_in_containers(self, where: str) -> None:
        scope = script(
            """
            import functools, types
            def inner(x=None): return factor
            table, row, pair, part = {"f": inner}, [inner], (1, inner), functools.partial(inner, 1)
            method = types.MethodType(inner, 5)
            """,
            factor=2,
        )
        exec(f"def f(): return {where.partition('[')[0].partition('.')[0]}", scope)
        taken = snapshot(scope["f"])
        scope["factor"] = 3
        assert not taken.unchanged()

    def test_a_kernels_python_function(self) -> None:
        cuda = needs_module("numba.cuda")
        scope = script("@cuda.jit\ndef k(x): x[0] = factor\ndef f(x): k[1, 1](x)", cuda=cuda, factor=2)
        for function in (scope["f"], scope["k"], kernels.KernelLaunch(scope["k"], "numba")):
            scope["factor"] = 2
            taken = snapshot(function)
            scope["factor"] = 3
            assert not taken.unchanged()

    def test_a_numba_function_of_the_cpu(self) -> None:
        numba = needs_module("numba")
        scope = script("@njit\ndef k(x): return x * factor\ndef f(x): return k(x)", njit=numba.njit, factor=2)
        taken = snapshot(scope["f"])
        scope["factor"] = 3
        assert not taken.unchanged()

    def test_a_decorated_function_inside_another(self) -> None:
        scope = script(
            "@gpu_function\ndef inner(): return factor\ndef f(): return inner()", gpu_function=gpu_function, factor=2
        )
        taken = snapshot(scope["f"])
        scope["inner"] = scope["inner"].options(timeout=3)
        assert not taken.unchanged()
        taken = snapshot(scope["f"])
        scope["factor"] = 3
        assert not taken.unchanged()

    def test_a_function_that_is_not_importable_any_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scope = script("def f(): return helper", helper=textwrap.dedent)
        taken = snapshot(scope["f"])
        monkeypatch.setattr(textwrap, "dedent", lambda text: text)
        assert not taken.unchanged()

    def test_a_submodule_that_is_imported_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        package = types.ModuleType("some_package")
        package.__package__ = "some_package"
        monkeypatch.setitem(sys.modules, "some_package", package)
        scope = script("def f(): return some_package.part", some_package=package)
        taken = snapshot(scope["f"])
        monkeypatch.setitem(sys.modules, "some_package.part", types.ModuleType("some_package.part"))
        assert not taken.unchanged()

    def test_a_module_that_is_to_go_by_value(self) -> None:
        cloudpickle = sys.modules["cloudpickle"]
        scope = script("def f(): return helper", helper=textwrap.dedent)
        taken = snapshot(scope["f"])
        cloudpickle.register_pickle_by_value(textwrap)
        try:
            assert not taken.unchanged()
        finally:
            cloudpickle.unregister_pickle_by_value(textwrap)

    def test_a_module_made_by_hand(self) -> None:
        module = types.ModuleType("by_hand")
        module.factor = 1  # type: ignore[attr-defined]
        scope = script("def f(): return module.factor", module=module)
        taken = snapshot(scope["f"])
        module.factor = 2  # type: ignore[attr-defined]
        assert not taken.unchanged()

    def test_single_dispatch(self) -> None:
        scope = script(
            """
            import functools
            @functools.singledispatch
            def area(x): return factor
            @area.register
            def _(x: int): return other
            def f(x): return area(x)
            """,
            factor=1,
            other=2,
        )
        taken = snapshot(scope["f"])
        scope["area"](5)  # fills a cache, which does not travel
        assert taken.unchanged()
        scope["other"] = 3
        assert not taken.unchanged()
        taken = snapshot(scope["f"])
        scope["area"].register(str, lambda x: 0)
        assert not taken.unchanged()

    def test_cached_functions(self) -> None:
        scope = script(
            "import functools\n@functools.cache\ndef fib(n): return start if n < 2 else fib(n - 1) + fib(n - 2)",
            start=1,
        )
        taken = snapshot(scope["fib"])
        assert scope["fib"](10) == 89
        assert taken.unchanged()
        scope["start"] = 2
        assert not taken.unchanged()


class TestClasses:
    SOURCE = """
        import abc, dataclasses, enum
        class Mutable(list):
            __hash__ = object.__hash__
        class Base:
            shared = [1]
            def who(self): return factor
        class Thing(Base):
            @property
            def p(self): return factor
            @classmethod
            def c(cls): return cls
            @staticmethod
            def s(): return 1
        @dataclasses.dataclass
        class Pair:
            a: int
            b: int = 3
            c: object = Mutable()
        class Colour(enum.Enum):
            RED = 1
        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...
        def f(): return Thing, Pair, Colour, Shape
    """

    @pytest.mark.parametrize(
        "change",
        [
            "Base.shared = [1]",
            "Base.shared.append(2)",
            "Base.new = 1",
            "del Base.shared",
            "Base.who = lambda self: 2",
            "factor = 7",
            "Thing.s = staticmethod(lambda: 2)",
            "Thing.__name__ = 'Other'",
            "Thing.__bases__ = (Pair,)",
            "Pair.b = 4",
            "Pair.__dataclass_fields__['c'].default.append(1)",
            "Colour.RED.note = 1",
            "Shape.register(int)",
        ],
    )
    def test_a_change_of_a_class_is_noticed(self, change: str) -> None:
        scope = script(self.SOURCE, factor=1)
        packed(scope["f"])
        taken = snapshot(scope["f"])
        exec(change, scope)
        assert not taken.unchanged()

    def test_using_a_class_changes_nothing(self) -> None:
        scope = script(self.SOURCE, factor=1)
        taken = snapshot(scope["f"])
        packed(scope["f"])
        thing, pair = scope["Thing"](), scope["Pair"](1)
        packed(lambda: (thing, pair))
        assert (thing.who(), thing.p, pair, isinstance(3, scope["Shape"])) == (1, 1, scope["Pair"](1, 3), False)
        assert scope["Colour"](1) is scope["Colour"].RED
        assert taken.unchanged()
        assert packed(scope["f"]) == packed(scope["f"])

    @pytest.mark.parametrize(
        "change",
        [
            "thing.x = 2",
            "thing.new = 2",
            "del thing.x",
            "thing.inner.append(1)",
            "thing.__dict__ = {'x': 1}",
            "thing.__class__ = Other",
            "slotted.a = 2",
            "slotted.b = 2",
            "del slotted.a",
            "hidden.x = 2",
            "frozen.items.append(3)",
        ],
    )
    def test_a_change_of_an_instance_is_noticed(self, change: str) -> None:
        scope = script(
            """
            import dataclasses
            class Thing: pass
            class Other: pass
            class Slotted: __slots__ = ("a", "b")
            class Hidden:
                def __init__(self): self.x, self.lock = 1, open
                def __getstate__(self): return {"x": self.x}
            @dataclasses.dataclass(frozen=True, slots=True)
            class Frozen:
                items: list
            thing, slotted, hidden, frozen = Thing(), Slotted(), Hidden(), Frozen([1])
            thing.x, thing.inner, slotted.a = 1, [], 1
            def f(): return thing, slotted, hidden, frozen
            """
        )
        packed(scope["f"])
        taken = snapshot(scope["f"])
        exec(change, scope)
        assert not taken.unchanged()

    def test_what_an_instance_leaves_out_is_left_out(self) -> None:
        scope = script(
            """
            class Hidden:
                def __init__(self): self.x, self.cache = 1, {}
                def __getstate__(self): return {"x": self.x}
            hidden = Hidden()
            def f(): return hidden
            """
        )
        taken = snapshot(scope["f"])
        scope["hidden"].cache["k"] = 1
        assert taken.unchanged()


class TestPacking:
    def test_a_function_that_changed_meanwhile_is_packed_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What changes between the snapshot and the pickling belongs to the payload, and shows at the next call."""
        scope = script("def f(): return value", value=[1])
        remote = gpu_function(scope["f"])
        pack = serialize.pack_function

        def slow(function: Any) -> Any:
            found = pack(function)
            scope["value"].append(2)
            return found

        monkeypatch.setattr(serialize, "pack_function", slow)
        first = remote._pack()
        monkeypatch.setattr(serialize, "pack_function", pack)
        assert remote._pack().digest != first.digest

    def test_an_unchanged_function_is_not_pickled_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scope = script(TestClasses.SOURCE, factor=1)
        remote = gpu_function(scope["f"])
        first = remote._pack()
        monkeypatch.setattr(serialize, "pack_function", lambda function: pytest.fail("pickled again"))
        assert remote._pack() is first

    def test_a_change_that_pickles_to_the_same_bytes_keeps_the_payload(self) -> None:
        scope = script("def f(): return value", value=[1])
        remote = gpu_function(scope["f"])
        first = remote._pack()
        scope["value"] = [1]
        assert remote._pack() is first
        scope["value"] = [2]
        assert remote._pack() is not first
