"""Plover: GPU functions that run somewhere else as if they ran here.

>>> from plover import gpu_function
>>> @gpu_function
... def double(x):
...     import cupy as cp
...     return cp.asarray(x) * 2
"""

from plover.context import CurrentCall, current_call
from plover.debugging import debug
from plover.decorator import GpuFunction, GpuKernel, gpu_function
from plover.errors import (
    AccessDenied,
    CallCancelled,
    CallTimeout,
    DaemonLost,
    DaemonUnreachable,
    DeviceError,
    DeviceOutOfMemory,
    NoCapacity,
    NotSerializable,
    NotSimulated,
    PayloadTooLarge,
    PloverError,
    VersionMismatch,
    WireError,
    WorkerLost,
)
from plover.segments import array, empty, zeros
from plover.session import Session, connect
from plover.versions import PLOVER as __version__
from plover.wire.messages import Receipt


def load_ipython_extension(shell: object) -> None:
    """``%load_ext plover``: see `plover.notebook`."""
    from plover.notebook import load_ipython_extension

    load_ipython_extension(shell)


def __dir__() -> list[str]:
    """The public names and what every module has: submodules are found by ``import``, not by looking here."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


__all__ = [
    "AccessDenied",
    "CallCancelled",
    "CallTimeout",
    "CurrentCall",
    "DaemonLost",
    "DaemonUnreachable",
    "DeviceError",
    "DeviceOutOfMemory",
    "GpuFunction",
    "GpuKernel",
    "NoCapacity",
    "NotSerializable",
    "NotSimulated",
    "PayloadTooLarge",
    "PloverError",
    "Receipt",
    "Session",
    "VersionMismatch",
    "WireError",
    "WorkerLost",
    "__version__",
    "array",
    "connect",
    "current_call",
    "debug",
    "empty",
    "gpu_function",
    "load_ipython_extension",
    "zeros",
]
