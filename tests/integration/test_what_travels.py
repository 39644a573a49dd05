"""What goes along with a function, kind by kind, through a real worker; and that classes keep their identity.

Each case is a script of its own: what it defines is of ``__main__``, and so goes by value.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from tests.support.daemons import Daemon, run_script
from tests.support.preconditions import needs_module

pytestmark = pytest.mark.usefixtures("session")


def script(source: str, **names: Any) -> dict[str, Any]:
    """The globals of a script."""
    scope: dict[str, Any] = {"__name__": "__main__", "gpu_function": gpu_function, "np": np, **names}
    exec(textwrap.dedent(source), scope)
    return scope


#: What is captured → a script whose `f()` runs in a worker, and what it returns there (what it returns here, unless told).
FUNCTIONS = {
    "globals": "factor, table = 3, {'a': [1]}\ndef f(): return factor, table",
    "modules": "import math, os.path as where, xml.dom.minidom\n"
    "def f(): return math.pi, where.join('a', 'b'), xml.dom.minidom.__name__",
    "closure": "def make(a, b=[2]):\n    def inner(): return a, b\n    return inner\nf = make(1)",
    "a variable that is not bound yet": """
        def make():
            def inner():
                try: return later
                except NameError: return "not yet"
            if inner is None: later = 1
            return inner
        f = make()
    """,
    "defaults": "def g(a=1, b=[2], *, c={'k': 3}): return a, b, c\ndef f(): return g()",
    "recursion": "def f(n=10): return 1 if n < 2 else n * f(n - 1)",
    "local recursion": """
        def make():
            def fact(n): return 1 if n < 2 else n * fact(n - 1)
            return fact
        fact = make()
        def f(): return fact(10)
    """,
    "mutual recursion": """
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        def f(): return even(10), odd(10)
    """,
    "lambda": "double = lambda x: 2 * x\nf = lambda: double(4)",
    "generator function": "def count(n): yield from range(n)\ndef f(): return list(count(4))",
    "coroutine function": "import asyncio\nasync def ask(): return 5\ndef f(): return asyncio.run(ask())",
    "wraps": """
        import functools
        def twice(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs): return 2 * function(*args, **kwargs)
            return wrapper
        @twice
        def three():
            "Three."
            return 3
        def f(): return three(), three.__name__, three.__doc__, three.__wrapped__()
    """,
    "context manager": """
        import contextlib
        @contextlib.contextmanager
        def opened(x): yield x + 1
        def f():
            with opened(1) as x: return x
    """,
    "partial": "import functools\ng = functools.partial(lambda a, b, c: (a, b, c), 1, c=3)\ndef f(): return g(2)",
    "attributes": "def g(): ...\ng.mark = [1]\ndef f(): return g.mark",
    "lru_cache": """
        import functools
        @functools.lru_cache(maxsize=3, typed=True)
        def square(x): return x * x
        square.note = "mine"
        def f(): return square(3), square(3), square.cache_parameters(), square.note, square.__name__, square.__wrapped__(4)
    """,
    "cache, recursive": """
        import functools
        @functools.cache
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        def f(): return fib(50)
    """,
    "cached method": """
        import functools
        class C:
            @functools.lru_cache
            def m(self, x): return x + 1
        c = C()
        def f(): return c.m(1), c.m(1)
    """,
    "cached_property": """
        import functools
        class C:
            made = 0
            @functools.cached_property
            def value(self):
                "Its value."
                self.made += 1
                return 7
        def f():
            c = C()
            return c.value, c.value, c.made, C.value.__doc__, C.value.attrname
    """,
    "singledispatch": """
        import functools, numbers
        @functools.singledispatch
        def kind(x): return "other"
        @kind.register
        def _(x: int): return "int" if x else kind("zero")
        @kind.register(numbers.Number)
        def _(x): return "number"
        @kind.register
        def _(x: list): return [kind(each) for each in x]
        kind.note = 1
        def f(): return kind(1), kind(1.5), kind("s"), kind([1, None]), kind(0), kind.note, kind.__name__
    """,
    "singledispatchmethod": """
        import functools
        class C:
            @functools.singledispatchmethod
            def m(self, x): return "other"
            @m.register
            def _(self, x: int): return "int"
        def f(): return C().m(1), C().m("s")
    """,
    "typed decorator": """
        import functools
        from typing import Callable, ParamSpec, TypeVar, TypeVarTuple, NewType, Concatenate
        P, R, Ts = ParamSpec("P"), TypeVar("R", bound=object), TypeVarTuple("Ts")
        Meters = NewType("Meters", float)
        def logged(function: Callable[P, R]) -> Callable[Concatenate[int, P], R]:
            def wrapper(*args: P.args, **kwargs: P.kwargs) -> R: return function(*args, **kwargs)
            return wrapper
        @logged
        def go(x: Meters, *rest: *Ts) -> Meters: return Meters(2 * x)
        def f(): return go(2.0), P.__name__, R.__bound__ is object, Ts.__name__, Meters.__supertype__ is float
    """,
    "a module made by hand": """
        import types
        tools = types.ModuleType("tools")
        exec("factor = 2\\ndef double(x): return factor * x", tools.__dict__)
        def f(): return tools.double(3), tools.factor
    """,
    "operators": """
        import operator
        get, item = operator.attrgetter('real'), operator.itemgetter(0)
        def f(): return get(3), item([4])
    """,
    "numpy": """
        sin, kind, scalar = np.sin, np.dtype('f4'), np.float32(2)
        def f(): return float(sin(0.0)), kind.name, scalar + 1
    """,
    "a frozen set and a range": "s, r = frozenset({1}), range(3)\ndef f(): return s, list(r)",
    "memoryview": "view = memoryview(bytearray(b'abc'))\ndef f(): return view[0], view.readonly, bytes(view)",
}

CLASSES = {
    "methods": """
        class C:
            def __init__(self, x): self.x = x
            def bound(self): return self.x
            @classmethod
            def of(cls, x): return cls(x)
            @staticmethod
            def static(x): return x + 1
            @property
            def double(self): return 2 * self.x
            @double.setter
            def double(self, value): self.x = value / 2
            def __add__(self, other): return C(self.x + other.x)
        c = C(3)
        def f():
            c.double = 10
            return c.bound(), C.of(4).bound(), C.static(5), c.double, (c + c).x
    """,
    "partialmethod": """
        import functools
        class C:
            def scale(self, factor, x): return factor * x
            triple = functools.partialmethod(scale, 3)
        def f(): return C().triple(5)
    """,
    "inheritance": """
        class A:
            made = []
            def __init_subclass__(cls, **more): A.made.append(cls.__name__)
            def who(self): return ["A"]
        class B(A):
            def who(self): return super().who() + ["B"]
        class C(B, dict):
            def who(self): return super().who() + [__class__.__name__]
        def f(): return C().who(), isinstance(C(), A), [k.__name__ for k in C.__mro__]
    """,
    "nested classes": """
        class Outer:
            class Inner:
                class Most: value = 5
            def make(self): return Outer.Inner.Most()
        def f(): return Outer().make().value, Outer.Inner.Most.__qualname__
    """,
    "dataclasses": """
        import dataclasses
        @dataclasses.dataclass
        class Point:
            x: float
            y: float = 1.0
            tags: list = dataclasses.field(default_factory=list)
        @dataclasses.dataclass(frozen=True, slots=True, order=True, kw_only=True)
        class Fast:
            a: int
        def f():
            @dataclasses.dataclass
            class More(Point):  # a field without a default must be known as one there
                z: float = 2.0
            p = More(1.0)
            try: Fast(a=1).a = 2
            except dataclasses.FrozenInstanceError: frozen = True
            return dataclasses.asdict(p), dataclasses.replace(p, x=3.0).x, frozen, Fast(a=1) < Fast(a=2), repr(Point(1))
    """,
    "enums": """
        import enum
        class Colour(enum.Enum):
            RED = 1
            BLUE = (2, 3)
            CRIMSON = 1
            def shout(self): return self.name + "!"
        class Bits(enum.Flag):
            A = enum.auto()
            B = enum.auto()
        class Level(enum.IntEnum):
            LOW = 1
        class Name(enum.StrEnum):
            X = "x"
        class Mode(enum.IntFlag):
            R = 4
            W = 2
        def f():
            return (Colour(1).shout(), Colour.CRIMSON is Colour.RED, Colour["BLUE"].value, (Bits.A | Bits.B).value,
                    Bits.A in (Bits.A | Bits.B), Level.LOW + 1, Name.X + "y", (Mode.R | Mode.W).value, len(Colour))
    """,
    "named tuples": """
        import collections, typing
        class Pair(typing.NamedTuple):
            a: int
            b: int = 2
            def total(self): return self.a + self.b
        Old = collections.namedtuple("Old", "x y")
        def f(): return Pair(1).total(), Pair(5)._asdict(), Old(1, 2)._replace(x=3).x
    """,
    "generic": """
        import typing
        T = typing.TypeVar("T")
        class Box(typing.Generic[T]):
            def __init__(self, item: T) -> None: self.item = item
            def get(self) -> T: return self.item
        class IntBox(Box[int]): ...
        def f(): return IntBox(3).get(), Box[str]("s").get(), IntBox.__orig_bases__ == (Box[int],)
    """,
    "abstract": """
        import abc, collections.abc
        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...
            @property
            @abc.abstractmethod
            def name(self): ...
        class Square(Shape):
            name = "square"
            def area(self): return 4
        class Stranger: ...
        Shape.register(Stranger)
        class Rows(collections.abc.Sequence):
            def __len__(self): return 2
            def __getitem__(self, i):
                if i > 1: raise IndexError
                return i
        def f():
            try: Shape()
            except TypeError: refused = True
            return Square().area(), refused, isinstance(Stranger(), Shape), list(reversed(Rows())), isinstance(3, Shape)
    """,
    "protocol": """
        import typing
        @typing.runtime_checkable
        class HasArea(typing.Protocol):
            def area(self) -> float: ...
        class Square:
            def area(self): return 4.0
        def f(): return isinstance(Square(), HasArea), isinstance(3, HasArea)
    """,
    "slots": """
        class Slotted:
            __slots__ = ("a", "__private", "__dict__")
            def __init__(self): self.a, self.__private = 1, 2
            def both(self): return self.a, self.__private
        class Closed(Slotted):
            __slots__ = "b"
        class Shut: __slots__ = ("a",)
        s, closed, shut = Slotted(), Closed(), Shut()
        s.extra, closed.b, shut.a = 3, 4, 5
        def f():
            try: shut.other = 1
            except AttributeError: refused = True
            return s.both(), s.extra, Slotted().both(), closed.b, closed.both(), shut.a, refused, Shut.__slots__
    """,
    "metaclass": """
        class Meta(type):
            def __new__(meta, name, bases, namespace, tag=None):
                cls = super().__new__(meta, name, bases, namespace)
                cls.tag = tag
                return cls
            def __init__(cls, name, bases, namespace, tag=None): super().__init__(name, bases, namespace)
            def shout(cls): return cls.__name__.upper()
            def __len__(cls): return 3
        class Made(metaclass=Meta, tag="t"): ...
        def f(): return Made.shout(), len(Made), type(Made).__name__, Made.tag
    """,
    "descriptors": """
        class Positive:
            def __set_name__(self, owner, name): self.name = "_" + name
            def __get__(self, obj, owner=None): return getattr(obj, self.name)
            def __set__(self, obj, value): setattr(obj, self.name, abs(value))
        class C: x = Positive()
        def f():
            c = C()
            c.x = -4
            return c.x
    """,
    "typed dict": """
        import typing
        class Row(typing.TypedDict, total=False):
            a: int
        def f(): return Row(a=1), Row.__total__
    """,
    "exceptions": """
        class Oops(ValueError):
            def __init__(self, code): super().__init__(f"code {code}"); self.code = code
        def f():
            try: raise Oops(3)
            except ValueError as error: return error.code, str(error), type(error).__name__
    """,
}


@pytest.mark.parametrize("source", [*FUNCTIONS.values(), *CLASSES.values()], ids=[*FUNCTIONS, *CLASSES])
def test_it_works_there_as_here(source: str) -> None:
    scope = script(source)
    remote = gpu_function(scope["f"])
    there = remote()
    assert there == scope["f"]()
    assert remote._pack() is remote._pack()


CALLABLES = {
    "a bound method": """
        class C:
            def __init__(self): self.x = 3
            def m(self, y): return self.x + y
        target = C().m
    """,
    "a class method": "class C:\n    x = 3\n    @classmethod\n    def m(cls, y): return cls.x + y\ntarget = C.m",
    "a static method": "class C:\n    @staticmethod\n    def m(y): return y + 1\ntarget = C.m",
    "a partial": "import functools\ntarget = functools.partial(pow, 2)",
    "a partial of a method": """
        import functools
        class C:
            def m(self, x, y): return x, y
        target = functools.partial(C().m, 1)
    """,
    "an object that can be called": """
        class C:
            def __init__(self): self.x = 2
            def __call__(self, y): return self.x * y
        target = C()
    """,
    "a cached function": "import functools\n@functools.cache\ndef target(y): return y + 1",
    "a single-dispatch function": """
        import functools
        @functools.singledispatch
        def target(y): return "other"
        @target.register
        def _(y: int): return "int"
    """,
    "a built-in": "target = abs",
    "a NumPy function": "target = np.sqrt",
}


@pytest.mark.parametrize("source", CALLABLES.values(), ids=CALLABLES)
def test_whatever_can_be_called_can_be_sent(source: str) -> None:
    target = script(source)["target"]
    assert gpu_function(target)(4) == target(4)


def test_a_cached_function_starts_with_an_empty_cache_and_stays_warm() -> None:
    scope = script(
        "import functools\n@functools.cache\ndef g(x): return x\ndef f(x): return g(x), g.cache_info().misses"
    )
    scope["g"](1)
    remote = gpu_function(scope["f"])
    assert [remote(1), remote(1), remote(2)] == [(1, 1), (1, 1), (2, 2)]
    assert scope["g"].cache_info().misses == 1


def test_nested_gpu_functions_run_right_there() -> None:
    scope = script(
        """
        import os
        @gpu_function(timeout=3)
        def inner(x): return x + 1, os.getpid()
        table = {"inner": inner}
        class Model:
            bias = 2
            @gpu_function
            def add(self, x): return x + self.bias
            @staticmethod
            @gpu_function
            def twice(x): return 2 * x
        def f(): return inner(1), table["inner"](2), Model().add(3), Model.twice(4), os.getpid()
        """
    )
    (one, pid), (two, other), *rest, own = gpu_function(scope["f"])()
    assert (one, two, rest) == (2, 3, [5, 8])
    assert pid == other == own


# -- kernels -----------------------------------------------------------------------------------------------------------

KERNELS = {
    "in a closure": "def make(k):\n    def f(x): k[1, 8](x)\n    return f\nf = make(add_one)",
    "in a container": "kernels = {'add': [add_one]}\ndef f(x): kernels['add'][0][1, 8](x)",
    "as a class attribute": """
        class Model:
            kernel = add_one
            def run(self, x): self.kernel[1, 8](x)
        def f(x): Model().run(x)
    """,
    "in an instance": "class Model: ...\nm = Model()\nm.kernel = add_one\ndef f(x): m.kernel[1, 8](x)",
    "decorated": "remote = gpu_function(add_one)\ndef f(x): remote[1, 8](x)",
    "as a default": "def f(x, k=add_one): k[1, 8](x)",
    "with a device function": """
        @cuda.jit(device=True)
        def plus(v): return v + step
        @cuda.jit
        def outer(x):
            i = cuda.grid(1)
            if i < x.size: x[i] = plus(x[i])
        def f(x): outer[1, 8](x)
    """,
}


@pytest.mark.parametrize("source", KERNELS.values(), ids=KERNELS)
def test_numba_kernels(source: str) -> None:
    cuda = needs_module("numba.cuda")
    scope = script(
        """
        step = 1
        @cuda.jit
        def add_one(x):
            i = cuda.grid(1)
            if i < x.size: x[i] += step
        """,
        cuda=cuda,
    )
    exec(textwrap.dedent(source), scope)
    launch = scope["f"]

    @gpu_function
    def run(x: Any) -> Any:
        from numba import cuda

        on_device = cuda.to_device(x)
        launch(on_device)
        return on_device

    np.testing.assert_array_equal(run(np.zeros(8)), np.ones(8))
    scope["step"] = 5
    np.testing.assert_array_equal(run(np.zeros(8)), np.full(8, 5.0))


NUMBA = {
    "njit": "@numba.njit\ndef g(x): return x * factor\ndef f(x): return g(x)",
    "njit, recursive": "@numba.njit\ndef g(x): return x if x < 1 else g(x - 1.0) + factor\ndef f(x): return g(x)",
    "njit with a signature": """
        @numba.njit('f8(f8)')
        def g(x): return x * factor
        def f(x): return g(x), len(g.signatures)
    """,
    "njit of njit": """
        @numba.njit
        def h(x): return x + factor
        @numba.njit(fastmath=True)
        def g(x): return h(x)
        def f(x): return g(x)
    """,
    "vectorize": """
        @numba.vectorize(['f8(f8)'])
        def g(x): return x * factor
        def f(x): return g(np.array([x, x])).tolist()
    """,
    "vectorize, lazy": "@numba.vectorize\ndef g(x): return x * factor\ndef f(x): return g(np.array([x, x])).tolist()",
    "guvectorize": """
        @numba.guvectorize(['(f8[:], f8[:])'], '(n)->()')
        def g(x, out): out[0] = x.sum() * factor
        def f(x): return float(g(np.array([x, x])))
    """,
}


@pytest.mark.parametrize("source", NUMBA.values(), ids=NUMBA)
def test_numba_on_the_cpu(source: str) -> None:
    numba = needs_module("numba")
    scope = script(f"factor = 3\n{textwrap.dedent(source)}", numba=numba)
    assert gpu_function(scope["f"])(2.0) == scope["f"](2.0)


def test_a_numba_functions_globals_are_read_at_each_call() -> None:
    """Numba itself would take the later one for the earlier, by an id that it gives each function."""
    numba = needs_module("numba")
    scope = script("factor = 3\n@numba.njit\ndef g(x): return x * factor\ndef f(x): return g(x)", numba=numba)
    remote = gpu_function(scope["f"])
    assert remote(2) == 6
    scope["factor"] = 5
    assert remote(2) == 10


def test_ufuncs_of_cupy() -> None:
    cupy = needs_module("cupy")
    scope = script("def f(x):\n    import cupy as cp\n    return sine(table['add'](cp.asarray(x), 1.0))", sine=cupy.sin)
    scope["table"] = {"add": cupy.add}
    x = np.arange(3.0)
    np.testing.assert_allclose(gpu_function(scope["f"])(x), np.sin(x + 1))


def test_fused_functions_of_cupy_or_their_refusal() -> None:
    cupy = needs_module("cupy")
    scope = script("@cupy.fuse(kernel_name='k')\ndef g(x): return x * factor + 1\ndef f(x): return g(cp(x))", cupy=cupy)
    scope["factor"] = 2.0
    exec("def cp(x):\n    import cupy\n    return cupy.asarray(x)", scope)
    future = gpu_function(scope["f"]).submit(np.arange(3.0))
    error = future.exception(30)
    if error is None:
        np.testing.assert_allclose(future.result(), [1, 3, 5])
    else:
        assert isinstance(error, plover.NotSimulated)
        assert "fuse" in str(error)


# -- identity ----------------------------------------------------------------------------------------------------------

IDENTITY = """
import abc, collections, dataclasses, enum, functools, sys, typing
import numpy as np
import plover
from plover import gpu_function

