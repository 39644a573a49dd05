"""Kernels as an editor and a type checker see them: checked, not run, by mypy and pyright (see test_signatures.py).

Numba and CuPy have no types: to mypy what `cuda.jit` makes is Any, to pyright it is the function itself. Both take launches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import cupy as cp
import numpy as np
from numba import cuda
from numpy.typing import NDArray

import plover
from plover import GpuKernel, gpu_function
from plover.client.futures import Future

Floats = NDArray[np.float32]


@gpu_function
@cuda.jit  # type: ignore[untyped-decorator, unused-ignore]
def add(x: Floats, y: Floats, out: Floats) -> None:
    out[0] = x[0] + y[0]


@gpu_function(timeout=5)
@cuda.jit(fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def twice(x: Floats, out: Floats) -> None:
    out[0] = 2 * x[0]


class Dispatcher:
    """A kernel that has types."""

    def __getitem__(self, launch: Any) -> Callable[..., None]:
        raise NotImplementedError

    def __call__(self, *args: Any) -> None:
        raise NotImplementedError


stencil: GpuKernel = gpu_function(cp.RawKernel("…", "stencil"))


async def launched(x: Floats, out: Floats, blocks: tuple[int, ...], typed: Dispatcher) -> None:
    add[4, 256](x, x, out)
    add[(4, 4), (16, 16)].submit(cuda.In(x), cuda.In(x), out).result()
    twice[blocks, np.int64(32)](x, out)
    await twice[4, 256, 0, 1024].options(retries=2).aio(x, out)
    plover.debug(add[1, 32], x, x, out)

    assert_type(gpu_function(typed), GpuKernel)
    assert_type(gpu_function(retries=2)(typed), GpuKernel)
    assert_type(gpu_function(typed)[4, [256, 1]], GpuKernel)
    assert_type(gpu_function(typed)[4, 256].submit(x), Future[Any])

    assert_type(stencil.options(timeout=1), GpuKernel)
    stencil((4,), (256,), (x, out))
    stencil((4,), (256,), (x, out), shared_mem=1024)
    assert_type(stencil.submit((4,), (256,), (x, out)), Future[Any])


def wrong(kernel: GpuKernel) -> None:
    kernel[4]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    kernel["4", 256]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    kernel[4.5, 256]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    kernel[4, 256, cuda.stream(), 0, 1]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    kernel.options(timout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    gpu_function(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
