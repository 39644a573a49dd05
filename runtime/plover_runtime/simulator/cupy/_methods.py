"""The methods of `ndarray` that are the module's functions with the array as their first argument.

Assumes that each function's first parameter is the array; where CuPy's method has another signature than its function,
the method stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core
from ._array import ndarray
from ._core import checked_dtype, opened, operand, parameter, wrap, wrap_result
from ._creation import copy as _copy
from ._creation import method_astype

#: Methods that are the function of the same name.
_SAME = (  # noqa: SIM905
    "all any argmax argmin argpartition argsort choose cumprod cumsum diagonal max mean min nonzero prod ptp put ravel "
    "repeat searchsorted squeeze std sum swapaxes take trace var"
).split()


def _axes(first: tuple[Any, ...]) -> Any:
    return first[0] if len(first) == 1 and (first[0] is None or isinstance(first[0], (tuple, list))) else first


def reshape(self: Any, *shape: Any, order: Any = "C", copy: Any = None) -> Any:
    shape = shape[0] if len(shape) == 1 else shape
    return wrap(np.reshape(self._a, parameter(shape), order=order, **({} if copy is None else {"copy": copy})))


def transpose(self: Any, *axes: Any) -> Any:
    return wrap(self._a.transpose(_axes(axes) if axes else None))


def view(self: Any, dtype: Any = None, type: Any = None) -> Any:
    return wrap(self._a.view() if dtype is None else self._a.view(checked_dtype(dtype)))


def fill(self: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        if value.shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        value = value.item()
    with np.errstate(all="ignore"):
        self._a[...] = operand(value)


def sort(self: Any, axis: int = -1, kind: Any = None) -> None:
    self._a.sort(axis)


def partition(self: Any, kth: Any, axis: int = -1) -> None:
    self._a.partition(kth, axis)


def flatten(self: Any, order: Any = "C") -> Any:
    return wrap(self._a.flatten(order))


def copy(self: Any, order: Any = "C") -> Any:
    return _copy(self, order)


def conj(self: Any) -> Any:
    return wrap(self._a.conj()) if self._a.dtype.kind == "c" else self


def byteswap(self: Any, inplace: bool = False) -> Any:
    swapped = self._a.byteswap(inplace)
    return self if inplace else wrap(swapped)


def scatter_add(self: Any, slices: Any, value: Any) -> None:
    _scatter(self, slices, value, np.add)


def scatter_max(self: Any, slices: Any, value: Any) -> None:
    _scatter(self, slices, value, np.maximum)


def scatter_min(self: Any, slices: Any, value: Any) -> None:
    _scatter(self, slices, value, np.minimum)


def _scatter(array: Any, slices: Any, value: Any, inner: Any) -> None:
    parts = slices if isinstance(slices, tuple) else (slices,)
    places = tuple([opened(part) if isinstance(part, ndarray) else part for part in parts])
    change = np.asarray(value if isinstance(value, (list, tuple)) else operand(value))
    inner.at(array._a, places, change.astype(array._a.dtype, copy=False))


def reduced_view(self: Any, dtype: Any = None) -> Any:
    return wrap(self._a.reshape(-1)) if self._a.flags.c_contiguous else self


def mdspan(self: Any, **options: Any) -> Any:
    raise _core.not_simulated("cupy.ndarray.mdspan")


def attach(functions: dict[str, Callable[..., Any]]) -> None:
    """Give `ndarray` its methods."""
    for name in _SAME:
        setattr(ndarray, name, _method(functions[name]))
    dot, clip, around, compress = (functions[name] for name in ("dot", "clip", "around", "compress"))
    own: dict[str, Any] = {
        "dot": lambda self, b, out=None: dot(self, b, out),
        "clip": lambda self, min=None, max=None, out=None: clip(self, min, max, out),
        "round": lambda self, decimals=0, out=None: around(self, decimals, out),
        "compress": lambda self, condition, axis=None, out=None: compress(condition, self, axis, out),
        "astype": method_astype, "conjugate": conj,
    }  # fmt: skip
    for function in (
        reshape, transpose, view, fill, sort, partition, flatten, copy, conj, byteswap, scatter_add, scatter_max,
        scatter_min, reduced_view, mdspan,
    ):  # fmt: skip
        own[function.__name__] = function
    for name, function in own.items():
        setattr(ndarray, name, function)


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__name__ = function.__name__
    method.__doc__ = function.__doc__
    return method


__all__ = ["attach", "wrap_result"]