T = typing.TypeVar("T")

class Plain:
    def __init__(self, x=1): self.x = x
    def __eq__(self, other): return type(self) is type(other) and self.x == other.x
    __hash__ = None
class Slotted(Plain): __slots__ = ("y",)
class Outer:
    class Inner(Plain): ...
class Meta(type): ...
class Made(Plain, metaclass=Meta): ...
class Box(Plain, typing.Generic[T]): ...
class Base(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Plain, Base):
    def area(self): return 4
@typing.runtime_checkable
class Proto(typing.Protocol):
    def area(self): ...
class Fitting(Plain, Proto):
    def area(self): return 5
@dataclasses.dataclass
class Data:
    x: int = 1
@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int = 1
class Pair(typing.NamedTuple):
    a: int = 1
Old = collections.namedtuple("Old", "a", defaults=[1])
class Colour(enum.Enum):
    RED = 1
class Bits(enum.Flag):
    A = 1
    B = 2
class Level(enum.IntEnum):
    LOW = 1
class Items(list): ...
class Table(dict): ...
class Text(str): ...
class Failure(Exception):
    def __eq__(self, other): return type(self) is type(other) and self.args == other.args
    __hash__ = None

KINDS = [Plain, Slotted, Outer.Inner, Made, Box, Square, Fitting, Data, Frozen, Pair, Old, Items, Table, Text, Failure]
MEMBERS = [Colour.RED, Bits.A, Bits.A | Bits.B, Level.LOW]

