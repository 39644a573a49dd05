"""A CuPy function, a Numba kernel and a CUDA C kernel on a real GPU, through a real daemon."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function

pytestmark = pytest.mark.gpu


def _ran_on_a_gpu(future: Any) -> bool:
    receipt = future.receipt
    return receipt.simulated is False and len(receipt.devices) == 1 and receipt.devices[0].startswith("GPU-")


def test_saxpy_with_cupy(gpu: plover.Session) -> None:
    @gpu_function(gpu=True)
    def saxpy(a: float, x: Any, y: Any) -> Any:
        import cupy as cp

        return a * cp.asarray(x) + cp.asarray(y)

    x = np.arange(100_000, dtype=np.float32)
    future = saxpy.submit(2.0, x, np.ones_like(x))
    np.testing.assert_allclose(future.result(), 2 * x + 1)
    assert _ran_on_a_gpu(future)
    again = saxpy.submit(3.0, x, x)
    np.testing.assert_allclose(again.result(), 4 * x)
    assert again.receipt.warm


def test_a_numba_kernel_fills_its_array(gpu: plover.Session) -> None:
    from numba import cuda

    @gpu_function(gpu=True)
    @cuda.jit
    def saxpy(a, x, out):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        if i < x.size:
            out[i] += a * x[i]

    x = np.arange(1000, dtype=np.float32)
    out = np.ones_like(x)
    future = saxpy[4, 256].submit(np.float32(2), x, out)
    future.result()
    np.testing.assert_allclose(out, 2 * x + 1)
    assert _ran_on_a_gpu(future)


def test_a_cuda_c_kernel_fills_its_array(gpu: plover.Session) -> None:
    import cupy

    source = """extern "C" __global__ void saxpy(float a, const float* x, float* out, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) out[i] += a * x[i];
    }"""
    x = np.arange(1000, dtype=np.float32)
    out = np.ones_like(x)
    saxpy = gpu_function(gpu=True)(cupy.RawKernel(source, "saxpy"))
    future = saxpy.submit((4,), (256,), (np.float32(2), x, out, np.int32(1000)))
    future.result()
    np.testing.assert_allclose(out, 2 * x + 1)
    assert _ran_on_a_gpu(future)


def test_without_gpu_the_call_still_takes_what_the_host_has(gpu: plover.Session) -> None:
    assert gpu_function(lambda: plover.current_call().simulated)() is False


def test_large_arguments_lie_in_pinned_memory(gpu: plover.Session) -> None:
    @gpu_function(gpu=True)
    def kind(x: Any) -> Any:
        import cupy as cp

        total = float(cp.asarray(x).sum())
        return cp.cuda.runtime.pointerGetAttributes(x.ctypes.data).type, total

    for number in range(3):  # 1: cudaMemoryTypeHost; memory that is not registered is 0
        assert kind(np.full(1 << 20, float(number))) == (1, number * float(1 << 20))
