"""Numba's device arrays on the simulated device, and the others that the host can make.

Guarantees: every device array is counted in the device's ledger; arrays are shared with CuPy's stand-in both ways by
``__cuda_array_interface__``, without a copy. Assumes that Numba's simulator keeps its array in ``_ary``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numba.cuda.simulator.cudadrv import devicearray
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from plover.errors import NotSimulated
from plover_runtime.simulator.memory import DEVICE, DeviceFull


def cuda_error(code: int, call: str, name: str, why: str) -> Exception:
    """An error of the CUDA driver, as Numba raises it."""
    from numba.cuda.simulator.cudadrv.driver import CudaAPIError

    error = CudaAPIError(code, f"[{code}] Call to {call} results in {name}: {why}")
    error.code = code
    return error  # type: ignore[no-any-return]


def hold(array: np.ndarray[Any, Any]) -> None:
    """Count an array's memory as Numba's on the device."""
    try:
        DEVICE.hold(array, pooled=False)
    except DeviceFull as full:
        raise cuda_error(
            2, "cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY",
            f"{full.asked_bytes:,} bytes asked for, {DEVICE.free_bytes():,} of {DEVICE.total_bytes:,} free",
        ) from None  # fmt: skip


class HostVisible(np.ndarray[Any, Any]):
    """A managed or mapped array: host and device see the same memory."""

    def copy_to_host(self, ary: Any = None, stream: Any = 0) -> Any:
        if ary is None:
            return np.array(self, subok=False)
        ary[...] = self
        return ary

    def copy_to_device(self, ary: Any, stream: Any = 0) -> None:
        self[...] = ary


def _host_visible(shape: Any, dtype: Any, strides: Any, order: Any) -> HostVisible:
    return HostVisible(shape, np.dtype(dtype), None, 0, strides, order)


def managed_array(
    shape: Any, dtype: Any = np.float64, strides: Any = None, order: str = "C", stream: Any = 0,
    attach_global: bool = True,
) -> HostVisible:  # fmt: skip
    return _host_visible(shape, dtype, strides, order)


def mapped_array(
    shape: Any, dtype: Any = np.float64, strides: Any = None, order: str = "C", stream: Any = 0,
    portable: bool = False, wc: bool = False,
) -> HostVisible:  # fmt: skip
    return _host_visible(shape, dtype, strides, order)


def mapped_array_like(ary: Any, stream: Any = 0, portable: bool = False, wc: bool = False) -> HostVisible:
    made: HostVisible = np.empty_like(ary, subok=False).view(HostVisible)
    return made


class mapped:
    """A context in which host arrays are mapped into the device: here they are as they are."""

    def __init__(self, *arrays: Any, **options: Any) -> None:
        self._arrays = [array.view(HostVisible) for array in arrays]

    def __enter__(self) -> Any:
        return self._arrays[0] if len(self._arrays) == 1 else self._arrays

    def __exit__(self, *exc: object) -> None:
        pass


def pinned_array(shape: Any, dtype: Any = np.float64, strides: Any = None, order: Any = "C") -> Any:
    return np.ndarray(shape, np.dtype(dtype), strides=strides, order=order)


class pinned:
    """A context in which host arrays are pinned: nothing needs pinning here."""

    def __init__(self, *arrays: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


def device_view(value: Any) -> np.ndarray[Any, Any] | None:
    """The NumPy array inside a device array of Numba's or of anybody with ``__cuda_array_interface__``."""
    inside = getattr(value, "_ary", None) if isinstance(value, FakeCUDAArray) else getattr(value, "_a", None)
    if isinstance(inside, (np.ndarray, np.void)):
        return inside  # type: ignore[return-value]
    interface = getattr(value, "__cuda_array_interface__", None)
    return None if interface is None else _interface_view(interface, value)


def _interface_view(interface: Any, owner: Any) -> np.ndarray[Any, Any]:
    if interface.get("mask") is not None:
        raise NotImplementedError("Masked arrays are not supported")

    class Holder:
        __array_interface__: ClassVar[dict[str, Any]] = {
            **{k: v for k, v in interface.items() if k != "stream"},
            "version": 3,
        }
        keeps_alive = owner

    return np.asarray(Holder())


def is_cuda_array(obj: Any) -> bool:
    return hasattr(obj, "__cuda_array_interface__")


def as_cuda_array(obj: Any, sync: bool = True) -> Any:
    """A Numba device array over the same memory."""
    view = device_view(obj) if is_cuda_array(obj) else None
    if view is None:
        raise TypeError("*obj* doesn't implement the cuda array interface.")
    return FakeCUDAArray(view)


def from_cuda_array_interface(desc: Any, owner: Any = None, sync: bool = True) -> Any:
    return FakeCUDAArray(_interface_view(desc, owner))


def open_ipc_array(*args: Any, **options: Any) -> Any:
    raise NotSimulated(
        "numba.cuda.open_ipc_array is not simulated: there is no memory of a GPU to share", feature="IPC"
    )


def _interface(self: Any) -> dict[str, Any]:
    array = self._ary
    return {
        "shape": tuple(array.shape),
        "typestr": array.dtype.str,
        "descr": array.dtype.descr,
        "strides": None if array.flags.c_contiguous else array.strides,
        "data": (array.ctypes.data, False),
        "stream": None,
        "version": 3,
    }


def _to_host(self: Any, dtype: Any = None, copy: Any = None) -> Any:
    if copy is False:
        raise ValueError("a copy is always needed to take a device array to the host")
    return np.array(self._ary, dtype=dtype)


def _reduce(self: Any) -> tuple[Any, ...]:
    from numba import cuda

    return cuda.to_device, (np.array(self._ary),)


def _no_ipc(self: Any) -> Any:
    raise NotSimulated("get_ipc_handle is not simulated: there is no memory of a GPU to share", feature="IPC")


def _init(self: Any, ary: Any, stream: Any = 0) -> None:
    self._ary = ary
    self.stream = stream
    if isinstance(ary, np.ndarray) and not DEVICE.holds(ary):
        hold(ary)


def _getattr(self: Any, name: str) -> Any:
    if name == "_ary" or name.startswith("__"):  # not NumPy's array protocols: they would share memory with the host
        raise AttributeError(name)
    try:
        return getattr(self._ary, name)
    except AttributeError as error:
        raise AttributeError(f"Wrapped array has no attribute '{name}'") from error


def mend() -> None:
    """Teach the simulator's device array what it lacks."""
    FakeCUDAArray.__init__ = _init
    FakeCUDAArray.__getattr__ = _getattr
    FakeCUDAArray.__cuda_array_interface__ = property(_interface)
    FakeCUDAArray.__array__ = _to_host
    FakeCUDAArray.__reduce__ = _reduce
    FakeCUDAArray.__hash__ = object.__hash__
    FakeCUDAArray.get_ipc_handle = _no_ipc
    for function in (managed_array, mapped_array, pinned_array, pinned):
        setattr(devicearray, function.__name__, function)