@gpu_function
def work(kinds, values, members):
    Plain.mark = "theirs"  # the worker's own class
    assert [type(value) for value in values] == kinds == KINDS, "an argument's class is the function's"
    assert all(member is type(member)(member.value) for member in members)
    assert members == MEMBERS and members[0] is Colour.RED
    assert isinstance(values[5], Base) and isinstance(values[6], Proto)
    return KINDS, [kind() for kind in KINDS], MEMBERS, values, {Colour.RED: Pair(2)}

plover.connect(sys.argv[1])
states = {kind: (kind.__dict__.copy(), kind.__bases__) for kind in KINDS}
values = [kind() for kind in KINDS]
for _ in range(2):
    kinds, made, members, back, table = work(KINDS, values, MEMBERS)
    assert all(mine is theirs for mine, theirs in zip(KINDS, kinds, strict=True))
    assert [type(each) for each in made] == KINDS and made == values == back
    assert members[0] is Colour.RED and members[1] is Bits.A and members[2] == Bits.A | Bits.B and members[3] is Level.LOW
    assert table == {Colour.RED: (2,)} and type(table[Colour.RED]) is Pair
    for kind in KINDS:
        after = {name: value for name, value in kind.__dict__.items() if name != "__slotnames__"}
        before = {name: value for name, value in states[kind][0].items() if name != "__slotnames__"}
        assert after == before and kind.__bases__ == states[kind][1], kind
