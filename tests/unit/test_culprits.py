"""What cannot travel: the whole path to it, whatever the object does, and within the time."""

from __future__ import annotations

import copy
import functools
import sqlite3
import sys
import textwrap
import threading
import time
import types
from typing import Any

import pytest

from plover import gpu_function, kernels, serialize
from plover.errors import NotSerializable
from plover.pickling import advice, culprits
from tests.support.preconditions import needs_module


def told(function: Any) -> NotSerializable:
    """What is said about a function that cannot travel."""
    with pytest.raises(NotSerializable) as caught:
        serialize.pack_function(function)
    error = caught.value
    assert error.path is not None
    assert str(error).startswith(f"cannot send {error.path}: ")
    assert not isinstance(error.__cause__, NotSerializable)  # which would say the same once more
    assert error.__suppress_context__
    return error


def script(source: str, **names: Any) -> dict[str, Any]:
    """The globals of a script: what is defined in it goes by value."""
    scope: dict[str, Any] = {"__name__": "__main__", "threading": threading, **names}
    exec(textwrap.dedent(source), scope)
    return scope


def using(value: Any) -> Any:
    return script("def f(): return thing", thing=value)["f"]


class Holder:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class TestPaths:
    def test_a_closure(self) -> None:
        lock = threading.Lock()

        def use() -> Any:
            return lock

        error = told(use)
        assert error.path == "use → closure 'lock' → threading.Lock"
        assert isinstance(error.__context__, advice.Refused)

    def test_an_unbound_cell_is_passed_over(self) -> None:
        lock = threading.Lock()

        def use() -> Any:
            return never, lock

        if not lock:
            never = 1
        assert told(use).path == "use → closure 'lock' → threading.Lock"

    def test_a_global_down_to_the_connection(self) -> None:
        connection = sqlite3.connect(":memory:")
        scope = script("def f(): return CONFIG['db'].ask()", CONFIG={"db": Holder(name="x", connection=connection)})
        assert told(scope["f"]).path == "f → global 'CONFIG' → ['db'] → .connection → sqlite3.Connection"
        connection.close()

    @pytest.mark.parametrize(
        ("source", "path"),
        [
            ("def f(a, b=threading.Lock()): ...", "f → default of 'b'"),
            ("def f(a, *, b=threading.Lock()): ...", "f → default of 'b'"),
            ("def f(): ...\nf.mark = threading.Lock()", "f → .mark"),
            ("def f(a): ...\nf.__annotations__['a'] = threading.Lock()", "f → annotation of 'a'"),
            ("lock = threading.Lock()\ndef g(): return lock\ndef f(): return g()", "f → global 'g' → global 'lock'"),
            ("rows = [1, (2, {'k': threading.Lock()})]\ndef f(): return rows", "f → global 'rows' → [1] → [1] → ['k']"),
            ("items = {threading.Lock()}\ndef f(): return items", "f → global 'items' → an element"),
            ("table = {threading.Lock(): 1}\ndef f(): return table", "f → global 'table' → a key"),
            ("class C:\n    lock = threading.Lock()\ndef f(): return C", "f → global 'C' → .lock"),
            (
                "class C:\n    def m(self, x=threading.Lock()): ...\nc = C()\ndef f(): return c",
                "f → global 'c' → .m → default of 'x'",
            ),
            (
                "class C:\n    @property\n    def p(self): return lock\nlock = threading.Lock()\ndef f(): return C",
                "f → global 'C' → .p → global 'lock'",
            ),
            (
                "class C:\n    @classmethod\n    def m(cls): return lock\nlock = threading.Lock()\ndef f(): return C",
                "f → global 'C' → .m → global 'lock'",
            ),
        ],
    )
    def test_where_the_lock_is(self, source: str, path: str) -> None:
        assert told(script(source)["f"]).path == f"{path} → threading.Lock"

    @pytest.mark.parametrize(
        ("make", "path"),
        [
            (lambda lock: Holder(a=Holder(b=[lock])), ".a → .b → [0]"),
            (lambda lock: Slotted(Slotted(lock)), ".inner → .inner"),
            (lambda lock: functools.partial(print, 1, lock), ".args[1]"),
            (lambda lock: functools.partial(print, file=lock), ".keywords['file']"),
            (lambda lock: types.MethodType(print, Holder(a=lock)), "self → .a"),
            (lambda lock: types.SimpleNamespace(a=lock), ".a"),
            (lambda lock: types.MappingProxyType({"a": lock}), "['a']"),
            (lambda lock: gpu_function(using(lock)), "global 'thing'"),
        ],
    )
    def test_what_holds_it(self, make: Any, path: str) -> None:
        assert told(using(make(threading.Lock()))).path == f"f → global 'thing' → {path} → threading.Lock"

    def test_a_callable_object(self) -> None:
        class Task:
            def __init__(self) -> None:
                self.lock = threading.Lock()

            def __call__(self) -> None: ...

        assert told(Task()).path == "Task → .lock → threading.Lock"

    def test_kernels_are_looked_into(self) -> None:
        cuda = needs_module("numba.cuda")
        numba = needs_module("numba")
        scope = script(
            """
            @cuda.jit
            def kernel(x): x[0] = lock
            @njit
            def cpu(x): return lock
            def f(x): kernel[1, 1](x)
            def g(x): return cpu(x)
            """,
            cuda=cuda,
            njit=numba.njit,
            lock=threading.Lock(),
        )
        assert told(scope["f"]).path == "f → global 'kernel' → global 'lock' → threading.Lock"
        assert told(scope["g"]).path == "g → global 'cpu' → global 'lock' → threading.Lock"
        launch = kernels.KernelLaunch(scope["kernel"], "numba")
        assert told(launch).path == "kernel → global 'lock' → threading.Lock"

    def test_what_its_owner_says_is_pickled(self) -> None:
        class Owner:
            def __getstate__(self) -> Any:
                return {"made": [threading.Lock()]}

        assert told(using(Owner())).path == "f → global 'thing' → as pickled → ['made'] → [0] → threading.Lock"

    def test_the_outermost_thing_is_named(self) -> None:
        """A thread holds locks; that it is a thread says more."""
        assert told(using(threading.Event())).path == "f → global 'thing' → threading.Event"

    @pytest.mark.parametrize(
        ("args", "kwargs", "path"),
        [
            ((1, threading.Lock()), {}, "argument 1 → threading.Lock"),
            ((1,), {"held": [threading.Lock()]}, "argument 'held' → [0] → threading.Lock"),
        ],
    )
    def test_an_argument(self, args: Any, kwargs: Any, path: str) -> None:
        with pytest.raises(NotSerializable) as caught:
            serialize.pack_arguments("module.<locals>.saxpy", args, kwargs)
        assert caught.value.path == f"saxpy → {path}"

    def test_a_result(self) -> None:
        with pytest.raises(NotSerializable) as caught:
            serialize.pack_result("saxpy", {"lock": threading.Lock()}, ())
        assert caught.value.path == "saxpy → result → ['lock'] → threading.Lock"
        assert serialize.unpack(serialize.pack_result("saxpy", [1, 2], ())) == [1, 2]

    def test_keys_are_shown_in_brief(self) -> None:
        path = told(using({"k" * 100: threading.Lock()})).path
        assert path == f"f → global 'thing' → ['{'k' * 36}…] → threading.Lock"


