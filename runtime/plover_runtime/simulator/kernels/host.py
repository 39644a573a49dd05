"""What the host finds in ``cuda``: streams, events, the device, reductions, and what is not simulated.

Guarantees: events tell real times; the context tells the simulated device's memory. Assumes nothing runs
asynchronously: work is done when the call that starts it returns.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from numba.cuda.simulator.cudadrv import devices

from plover.errors import NotSimulated
from plover_runtime.simulator.memory import DEVICE

from . import arrays
from .state import WARP_SIZE

COMPUTE_CAPABILITY = (8, 0)


class Stream:
    """A queue of work that is always empty."""

    def __init__(self, handle: int = 0) -> None:
        self.handle = handle
        self.external = False

    def __int__(self) -> int:
        return self.handle

    def __repr__(self) -> str:
        return f"<CUDA stream {self.handle} (simulated)>"

    @contextlib.contextmanager
    def auto_synchronize(self) -> Iterator[Stream]:
        yield self

    def synchronize(self) -> None:
        pass

    def add_callback(self, callback: Callable[[Any, int, Any], object], arg: Any = None) -> None:
        callback(self, 0, arg)


def stream() -> Stream:
    return Stream()


def default_stream() -> Stream:
    return Stream(0)


def legacy_default_stream() -> Stream:
    return Stream(1)


def per_thread_default_stream() -> Stream:
    return Stream(2)


def external_stream(ptr: int) -> Stream:
    return Stream(ptr)


class Event:
    """A point in time."""

    def __init__(self, timing: bool = True) -> None:
        self._timing = timing
        self._time: float | None = None

    def record(self, stream: Any = 0) -> None:
        self._time = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def wait(self, stream: Any = 0) -> None:
        pass

    def elapsed_time(self, evtend: Event) -> float:
        return event_elapsed_time(self, evtend)


def event(timing: bool = True) -> Event:
    return Event(timing)


def event_elapsed_time(evtstart: Event, evtend: Event) -> float:
    """Milliseconds between two recorded events."""
    start, end = [one._time if one._timing else None for one in (evtstart, evtend)]
    if start is None or end is None:
        raise arrays.cuda_error(
            400, "cuEventElapsedTime", "CUDA_ERROR_INVALID_HANDLE", "an event has not been recorded with timing"
        )
    return (end - start) * 1e3


class DeviceInfo:
    """What the simulated device says of itself."""

    id = 0
    name = b"Plover simulated device"
    uuid = "GPU-00000000-0000-0000-0000-000000000000"
    compute_capability = COMPUTE_CAPABILITY
    supports_float16 = True
    supports_bfloat16 = False
    MAX_THREADS_PER_BLOCK = 1024
    MAX_BLOCK_DIM_X, MAX_BLOCK_DIM_Y, MAX_BLOCK_DIM_Z = 1024, 1024, 64
    MAX_GRID_DIM_X, MAX_GRID_DIM_Y, MAX_GRID_DIM_Z = 2**31 - 1, 65535, 65535
    MAX_SHARED_MEMORY_PER_BLOCK = 48 * 1024
    MULTIPROCESSOR_COUNT = 1
    WARP_SIZE = WARP_SIZE
    UNIFIED_ADDRESSING = 1
    COOPERATIVE_LAUNCH = 1

    def __repr__(self) -> str:
        return "<CUDA device 0 'Plover simulated device'>"

    def reset(self) -> None:
        pass

    def get_primary_context(self) -> Any:
        return devices.gpus[0]


def get_memory_info(self: Any) -> Any:
    return devices._MemoryInfo(DEVICE.free_bytes(), DEVICE.total_bytes)


def select_device(device_id: int = 0) -> Any:
    if device_id != 0:
        raise arrays.cuda_error(101, "cuDeviceGet", "CUDA_ERROR_INVALID_DEVICE", "the simulated device is number 0")
    return devices.gpus[0]


def detect() -> bool:
    print("Found 1 CUDA devices\nid 0    b'Plover simulated device'    [SUPPORTED]")
    return True


class Reduce:
    """``cuda.reduce``: a reduction by a binary function, here from left to right."""

    def __init__(self, functor: Callable[[Any, Any], Any]) -> None:
        self._functor = getattr(functor, "py_func", functor)

    def __call__(self, arr: Any, size: int | None = None, res: Any = None, init: Any = 0, stream: Any = 0) -> Any:
        view = arrays.device_view(arr)
        items = np.asarray(arr) if view is None else view
        if items.ndim != 1:
            raise TypeError("only support 1D array")
        items = items[: items.shape[0] if size is None else size]
        result = items.dtype.type(init) if items.size == 0 else None
        with np.errstate(all="ignore"):
            for item in items:
                result = item if result is None else self._functor(result, item)
            if items.size:
                result = self._functor(items.dtype.type(init), result)
        if res is None:
            return result
        res[0] = result
        return None


def _absent(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise NotSimulated(
            f"numba.cuda.{name} is not simulated: nothing is compiled here", feature=f"numba.cuda.{name}"
        )

    refuse.__name__ = name
    return refuse


COMPILING = (
    "compile", "compile_for_current_device", "compile_ptx", "compile_ptx_for_current_device", "compile_all",
    "declare_device",
)  # fmt: skip
ABSENT = {name: _absent(name) for name in COMPILING}

#: Public names of the real ``numba.cuda`` that the simulated one lacks.
NAMED_ONLY = frozenset(
    "BaseCUDAMemoryManager GetIpcHandleMixin HostOnlyCUDAMemoryManager IpcHandle MappedMemory MemoryInfo MemoryPointer "  # noqa: SIM905
    "PinnedMemory set_memory_manager profile_start profile_stop profiling nvvm libdevice fp16 extending "
    "KernelRuntimeError CudaSupportError literal_unroll codegen ufuncs mathimpl".split()
)
FUNCTIONS: tuple[Any, ...] = (
    stream, default_stream, legacy_default_stream, per_thread_default_stream, external_stream, event,
    event_elapsed_time, select_device, detect,
)  # fmt: skip


def mend() -> None:
    """Teach the simulator's context what it lacks."""
    devices.FakeCUDAContext.get_memory_info = get_memory_info
    devices.FakeCUDAContext.compute_capability = COMPUTE_CAPABILITY
    devices.FakeCUDAContext.name = DeviceInfo.name
    devices.FakeCUDAContext.synchronize = lambda self: None
    devices.FakeCUDAContext.MULTIPROCESSOR_COUNT = DeviceInfo.MULTIPROCESSOR_COUNT
    for context in devices.gpus:
        context._device = DeviceInfo()
    devices.get_context = lambda devnum=0: devices.gpus[devnum or 0]
