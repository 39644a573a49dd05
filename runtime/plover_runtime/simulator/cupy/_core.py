"""The heart of the stand-in: what a device array is made of, and the only ways in and out of it.

Guarantees: a host array never slips in where CuPy would refuse it, and every array that comes out is counted in the
device's ledger. Assumes that the NumPy array inside a device array is never handed to user code.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import numpy as np

from plover.errors import NotSimulated
from plover_runtime.simulator.memory import DEVICE, DeviceFull

HostArray = np.ndarray[Any, Any]

SCALARS = (bool, int, float, complex, np.bool_, np.number)
#: The dtypes that CuPy has; structured ones it takes as opaque records.
_CHARS = frozenset("?bBhHiIlLqQefdFDV")

_array_class: Any = None


class OutOfMemoryError(MemoryError):
    """The simulated device has no room left."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))
        self._size, self._total, self._limit = size, total, limit

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._size, self._total, self._limit)


def out_of_memory(full: DeviceFull) -> OutOfMemoryError:
    return OutOfMemoryError(full.asked_bytes, full.pool_bytes, full.limit_bytes)


def not_simulated(feature: str, why: str = "") -> NotSimulated:
    """The exception for something that CuPy has and this lacks."""
    text = f"{feature} is not simulated" + (f": {why}" if why else "; it needs a real GPU")
    return NotSimulated(text, feature=feature)


def refuse(value: object) -> NoReturn:
    raise TypeError(f"Unsupported type {type(value)}")


def wrap(host: HostArray) -> Any:
    """A device array over ``host``, counted in the ledger."""
    try:
        DEVICE.hold(host)
    except DeviceFull as full:
        raise out_of_memory(full) from None
    array = object.__new__(_array_class)
    array._a = host
    return array


def reserve(shape: Any, dtype: Any) -> None:
    """Refuse an array that would not fit before NumPy tries to make it."""
    count = 1
    for length in shape if isinstance(shape, (tuple, list)) else (shape,):
        count *= int(length)
    try:
        DEVICE.check(max(0, count) * np.dtype(dtype).itemsize)
    except DeviceFull as full:
        raise out_of_memory(full) from None


def wrap_result(result: Any) -> Any:
    """What a NumPy function returned, as CuPy would return it: arrays and NumPy scalars become device arrays."""
    if isinstance(result, np.ndarray):
        return wrap(result)
    if isinstance(result, np.generic):
        return wrap(np.asarray(result))
    if isinstance(result, tuple):
        return tuple([wrap_result(item) for item in result])
    if isinstance(result, list):
        return [wrap_result(item) for item in result]
    return result


def host_view(interface: Any, owner: Any) -> HostArray:
    """A NumPy array over what ``__cuda_array_interface__`` describes; the simulated device's pointers are host ones."""
    if interface.get("mask") is not None:
        raise ValueError("CuPy currently does not support masked arrays.")

    class Holder:
        __array_interface__: ClassVar[dict[str, Any]] = {
            "shape": interface["shape"],
            "typestr": interface["typestr"],
            "descr": interface.get("descr", [("", interface["typestr"])]),
            "data": interface["data"],
            "strides": interface.get("strides"),
            "version": 3,
        }
        keeps_alive = owner

    return np.asarray(Holder())


def device_view(value: Any) -> HostArray | None:
    """The NumPy array inside a device array of CuPy's or (sharing its memory) of Numba's; None for anything else."""
    if isinstance(value, _array_class):
        return value._a  # type: ignore[no-any-return]
    inside = getattr(value, "_ary", None)
    if isinstance(inside, np.ndarray) and hasattr(value, "__cuda_array_interface__"):
        return inside
    interface = getattr(value, "__cuda_array_interface__", None)
    return None if interface is None else host_view(interface, value)


def operand(value: Any) -> Any:
    """An array or scalar operand: device arrays are opened, scalars pass, all else is refused as CuPy does."""
    if type(value) is _array_class:
        return value._a
    if isinstance(value, SCALARS):
        return value
    view = device_view(value)
    if view is None:
        refuse(value)
    return view


def opened(value: object) -> HostArray:
    """A device array's inside; anything else, scalars too, is refused."""
    view = device_view(value)
    if view is None:
        refuse(value)
    return view


def parameter(value: Any) -> Any:
    """A parameter that may be anything but a host array; device arrays, in tuples and lists too, are opened."""
    if isinstance(value, _array_class):
        return value._a
    if isinstance(value, np.ndarray):
        refuse(value)
    if isinstance(value, (tuple, list)):
        if not any(isinstance(item, (_array_class, np.ndarray, list, tuple)) for item in value):
            return value
        return type(value)([parameter(item) for item in value])
    return value


def checked_dtype(dtype: Any) -> np.dtype[Any]:
    """``dtype`` as a NumPy dtype, if the device can hold it; CuPy's ValueError otherwise."""
    found: np.dtype[Any] = np.dtype(dtype)
    if found.char not in _CHARS:
        raise ValueError(f"Unsupported dtype {found}")
    return found
