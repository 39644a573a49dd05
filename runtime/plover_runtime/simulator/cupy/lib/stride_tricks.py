"""cupy.lib.stride_tricks over NumPy's; what is made is a view of the same device memory."""

from __future__ import annotations

from typing import Any

from numpy.lib import stride_tricks as _numpy

from .._core import opened, wrap


def as_strided(x: Any, shape: Any = None, strides: Any = None) -> Any:
    return wrap(_numpy.as_strided(opened(x), shape, strides))


def sliding_window_view(
    x: Any, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False
) -> Any:
    return wrap(_numpy.sliding_window_view(opened(x), window_shape, axis, writeable=writeable))
