"""cupy.cuda: the simulated device, its memory, streams and events."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .. import _names
from . import device, memory, nvtx, pinned_memory, runtime, stream
from .device import Device, get_device_id
from .memory import (
    Memory,
    MemoryPointer,
    MemoryPool,
    UnownedMemory,
    alloc,
    get_allocator,
    malloc_managed,
    set_allocator,
    using_allocator,
)
from .pinned_memory import PinnedMemoryPointer, PinnedMemoryPool, alloc_pinned_memory, set_pinned_memory_allocator
from .stream import Event, ExternalStream, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "Device",
    "Event",
    "ExternalStream",
    "Memory",
    "MemoryPointer",
    "MemoryPool",
    "PinnedMemoryPointer",
    "PinnedMemoryPool",
    "Stream",
    "UnownedMemory",
    "alloc",
    "alloc_pinned_memory",
    "device",
    "get_allocator",
    "get_current_stream",
    "get_default_memory_pool",
    "get_default_pinned_memory_pool",
    "get_device_id",
    "get_elapsed_time",
    "get_local_runtime_version",
    "is_available",
    "malloc_managed",
    "memory",
    "nvtx",
    "pinned_memory",
    "profile",
    "runtime",
    "set_allocator",
    "set_pinned_memory_allocator",
    "stream",
    "using_allocator",
]


def get_default_memory_pool() -> MemoryPool:
    return memory.default_pool


def get_default_pinned_memory_pool() -> PinnedMemoryPool:
    return pinned_memory.default_pool


def is_available() -> bool:
    return True


def get_local_runtime_version() -> int:
    return runtime.runtimeGetVersion()


@contextlib.contextmanager
def profile() -> Iterator[None]:
    """A context for a profiler that is not there."""
    yield


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.cuda", name)
