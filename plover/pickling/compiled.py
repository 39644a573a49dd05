"""How what Numba and CuPy made of functions travels: as the function, to be compiled anew.

Kernels, which are launched, are in `plover.kernels`. Guarantees: recognizing one imports nothing. Assumes: attribute names of
Numba 0.60–0.68's CPU dispatchers and CuPy 13–14's ufuncs and fusions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["BY_NAME"]


def _reduce_njit(dispatcher: Any) -> Any:
    """A CPU dispatcher as its function and options. Its own way nests a pickler of Numba's, which knows none of this,
    and an id by which a worker would take it for an earlier one whose globals were others.
    """
    signatures = None if dispatcher._can_compile else [each.signature for each in dispatcher.overloads.values()]
    return _make_njit, (
        type(dispatcher),
        dispatcher.py_func,
        dict(dispatcher.locals),
        dict(dispatcher.targetoptions),
        signatures,
    )


def _make_njit(cls: Any, function: Any, types_of_locals: Any, options: Any, signatures: list[Any] | None) -> Any:
    dispatcher = cls(function, types_of_locals, options)
    if signatures is not None:
        for signature in signatures:
            dispatcher.compile(signature)
        dispatcher.disable_compile()
    return dispatcher


def _reduce_numba_state(state: Any) -> Any:
    """What Numba would put through a pickler of its own."""
    return state._reduce()


def _reduce_cupy_ufunc(ufunc: Any) -> Any:
    """CuPy's ufuncs are all its own: by name."""
    cupy = sys.modules.get("cupy")
    name = ufunc.name.removeprefix("cupy_")
    for module, path in ((cupy, "cupy"), (sys.modules.get("cupyx.scipy.special"), "cupyx.scipy.special")):
        if getattr(module, name, None) is ufunc:
            return _get, (path, name)
    return NotImplemented


def _get(module: str, name: str) -> Any:
    __import__(module)
    return getattr(sys.modules[module], name)


def _reduce_fusion(fusion: Any) -> Any:
    return _make_fusion, (fusion.func, fusion.name)


def _make_fusion(function: Any, name: str) -> Any:
    import cupy

    return cupy.fuse(kernel_name=name)(function)


BY_NAME: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("numba.core.dispatcher", "Dispatcher"): _reduce_njit,
    ("numba.core.serialize", "_CustomPickled"): _reduce_numba_state,
    ("numba.cuda.serialize", "_CustomPickled"): _reduce_numba_state,
    ("cupy._core._kernel", "ufunc"): _reduce_cupy_ufunc,
    ("cupy._core.fusion", "Fusion"): _reduce_fusion,
}
