"""What comes back: arrays, device arrays, classes, and what a call may do to its arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from tests.support.daemons import PATIENCE_S, Daemon, run_script

pytestmark = pytest.mark.usefixtures("session")


def test_numpy_in_and_out_is_writable_and_apart() -> None:
    @gpu_function
    def double(x: Any) -> Any:
        return x * 2

    x = np.arange(5.0)
    got = double(x)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, [0, 2, 4, 6, 8])
    got[0] = 7
    assert got[0] == 7
    assert x[0] == 0


@pytest.mark.parametrize("size", [10, 10_000, 1_000_000])
def test_arguments_are_writable_in_the_worker_and_the_callers_own_stay_as_they_are(size: int) -> None:
    @gpu_function
    def spoil(x: Any) -> Any:
        x[:] = 5
        return x

    x = np.ones(size)
    got = spoil(x)
    assert np.all(got == 5)
    assert np.all(x == 1)
    got += 1
    assert np.all(got == 6)


@pytest.mark.parametrize(
    ("dtype", "order"), [("u1", "C"), ("f4", "F"), ("c16", "C"), ("M8[s]", "C"), ("f8, i4", "C"), ("?", "F")]
)
def test_dtypes_and_orders_survive(dtype: str, order: Any) -> None:
    @gpu_function
    def same(x: Any) -> Any:
        return x

    x = np.zeros((3, 5), dtype=dtype, order=order)
    got = same(x)
    assert (got.dtype, got.shape, got.strides) == (x.dtype, x.shape, x.strides)


def test_odd_arrays_survive() -> None:
    @gpu_function
    def same(*xs: Any) -> Any:
        return xs

    big = np.arange(100_000.0)
    odd = [np.array(3.5), np.zeros((0, 4)), big[::3], big[::-1], np.array(["a", None, 3], dtype=object)]
    got = same(*odd)
    assert type(got) is tuple
    for mine, theirs in zip(odd, got, strict=True):
        assert theirs.dtype == mine.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_an_array_that_somebody_made_read_only_stays_so() -> None:
    @gpu_function
    def look(x: Any) -> Any:
        mine = np.zeros(4)
        mine.flags.writeable = False
        return x.flags.writeable, mine

    x = np.ones(4)
    assert look(x)[0] is True
    x.flags.writeable = False
    there, back = look(x)
    assert there is False
    assert not back.flags.writeable


def test_device_arrays_of_both_kinds_arrive_as_writable_numpy_wherever_they_stand() -> None:
    @dataclasses.dataclass
    class Pair:
        left: Any
        right: Any

    @gpu_function
    def make(x: Any) -> Any:
        import cupy as cp
        from numba import cuda

        c, n = cp.asarray(x) + 1, cuda.to_device(x + 2)
        return c, [n, {"c": c[::2], "deep": (Pair(c, [n]),)}], Pair(n, None)

    x = np.arange(4.0)
    c, (n, inner), pair = make(x)
    (deep,) = inner["deep"]
    assert type(pair) is type(deep) is Pair
    expected_by_place = (
        (c, x + 1),
        (n, x + 2),
        (inner["c"], (x + 1)[::2]),
        (deep.left, x + 1),
        (deep.right[0], x + 2),
        (pair.left, x + 2),
    )
    for array, expected in expected_by_place:
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, expected)
    for array, _ in expected_by_place:
        array[:] = -1
        assert np.all(array == -1)


def test_a_cupy_scalar_array_arrives_as_numpy() -> None:
    @gpu_function
    def total(x: Any) -> Any:
        import cupy as cp

        return cp.asarray(x).sum()

    got = total(np.arange(10))
    assert isinstance(got, np.ndarray)
    assert got.shape == ()
    assert got == 45


def test_an_array_that_is_returned_twice_is_one_array() -> None:
    @gpu_function
    def twice(x: Any) -> Any:
        return x, x

    a, b = twice(np.zeros(100_000))
    assert a is b


def test_fifty_megabytes_there_and_back() -> None:
    @gpu_function
    def negate(x: Any) -> Any:
        import cupy as cp

        return -cp.asarray(x)

    x = np.arange(50_000_000 // 8, dtype="f8")
    got = negate(x)
    assert got.nbytes == x.nbytes == 50_000_000
    assert np.array_equal(got, -x)
    got[-1] = 1


def test_what_a_function_keeps_of_its_result_does_not_change_the_result() -> None:
    @gpu_function
    def count() -> Any:
        kept = plover.current_call().cache.setdefault("kept", np.zeros(100_000))
        kept += 1
        return kept

    first, second = count.submit(), count.submit()
    assert np.all(second.result() == 2)
    assert np.all(first.result() == 1)


def test_a_local_class_comes_home_as_itself() -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    Point.tag = "mine"  # type: ignore[attr-defined]

    @gpu_function
    def move(p: Any) -> Any:
        Point.tag = "theirs"  # type: ignore[attr-defined]
        return p, Point(p.x + 1), type(p) is Point

    old, new, same_there = move(Point(1))
    assert type(old) is type(new) is Point
    assert (old.x, new.x, same_there) == (1, 2, True)
    assert Point.tag == "mine"  # type: ignore[attr-defined]


_MAIN = """
import dataclasses, enum, sys
import numpy as np
import plover
from plover import gpu_function

