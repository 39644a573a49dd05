"""The operators of `ndarray`: arithmetic, comparisons and their in-place forms, as the stand-in's own ufuncs.

Guarantees: an operator takes what CuPy's takes: device arrays and scalars. Host arrays, lists and text raise; a type that
is not known leaves the operator to the other side.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from . import _core
from ._array import ndarray
from ._core import opened, wrap_result


def _comparable(other: Any) -> Any:
    """The other side of an operator: refused types raise, unknown ones leave the operator to the other side."""
    if type(other) is ndarray or isinstance(other, _core.SCALARS):
        return other
    if isinstance(other, (np.ndarray, list, tuple, str, bytes)) or other is None:
        _core.refuse(other)
    return other if hasattr(other, "__cuda_array_interface__") else NotImplemented


def _binary(name: str, ufunc: Any) -> None:
    def forward(self: Any, other: Any) -> Any:
        return NotImplemented if _comparable(other) is NotImplemented else ufunc(self, other)

    def backward(self: Any, other: Any) -> Any:
        return NotImplemented if _comparable(other) is NotImplemented else ufunc(other, self)

    setattr(ndarray, f"__{name}__", forward)
    if name not in ("lt", "le", "eq", "ne", "gt", "ge"):
        setattr(ndarray, f"__r{name}__", backward)


def _inplace(name: str, ufunc: Any) -> None:
    def update(self: Any, other: Any) -> Any:
        return NotImplemented if _comparable(other) is NotImplemented else ufunc(self, other, out=self)

    setattr(ndarray, f"__i{name}__", update)


def attach(ufuncs: dict[str, Any]) -> None:
    """Give `ndarray` the operators, from the stand-in's ufuncs."""
    named = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
        "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
        "lshift": "left_shift", "rshift": "right_shift",
    }  # fmt: skip
    for name, ufunc in named.items():
        _binary(name, ufuncs[ufunc])
        _inplace(name, ufuncs[ufunc])
    _binary("divmod", ufuncs["divmod"])
    for name, ufunc in (
        ("lt", "less"), ("le", "less_equal"), ("eq", "equal"),
        ("ne", "not_equal"), ("gt", "greater"), ("ge", "greater_equal"),
    ):  # fmt: skip
        _binary(name, ufuncs[ufunc])
    for name, ufunc in (("neg", "negative"), ("pos", "positive"), ("abs", "absolute"), ("invert", "invert")):
        setattr(ndarray, f"__{name}__", lambda self, _call=ufuncs[ufunc]: _call(self))

    def matmul(self: Any, other: Any) -> Any:
        return wrap_result(operator.matmul(self._a, opened(other)))

    def rmatmul(self: Any, other: Any) -> Any:
        return wrap_result(operator.matmul(opened(other), self._a))

    for name, method in (("__matmul__", matmul), ("__rmatmul__", rmatmul)):
        setattr(ndarray, name, method)
