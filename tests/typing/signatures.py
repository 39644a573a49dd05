"""What an editor and a type checker see: checked, not run, by mypy and pyright (see test_signatures.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import plover
from plover import GpuFunction, GpuKernel, gpu_function
from plover.client.futures import Future

Floats = NDArray[np.float64]


@gpu_function
def scale(x: Floats, factor: float = 2.0) -> Floats:
    return x * factor


@gpu_function(timeout=5, retries=2, gpu="H100")
def total(x: Floats, *, initial: int) -> float:
    return float(x.sum()) + initial


class Model:
    @gpu_function
    def predict(self, x: Floats) -> int:
        return x.size


async def everything(x: Floats) -> None:
    assert_type(scale(x), Floats)
    assert_type(scale(x, factor=3.0), Floats)
    assert_type(scale.local(x), Floats)
    assert_type(scale.submit(x, 1.0), Future[Floats])
    assert_type(scale.submit(x).result(timeout=1), Floats)
    assert_type(await scale.submit(x), Floats)
    assert_type(await scale.aio(x), Floats)
    assert_type(scale.map([x, x]), Iterator[Floats])
    assert_type(scale.starmap([(x, 1.0)]), Iterator[Floats])
    assert_type(scale.options(timeout=1, priority=3)(x), Floats)
    assert_type(total(x, initial=1), float)
    assert_type(total.submit(x, initial=1).receipt, plover.Receipt | None)
    assert_type(plover.debug(scale, x, factor=3.0), Floats)
    assert_type(plover.debug(total, x, initial=1), float)
    assert_type(plover.debug(len, "abc"), int)
    assert_type(plover.debug(Model().predict, x), int)
    assert_type(Model().predict(x), int)
    assert_type(Model().predict.submit(x), Future[int])


def wrong(x: Floats) -> None:
    scale()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    scale("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scale.submit(x, factr=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    total(x, initial="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plover.debug(scale)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plover.debug(scale, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scale.options(timout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    scale.options(retries="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def kernels(jitted: Any, plain: Callable[[int], str], kernel: GpuKernel) -> None:
    assert_type(gpu_function(plain), GpuFunction[[int], str])
    same: GpuKernel = gpu_function(jitted)
    same(1, 2)
    assert_type(kernel[1, 32], GpuKernel)
    assert_type(kernel[1, 32].submit(1), Future[Any])
