"""Integer arrays as kernels see them: what is read widens in arithmetic, what is stored keeps its low bits.

Guarantees: memory, dtype, shape and slices are NumPy's; nothing that is stored into an integer array raises for being
out of its range, unless a launch's arrays are all of int64 and floats. Arrays of other dtypes, and int64 arrays in such a
launch, are handed through untouched, so that they cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .integers import WIDENING, of

_read = np.ndarray.__getitem__
_store = np.ndarray.__setitem__


class Integers(np.ndarray[Any, Any]):
    """An integer array; its elements are read as NumPy's scalars."""

    def __setitem__(self, index: Any, value: Any) -> None:
        try:
            _store(self, index, value)
        except (OverflowError, ValueError):
            if not isinstance(value, (int, float, np.integer)) or self.dtype.kind not in "iu":
                raise
            _store(self, index, low_bits(value, self.dtype))


class WideningIntegers(Integers):
    """An integer array whose elements NumPy would not calculate with as Numba does: all but int64."""

    def __getitem__(self, index: Any) -> Any:
        value = _read(self, index)
        kind = WIDENING.get(value.__class__)
        return value if kind is None else kind(value)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


def low_bits(value: Any, dtype: np.dtype[Any]) -> Any:
    """What a store of ``value`` leaves in an integer of ``dtype``."""
    if isinstance(value, (int, np.integer)):
        return of(int(value), dtype.newbyteorder("="))
    return np.float64(value).astype(np.int64).astype(dtype)


def seen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array as kernels see it."""
    if array.dtype.kind not in "iu":
        return array
    return array.view(Integers if array.dtype == np.int64 else WideningIntegers)


def together(arguments: list[Any]) -> tuple[Any, ...]:
    """A launch's arguments: where all integer arrays are of int64, NumPy stores as quickly into them by itself."""
    if any(type(argument) is Integers for argument in arguments) and all(
        type(argument) in _PLAIN for argument in arguments
    ):
        return tuple([argument.view(np.ndarray) if type(argument) is Integers else argument for argument in arguments])
    return tuple(arguments)


#: Kinds of arguments from which no value beyond int64's range comes.
_PLAIN = frozenset([Integers, np.ndarray, int, float, bool, np.int64, np.float32, np.float64])
