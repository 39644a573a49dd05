"""The worker's heap: what a call has freed stays warm for the next one, up to a bound.

glibc gives every large block pages of its own and takes them away when it is freed, so that each large array begins with
thousands of page faults: `x + 1` of 128 MB takes three times as long as in memory that was used before. Here large blocks
come from the heap, and what is free of it stays, up to `KEPT_BYTES`.

Guarantees: between calls no more than about that much is kept of what was freed. Assumes: glibc; elsewhere nothing changes.
"""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["KEPT_BYTES", "Heap"]

KEPT_BYTES = 256 << 20

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


class _Info(ctypes.Structure):
    """struct mallinfo2 of mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


class Heap:
    """This process's heap, from now on one that stays warm."""

    def __init__(self) -> None:
        self._libc = libc = ctypes.CDLL(None)
        self._end = 0  # of the heap, beyond which it is looked at; 0 where nothing can be done
        with contextlib.suppress(AttributeError):  # not glibc
            libc.mallinfo2.restype = _Info
            libc.sbrk.restype = ctypes.c_size_t
            libc.malloc_trim.argtypes = [ctypes.c_size_t]
            if libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES):
                self._end = libc.sbrk(0) + KEPT_BYTES

    def free_bytes(self) -> int:
        """What is kept of what was freed."""
        return int(self._libc.mallinfo2().fordblks)

    def trim(self) -> None:
        """After a call: give back what is beyond the bound. A third of a microsecond where there is nothing to do."""
        if self._end and self._libc.sbrk(0) > self._end and self.free_bytes() > KEPT_BYTES:
            self._libc.malloc_trim(KEPT_BYTES)
            self._end = (
                self._libc.sbrk(0) + KEPT_BYTES
            )  # what is used stands above what was given back, and that still counts