assert not hasattr(Plain, "mark")

@gpu_function
def fail(): raise Failure(3)
try: fail()
except Failure as failure: assert type(failure) is Failure and failure.args == (3,)

@gpu_function
def local():
    class There(Plain): ...  # a class that only the worker has
    return There(5)
there = local()
assert isinstance(there, Plain) and there.x == 5 and type(there).__name__ == "There"
print("home")
"""


def test_classes_of_the_script_keep_their_identity_at_both_ends(daemon: Daemon) -> None:
    status, out, errors = run_script(IDENTITY, daemon.address)
    assert (status, out) == (0, "home\n"), errors


def test_a_class_that_changes_is_another_class_there() -> None:
    scope = script("class C:\n    def who(self): return 'one'\ndef f(c=None): return (c or C()).who()")
    remote = gpu_function(scope["f"])
    assert remote() == "one"
    scope["C"].who = lambda self: "two"
    assert remote() == "two"
    assert remote(scope["C"]()) == "two"


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        np.arange(30.0)[::3],
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(12.0).reshape(3, 4).T,
        np.array(["2020-01-01", "NaT"], "M8[ns]"),
        np.array([1, 2], "m8[s]"),
        np.array([(1, "a"), (2, "b")], "i4, U3"),
        np.array([(1, "2020-01-01")], [("a", ">i4"), ("when", "M8[D]")]),
        np.arange(5, dtype=">f8"),
        np.zeros((0, 4)),
        np.array(3.5),
        np.array(np.datetime64("2020-01-01")),
        np.array([b"ab", b"c"]),
        np.array(["a", None, [1]], dtype=object),
        np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0], fill_value=-1),
        np.ma.array([1, 2]),
        np.ma.array(np.zeros((2, 2), "i4, f8"), mask=[[(0, 1), (1, 0)], [(0, 0), (1, 1)]]),
        np.arange(3).view(np.recarray),
        b"x" * 100_000,
        bytearray(b"y" * 100_000),
        {"blob": [b"z" * 100_000, bytearray(70_000)]},
        memoryview(b"abc" * 10_000),
    ],
)
def test_values_come_back_as_they_went(value: Any) -> None:
    @gpu_function
    def same(value: Any) -> Any:
        import numpy as np

        return value, type(value).__name__, getattr(value, "dtype", None), isinstance(value, np.ndarray)

    back, name, dtype, is_array = same(value)
    assert (type(back), name, dtype) == (type(value), type(value).__name__, getattr(value, "dtype", None))
    assert is_array is isinstance(value, np.ndarray)
    if is_array:
        assert back.shape == value.shape
        np.testing.assert_array_equal(np.ma.getdata(back), np.ma.getdata(value))
        np.testing.assert_array_equal(np.ma.getmaskarray(back), np.ma.getmaskarray(value))
        assert back.flags.writeable
    else:
        assert back == value
