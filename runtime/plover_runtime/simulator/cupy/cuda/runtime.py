"""cupy.cuda.runtime: what can be asked of a device that has no driver."""

from __future__ import annotations

from typing import Any

from plover_runtime.simulator.memory import DEVICE

from .. import _names

#: What the simulated device says that it is: new enough for all that Numba's kernels may use.
COMPUTE_CAPABILITY = (8, 0)

ATTRIBUTES = {
    "MaxThreadsPerBlock": 1024, "MaxBlockDimX": 1024, "MaxBlockDimY": 1024, "MaxBlockDimZ": 64,
    "MaxGridDimX": 2**31 - 1, "MaxGridDimY": 65535, "MaxGridDimZ": 65535, "MaxSharedMemoryPerBlock": 49152,
    "WarpSize": 32, "MultiProcessorCount": 1, "ComputeCapabilityMajor": 8, "ComputeCapabilityMinor": 0,
    "CooperativeLaunch": 1, "ConcurrentKernels": 0, "UnifiedAddressing": 1, "ManagedMemory": 1, "Integrated": 0,
}  # fmt: skip

is_hip = False
hostAllocDefault = 0
streamDefault, streamNonBlocking = 0, 1
eventDefault, eventBlockingSync, eventDisableTiming, eventInterprocess = 0, 1, 2, 4
memcpyHostToHost, memcpyHostToDevice, memcpyDeviceToHost, memcpyDeviceToDevice, memcpyDefault = range(5)


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""

    __module__ = "cupy_backends.cuda.api.runtime"

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text or f"error {status}")
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, str(self))


def _only(device: int) -> None:
    if device != 0:
        raise CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")


def getDeviceCount() -> int:
    return 1


def getDevice() -> int:
    return 0


def setDevice(device: int) -> None:
    _only(device)


def deviceSynchronize() -> None:
    pass


def streamSynchronize(stream: int) -> None:
    pass


def memGetInfo() -> tuple[int, int]:
    """Free and total bytes."""
    return DEVICE.free_bytes(), DEVICE.total_bytes


def runtimeGetVersion() -> int:
    return 13000


def driverGetVersion() -> int:
    return 13000


def deviceGetPCIBusId(device: int) -> str:
    _only(device)
    return "0000:00:00.0"


def getDeviceProperties(device: int) -> dict[str, Any]:
    _only(device)
    return {
        "name": b"Plover simulated device", "totalGlobalMem": DEVICE.total_bytes, "sharedMemPerBlock": 49152,
        "warpSize": 32, "maxThreadsPerBlock": 1024, "maxThreadsDim": (1024, 1024, 64),
        "maxGridSize": (2**31 - 1, 65535, 65535), "major": COMPUTE_CAPABILITY[0], "minor": COMPUTE_CAPABILITY[1],
        "multiProcessorCount": 1, "integrated": 0, "pciBusID": 0, "pciDeviceID": 0, "pciDomainID": 0,
        "uuid": bytes(16),
    }  # fmt: skip


def profilerStart() -> None:
    pass


def profilerStop() -> None:
    pass


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.cuda.runtime", name)
