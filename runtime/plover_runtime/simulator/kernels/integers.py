"""Integers as Numba types them: kernels read narrow ones and calculate in 64 bits.

An element of an integer array is read as an `Integer`, an int that knows its dtype; only one of int64 stays NumPy's
scalar, which is typed as Numba has it anyway. Arithmetic gives `Int64`, or `UInt64` where Numba's typing says so: both
sides unsigned, for shifts the left one alone. Results wrap round at 64 bits; with floats the dtypes promote as NumPy's
scalars do, which for these is what Numba does. Storing (`elements`) keeps the low bits, as C does.

Guarantees: what is read from an array does not wrap round in its own width, but for negation and inversion, which Numba
does there too. Assumes that kernels run with NumPy's warnings off. A read and an operation cost a Python call each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np

Binary = Callable[[Any, Any], Any]

_MASK: Final = 2**64 - 1
_LOW: Final = -(2**63)
_HIGH: Final = 2**63 - 1


class Integer(int):
    """An integer of one of NumPy's types in a kernel; the subclasses below stand for one type each."""

    __slots__ = ()
    __array_priority__ = 1e6  # NumPy's scalars leave arithmetic with these to the methods here
    __hash__ = int.__hash__
    dtype: ClassVar[np.dtype[Any]]

    def __getattr__(self, name: str) -> Any:  # view, astype and the like: a NumPy scalar's
        if name.startswith("__"):  # not NumPy's protocols: np.sqrt of a uint8 would be a float16, not Numba's float64
            raise AttributeError(name)
        return getattr(self.dtype.type(self), name)

    def __reduce__(self) -> Any:  # outside of a kernel it is NumPy's again
        return self.dtype.type, (int(self),)

    def __abs__(self) -> Any:
        return of(int.__abs__(self), self.dtype)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self


class Signed(Integer):
    __slots__ = ()


class Unsigned(Integer):
    __slots__ = ()


def _kind(dtype: np.dtype[Any]) -> Any:
    base = Signed if dtype.kind == "i" else Unsigned
    return type(dtype.name, (base,), {"__slots__": (), "dtype": dtype, "__module__": __name__})


_CLASSES: Final[dict[np.dtype[Any], Any]] = {np.dtype(code): _kind(np.dtype(code)) for code in "bBhHiIlL"}
Int64, UInt64, UInt16 = (_CLASSES[np.dtype(code)] for code in ("i8", "u8", "u2"))
#: What NumPy reads → what a kernel sees. An int64 of NumPy's is typed as Numba has it anyway.
WIDENING: Final = {np.dtype(code).type: _CLASSES[np.dtype(code)] for code in "bBhHiILQ"}
_UNSIGNED: Final = frozenset(kind for kind in _CLASSES.values() if issubclass(kind, Unsigned))
_SIGNED: Final = frozenset(kind for kind in _CLASSES.values() if issubclass(kind, Signed)) | {int}
_ALL: Final = _SIGNED | _UNSIGNED


def of(value: int, dtype: np.dtype[Any]) -> Integer:
    """The integer of ``dtype`` with the low bits of ``value``."""
    bits = dtype.itemsize * 8
    low = int(value) & (1 << bits) - 1
    if dtype.kind == "i" and low >> bits - 1:
        low -= 1 << bits
    kind: type[Integer] = _CLASSES[dtype]
    return kind(low)


def seen(value: Any) -> Any:
    """A scalar as a kernel sees it: narrow integers of NumPy's widen in arithmetic, all else stays as it is."""
    kind = WIDENING.get(value.__class__)
    return value if kind is None else kind(value)


def _operand(value: Any) -> Integer | None:
    """An operand as Numba types it, or None if it is no integer."""
    if isinstance(value, Integer):
        return value
    if isinstance(value, np.integer):
        kind = _CLASSES.get(value.dtype)  # none for a timedelta64
        return None if kind is None else kind(value)
    if isinstance(value, (int, np.bool_)):  # Python's integers are int64 to Numba, and uint64 if they do not fit
        return of(int(value), UInt64.dtype if value > _HIGH else Int64.dtype)
    return None


def _int64(value: int) -> Integer:
    return Int64(value) if _LOW <= value <= _HIGH else of(value, Int64.dtype)


def _numpy(operate: Binary, left: Any, right: Any) -> Any:
    """An operation with a float or an array, which promotes as NumPy has it."""
    for other in (left, right):
        if not isinstance(other, (Integer, float, complex, np.generic, np.ndarray)):
            return NotImplemented
    if isinstance(left, np.float32) or isinstance(right, np.float32):  # beside a uint16 NumPy keeps a float32
        left, right = (float(value) if isinstance(value, UInt16) else value for value in (left, right))
    left, right = (
        value.dtype.type(value) if isinstance(value, Integer)
        else np.float64(value) if type(value) is float
        else value
        for value in (left, right)
    )  # fmt: skip
    return operate(left, right)


def _unsigned_result(left: Integer, right: Integer) -> bool:
    return isinstance(left, Unsigned) and isinstance(right, Unsigned)


def _unsigned_left(left: Integer, right: Integer) -> bool:
    return isinstance(left, Unsigned)


def _whole(operate: Binary, exact: Binary, is_unsigned: Callable[[Integer, Integer], bool]) -> Binary:
    """The operation in full, for operands of any kind in either order; ``exact`` is that of Python's integers."""

    def calculate(left: Any, right: Any) -> Any:
        a, b = _operand(left), _operand(right)
        if a is None or b is None:
            return _numpy(operate, left, right)
        if is_unsigned(a, b):
            return UInt64(exact(int(a), int(b)) & _MASK)
        # an unsigned operand beside a signed one is taken for a signed one, bit by bit
        return _int64(exact(int(_int64(a)), int(_int64(b)) if is_unsigned is _unsigned_result else int(b)))

    return calculate


