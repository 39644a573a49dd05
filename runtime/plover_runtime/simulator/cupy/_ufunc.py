"""Universal functions: NumPy's own loops behind CuPy's calling rules.

Guarantees: the arguments, keywords and methods that CuPy takes, and no others; results are device arrays, 0-d ones for
scalars; no floating-point warning, as on a GPU. Assumes NumPy 2's promotion (NEP 50), which CuPy 14 follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._core import checked_dtype, opened, operand, wrap_result

#: The methods beside ``outer`` that CuPy's ufuncs have.
_METHODS = {
    "add": ("reduce", "accumulate", "reduceat", "at"),
    "multiply": ("reduce", "accumulate"),
    "bitwise_and": ("at",), "bitwise_or": ("at",), "bitwise_xor": ("at",),
    "maximum": ("at",), "minimum": ("at",), "subtract": ("at",),
}  # fmt: skip

#: CuPy's name → NumPy's, where they are the same ufunc.
_NAMES = {
    name: name
    for name in (  # noqa: SIM905
        "absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_count bitwise_or "
        "bitwise_xor cbrt ceil conjugate copysign cos cosh deg2rad divmod equal exp exp2 expm1 fabs float_power floor "
        "floor_divide fmax fmin fmod frexp gcd greater greater_equal heaviside hypot invert isfinite isinf isnan lcm "
        "ldexp left_shift less less_equal log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or "
        "logical_xor maximum minimum modf multiply negative nextafter not_equal positive power rad2deg reciprocal "
        "remainder right_shift rint sign signbit sin sinh sqrt square subtract tan tanh true_divide trunc"
    ).split()
}

_ALIASES = {
    "abs": "absolute", "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan",
    "atan2": "arctan2", "atanh": "arctanh", "bitwise_invert": "invert", "bitwise_left_shift": "left_shift",
    "bitwise_not": "invert", "bitwise_right_shift": "right_shift", "conj": "conjugate", "degrees": "rad2deg",
    "divide": "true_divide", "mod": "remainder", "pow": "power", "radians": "deg2rad",
}  # fmt: skip


class ufunc:
    """One universal function; as `numpy.ufunc`, with CuPy's fewer keywords."""

    __module__ = "cupy"

    def __init__(self, name: str, inner: Any) -> None:
        self.__name__ = name
        self.name = f"cupy_{name}"
        self._inner = inner
        self.nin, self.nout, self.types = inner.nin, inner.nout, list(inner.types)
        self.nargs = self.nin + self.nout
        self.__doc__ = f"As `numpy.{name}`, on device arrays."

    def __repr__(self) -> str:
        return f"<ufunc '{self.name}'>"

    def __reduce__(self) -> str:
        return self.__name__

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind", **wrong: Any) -> Any:
        if wrong:
            raise TypeError(f"Wrong arguments {wrong}")
        nin, count = self.nin, len(args)
        if not nin <= count <= self.nargs:
            raise TypeError(
                f"Wrong number of arguments for '{self.name}'. "
                f"It must be either {nin} or {self.nargs} (with outputs), but given {count}."
            )
        if count > nin:
            if out is not None:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            out = args[nin:]
            args = args[:nin]
        keywords: dict[str, Any] = {"casting": casting}
        if dtype is not None:
            keywords["dtype"] = checked_dtype(dtype)
        if out is not None:
            outs = out if isinstance(out, tuple) else (out,)
            keywords["out"] = tuple([None if item is None else opened(item) for item in outs])
        with np.errstate(all="ignore"):
            result = self._inner(*[operand(item) for item in args], **keywords)
        if out is None:
            return wrap_result(result)
        return outs[0] if len(outs) == 1 else tuple(outs)

    def outer(self, A: Any, B: Any, **kwargs: Any) -> Any:
        left, right = operand(A), operand(B)
        with np.errstate(all="ignore"):
            return wrap_result(self._inner.outer(left, right, **kwargs))

    def _has(self, method: str) -> None:
        if method not in _METHODS.get(self.__name__, ()):
            raise NotImplementedError(f"`{self.name}.{method}` is not supported yet")

    def _reduction(self, method: str, array: Any, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        self._has(method)
        if out is not None:
            kwargs["out"] = opened(out)
        result = getattr(self._inner, method)(opened(array), *args, **kwargs)
        return wrap_result(result) if out is None else out

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return self._reduction("reduce", array, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def accumulate(self, array: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        return self._reduction("accumulate", array, axis=axis, dtype=dtype, out=out)

    def reduceat(self, array: Any, indices: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        places = indices if isinstance(indices, (list, tuple)) else opened(indices)
        return self._reduction("reduceat", array, places, axis=axis, dtype=dtype, out=out)

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        self._has("at")
        parts = indices if isinstance(indices, tuple) else (indices,)
        places = tuple([operand(part) if hasattr(part, "_a") else part for part in parts])
        with np.errstate(all="ignore"):
            self._inner.at(opened(a), places, operand(b))


class _Emulated:
    """A ufunc of CuPy's that is a plain function in NumPy: one floating-point input, one output."""

    nin, nout = 1, 1
    types = ("e->e", "f->f", "d->d")

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, x: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        x = np.asarray(x)
        if x.dtype.kind not in "fc":
            x = x.astype(np.float64 if x.itemsize > 2 else (np.float16 if x.itemsize == 1 else np.float32))
        result = np.asarray(self._function(x if dtype is None else x.astype(dtype, casting=casting)))
        result = result.astype(x.dtype if dtype is None else dtype, copy=False)
        if out is None:
            return result
        np.copyto(out[0], result, casting=casting)  # type: ignore[arg-type]
        return out[0]


def make() -> dict[str, ufunc]:
    """Every ufunc by name, aliases included."""
    made = {name: ufunc(name, getattr(np, inner)) for name, inner in _NAMES.items() if hasattr(np, inner)}
    for name, function in (("fix", np.trunc), ("sinc", np.sinc), ("i0", np.i0)):
        made[name] = ufunc(name, _Emulated(function))
    made.update({alias: made[name] for alias, name in _ALIASES.items()})
    return made
