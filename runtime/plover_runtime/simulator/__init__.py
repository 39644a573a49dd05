"""A simulated CUDA device: CuPy and Numba-CUDA programs run on the CPU, for tests and machines without a GPU.

`install` makes ``import cupy`` give a strict stand-in over NumPy and mends Numba's own CUDA simulator. What the
simulation lacks raises `plover.errors.NotSimulated` and names it; nothing is silently approximated without a line in
docs/simulator.md.

Guarantees: installing starts no thread and imports neither CuPy nor Numba (Numba's simulator is mended when somebody
imports it), so a zygote may install, import both and fork. Assumes one simulated device a process, installed before
anybody imports ``cupy`` or ``numba.cuda``, for as long as the process lives.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from plover_runtime.simulator import imports
from plover_runtime.simulator.memory import DEVICE

__all__ = ["install", "installed", "is_device_array", "memory_info", "release_pools", "to_host", "used_bytes"]

_FLAG = "NUMBA_ENABLE_CUDASIM"


def install(memory_bytes: int = 8 * 2**30) -> None:
    """Make this process's ``cupy`` and ``numba.cuda`` simulated ones, over a device of ``memory_bytes``.

    Calling it again only sets the size. Raises RuntimeError where the real CuPy, or a Numba whose simulator is off,
    was imported before.
    """
    if not installed():
        _refuse_what_was_imported()
        os.environ[_FLAG] = "1"
        imports.install()
    DEVICE.total_bytes = memory_bytes


def installed() -> bool:
    """Whether this process is a simulated one."""
    return imports.installed()


def _refuse_what_was_imported() -> None:
    if "cupy" in sys.modules:
        raise RuntimeError(
            "the real CuPy is already imported in this process; install the simulator before anything imports cupy"
        )
    config = sys.modules.get("numba.core.config")
    if "numba.cuda" in sys.modules or (config is not None and not config.ENABLE_CUDASIM):
        raise RuntimeError(
            "Numba is already imported in this process without the simulator; "
            "install the simulator before anything imports numba"
        )


def memory_info() -> tuple[int, int]:
    """Free and total bytes of the simulated device."""
    return DEVICE.free_bytes(), DEVICE.total_bytes


def used_bytes() -> int:
    """Bytes of live device arrays; what CuPy's pool keeps idle is not counted."""
    return DEVICE.used_bytes()


def release_pools() -> int:
    """Let go of what CuPy's pool keeps idle; returns how many bytes that was."""
    return DEVICE.release()


def _host_view(obj: object) -> np.ndarray[Any, Any] | None:
    """The NumPy array behind a device array, or None for anything else."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(obj, cupy.ndarray):
        return obj._a  # type: ignore[no-any-return]
    arrays = sys.modules.get("numba.cuda.simulator.cudadrv.devicearray")
    if arrays is not None and isinstance(obj, arrays.FakeCUDAArray):
        return obj._ary  # type: ignore[no-any-return]
    return None


def is_device_array(obj: object) -> bool:
    """Whether ``obj`` is an array on the simulated device, CuPy's or Numba's."""
    return _host_view(obj) is not None


def to_host(obj: object) -> np.ndarray[Any, Any]:
    """A writable copy, in host memory, of a device array; TypeError for anything else."""
    view = _host_view(obj)
    if view is None:
        raise TypeError(f"{type(obj).__name__} is not an array on the simulated device")
    return np.array(view)
