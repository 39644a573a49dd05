"""Shared memory in this process's address space, and how it becomes private where it lies.

Guarantees: memory stays mapped as long as any array looks at it, and never longer. What becomes private keeps its address and
its content, so whoever looks at it notices nothing. Assumes: Linux; only who has a descriptor of shared memory imports this.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

import numpy as np

__all__ = ["Mapping"]

# <sys/mman.h>
_PROT_READ_WRITE = 0x1 | 0x2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_POPULATE = 0x1, 0x2, 0x10, 0x20, 0x8000
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]


class Mapping:
    """Shared memory, mapped.

    Args:
        fd: of the memory; not kept.
        size_bytes: of it.
        private: what is written here is seen by nobody else.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, fd: int, size_bytes: int, private: bool = False) -> None:
        # Filling the page table now, once, is a fifth of what a fault for each page would cost. A private mapping would be
        # copied by it.
        how = _MAP_PRIVATE if private else _MAP_SHARED | _MAP_POPULATE
        self.address = _map(None, size_bytes, how, fd)
        self.size_bytes = size_bytes
        self._memory = (ctypes.c_ubyte * size_bytes).from_address(self.address)
        unmapping = weakref.finalize(self._memory, _libc.munmap, self.address, size_bytes)
        unmapping.atexit = False  # arrays may be looked at until the very end

    def array(self) -> np.ndarray[Any, Any]:
        """All of it as bytes: a fresh array, to which every view of it leads, so that a weak reference to it tells whether
        any is left.
        """
        memory: Any = self._memory
        whole: np.ndarray[Any, Any] = np.frombuffer(memory, np.uint8)
        return whole

    def keep_private(self, fd: int) -> None:
        """From now on what is written here is seen by nobody else, and what is written elsewhere is not to be; at once for
        every thread. `fd` is of the same memory.
        """
        _map(self.address, self.size_bytes, _MAP_PRIVATE | _MAP_FIXED, fd)

    def detach(self) -> None:
        """Put memory of this process's own, with the same content, in its place. Nobody must write here meanwhile.

        Raises:
            OSError: there is no memory.
        """
        size = self.size_bytes
        copy = _map(None, size, _MAP_PRIVATE | _MAP_ANONYMOUS, -1)
        ctypes.memmove(copy, self.address, size)
        if _libc.mremap(copy, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, self.address) == _FAILED:
            raise _error()


def _map(address: int | None, size_bytes: int, how: int, fd: int) -> int:
    mapped: int | None = _libc.mmap(address, size_bytes, _PROT_READ_WRITE, how, fd, 0)
    if mapped == _FAILED or mapped is None:
        raise _error()
    return mapped


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"shared memory could not be mapped: {os.strerror(number)}")