def _nested() -> Any:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    return value


class TestObjectsThatMisbehave:
    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (lambda self: 42, "Odd.__reduce__ returned int, not a string or a tuple"),
            (lambda self: (print, 5), "tuple"),
            (lambda self: (), "PicklingError"),
            (lambda self: (5, ()), "callable"),
            (lambda self: [].pop(), "IndexError: pop from empty list"),
            (lambda self: (type(self), (type(self)(),)), "nested too deeply"),
            (lambda self: self.__reduce__(), "nested too deeply"),
            (lambda self: copy.copy(self), "nested too deeply"),
        ],
    )
    def test_each_ends_in_an_error_with_the_path(self, answer: Any, said: str) -> None:
        odd = type("Odd", (), {"__reduce__": answer})
        began = time.monotonic()
        error = told(using({"here": [odd()]}))
        assert time.monotonic() - began < 10
        assert error.path is not None
        assert error.path.startswith("f → global 'thing' → ['here'] → [0] → ")
        assert error.path.endswith("Odd")
        assert said in str(error)
        assert len(error.path) < 300

    def test_the_limit_of_recursion_is_as_before(self) -> None:
        before = sys.getrecursionlimit()
        told(using(_nested()))
        assert sys.getrecursionlimit() == before

    def test_attributes_that_raise_when_they_are_looked_at(self) -> None:
        class Hostile:
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(name)

            def __repr__(self) -> str:
                raise RuntimeError("repr")

            def __reduce__(self) -> Any:
                raise ValueError("no way")

            def __hash__(self) -> int:
                return 1

        with pytest.raises(NotSerializable) as caught:
            serialize.pack_function(using({Hostile(): 1}))
        assert caught.value.path is not None
        assert caught.value.path.startswith("f")


class TestBudget:
    def test_what_is_too_large_is_narrowed_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(culprits, "BUDGET_NODES", 100)
        values: list[Any] = [Holder(x=number) for number in range(1000)]
        values[700] = Holder(deep={"lock": threading.Lock()})
        assert told(using(values)).path == "f → global 'thing' → [700] → .deep → ['lock'] → threading.Lock"

    def test_without_time_at_least_the_whole_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(culprits, "BUDGET_S", 0.0)
        monkeypatch.setattr(culprits, "BUDGET_NODES", 10)
        error = told(using([Holder(x=number) for number in range(1000)] + [threading.Lock()]))
        assert error.path == "f"
        assert "locks nothing" in str(error)

    def test_numbers_cost_nothing(self) -> None:
        values: list[Any] = [list(range(1000)) for _ in range(300)]
        values.append({"lock": threading.Lock()})
        began = time.monotonic()
        assert told(using(values)).path == "f → global 'thing' → [300] → ['lock'] → threading.Lock"
        assert time.monotonic() - began < 5
