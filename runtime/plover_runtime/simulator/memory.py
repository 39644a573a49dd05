"""How much of the simulated device's memory is in use, and by whom.

The simulated device keeps its arrays in host memory. This ledger holds each *buffer* (a NumPy array that no other NumPy
array is the base of) from the moment an array over it becomes a device array until the buffer itself is freed.

Guarantees: views cost nothing, a buffer counts once however many arrays share it, and what does not fit is refused.
CuPy's buffers come from a pool that keeps what was freed until it is asked to let go, as CuPy's own pool does; Numba's
do not, as on a GPU. The pool is modelled by its two sums alone (in use, kept idle), so it knows no fragmentation.

Assumes that a buffer is freed when NumPy frees it; reference cycles delay that, as they do on a GPU.
"""

from __future__ import annotations

import collections
import threading
import weakref
from typing import Any, Final

import numpy as np

__all__ = ["DEVICE", "Device", "DeviceFull", "buffer_of"]

#: CuPy's pool hands out multiples of this many bytes.
GRANULE_BYTES: Final = 512


class DeviceFull(Exception):
    """What was asked for does not fit; each library's own exception is raised from it."""

    def __init__(self, asked_bytes: int, pool_bytes: int, limit_bytes: int) -> None:
        super().__init__(asked_bytes, pool_bytes, limit_bytes)
        self.asked_bytes = asked_bytes
        self.pool_bytes = pool_bytes
        self.limit_bytes = limit_bytes


def buffer_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The NumPy array that owns (or first wrapped) the memory of ``array``."""
    base = array.base
    while isinstance(base, np.ndarray):
        array, base = base, base.base
    return array


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // GRANULE_BYTES) * GRANULE_BYTES


class Device:
    """The one simulated device's memory.

    Invariants: ``pool_used + pool_idle + other_used <= total_bytes`` unless the total was lowered later;
    ``_held`` has an entry for each live buffer and for no other.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.pool_limit_bytes = 0  #: 0 is no limit, as in CuPy
        self.pool_used = 0
        self.pool_idle = 0
        self.other_used = 0
        self._held: dict[int, tuple[weakref.ref[Any], int, bool]] = {}
        # A weak reference's callback may run at any point of any thread, in the middle of an addition too: it only
        # notes the dead buffer here, and whoever next takes the lock settles the sums.
        self._dead: collections.deque[tuple[int, weakref.ref[Any]]] = collections.deque()
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Device {self.total_bytes:,} bytes, {self.used_bytes():,} used, {self.pool_idle:,} idle in the pool>"

    def _settle(self) -> None:
        while self._dead:
            key, reference = self._dead.popleft()
            entry = self._held.get(key)
            if entry is None or entry[0] is not reference:
                continue
            del self._held[key]
            if entry[2]:
                self.pool_used -= entry[1]
                self.pool_idle += entry[1]
            else:
                self.other_used -= entry[1]

    def used_bytes(self) -> int:
        """Bytes of live arrays, whoever made them."""
        with self._lock:
            self._settle()
            return self.pool_used + self.other_used

    def free_bytes(self) -> int:
        """Bytes that the driver would report free: what the pool keeps idle is not free."""
        with self._lock:
            self._settle()
            return max(0, self.total_bytes - self.pool_used - self.pool_idle - self.other_used)

    def release(self) -> int:
        """Let go of what the pool keeps idle; returns how many bytes that was."""
        with self._lock:
            self._settle()
            idle, self.pool_idle = self.pool_idle, 0
            return idle

    def pool_bytes(self) -> tuple[int, int]:
        """The pool's bytes in use and idle."""
        with self._lock:
            self._settle()
            return self.pool_used, self.pool_idle

    def check(self, size_bytes: int, pooled: bool = True) -> None:
        """Raise `DeviceFull` if ``size_bytes`` more would not fit; takes nothing."""
        with self._lock:
            self._settle()
            self._make_room(_rounded(size_bytes) if pooled else size_bytes, pooled)

    def _make_room(self, size_bytes: int, pooled: bool) -> None:
        fresh = max(0, size_bytes - self.pool_idle) if pooled else size_bytes
        limit = self.pool_limit_bytes
        if pooled and limit and self.pool_used + self.pool_idle + fresh > limit:
            if self.pool_used + size_bytes > limit:
                raise DeviceFull(size_bytes, self.pool_used + self.pool_idle, limit)
            self.pool_idle, fresh = 0, size_bytes
        if self.pool_used + self.pool_idle + self.other_used + fresh > self.total_bytes:
            if pooled:  # only CuPy's own allocations make its pool let go of what it keeps
                self.pool_idle, fresh = 0, size_bytes
            if self.pool_used + self.pool_idle + self.other_used + fresh > self.total_bytes:
                raise DeviceFull(size_bytes, self.pool_used + self.pool_idle, limit if pooled else 0)

    def hold(self, array: np.ndarray[Any, Any], pooled: bool = True) -> None:
        """Count the buffer of ``array`` until it is freed, unless it is counted already."""
        root = buffer_of(array)
        key = id(root)
        with self._lock:
            if self._dead:
                self._settle()
            if key in self._held:
                return
            size = _rounded(root.nbytes) if pooled else root.nbytes
            self._make_room(size, pooled)
            reference = weakref.ref(root, lambda ref: self._dead.append((key, ref)))
            self._held[key] = (reference, size, pooled)
            if pooled:
                self.pool_idle = max(0, self.pool_idle - size)
                self.pool_used += size
            else:
                self.other_used += size

    def holds(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether the memory of ``array`` is the device's."""
        with self._lock:
            self._settle()
            return id(buffer_of(array)) in self._held


DEVICE: Final = Device(8 * 2**30)