def _divided(operate: Binary) -> Binary:
    def exact(left: int, right: int) -> Any:
        if right == 0:  # NumPy's 0, or its error in a kernel with debug=True
            return int(operate(np.int64(0), np.int64(0)))
        return operate(left, right)

    return exact


def _shifted_left(value: int, amount: int) -> int:
    return value << amount if 0 <= amount < 64 else 0


def _shifted_right(value: int, amount: int) -> int:
    return value >> (amount if 0 <= amount < 64 else 64)


def _power(base: int, exponent: int) -> int:
    if exponent < 0:
        raise ValueError("Integers to negative integer powers are not allowed.")
    return pow(base, exponent, _MASK + 1)


def _true_division(left: Any, right: Any) -> Any:
    a, b = _operand(left), _operand(right)
    if a is None or b is None:
        return _numpy(operator.truediv, left, right)
    return np.float64(a) / np.float64(b)


def _reflected(calculate: Binary) -> Binary:
    return lambda self, other: calculate(other, self)


def _quick_signed(own: Binary, calculate: Binary) -> Binary:
    """`calculate` where the left side is signed, the common case first; ``own`` is the method of Python's int."""

    def method(self: Any, other: Any) -> Any:
        if other.__class__ in _ALL:
            value = own(self, other)
            if _LOW <= value <= _HIGH:
                return Int64(value)
        return calculate(self, other)

    return method


def _quick_unsigned(own: Binary, calculate: Binary) -> Binary:
    """`calculate` where the left side is unsigned."""

    def method(self: Any, other: Any) -> Any:
        if other.__class__ in _UNSIGNED:
            return UInt64(own(self, other) & _MASK)
        if other.__class__ in _SIGNED and other <= _HIGH:
            value = own(self, other)
            if _LOW <= value <= _HIGH:
                return Int64(value)
        return calculate(self, other)

    return method


def _quick_division(own: Binary, calculate: Binary) -> Binary:
    """`calculate` where the right side is positive and both fit an int64."""

    def method(self: Any, other: Any) -> Any:
        if other.__class__ in _ALL and 0 < other <= _HIGH and self <= _HIGH:
            both = self.__class__ in _UNSIGNED and other.__class__ in _UNSIGNED
            return (UInt64 if both else Int64)(own(self, other))
        return calculate(self, other)

    return method


def _quick_shift(own: Binary, calculate: Binary) -> Binary:
    """`calculate` where the bits stay within an int64."""

    def method(self: Any, other: Any) -> Any:
        if other.__class__ in _ALL and 0 <= other < 64:
            value = own(self, other)
            if _LOW <= value <= _HIGH:
                return (UInt64 if self.__class__ in _UNSIGNED else Int64)(value)
        return calculate(self, other)

    return method


def _comparison(own: Binary, compare: Binary) -> Binary:
    """By value, whatever the signs, as Numba compares."""

    def method(self: Any, other: Any) -> Any:
        result = own(self, other)
        return _numpy(compare, self, other) if result is NotImplemented else result

    return method


def _unary(operate: Callable[[int], int], result: Any) -> Callable[[Any], Any]:
    """Numba negates and inverts in the operand's own width, and widens then: -uint8(1) is 255."""
    return lambda self: result(of(operate(int(self)), self.dtype))


def _fill() -> None:
    """Give the classes their operators."""
    for name in ("add", "sub", "mul", "and", "or", "xor"):  # the low bits of these are the same, whatever the signs
        operate = getattr(operator, f"__{name}__")
        calculate = _whole(operate, operate, _unsigned_result)
        for method, full in ((f"__{name}__", calculate), (f"__r{name}__", _reflected(calculate))):
            setattr(Signed, method, _quick_signed(getattr(int, method), full))
            setattr(Unsigned, method, _quick_unsigned(getattr(int, method), full))
    others = {
        "floordiv": _whole(operator.floordiv, _divided(operator.floordiv), _unsigned_result),
        "mod": _whole(operator.mod, _divided(operator.mod), _unsigned_result),
        "pow": _whole(operator.pow, _power, _unsigned_result),
        "lshift": _whole(operator.lshift, _shifted_left, _unsigned_left),
        "rshift": _whole(operator.rshift, _shifted_right, _unsigned_left),
        "truediv": _true_division,
    }
    for name, calculate in others.items():
        method = f"__{name}__"
        quick = {"floordiv": _quick_division, "mod": _quick_division, "lshift": _quick_shift, "rshift": _quick_shift}
        if name in quick:
            setattr(Integer, method, quick[name](getattr(int, method), calculate))
        else:
            setattr(Integer, method, lambda self, other, calculate=calculate: calculate(self, other))
        setattr(Integer, f"__r{name}__", _reflected(calculate))
    for name in ("lt", "le", "eq", "ne", "gt", "ge"):
        setattr(Integer, f"__{name}__", _comparison(getattr(int, f"__{name}__"), getattr(operator, name)))
    for name in ("neg", "pos", "invert"):
        setattr(Signed, f"__{name}__", _unary(getattr(operator, name), Int64))
        setattr(Unsigned, f"__{name}__", _unary(getattr(operator, name), UInt64))


_fill()
