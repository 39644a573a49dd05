"""Making device arrays, copying host arrays to the device and back, and writing into them.

Guarantees: only here do host arrays become device arrays, always by a copy. What would not fit on the device is
refused before NumPy tries to make it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core
from ._core import checked_dtype, device_view, not_simulated, opened, operand, parameter, reserve, wrap, wrap_result

_ORDERS = ("C", "F", "A", "K", None)


def _check_order(order: Any, allowed: tuple[Any, ...] = _ORDERS) -> None:
    if order not in allowed:
        raise ValueError("order not understood")


def _host(obj: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """Anything that `array` takes, as a fresh or borrowed NumPy array; lists may hold device arrays."""
    view = device_view(obj)
    if view is None:
        if isinstance(obj, (list, tuple)):
            obj = _nested(obj)
        view = np.asarray(obj, dtype=dtype)
    checked_dtype(view.dtype)
    return view


def _nested(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_nested(item) for item in value]
    view = device_view(value)
    return value if view is None else view


def array(
    obj: Any, dtype: Any = None, copy: Any = True, order: Any = "K", subok: bool = False, ndmin: int = 0, *,
    blocking: bool = False,
) -> Any:  # fmt: skip
    """A device array from a device array, a host array, or nested sequences."""
    _check_order(order)
    if subok:
        raise not_simulated("cupy.array(subok=True)")
    if dtype is not None:
        dtype = checked_dtype(dtype)
    source = _host(obj, dtype)
    shared = device_view(obj) is not None
    if copy or not shared:
        reserve(source.shape, dtype or source.dtype)
    with np.errstate(all="ignore"):
        made = np.array(source, dtype, copy=True if copy or not shared else None, order=order, ndmin=ndmin)
    if isinstance(obj, _core._array_class) and made is source:
        return obj
    return wrap(made)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> Any:
    """A device array; one that is on the device already (Numba's too) is shared, not copied."""
    if copy is False and device_view(a) is None:
        raise ValueError("Unable to avoid copy while creating an array as requested.")
    return array(a, dtype, bool(copy), order if order is not None else "K", blocking=blocking)


def asanyarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> Any:
    return asarray(a, dtype, order, copy=copy, blocking=blocking)


def asarray_chkfinite(a: Any, dtype: Any = None, order: Any = None) -> Any:
    made = asarray(a, dtype, order)
    if made.dtype.kind in "fc" and not np.isfinite(made._a).all():
        raise ValueError("array must not contain Infs or NaNs")
    return made


def asfarray(a: Any, dtype: Any = np.float64) -> Any:
    return asarray(a, dtype if np.issubdtype(dtype, np.inexact) else np.float64)


def ascontiguousarray(a: Any, dtype: Any = None) -> Any:
    return array(a, dtype, False, "C", ndmin=1)


def asfortranarray(a: Any, dtype: Any = None) -> Any:
    return array(a, dtype, False, "F")


def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
    return method_astype(x, dtype, copy=copy)


def method_astype(
    self: Any, dtype: Any, order: Any = "K", casting: Any = None, subok: Any = None, copy: bool = True
) -> Any:
    _check_order(order)
    dtype = checked_dtype(dtype)
    if subok:
        raise not_simulated("cupy.ndarray.astype(subok=True)")
    source = opened(self)
    if not copy and source.dtype == dtype and order == "K":
        return self
    with np.errstate(all="ignore"):
        return wrap(source.astype(dtype, order=order, casting=casting or "unsafe", copy=copy))


def copy(a: Any, order: Any = "K") -> Any:
    return wrap(np.array(opened(a), order=order))


def asnumpy(a: Any, stream: Any = None, order: Any = "C", out: Any = None, *, blocking: bool = True) -> Any:
    """A host array: a copy of a device array, or `numpy.asarray` of anything else."""
    if isinstance(a, _core._array_class):
        return a.get(stream=stream, order=order, out=out, blocking=blocking)
    view = device_view(a)
    made = np.asarray(a, order=order) if view is None else np.array(view, order=order)
    if out is None:
        return made
    out[...] = made
    return out


def _filled(function: Any, shape: Any, dtype: Any, order: Any, *value: Any) -> Any:
    _check_order(order, ("C", "F", None))
    dtype = checked_dtype(float if dtype is None else dtype)
    shape = parameter(shape)
    reserve(shape, dtype)
    with np.errstate(all="ignore"):
        return wrap(function(shape, *value, dtype=dtype, order=order or "C"))


def empty(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    return _filled(np.empty, shape, dtype, order)


def zeros(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    return _filled(np.zeros, shape, dtype, order)


def ones(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    return _filled(np.ones, shape, dtype, order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: Any = "C") -> Any:
    value = operand(fill_value)
    return _filled(np.full, shape, np.asarray(value).dtype if dtype is None else dtype, order, value)


def _like(a: Any, dtype: Any, order: Any, shape: Any, *value: Any, function: Any) -> Any:
    _check_order(order)
    source = opened(a)
    dtype = source.dtype if dtype is None else checked_dtype(dtype)
    reserve(source.shape if shape is None else shape, dtype)
    with np.errstate(all="ignore"):
        return wrap(function(source, *value, dtype=dtype, order=order, shape=shape))


def empty_like(prototype: Any, dtype: Any = None, order: Any = "K", subok: None = None, shape: Any = None) -> Any:
    return _like(prototype, dtype, order, shape, function=np.empty_like)


def zeros_like(a: Any, dtype: Any = None, order: Any = "K", subok: None = None, shape: Any = None) -> Any:
    return _like(a, dtype, order, shape, function=np.zeros_like)


def ones_like(a: Any, dtype: Any = None, order: Any = "K", subok: None = None, shape: Any = None) -> Any:
    return _like(a, dtype, order, shape, function=np.ones_like)


def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: Any = "K", subok: None = None, shape: Any = None
) -> Any:
    return _like(a, dtype, order, shape, operand(fill_value), function=np.full_like)


def eye(N: int, M: Any = None, k: int = 0, dtype: Any = float, order: Any = "C") -> Any:
    _check_order(order, ("C", "F", None))
    reserve((N, N if M is None else M), checked_dtype(dtype))
    return wrap(np.eye(N, M, k, dtype, order or "C"))


def identity(n: int, dtype: Any = float) -> Any:
    return eye(n, dtype=dtype)


def tri(N: int, M: Any = None, k: int = 0, dtype: Any = float) -> Any:
    return wrap(np.tri(N, M, k, checked_dtype(dtype)))


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Any:
    start, stop, step = [item.item() if hasattr(item, "_a") else item for item in (start, stop, step)]
    if dtype is not None:
        checked_dtype(dtype)
    first, last = (0, start) if stop is None else (start, stop)
    reserve(max(0, int((last - first) / (1 if step is None else step))), dtype or np.result_type(first, last))
    return wrap(np.arange(first, last, 1 if step is None else step, dtype=dtype))


def _spaced(function: Any, *args: Any, dtype: Any, **keywords: Any) -> Any:
    if dtype is not None:
        checked_dtype(dtype)
    with np.errstate(all="ignore"):
        return wrap_result(function(*args, dtype=dtype, **keywords))


def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False, dtype: Any = None, axis: int = 0
) -> Any:
    made = _spaced(np.linspace, operand(start), operand(stop), num, endpoint, retstep, dtype=dtype, axis=axis)
    return (made[0], made[1].item() if made[1].ndim == 0 else made[1]) if retstep else made


def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, dtype: Any = None, axis: int = 0
) -> Any:
    return _spaced(np.logspace, operand(start), operand(stop), num, endpoint, operand(base), dtype=dtype, axis=axis)


def meshgrid(*xi: Any, indexing: str = "xy", sparse: bool = False, copy: bool = True) -> Any:
    keywords: dict[str, Any] = {"indexing": indexing, "sparse": sparse, "copy": copy}
    return wrap_result(list(np.meshgrid(*[opened(x) for x in xi], **keywords)))


def fromfunction(function: Any, shape: Any, **kwargs: Any) -> Any:
    return asarray(np.fromfunction(function, shape, **kwargs))


def frombuffer(*args: Any, **kwargs: Any) -> Any:
    return asarray(np.frombuffer(*args, **kwargs))


def fromiter(*args: Any, **kwargs: Any) -> Any:
    return asarray(np.fromiter(*args, **kwargs))


def fromstring(*args: Any, **kwargs: Any) -> Any:
    return asarray(np.fromstring(*args, **kwargs))


def fromfile(*args: Any, **kwargs: Any) -> Any:
    return asarray(np.fromfile(*args, **kwargs))


def from_dlpack(array: Any) -> Any:
    """A device array that shares the memory of another device array."""
    view = device_view(array)
    if view is None:
        raise not_simulated("cupy.from_dlpack", f"of {type(array).__name__}, which is not on the simulated device")
    return wrap(view)


def copyto(dst: Any, src: Any, casting: Any = "same_kind", where: Any = None) -> None:
    """Copy values from one device array (or a scalar) into another."""
    with np.errstate(all="ignore"):
        np.copyto(opened(dst), operand(src), casting=casting, where=True if where is None else operand(where))


def pad(array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Any:
    inner = opened(array)
    keywords = {key: parameter(value) for key, value in kwargs.items()}
    if callable(mode):
        raise not_simulated("cupy.pad with a function for mode")
    return wrap(np.pad(inner, parameter(pad_width), mode, **keywords))


def require(a: Any, dtype: Any = None, requirements: Any = None) -> Any:
    wanted = [item for item in requirements or () if item[0].upper() not in "WA"]
    return wrap(np.require(opened(asarray(a)), dtype, wanted))


def save(file: Any, arr: Any, allow_pickle: Any = None) -> None:
    np.save(file, asnumpy(arr), **({} if allow_pickle is None else {"allow_pickle": allow_pickle}))


def savez(file: Any, *args: Any, **kwds: Any) -> None:
    np.savez(file, *[asnumpy(item) for item in args], **{key: asnumpy(item) for key, item in kwds.items()})


def savez_compressed(file: Any, *args: Any, **kwds: Any) -> None:
    np.savez_compressed(file, *[asnumpy(item) for item in args], **{key: asnumpy(item) for key, item in kwds.items()})


def savetxt(fname: Any, X: Any, *args: Any, **kwargs: Any) -> None:
    np.savetxt(fname, asnumpy(X), *args, **kwargs)


def loadtxt(*args: Any, **kwargs: Any) -> Any:
    return asarray(np.loadtxt(*args, **kwargs))


def genfromtxt(*args: Any, **kwargs: Any) -> Any:
    return asarray(np.genfromtxt(*args, **kwargs))


def load(file: Any, mmap_mode: Any = None, allow_pickle: Any = None) -> Any:
    """A device array from a ``.npy`` file, or an `NpzFile` whose items are device arrays."""
    found = np.load(file, mmap_mode, **({} if allow_pickle is None else {"allow_pickle": allow_pickle}))
    return asarray(found) if isinstance(found, np.ndarray) else NpzFile(found)


class NpzFile:
    """The arrays of an ``.npz`` file, copied to the device as they are asked for."""

    def __init__(self, npz: Any) -> None:
        self.npz_file = npz
        self.files = npz.files

    def __getitem__(self, key: str) -> Any:
        return asarray(self.npz_file[key])

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.npz_file.close()


PUBLIC = (  # noqa: SIM905
    "array asarray asanyarray asarray_chkfinite asfarray ascontiguousarray asfortranarray astype copy asnumpy "
    "empty zeros ones full empty_like zeros_like ones_like full_like eye identity tri arange linspace logspace "
    "meshgrid fromfunction frombuffer fromiter fromstring fromfile from_dlpack copyto pad require save savez "
    "savez_compressed savetxt loadtxt genfromtxt load"
).split()
