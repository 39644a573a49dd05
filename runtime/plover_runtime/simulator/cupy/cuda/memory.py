"""cupy.cuda.memory: pointers, the default pool, allocators.

The pool is a view of the device's ledger. An allocator that user code sets is asked once for each array that is made by
shape, as in CuPy, when it hands out simulated memory; anything else it returns is refused by name.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np

from plover_runtime.simulator.memory import DEVICE, DeviceFull, buffer_of

from .. import _names
from .._core import OutOfMemoryError, not_simulated, out_of_memory

__all__ = ["MemoryPointer", "MemoryPool", "OutOfMemoryError", "UnownedMemory", "alloc", "get_allocator"]


def _bytes_at(address: int, size: int) -> Any:
    buffer: Any = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(buffer, np.uint8)


class Memory:
    """A piece of device memory."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, size: int) -> None:
        self._hold(np.empty(size, np.uint8))

    def _hold(self, buffer: Any) -> None:
        self._buffer = buffer
        self.size, self.ptr, self.device_id = buffer.nbytes, buffer.ctypes.data, 0
        try:
            DEVICE.hold(buffer)
        except DeviceFull as full:
            raise out_of_memory(full) from None

    @property
    def device(self) -> Any:
        from .device import Device

        return Device(0)


class UnownedMemory:
    """Memory that somebody else owns: the simulated device's pointers are the host's own."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        self.ptr, self.size, self.device_id, self._owner = ptr, size, 0, owner
        self._buffer = _bytes_at(ptr, size)


class MemoryPointer:
    """An address inside a piece of device memory."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self._offset = mem, offset
        self._buffer = mem._buffer
        self.ptr = mem.ptr + offset
        self.device_id = 0

    @classmethod
    def _of(cls, array: Any) -> MemoryPointer:
        root = buffer_of(array)
        memory: Any = Memory.__new__(Memory)
        memory._buffer = root
        memory.size, memory.ptr, memory.device_id = root.nbytes, root.ctypes.data, 0
        return cls(memory, array.ctypes.data - root.ctypes.data)

    @property
    def device(self) -> Any:
        from .device import Device

        return Device(0)

    def __int__(self) -> int:
        return int(self.ptr)

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    def __sub__(self, offset: int) -> MemoryPointer:
        return self + -offset

    def _bytes(self, size: int) -> Any:
        if self._offset + size > self.mem.size:
            raise ValueError(f"{size} bytes at offset {self._offset} are outside of the {self.mem.size} allocated")
        return _bytes_at(self.ptr, size)

    def memset(self, value: int, size: int) -> None:
        self._bytes(size)[...] = value

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        self.memset(value, size)

    def copy_from_device(self, src: Any, size: int) -> None:
        self._bytes(size)[...] = src._bytes(size)

    def copy_from_device_async(self, src: Any, size: int, stream: Any = None) -> None:
        self.copy_from_device(src, size)

    def copy_from_host(self, mem: Any, size: int) -> None:
        ctypes.memmove(self._bytes(size).ctypes.data, getattr(mem, "value", mem), size)

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        self.copy_from_host(mem, size)

    def copy_to_host(self, mem: Any, size: int) -> None:
        ctypes.memmove(getattr(mem, "value", mem), self._bytes(size).ctypes.data, size)

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        self.copy_to_host(mem, size)

    def copy_from(self, mem: Any, size: int) -> None:
        (self.copy_from_device if isinstance(mem, MemoryPointer) else self.copy_from_host)(mem, size)

    copy_from_async = copy_from


class MemoryPool:
    """CuPy's pool; all pools are the one pool of the simulated device."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, allocator: Any = None) -> None:
        pass

    def malloc(self, size: int) -> MemoryPointer:
        return MemoryPointer(Memory(size), 0)

    def used_bytes(self) -> int:
        return DEVICE.pool_bytes()[0]

    def free_bytes(self) -> int:
        return DEVICE.pool_bytes()[1]

    def total_bytes(self) -> int:
        return sum(DEVICE.pool_bytes())

    def n_free_blocks(self) -> int:
        return 1 if DEVICE.pool_bytes()[1] else 0

    def free_all_blocks(self, stream: Any = None) -> None:
        DEVICE.release()

    def free_all_free(self) -> None:
        DEVICE.release()

    def get_limit(self) -> int:
        return DEVICE.pool_limit_bytes

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        if (size is None) == (fraction is None):
            raise ValueError("exactly one of `size` and `fraction` must be given")
        if fraction is not None:
            if not 0 <= fraction <= 1:
                raise ValueError(f"memory limit fraction out of range: {fraction}")
            size = int(DEVICE.total_bytes * fraction)
        if size is None or size < 0:
            raise ValueError(f"memory limit size out of range: {size}")
        DEVICE.pool_limit_bytes = size


default_pool = MemoryPool()
_allocator: Any = default_pool.malloc


def alloc(size: int) -> Any:
    return _allocator(size)


def get_allocator() -> Any:
    return _allocator


def set_allocator(allocator: Any = None) -> None:
    """Only the pool's own allocator (or None, which is the plain one) is simulated."""
    global _allocator
    if allocator is not None and not isinstance(getattr(allocator, "__self__", None), MemoryPool):
        raise not_simulated("cupy.cuda.set_allocator", "only the allocator of a MemoryPool can be set")
    _allocator = allocator or default_pool.malloc


@contextlib.contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    before = _allocator
    set_allocator(allocator)
    try:
        yield
    finally:
        set_allocator(before)


def malloc_managed(size: int) -> MemoryPointer:
    return MemoryPointer(Memory(size), 0)


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.cuda.memory", name)
