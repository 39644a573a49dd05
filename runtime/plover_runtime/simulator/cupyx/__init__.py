"""A stand-in for the few parts of cupyx that are arrays alone; the rest raises NotSimulated by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np
from cupy import _names
from cupy.cuda import runtime as _runtime


def scatter_add(a: Any, slices: Any, value: Any) -> None:
    a.scatter_add(slices, value)


def scatter_max(a: Any, slices: Any, value: Any) -> None:
    a.scatter_max(slices, value)


def scatter_min(a: Any, slices: Any, value: Any) -> None:
    a.scatter_min(slices, value)


def rsqrt(x: Any) -> Any:
    return 1 / cupy.sqrt(x)


def empty_pinned(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    return np.empty(shape, dtype, order)


def zeros_pinned(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    return np.zeros(shape, dtype, order)


def empty_like_pinned(a: Any, dtype: Any = None, order: Any = "K", subok: Any = None, shape: Any = None) -> Any:
    return np.empty_like(cupy.asnumpy(a), dtype, order, shape=shape)


def zeros_like_pinned(a: Any, dtype: Any = None, order: Any = "K", subok: Any = None, shape: Any = None) -> Any:
    return np.zeros_like(cupy.asnumpy(a), dtype, order, shape=shape)


@contextlib.contextmanager
def errstate(**kwargs: Any) -> Iterator[None]:
    """Accepted; a floating-point condition is never reported here."""
    yield


def get_runtime_info(full: bool = False) -> str:
    return f"CuPy stand-in {cupy.__version__} of Plover, CUDA runtime {_runtime.runtimeGetVersion()}, simulated"


def __getattr__(name: str) -> Any:
    return _names.missing("cupyx", name)
