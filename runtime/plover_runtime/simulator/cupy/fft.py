"""cupy.fft over numpy.fft.

Guarantees: complex64 for single precision, as cuFFT gives. Assumes nothing of plans: there are none to cache here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _bridge, _names
from ._core import wrap

_ONE = "a! | n axis norm"
_MANY = "a! | s axes norm"
_TABLE = {
    "fft": _ONE, "ifft": _ONE, "rfft": _ONE, "irfft": _ONE, "hfft": _ONE, "ihfft": _ONE,
    "fft2": _MANY, "ifft2": _MANY, "fftn": _MANY, "ifftn": _MANY, "rfft2": _MANY, "irfft2": _MANY, "rfftn": _MANY,
    "irfftn": _MANY, "fftshift": "x! | axes", "ifftshift": "x! | axes",
}  # fmt: skip

_SINGLE = (np.dtype("f2"), np.dtype("f4"), np.dtype("c8"))
_TO_REAL = ("irfft", "hfft", "irfft2", "irfftn")


def _in_single(name: str) -> Any:
    """The transform in the precision of its input; NumPy before 2.0 computed all in double."""
    inner = getattr(np.fft, name)

    def call(a: Any, *args: Any, **keywords: Any) -> Any:
        if a.dtype == np.float16:
            a = a.astype(np.float32)
        result = inner(a, *args, **keywords)
        if a.dtype in _SINGLE:
            result = result.astype(np.float32 if result.dtype.kind == "f" else np.complex64, copy=False)
        return result

    return call


_made = _bridge.bridge_all(
    _TABLE, np.fft, {name: _in_single(name) for name in _TABLE if not name.endswith("shift")}, "cupy.fft"
)
globals().update(_made)


def fftfreq(n: int, d: float = 1.0) -> Any:
    return wrap(np.fft.fftfreq(n, d))


def rfftfreq(n: int, d: float = 1.0) -> Any:
    return wrap(np.fft.rfftfreq(n, d))


class config:
    """CuPy's switches of its FFT; they change nothing here."""

    enable_nd_planning = True
    use_multi_gpus = False


__all__ = ["config", "fftfreq", "rfftfreq", *sorted(_made)]


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.fft", name)
