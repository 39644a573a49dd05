"""A stand-in for CuPy that runs on the CPU, over NumPy; loaded under the name ``cupy`` in a simulated process.

Guarantees: strict where CuPy is strict (host and device arrays do not mix, dtypes and keywords are CuPy's), and a name
that CuPy has but this lacks raises NotSimulated, a misspelt one AttributeError. docs/simulator.md says what differs.
"""

# ruff: noqa: F401  (what is imported here is what the module offers; __all__ is made from the tables too)

from __future__ import annotations

from typing import Any

import numpy as _np

from . import _bridge, _core, _creation, _functions, _kernels, _methods, _misc, _names, _operators, _ufunc
from ._array import flatiter, ndarray
from ._kernels import ElementwiseKernel, RawKernel, RawModule, ReductionKernel
from ._misc import c_, mgrid, ogrid, r_
from ._ufunc import ufunc

__version__ = "14.2.0"

_names_here: dict[str, Any] = {}
for _table in _functions.TABLES:
    _names_here.update(_bridge.bridge_all(_table, _np, _functions.OWN))
_ufuncs = _ufunc.make()
_names_here.update(_ufuncs)
_names_here.update({_name: getattr(_np, _name) for _name in _misc.NUMPY_OWN if hasattr(_np, _name)})
_names_here.update(_misc.OLD_NAMES)
for _function in (*[getattr(_creation, _name) for _name in _creation.PUBLIC], *_misc.FUNCTIONS):
    _function.__module__ = __name__
    _names_here[_function.__name__] = _function
_operators.attach(_ufuncs)
_methods.attach(_names_here)
globals().update(_names_here)

from . import cuda, exceptions, fft, lib, linalg, random, testing  # noqa: E402
from .cuda import get_default_memory_pool, get_default_pinned_memory_pool  # noqa: E402
from .exceptions import (  # noqa: E402
    AxisError,
    ComplexWarning,
    ModuleDeprecationWarning,
    RankWarning,
    TooHardError,
    VisibleDeprecationWarning,
)

fromDlpack = _creation.from_dlpack

__all__ = sorted(
    {
        *_names_here, "AxisError", "ComplexWarning", "ElementwiseKernel", "ModuleDeprecationWarning", "RankWarning",
        "RawKernel", "RawModule", "ReductionKernel", "TooHardError", "VisibleDeprecationWarning", "c_", "cuda",
        "exceptions", "fft", "flatiter", "fromDlpack", "get_default_memory_pool", "get_default_pinned_memory_pool",
        "lib", "linalg", "mgrid", "ndarray", "ogrid", "r_", "random", "testing", "ufunc",
    }
)  # fmt: skip


def __getattr__(name: str) -> Any:
    return _names.missing("cupy", name)
