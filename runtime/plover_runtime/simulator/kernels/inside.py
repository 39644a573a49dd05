"""What a kernel finds in ``cuda``: its position, barriers, memory, bit operations.

These are the module's own names, for every thread of a process: a kernel may import ``cuda`` where and under what name
it likes. Outside of a kernel they raise.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from plover.errors import NotSimulated

from . import elements
from .blocks import Wait
from .integers import Integer
from .state import WARP_SIZE, blockDim, blockIdx, gridDim, inside, linear_thread, running, threadIdx

#: What a block may have on every GPU without asking for more.
SHARED_LIMIT_BYTES = 48 * 1024


def _components(values: tuple[int, int, int], count: Any, what: str) -> Any:
    if count == 1:
        return values[0]
    if count in (2, 3):
        return values[:count]
    raise RuntimeError(f"{what} has 1-3 dimensions. {count} requested")


def grid(ndim: int) -> Any:
    """The thread's absolute position in the grid."""
    if ndim == 1:
        return blockIdx.x * blockDim.x + threadIdx.x
    return _components(
        (
            blockIdx.x * blockDim.x + threadIdx.x,
            blockIdx.y * blockDim.y + threadIdx.y,
            blockIdx.z * blockDim.z + threadIdx.z,
        ),
        ndim,
        "Global ID",
    )


def gridsize(ndim: int) -> Any:
    """The grid's size in threads."""
    return _components((blockDim.x * gridDim.x, blockDim.y * gridDim.y, blockDim.z * gridDim.z), ndim, "Global grid")


def laneid() -> int:
    return linear_thread() % WARP_SIZE


def _barrier(kind: str, value: Any) -> Any:
    block = running.block
    if block is None:
        if not inside():
            raise RuntimeError(f"cuda.{kind} can be called only inside a kernel")
        raise RuntimeError(
            f"cuda.{kind} was reached in a way that could not be seen beforehand; call it by name in the kernel"
        )
    return block.meet(Wait(kind, value, block.place(sys._getframe(2))))


def syncthreads() -> None:
    _barrier("syncthreads", None)


def syncthreads_count(value: Any) -> Any:
    return _barrier("syncthreads_count", value)


def syncthreads_and(value: Any) -> Any:
    return _barrier("syncthreads_and", value)


def syncthreads_or(value: Any) -> Any:
    return _barrier("syncthreads_or", value)


def threadfence() -> None:
    _breathe()


def threadfence_block() -> None:
    _breathe()


def threadfence_system() -> None:
    _breathe()


def nanosleep(nanoseconds: Any) -> None:
    _breathe()


def _breathe() -> None:
    if running.block is not None:
        running.block.spin()


class GridGroup:
    """What ``cuda.cg.this_grid()`` gives."""

    def sync(self) -> None:
        block = running.block
        if block is not None and block.grid != (1, 1, 1):
            raise NotSimulated(
                "grid.sync() over more than one block is not simulated: blocks run one after another",
                feature="numba.cuda.cg.GridGroup.sync",
            )
        _barrier("grid.sync", None)


class CooperativeGroups:
    """The namespace ``cuda.cg``."""

    def this_grid(self) -> GridGroup:
        return GridGroup()


def _dtype(dtype: Any) -> np.dtype[Any]:
    from numba.cuda.np import numpy_support

    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        found = np.dtype(numpy_support.as_dtype(dtype))
    return found


class Shared:
    """The namespace ``cuda.shared``: an array is one for each place that asks, in each block."""

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> Any:
        if not inside():
            raise RuntimeError("cuda.shared.array can be called only inside a kernel")
        dtype = _dtype(dtype)
        if shape == 0:
            count = running.dynamic.nbytes // dtype.itemsize
            return elements.seen(np.frombuffer(running.dynamic.data, dtype, count))
        frame = sys._getframe(1)
        place = frame.f_code, frame.f_lasti
        made = running.shared.get(place)
        if made is None:
            made = elements.seen(np.empty(shape, dtype))
            running.static_bytes += made.nbytes
            if running.static_bytes > SHARED_LIMIT_BYTES:
                from numba.cuda.simulator.cudadrv.driver import LinkerError

                raise LinkerError(
                    f"the kernel uses too much shared memory: {running.static_bytes:,} bytes, "
                    f"of {SHARED_LIMIT_BYTES:,} that a block may have"
                )
            running.shared[place] = made
        return made


class Local:
    """The namespace ``cuda.local``."""

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> Any:
        return elements.seen(np.empty(shape, _dtype(dtype)))


class Const:
    """The namespace ``cuda.const``."""

    def array_like(self, ary: Any) -> Any:
        view = np.asarray(ary).view()
        view.flags.writeable = False
        return elements.seen(view)


def _unsigned(value: Any) -> tuple[int, int]:
    """An integer's bits and how many it has; a Python integer has 32 if it fits, else 64."""
    bits = 32 if -(2**31) <= value < 2**32 else 64
    if isinstance(value, (np.integer, Integer)):
        bits = value.dtype.itemsize * 8
    return int(value) & (1 << bits) - 1, max(32, bits)


def popc(value: Any) -> int:
    return _unsigned(value)[0].bit_count()


def brev(value: Any) -> int:
    number, bits = _unsigned(value)
    return int(f"{number:0{bits}b}"[::-1], 2)


def clz(value: Any) -> int:
    number, bits = _unsigned(value)
    return bits - number.bit_length()


def ffs(value: Any) -> int:
    number, _ = _unsigned(value)
    return (number & -number).bit_length()


def fma(a: Any, b: Any, c: Any) -> Any:
    return a * b + c  # rounded twice, where a GPU rounds once


def cbrt(a: Any) -> Any:
    return np.cbrt(a)


def selp(a: Any, b: Any, c: Any) -> Any:
    return b if a else c


FUNCTIONS: tuple[Any, ...] = (
    grid, gridsize, syncthreads, syncthreads_count, syncthreads_and, syncthreads_or, threadfence, threadfence_block,
    threadfence_system, nanosleep, popc, brev, clz, ffs, fma, cbrt, selp,
)  # fmt: skip
