"""`ndarray`: an array on the simulated device.

A wrapper class around a private NumPy array, not a subclass of NumPy's, so that host and device arrays do not mix, as
they do not in CuPy. Its methods are those of the module's functions; they are attached in ``_methods``, its operators in
``_operators``.

Guarantees: indexing and reductions give device arrays, 0-d ones too; NumPy never converts one by accident.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from plover_runtime.simulator.memory import DEVICE, DeviceFull, buffer_of

from . import _core
from ._core import operand, wrap, wrap_result

_FIELDS = (str,)


def _index(index: Any) -> tuple[Any, bool]:
    """An index as NumPy takes it, and whether it is an advanced one (whose result is a copy)."""
    parts = index if isinstance(index, tuple) else (index,)
    converted: list[Any] = []
    advanced = False
    for part in parts:
        if isinstance(part, _core._array_class):
            part = part._a
        if isinstance(part, (np.ndarray, list, tuple, bool, np.bool_)):
            advanced = True
            if isinstance(part, (list, tuple)):
                part = [item._a if isinstance(item, _core._array_class) else item for item in part]
        converted.append(part)
    if not any(part is Ellipsis for part in converted):
        converted.append(Ellipsis)  # so that NumPy gives a 0-d array, and a view of it, where it would give a scalar
    return tuple(converted), advanced


def _is_field(index: Any) -> bool:
    return isinstance(index, _FIELDS) or (
        isinstance(index, list) and bool(index) and all(isinstance(name, str) for name in index)
    )


class Flags:
    """The three flags that CuPy keeps, by attribute or by key."""

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")

    def __init__(self, array: Any) -> None:
        flags = array.flags
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata

    @property
    def forc(self) -> bool:
        return bool(self.c_contiguous or self.f_contiguous)

    @property
    def fnc(self) -> bool:
        return bool(self.f_contiguous and not self.c_contiguous)

    def __getitem__(self, name: str) -> bool:
        attribute = name.lower()
        if attribute not in self.__slots__:
            raise KeyError(f"{name} is not defined for cupy.ndarray.flags")
        return bool(getattr(self, attribute))

    def __repr__(self) -> str:
        return "\n".join(f"  {name.upper()} : {getattr(self, name)}" for name in self.__slots__)


class flatiter:
    """What ``ndarray.flat`` gives."""

    __module__ = "cupy"

    def __init__(self, array: Any) -> None:
        self._array = array

    @property
    def base(self) -> Any:
        return self._array

    def copy(self) -> Any:
        return wrap(self._array._a.flatten())

    def __len__(self) -> int:
        return int(self._array.size)

    def __getitem__(self, index: Any) -> Any:
        return wrap_result(self._array._a.flat[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._array._a.flat[index] = operand(value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


class ndarray:
    """An array on the simulated device; as `numpy.ndarray`, but it never mixes with host arrays."""

    __slots__ = ("__weakref__", "_a")
    __module__ = "cupy"
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    _a: Any

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: Any = "C"
    ) -> None:
        dtype = _core.checked_dtype(dtype)
        if memptr is None:
            _core.reserve(shape, dtype)
            self._a = np.ndarray(shape, dtype, strides=strides, order=order)
        else:
            self._a = np.ndarray(shape, dtype, memptr._buffer, memptr._offset, strides, order)
        try:
            DEVICE.hold(self._a)
        except DeviceFull as full:
            raise _core.out_of_memory(full) from None

    # --- what it is -------------------------------------------------------------------------------------------------
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    flags = property(lambda self: Flags(self._a))
    T = property(lambda self: wrap(self._a.T))
    flat = property(flatiter)

    @property
    def shape(self) -> Any:
        return self._a.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        self._a = self._a.reshape(shape, copy=False)

    @property
    def strides(self) -> Any:
        return self._a.strides

    @property
    def mT(self) -> Any:
        return wrap(np.swapaxes(self._a, -1, -2))

    @property
    def base(self) -> Any:
        return None if self._a.base is None else wrap(buffer_of(self._a))

    @property
    def real(self) -> Any:
        return wrap(self._a.real) if self._a.dtype.kind == "c" else self

    @real.setter
    def real(self, value: Any) -> None:
        self._a.real = operand(value)

    @property
    def imag(self) -> Any:
        return wrap(self._a.imag if self._a.dtype.kind == "c" else np.zeros_like(self._a))

    @imag.setter
    def imag(self, value: Any) -> None:
        if self._a.dtype.kind != "c":
            raise TypeError("cupy.ndarray does not have imaginary part to set")
        self._a.imag = operand(value)

    @property
    def device(self) -> Any:
        from .cuda import Device

        return Device(0)

    @property
    def data(self) -> Any:
        from .cuda.memory import MemoryPointer

        return MemoryPointer._of(self._a)

    @property
    def cstruct(self) -> Any:
        raise _core.not_simulated("cupy.ndarray.cstruct")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        array = self._a
        return {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "descr": array.dtype.descr,
            "strides": None if array.flags.c_contiguous else array.strides,
            "data": (array.ctypes.data, False),
            "stream": 1,
            "version": 3,
        }

    # --- leaving the device -----------------------------------------------------------------------------------------
    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        """A copy in host memory, or ``out`` filled with it."""
        if out is None:
            return np.array(self._a, order=order)  # type: ignore[call-overload]
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if self._a.dtype != out.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self._a.dtype} array")
        if self._a.shape != out.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self._a.shape}, actual shape: {out.shape}")
        out[...] = self._a
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        """Fill the array from a host array of the same dtype and shape."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self._a.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self._a.dtype} array")
        if self._a.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self._a.shape}, actual shape: {arr.shape}")
        self._a[...] = arr

    def item(self) -> Any:
        if self._a.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self._a.item()

    def tolist(self) -> Any:
        return self._a.tolist()

    def tobytes(self, order: Any = "C") -> bytes:
        return bytes(self._a.tobytes(order))

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:
        self._a.tofile(fid, sep, format)

    def dump(self, file: Any) -> None:
        self._a.dump(file)

    def dumps(self) -> bytes:
        return self._a.dumps()  # type: ignore[no-any-return]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        from ._creation import array

        return array, (self.get(order="K"),)

    def __copy__(self) -> Any:
        return wrap(self._a.copy())

    def __deepcopy__(self, memo: Any) -> Any:
        return wrap(self._a.copy())

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # a CUDA device, number 0

    def __dlpack__(self, **options: Any) -> Any:
        raise _core.not_simulated("cupy.ndarray.__dlpack__", "a DLPack consumer would take the address for a GPU's")

    def toDlpack(self) -> Any:
        return self.__dlpack__()

    # --- NumPy's own functions, called with a device array ------------------------------------------------------------
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        import cupy

        own = getattr(cupy, ufunc.__name__, None)
        if own is None:
            return NotImplemented
        if kwargs.get("out") is not None and len(kwargs["out"]) == 1:
            kwargs["out"] = kwargs["out"][0]
        if method == "__call__":
            return own(*inputs, **kwargs)
        if method in ("reduce", "accumulate", "at", "outer", "reduceat"):
            return getattr(own, method)(*inputs, **kwargs)
        return NotImplemented

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        import cupy

        own: Any = cupy
        try:
            for name in func.__module__.split(".")[1:]:
                own = getattr(own, name)
            own = getattr(own, func.__name__)
        except AttributeError:
            return NotImplemented
        if own is func or any(kind not in (ndarray, np.ndarray) for kind in types):
            return NotImplemented
        return own(*args, **kwargs)

    # --- elements -----------------------------------------------------------------------------------------------------
    def __getitem__(self, index: Any) -> Any:
        if _is_field(index):
            return wrap(self._a[index])
        parts, advanced = _index(index)
        found = self._a[parts]
        if advanced and found.base is not None and np.may_share_memory(found, self._a):
            found = found.copy()  # NumPy takes a 0-d integer array for an integer and gives a view; CuPy copies
        return wrap(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        if _is_field(index):
            self._a[index] = operand(value)
            return
        parts, advanced = _index(index)
        with np.errstate(all="ignore"):
            if isinstance(value, ndarray):
                self._a[parts] = value._a
            elif isinstance(value, np.ndarray) and not advanced:
                if value.shape != ():
                    raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
                self._a[parts] = value.item()
            elif advanced and isinstance(value, (np.ndarray, list, tuple)):
                self._a[parts] = value
            else:
                self._a[parts] = operand(value)

    def __len__(self) -> int:
        if not self._a.ndim:
            raise TypeError("len() of unsized object")
        return len(self._a)

    def __iter__(self) -> Iterator[Any]:
        if not self._a.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self._a)))

    def __bool__(self) -> bool:
        return bool(self._a)

    def __int__(self) -> int:
        return int(self._a.item())

    def __float__(self) -> float:
        return float(self._a.item())

    def __complex__(self) -> complex:
        return complex(self._a.item())

    def __bytes__(self) -> bytes:
        return self.tobytes()

    def __format__(self, spec: str) -> str:
        return format(self._a.item() if not self._a.ndim and spec else self._a, spec)

    def __repr__(self) -> str:
        return repr(self._a)

    def __str__(self) -> str:
        return str(self._a)


_core._array_class = ndarray
