"""``@vectorize(target="cuda")`` as a loop in Python; ``@guvectorize`` is not simulated.

Guarantees: the signature decides the dtypes, as on a GPU; the result is a device array if any argument is one, else a
host array. Assumes that the function is pure, as every ufunc's must be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numba.cuda.core.sigutils import normalize_signature
from numba.cuda.np import numpy_support
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from plover.errors import NotSimulated

from . import arrays


class Vectorizer:
    """Stands for Numba's CUDAVectorize: takes signatures, then gives the ufunc."""

    def __init__(
        self, func: Callable[..., Any], identity: Any = None, cache: bool = False, targetoptions: Any = None
    ) -> None:
        self._ufunc = VectorizedFunction(getattr(func, "py_func", func))

    def add(self, sig: Any = None, argtypes: Any = None, restype: Any = None) -> None:
        arguments, result = normalize_signature(sig)
        if result is None:
            raise TypeError("a signature for vectorize needs a return type")
        self._ufunc._loops.append(
            ([numpy_support.as_dtype(item) for item in arguments], numpy_support.as_dtype(result))
        )

    def disable_compile(self) -> None:
        pass

    def build_ufunc(self) -> VectorizedFunction:
        return self._ufunc


class VectorizedFunction:
    """A Python function applied element by element."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.py_func = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._loops: list[tuple[list[Any], Any]] = []

    @property
    def types(self) -> list[str]:
        return [f"{''.join(dtype.char for dtype in given)}->{result.char}" for given, result in self._loops]

    def __call__(self, *args: Any, out: Any = None, stream: Any = 0) -> Any:
        views = [arrays.device_view(arg) if arrays.is_cuda_array(arg) else None for arg in args]
        inputs = [np.asarray(arg) if view is None else view for arg, view in zip(args, views, strict=True)]
        given, result = self._loop(inputs)
        cast = [item.astype(dtype) for item, dtype in zip(inputs, given, strict=True)]
        with np.errstate(all="ignore"):
            made = np.asarray(np.frompyfunc(self.py_func, len(cast), 1)(*cast)).astype(result)
        if out is not None:
            target = arrays.device_view(out) if arrays.is_cuda_array(out) else out
            np.copyto(target, made)  # type: ignore[arg-type]
            return out
        return made if all(view is None for view in views) else FakeCUDAArray(made)

    def _loop(self, inputs: list[Any]) -> tuple[list[Any], Any]:
        if not self._loops:
            raise NotSimulated(
                "numba.vectorize(target='cuda') without signatures is not simulated", feature="vectorize"
            )
        castings: tuple[Any, ...] = ("safe", "same_kind")
        for casting in castings:
            for given, result in self._loops:
                if len(given) == len(inputs) and all(
                    np.can_cast(item.dtype, dtype, casting) for item, dtype in zip(inputs, given, strict=True)
                ):
                    return given, result
        raise TypeError(f"no matching signature of {self.__name__} for {[str(item.dtype) for item in inputs]}")

    def reduce(self, *args: Any, **options: Any) -> NoReturn:
        raise NotSimulated("reduce of a vectorize(target='cuda') function is not simulated", feature="vectorize.reduce")


class GeneralVectorizer:
    """Stands for Numba's CUDAGUFuncVectorize."""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise NotSimulated("numba.guvectorize(target='cuda') is not simulated", feature="guvectorize")


def mend() -> None:
    """Make both of Numba's ways to ask for the target ``cuda`` find these."""
    from numba.cuda import vectorizers
    from numba.cuda.np.ufunc import decorators as own

    vectorizers.CUDAVectorize, vectorizers.CUDAGUFuncVectorize = Vectorizer, GeneralVectorizer
    pairs: list[Any] = [own]
    try:
        from numba.np.ufunc import decorators as general
    except ImportError:  # Numba itself may be absent where numba-cuda is
        pass
    else:
        pairs.append(general)
    for module in pairs:
        for kind, stand_in in ((module.Vectorize, Vectorizer), (module.GUVectorize, GeneralVectorizer)):
            registry = kind.target_registry
            registry.ondemand.pop("cuda", None)
            dict.__setitem__(registry, "cuda", stand_in)
