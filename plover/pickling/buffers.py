"""Large values as buffers of their own: what pickle and NumPy would copy into the stream goes beside it instead.

Plain contiguous arrays, pandas and Arrow go out of band by themselves (pickle protocol 5). Here is what does not: arrays
with strides, of dates and of records, masked arrays, memoryviews, and large bytes.

Guarantees: at most one copy at each end, none for contiguous memory; dtype, byte order, shape and order (C or Fortran) come
out as they went in. An array that is read-only stays so; any other is writable where its buffer is. Arrays with strides
come out in C order. Arrays of objects, subclasses of ndarray and types without bytes of their own are left to NumPy.

Assumes: a buffer arrives as the bytes that were sent, at any address.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

__all__ = [
    "LARGE_BYTES",
    "BytesApart",
    "holds_large_bytes",
    "load_with_bytes",
    "reduce_array",
    "reduce_masked",
    "reduce_view",
]

Buffer = bytes | bytearray | memoryview

# -- arrays ------------------------------------------------------------------------------------------------------------

#: Kinds of dtype whose items are plain bytes: bool, integers, floats, complex, bytes, text, records, durations, dates.
_PLAIN_KINDS = frozenset("biufcSUVmM")
#: Kinds whose dtype is told by its short name; records are not.
_NAMED_KINDS = frozenset("biufcSUmM")


def reduce_array(array: np.ndarray[Any, Any]) -> Any:
    """An ndarray (of exactly that type) as a buffer, its dtype, its shape and its order.

    64 MiB on two cores: with strides 85 ms by NumPy's own way, 20 ms here (one copy); of dates 80 ms, and 0.01 ms here.
    """
    dtype = array.dtype
    if dtype.hasobject or dtype.kind not in _PLAIN_KINDS or not dtype.itemsize or dtype.isbuiltin == 2:
        return NotImplemented
    flags = array.flags
    order: Literal["C", "F"] = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    if not flags.c_contiguous and order == "C":
        writeable = flags.writeable
        array = np.ascontiguousarray(array)
        array.flags.writeable = writeable
    plain: Any = array.ravel(order=order).view(np.uint8)  # no copy: it is contiguous
    named = dtype.str if dtype.kind in _NAMED_KINDS and dtype.metadata is None else dtype
    return make_array, (pickle.PickleBuffer(plain), named, array.shape, order)


def make_array(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> np.ndarray[Any, Any]:
    """The array over its buffer."""
    return np.ndarray(shape, dtype, buffer, 0, None, order)


def reduce_masked(array: Any) -> Any:
    """A masked array (of exactly that type, over a plain ndarray) as its parts.

    64 MiB: 91 ms as bytes in the stream, which is what it does by itself; 0.02 ms here.
    """
    kind: Any = type(array)
    if kind is not np.ma.MaskedArray or array._baseclass is not np.ndarray:
        return NotImplemented
    mask = None if array._mask is np.ma.nomask else array._mask
    extra = {name: value for name, value in vars(array).items() if name not in _MASKED_ATTRIBUTES}
    if set(extra) <= {"_optinfo", "_basedict"} and not any(extra.values()):
        extra = {}
    hard = bool(array._hardmask)
    return make_masked, (np.asarray(array._data), mask, array._fill_value, hard, extra)


_MASKED_ATTRIBUTES = {"_mask", "_fill_value", "_hardmask", "_sharedmask", "_isfield", "_baseclass"}


def make_masked(data: Any, mask: Any, fill_value: Any, hard: bool, extra: dict[str, Any]) -> Any:
    """The masked array of these parts."""
    array: Any = np.ma.MaskedArray(data, np.ma.nomask if mask is None else mask, hard_mask=hard, copy=False)
    array._fill_value = fill_value
    array._sharedmask = False  # nobody else has this mask
    array.__dict__.update(extra)
    return array


# -- memoryviews -------------------------------------------------------------------------------------------------------

#: What `memoryview.cast` can make again.
_CASTABLE = frozenset("cbB?hHiIlLqQfd")


def reduce_view(view: memoryview) -> Any:
    """A memoryview as a view of the same bytes, format and shape, whoever owns the memory.

    Raises:
        ValueError: its format is one that no other process can make again, or it was released.
    """
    array = np.asarray(view)
    form = view.format.removeprefix("@")
    if form not in _CASTABLE:  # ctypes says "<i" for what is a native int
        form = array.dtype.char
        if form not in _CASTABLE or not array.dtype.isnative:
            raise ValueError(f"a memoryview of format {view.format!r}")
    plain: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8) if view.nbytes else b""
    return make_view, (pickle.PickleBuffer(plain), form, view.shape, view.readonly)


def make_view(buffer: Any, form: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    """The view over its buffer."""
    view = memoryview(buffer)
    if not view.nbytes:  # an empty view cannot be cast
        empty: Any = np.empty(shape, form)
        view = memoryview(empty)
    elif shape == () or len(shape) > 1:
        view = view.cast("B").cast(form, shape)  # type: ignore[call-overload]
    else:
        view = view.cast("B").cast(form)  # type: ignore[call-overload]
    return view.toreadonly() if readonly else view


# -- bytes -------------------------------------------------------------------------------------------------------------

#: Bytes from this size on go beside the stream; below it, a buffer of its own costs more than the copy.
LARGE_BYTES = 64 * 1024
#: So many elements of a container are looked at, two levels deep: a search must cost nothing beside the call.
_LOOKED_AT = 64
#: Written after the end of a stream that needs `load_with_bytes`; `pickle.loads` would not look at it.
MARK = b"B"


def holds_large_bytes(values: Any, depth: int = 2) -> bool:
    """Whether large bytes stand among these values, or in plain containers among them."""
    for value in values:
        kind = type(value)
        if kind is bytes or kind is bytearray:
            if len(value) >= LARGE_BYTES:
                return True
        elif (
            depth
            and (kind is tuple or kind is list or kind is dict)
            and 0 < len(value) <= _LOOKED_AT
            and holds_large_bytes(value.values() if kind is dict else value, depth - 1)
        ):
            return True
    return False


class BytesApart:
    """Makes a pickler put large bytes beside its stream. Mixed into a pickler; it counts, so use it for one value.

    pickle writes bytes into the stream before it asks anybody, but for `persistent_id`, which is asked about every
    object (0.1 µs each): hence only where `holds_large_bytes`. 64 MiB: 45 ms in the stream, 12 ms here, which is the one
    copy that makes bytes of what arrived.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._numbers: dict[int, int] = {}  # a value's id → which of the large ones it is
        self._kept: list[Any] = []
        super().__init__(*args, **kwargs)

    def persistent_id(self, obj: Any) -> Any:
        """The bytes as a buffer, a bytearray as a tuple of one; the second time, their number."""
        kind = type(obj)
        if (kind is not bytes and kind is not bytearray) or len(obj) < LARGE_BYTES:
            return None
        number = self._numbers.setdefault(id(obj), len(self._kept))
        if number < len(self._kept):
            return number
        self._kept.append(obj)
        buffer = pickle.PickleBuffer(obj)
        return buffer if kind is bytes else (buffer,)


class _Loader(pickle.Unpickler):
    def __init__(self, stream: Buffer, buffers: Sequence[Buffer]) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._loaded: list[bytes | bytearray] = []

    def persistent_load(self, pid: Any) -> bytes | bytearray:
        if isinstance(pid, int):
            return self._loaded[pid]
        # What was received into just such an object is not copied again.
        value: bytes | bytearray
        if isinstance(pid, tuple):
            value = pid[0] if type(pid[0]) is bytearray else bytearray(pid[0])
        else:
            value = pid if type(pid) is bytes else bytes(pid)
        self._loaded.append(value)
        return value


def load_with_bytes(stream: Buffer, buffers: Sequence[Buffer]) -> Any:
    """`pickle.loads` for a stream that a `BytesApart` wrote."""
    return _Loader(stream, buffers).load()
