"""What the running CUDA thread can see of itself.

One launch runs at a time in a process, and one CUDA thread of it at a time, so the current position stands in plain
objects that every kernel shares: reading ``cuda.threadIdx.x`` costs two attribute look-ups.

Invariants: the four indices have values exactly while a launch runs; ``block`` is set exactly while threads of a block
may wait for each other.
"""

from __future__ import annotations

import threading
from typing import Any, NoReturn

WARP_SIZE = 32

#: Held by whoever runs a launch.
LAUNCH_LOCK = threading.Lock()


class Index:
    """``threadIdx`` and its kin; outside of a kernel reading one is an error."""

    __slots__ = ("_name", "x", "y", "z")

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("x", "y", "z"):
            raise RuntimeError(f"cuda.{self._name}.{name} has a value only inside a kernel")
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<{self._name} ({self.x}, {self.y}, {self.z})>" if inside() else f"<{self._name} outside of a kernel>"

    def set(self, x: int, y: int, z: int) -> None:
        self.x, self.y, self.z = x, y, z

    def clear(self) -> None:
        del self.x, self.y, self.z


threadIdx, blockIdx = Index("threadIdx"), Index("blockIdx")
blockDim, gridDim = Index("blockDim"), Index("gridDim")


class Running:
    """The launch that runs now, if one does."""

    __slots__ = ("block", "dynamic", "owner", "shared", "static_bytes")

    def __init__(self) -> None:
        self.owner: int | None = None  #: the host thread whose launch it is
        self.block: Any = None  #: the `blocks.Block` whose threads may wait; None while threads run one after another
        self.dynamic: Any = None  #: the bytes of dynamic shared memory
        self.shared: dict[Any, Any] = {}  #: call site → the current block's shared array
        self.static_bytes = 0


running = Running()


def linear_thread() -> int:
    """The running thread's number in its block."""
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)


def inside() -> bool:
    """Whether some kernel runs."""
    return running.owner is not None
