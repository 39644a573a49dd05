"""The real device: CuPy and Numba on one GPU's primary context.

Guarantees: `preload` initializes no driver (importing CuPy and numba.cuda does not; asking `is_available`, any NVRTC
compile or nvJitLink would, and a fork after that is broken). Opening makes the primary context current, so that CuPy and
Numba share it, and runs one allocation and one launch.

Assumes: CUDA_VISIBLE_DEVICES names the nest's devices. Either library may be missing; one must be there.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
from typing import Any

from plover.serialize import as_is
from plover_runtime.device.base import Diagnosis

#: cudaError_t / CUresult names of errors after which a context is of no use (CUDA's driver API documentation).
_STICKY = (
    "ILLEGAL_ADDRESS",
    "LAUNCH_FAILED",
    "LAUNCH_TIMEOUT",
    "ASSERT",
    "MISALIGNED_ADDRESS",
    "ILLEGAL_INSTRUCTION",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "HARDWARE_STACK_ERROR",
    "ECC_UNCORRECTABLE",
    "NVLINK_UNCORRECTABLE",
    "DEVICE_UNAVAILABLE",
    "CONTEXT_IS_DESTROYED",
    "LaunchFailure",
    "IllegalAddress",
    "MisalignedAddress",
    "IllegalInstruction",
    "InvalidAddressSpace",
    "InvalidPc",
    "HardwareStackError",
    "ECCUncorrectable",
    "LaunchTimeout",
)


def preload() -> None:
    """Import CuPy and Numba, and compile one kernel to PTX for a named architecture, which needs no driver.

    A worker's first JIT then costs tens of milliseconds instead of hundreds.
    """
    if importlib.util.find_spec("cupy"):
        import cupy  # noqa: F401
    if importlib.util.find_spec("numba"):
        from numba import cuda, types

        def nothing(x: Any) -> None:
            x[0] = 0

        with contextlib.suppress(Exception):  # warms the compiler; a version that cannot is slower, not broken
            cuda.compile_ptx(nothing, (types.float32[:],), cc=(7, 5))


class CudaDevice:
    """A GPU, or several, whose primary context is current in this process."""

    simulated = False

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._cupy: Any = importlib.import_module("cupy") if importlib.util.find_spec("cupy") else None
        self._numba_pinned: dict[int, Any] = {}  # what keeps memory registered, by its address
        self._numba: Any = importlib.import_module("numba.cuda") if importlib.util.find_spec("numba") else None
        if self._cupy:
            self._cupy.cuda.Device(0).use()
            one = self._cupy.zeros(1, dtype="f4")
            (one + 1).get()
        if self._numba:
            self._numba.current_context()  # CuPy has made the primary context current: this is the same one
        if not self._cupy and not self._numba:
            raise RuntimeError("neither CuPy nor numba-cuda is installed: pip install 'plover-gpu[cuda13]' (or cuda12)")

    def synchronize(self) -> None:
        """Wait for the whole device, whatever stream the user's code used."""
        if self._cupy:
            self._cupy.cuda.runtime.deviceSynchronize()
        else:
            self._numba.synchronize()

    def diagnose(self, error: BaseException) -> Diagnosis:
        """By the driver's own names for its errors."""
        name = type(error).__name__
        try:
            text = str(error)
        except Exception:  # a user's class: the driver's have texts
            return "none"
        if name == "OutOfMemoryError" or "OUT_OF_MEMORY" in text or "MemoryAllocation" in text:
            return "memory"
        if name in ("CUDARuntimeError", "CUDADriverError", "CudaAPIError", "CUDAError"):
            return "sticky" if any(word.lower() in text.lower() for word in _STICKY) else "none"
        return "none"

    def reduce(self, obj: Any) -> Any:
        """CuPy's and Numba's device arrays become NumPy arrays."""
        if self._cupy and isinstance(obj, self._cupy.ndarray):
            return as_is, (obj.get(),)
        if self._numba and self._numba.is_cuda_array(obj) and hasattr(obj, "copy_to_host"):
            return as_is, (obj.copy_to_host(),)
        return NotImplemented

    def memory(self) -> tuple[int, int]:
        """Free and total bytes, as the driver says."""
        if self._cupy:
            free, total = self._cupy.cuda.runtime.memGetInfo()
        else:
            free, total = self._numba.current_context().get_memory_info()
        return int(free), int(total)

    def pin(self, address: int, size_bytes: int) -> None:
        """Register it with the driver (cudaHostRegister)."""
        if self._cupy:
            self._cupy.cuda.runtime.hostRegister(address, size_bytes, 0)
        else:
            self._numba_pinned[address] = self._numba.current_context().mempin(None, address, size_bytes)

    def unpin(self, address: int) -> None:
        """Take it back from the driver; memory that was not registered is an error of the driver's."""
        if self._cupy:
            self._cupy.cuda.runtime.hostUnregister(address)
        else:
            del self._numba_pinned[address]

    def release_memory(self) -> None:
        """Collect, then empty CuPy's pools and its cache of FFT plans."""
        gc.collect()
        if self._cupy:
            self._cupy.get_default_memory_pool().free_all_blocks()
            self._cupy.get_default_pinned_memory_pool().free_all_blocks()
            self._cupy.fft.config.get_plan_cache().clear()
