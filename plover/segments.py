"""Arrays that are born in shared memory: `empty`, `zeros`, `array`, which cross to a worker of the same host without a copy.

Where there is no shared memory to be had (a daemon elsewhere, a limit, another system), and for small arrays, they are
ordinary ones, and everything works in the same way with copies: an array of these that is given to a call as its keyword
``out`` holds, when the call is done, what the function wrote to it.

Guarantees: they are NumPy arrays like any other; their memory is given back when the last view of them is collected.
Assumes: nothing of Linux's own is imported here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from plover import context
from plover.serialize import Buffer

__all__ = ["THRESHOLD_BYTES", "Out", "address_of", "array", "copy", "empty", "is_born", "size_of", "zeros"]

Array = np.ndarray[Any, Any]

#: From this size on, all large buffers of a message together, memory is shared: below it, frames are as fast
#: (benchmarks/arrays.py).
THRESHOLD_BYTES = 1 << 20

#: In a worker: what gives memory to arrays.
allocate_here: Callable[[int], Array | None] | None = None


def empty(shape: int | tuple[int, ...], dtype: Any = float, order: Any = "C") -> Array:
    """An array without content, born in shared memory if it is large; arguments as for `numpy.empty`.

    At a worker of this host it arrives without a copy: read-only, or to be written to where it is given as the keyword
    ``out``. What is written to it while a call is under way may or may not be seen there.

    Example:
        >>> import plover
        >>> x, y = plover.empty(3), plover.empty(3)
        >>> x.shape
        (3,)
    """
    return _make(shape, dtype, order)


def _make(shape: int | tuple[int, ...], dtype: Any, order: Any, zeroed: bool = False) -> Array:
    kind = np.dtype(dtype)
    model = np.empty(0, kind)
    if kind.hasobject:
        return np.empty(shape, kind, order)
    dimensions = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    count = 1
    for each in dimensions:
        count *= int(each)
    size = count * model.dtype.itemsize
    if min(dimensions, default=0) < 0 or size <= 0:
        return np.empty(shape, kind, order)  # which says what is wrong, if anything is
    shared = _allocate(size) if size >= THRESHOLD_BYTES else None
    # Where memory is not shared, that of zeros is the system's own: it takes none before it is written to.
    anchor = shared if shared is not None else (np.zeros if zeroed else np.empty)(size, np.uint8)
    if zeroed and shared is not None:
        anchor[:] = 0
    _remember(anchor)
    return np.ndarray(dimensions, kind, anchor, 0, None, order)


def zeros(shape: int | tuple[int, ...], dtype: Any = float, order: Any = "C") -> Array:
    """As `empty`, filled with zeros."""
    made = _make(shape, dtype, order, zeroed=True)
    if made.dtype.kind in "OU" or made.dtype.names:  # whose zero may not be bytes of 0
        made[...] = np.zeros((), made.dtype)
    return made


def array(values: Any, dtype: Any = None) -> Array:
    """A copy of an array, or of what `numpy.asarray` makes one of, born in shared memory if it is large."""
    source = np.asarray(values, dtype)
    made = empty(source.shape, source.dtype)
    np.copyto(made, source)
    return made


def _allocate(size_bytes: int) -> Array | None:
    if context.in_worker():
        return allocate_here(size_bytes) if allocate_here is not None else None
    from plover.session import current

    shared = current().connection().segments
    return shared.allocate(size_bytes) if shared is not None else None


# -- memory ------------------------------------------------------------------------------------------------------------


def size_of(buffer: Buffer) -> int:
    """How many bytes a buffer has."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def address_of(buffer: Any) -> int:
    """Where a buffer lies."""
    place: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return place


def copy(buffer: Buffer, target: Array) -> None:
    """Copy a buffer into shared memory; other threads run meanwhile."""
    np.copyto(target, np.frombuffer(buffer, np.uint8))


# -- out= --------------------------------------------------------------------------------------------------------------


class Out(msgspec.Struct, frozen=True):
    """Stands for the keyword ``out`` of a call where its array cannot be written in place: it comes back with the result."""

    array: Any


#: Arrays of this process that were born here: address → (its end, what tells whether it lives).
_born: dict[int, tuple[int, weakref.ref[Array]]] = {}


def _remember(anchor: Array) -> None:
    begin = address_of(anchor)
    _born[begin] = begin + anchor.nbytes, weakref.ref(anchor, lambda ref: _forget(begin, ref))


def _forget(begin: int, ref: weakref.ref[Array]) -> None:
    known = _born.get(begin)
    if known is not None and known[1] is ref:
        del _born[begin]


def is_born(array: Array) -> bool:
    """Whether an array, or what it is a view of, was born here."""
    address = array.__array_interface__["data"][0]
    return any(begin <= address < end for begin, (end, ref) in list(_born.items()) if ref() is not None)


def back_in_place(array: Array, pair: tuple[Any, Any]) -> Any:
    """What a call with an `Out` returned: its value; what came back is put where it belongs."""
    value, written = pair
    np.copyto(array, written)
    return value
