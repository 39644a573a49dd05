"""cupy.linalg over numpy.linalg.

Guarantees: the functions, parameters and plain-tuple results of CuPy. Assumes that LAPACK's results stand for
cuSOLVER's; signs of singular and eigenvectors are not determined, on a GPU neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _bridge, _names

LinAlgError = np.linalg.LinAlgError

_TABLE = {
    "cholesky": "a!", "cond": "x! | p", "cross": "x1! x2! | axis", "det": "a!", "eig": "a!", "eigh": "a! UPLO",
    "eigvals": "a!", "eigvalsh": "a! UPLO", "inv": "a!", "lstsq": "a! b! | rcond",
    "matmul": "*args? | axes axis keepdims casting dtype order out", "matrix_power": "M! n",
    "matrix_rank": "M! tol", "matrix_transpose": "a!", "norm": "x! | ord axis keepdims", "pinv": "a! rcond",
    "qr": "a! | mode", "slogdet": "a!", "solve": "a! b!", "svd": "a! | full_matrices compute_uv",
    "tensorinv": "a! | ind", "tensorsolve": "a! b! | axes",
}  # fmt: skip


def _half_refused(a: Any) -> Any:
    if a.dtype == np.float16:
        raise TypeError("Unsupported dtype float16")
    return a


def _needs_float(name: str) -> Any:
    inner = getattr(np.linalg, name)

    def call(a: Any, *args: Any, **keywords: Any) -> Any:
        result = inner(_half_refused(a), *args, **keywords)
        return tuple(result) if isinstance(result, tuple) else result

    return call


def _pinv(a: Any, rcond: Any = 1e-15) -> Any:
    return np.linalg.pinv(_half_refused(a), rcond)


def _lstsq(a: Any, b: Any, rcond: Any = None) -> Any:
    x, residuals, rank, singular = np.linalg.lstsq(_half_refused(a), b, rcond)
    return x, residuals, np.asarray(rank), singular


_DECOMPOSITIONS = ("cholesky", "det", "eig", "eigh", "eigvals", "eigvalsh", "inv", "qr", "slogdet", "svd", "tensorinv")

_made = _bridge.bridge_all(
    _TABLE,
    np.linalg,
    {
        **{name: _needs_float(name) for name in _DECOMPOSITIONS},
        "pinv": _pinv, "lstsq": _lstsq, "matmul": np.matmul,
    },
    "cupy.linalg",
)  # fmt: skip
globals().update(_made)

__all__ = ["LinAlgError", *sorted(_made)]


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.linalg", name)
