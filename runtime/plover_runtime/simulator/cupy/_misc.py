"""The rest of the main namespace: dtypes and their queries, text, index tricks, caching, kernels by other means.

Guarantees: what only asks about dtypes or text is NumPy's own function; kernels in CUDA C can be made and pickled but
not launched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core
from ._core import opened, operand, wrap, wrap_result

#: NumPy's own objects under CuPy's names.
NUMPY_OWN = (  # noqa: SIM905
    "bool_ byte cdouble clongdouble complex128 complex64 complexfloating csingle double dtype float16 float32 float64 "
    "floating generic half inexact int16 int32 int64 int8 int_ intc integer intp long longlong number short "
    "signedinteger single ubyte uint uint16 uint32 uint64 uint8 uintc uintp ulong ulonglong unsignedinteger ushort "
    "e euler_gamma inf nan newaxis pi finfo iinfo can_cast promote_types issubdtype isdtype isscalar min_scalar_type "
    "mintypecode typename iterable base_repr binary_repr broadcast_shapes get_printoptions set_printoptions "
    "printoptions index_exp s_ ndindex"
).split()

OLD_NAMES = {
    "complex_": np.complex128, "cfloat": np.complex128, "float_": np.float64, "singlecomplex": np.complex64,
    "Inf": np.inf, "Infinity": np.inf, "PINF": np.inf, "infty": np.inf, "NINF": -np.inf, "NaN": np.nan, "NAN": np.nan,
    "PZERO": 0.0, "NZERO": -0.0, "bool": np.bool_,
}  # fmt: skip


def result_type(*arrays_and_dtypes: Any) -> Any:
    return np.result_type(*[item._a if isinstance(item, _core._array_class) else item for item in arrays_and_dtypes])


def common_type(*arrays: Any) -> Any:
    return np.common_type(*[opened(item) for item in arrays])


def ndim(a: Any) -> int:
    return int(np.ndim(a._a if hasattr(a, "_a") else a))


def shape(a: Any) -> Any:
    return np.shape(a._a if hasattr(a, "_a") else a)


def size(a: Any, axis: Any = None) -> int:
    inner = opened(a)
    return int(inner.size if axis is None else inner.shape[axis])


def array_repr(arr: Any, max_line_width: Any = None, precision: Any = None, suppress_small: Any = None) -> str:
    return np.array_repr(opened(arr), max_line_width, precision, suppress_small)


def array_str(arr: Any, max_line_width: Any = None, precision: Any = None, suppress_small: Any = None) -> str:
    return np.array_str(opened(arr), max_line_width, precision, suppress_small)


def array2string(a: Any, *args: Any, **kwargs: Any) -> str:
    return np.array2string(opened(a), *args, **kwargs)


def format_float_positional(x: Any, *args: Any, **kwargs: Any) -> str:
    return np.format_float_positional(x.item() if hasattr(x, "_a") else x, *args, **kwargs)


def format_float_scientific(x: Any, *args: Any, **kwargs: Any) -> str:
    return np.format_float_scientific(x.item() if hasattr(x, "_a") else x, *args, **kwargs)


def einsum(*operands: Any, out: Any = None, **kwargs: Any) -> Any:
    """As `numpy.einsum`, in both its forms, on device arrays."""
    plain = [item if isinstance(item, (str, list, tuple)) else opened(item) for item in operands]
    if out is not None:
        np.einsum(*plain, out=opened(out), **kwargs)
        return out
    return wrap_result(np.einsum(*plain, **kwargs))


def apply_along_axis(func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, **kwargs: Any) -> Any:
    """The function gets, and may return, device arrays."""

    def inside(line: Any) -> Any:
        result = func1d(wrap(line), *args, **kwargs)
        return result._a if hasattr(result, "_a") else result

    return wrap_result(np.apply_along_axis(inside, axis, opened(arr)))


class broadcast:
    """Device arrays, broadcast against each other."""

    __module__ = "cupy"

    def __init__(self, *arrays: Any) -> None:
        self.values = tuple(
            wrap_result(list(np.broadcast_arrays(*[operand(item) for item in arrays])))
            if all(not isinstance(item, _core.SCALARS) for item in arrays)
            else arrays
        )
        self.shape = np.broadcast_shapes(*[np.shape(operand(item)) for item in arrays])
        self.nd = len(self.shape)
        self.size = int(np.prod(self.shape))


class _Joined:
    """``cupy.r_`` and ``cupy.c_``."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        plain = tuple([part._a if hasattr(part, "_a") else part for part in parts])
        return wrap_result(self._inner[plain if isinstance(key, tuple) else plain[0]])


class _Grid:
    """``cupy.mgrid`` and ``cupy.ogrid``."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getitem__(self, key: Any) -> Any:
        made = self._inner[key]
        return [wrap(item) for item in made] if isinstance(made, (list, tuple)) else wrap(made)


r_, c_ = _Joined(np.r_), _Joined(np.c_)
mgrid, ogrid = _Grid(np.mgrid), _Grid(np.ogrid)


def get_array_module(*args: Any) -> Any:
    """This module if any argument is a device array of it, else NumPy."""
    import cupy

    return cupy if any(isinstance(item, _core._array_class) for item in args) else np


def is_available() -> bool:
    return True


def fuse(*args: Any, kernel_name: str | None = None) -> Any:
    """As CuPy's decorator; the function is run as it is."""
    if len(args) == 1 and callable(args[0]):
        return args[0]
    return lambda function: function


_memos: list[dict[Any, Any]] = []


def memoize(for_each_device: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that keeps results by arguments, until `clear_memo`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        memo: dict[Any, Any] = {}
        _memos.append(memo)

        @functools.wraps(function)
        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = (args, frozenset(kwargs.items()))
            if key not in memo:
                memo[key] = function(*args, **kwargs)
            return memo[key]

        return remembered

    return decorate


def clear_memo() -> None:
    for memo in _memos:
        memo.clear()


FUNCTIONS: tuple[Any, ...] = (
    result_type, common_type, ndim, shape, size, array_repr, array_str, array2string, format_float_positional,
    format_float_scientific, einsum, apply_along_axis, broadcast, get_array_module, is_available, fuse, memoize,
    clear_memo,
)  # fmt: skip
