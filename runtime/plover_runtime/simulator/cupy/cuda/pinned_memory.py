"""cupy.cuda.pinned_memory: ordinary host memory, which needs no pinning here."""

from __future__ import annotations

from typing import Any

from .. import _names


class PinnedMemoryPointer:
    """Host memory with the buffer protocol of a memoryview."""

    __module__ = "cupy.cuda.pinned_memory"

    def __init__(self, size: int) -> None:
        import ctypes

        self._memory = (ctypes.c_char * size)()
        self.ptr, self._size = ctypes.addressof(self._memory), size

    def size(self) -> int:
        return self._size

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self._memory)


class PinnedMemoryPool:
    """Keeps nothing."""

    __module__ = "cupy.cuda.pinned_memory"

    def __init__(self, allocator: Any = None) -> None:
        pass

    def malloc(self, size: int) -> Any:
        return alloc_pinned_memory(size)

    def free_all_blocks(self) -> None:
        pass

    def n_free_blocks(self) -> int:
        return 0


default_pool = PinnedMemoryPool()


def alloc_pinned_memory(size: int) -> Any:
    """Host memory; before Python 3.12 a plain buffer, which has no address of its own to ask for."""
    import sys

    return PinnedMemoryPointer(size) if sys.version_info >= (3, 12) else PinnedMemoryPointer(size)._memory


def set_pinned_memory_allocator(allocator: Any = None) -> None:
    """Accepted; host memory needs no pinning here."""


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.cuda.pinned_memory", name)