class Base:
    shared = []

class Thing(Base):
    made = 0
    def __init__(self, value):
        self.value = value
    def __eq__(self, other):
        return type(self) is type(other) and self.value == other.value
    __hash__ = None
    def who(self):
        return ("client", factor)

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass(frozen=True)
class Pair:
    a: object
    b: object

factor = 3

@gpu_function
def work(thing):
    import cupy as cp
    Thing.made = 99
    Base.shared.append("worker")
    return Thing(thing.value * factor), Pair(cp.ones(2), Colour.RED), Thing, isinstance(thing, Base)

before = (Thing, Thing.who, Thing.__dict__["who"].__globals__ is globals())
plover.connect(sys.argv[1])
thing, pair, cls, is_base = work(Thing(2))
assert (Thing, Thing.who, Thing.__dict__["who"].__globals__ is globals()) == before
assert cls is Thing and type(thing) is Thing and thing == Thing(6) and is_base
assert type(pair) is Pair and pair.b is Colour.RED and type(pair.a) is np.ndarray
assert Thing.made == 0 and Base.shared == []
factor = 5
assert thing.who() == ("client", 5)
try:
    @gpu_function
    def fail():
        raise Oops(4, "why")
    class Oops(Exception):
        def __init__(self, code, why):
            super().__init__(f"{code}-{why}")
            self.code = code
    fail()
except Oops as error:
    assert error.code == 4 and str(error) == "4-why"
else:
    raise SystemExit("did not fail")
print("home")
"""


def test_classes_of_main_come_home_as_themselves(daemon: Daemon) -> None:
    status, out, errors = run_script(_MAIN, daemon.address)
    assert (status, out) == (0, "home\n"), errors


def test_the_receipt_of_a_call_that_fails_has_its_times() -> None:
    @gpu_function
    def fails() -> None:
        import time

        time.sleep(0.2)
        raise ValueError("after a while")

    for future in (fails.submit(), fails.submit()):
        with pytest.raises(ValueError, match="after a while"):
            future.result(PATIENCE_S)
        receipt = future.receipt
        assert 0.2 <= receipt.run_s < PATIENCE_S
        assert 0 <= receipt.load_s < PATIENCE_S
        assert 0 <= receipt.transfer_s < PATIENCE_S


def test_a_scalar_of_cupy_is_an_array_of_no_dimension() -> None:
    @gpu_function
    def total(x: Any) -> Any:
        import cupy as cp

        return cp.sum(cp.asarray(x))

    got = total(np.arange(4.0))
    assert (type(got), got.shape, got.item(), float(got)) == (np.ndarray, (), 6.0, 6.0)


def test_as_out_only_a_born_array_is_filled_and_what_is_returned_is_a_copy() -> None:
    @gpu_function
    def fill(x: Any, out: Any = None) -> Any:
        out[:] = x
        return out

    plain, born = np.zeros(4), plover.zeros(4)
    for out, filled in ((plain, 0), (born, 7)):
        got = fill(7, out=out)
        assert out.tolist() == [filled] * 4
        assert got.tolist() == [7] * 4
        assert not np.shares_memory(got, out)
        assert got.flags.writeable
