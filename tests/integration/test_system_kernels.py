"""Kernels of Numba and CuPy, launched remotely and inside functions, and what the simulator refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from tests.support.daemons import PATIENCE_S, Daemon, run_script

pytestmark = pytest.mark.usefixtures("session")

_NUMBA = """
import os, sys
simulated = sys.argv[2] == "simulator"
if simulated:
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
import warnings; warnings.simplefilter("default")
import numpy as np
from numba import cuda
import plover
from plover import gpu_function

plover.connect(sys.argv[1])

@gpu_function
@cuda.jit
def add(x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] + y[i]

@gpu_function
@cuda.jit
def all_ones_more(a, b, c):
    i = cuda.grid(1)
    if i < a.size:
        a[i] += 1
        b[i] = i
        c[i] += 1

@cuda.jit(device=True)
def square(v):
    return v * v

@gpu_function
@cuda.jit
def tile_sum(x, out):
    tile = cuda.shared.array(32, dtype=np.float64)
    t = cuda.threadIdx.x
    tile[t] = square(x[cuda.grid(1)])
    cuda.syncthreads()
    if t == 0:
        total = 0.0
        for k in range(32):
            total += tile[k]
        cuda.atomic.add(out, 0, total)

n = 100
x, y, out = np.arange(n, dtype="f8"), np.ones(n), np.zeros(n)
assert add[4, 32](x, y, out) is None
np.testing.assert_array_equal(out, x + 1)
out[:] = 0
future = add[(4,), (32,)].submit(x, y, out)
future.exception(30)
np.testing.assert_array_equal(out, x + 1)   # in place when the future is done, without asking for its result
big = np.zeros(3 * n)[::3]
add[4, 32](x, y, big)
np.testing.assert_array_equal(big, x + 1)

a, b, c = np.zeros(n), np.full(n, 9.0), np.zeros(n)
all_ones_more[4, 32](cuda.In(a), cuda.Out(b), cuda.InOut(c))
assert np.all(a == 0) and np.all(b == np.arange(n)) and np.all(c == 1)

v, total = np.arange(64, dtype="f8"), np.zeros(1)
tile_sum[2, 32](v, total)
assert total[0] == (v ** 2).sum()

@gpu_function
def inside(x):
    d = cuda.to_device(x)
    add[4, 32](d, d, d)
    return d
np.testing.assert_array_equal(inside(x), 2 * x)

for wrong, kind in ((lambda: add(x, y, out), ValueError), (lambda: add[4, 32, 7](x, y, out), ValueError)):
    try:
        wrong()
    except kind as error:
        pass
    else:
        raise SystemExit("no error")
print("filled")
"""


@pytest.mark.parametrize("numba", ["simulator", "real"])
def test_numba_kernels_fill_arrays_in_place(daemon: Daemon, numba: str) -> None:
    """Whichever Numba the client has: a dispatcher is made anew by the worker's."""
    status, out, errors = run_script(_NUMBA, daemon.address, numba)
    assert (status, out) == (0, "filled\n"), errors


def test_numba_inside_a_function() -> None:
    @gpu_function
    def saxpy(a: float, x: Any, y: Any) -> Any:
        from numba import cuda

        @cuda.jit
        def kernel(a: float, x: Any, y: Any, out: Any) -> None:
            i = cuda.grid(1)
            if i < out.size:
                out[i] = a * x[i] + y[i]

        out = cuda.device_array_like(x)
        kernel[(x.size + 31) // 32, 32](a, cuda.to_device(x), cuda.to_device(y), out)
        return out

    x = np.arange(50.0)
    np.testing.assert_array_equal(saxpy(2.0, x, x), 3 * x)


def test_a_raw_kernel_is_not_simulated_and_says_so() -> None:
    @gpu_function
    def raw() -> Any:
        import cupy as cp

        kernel = cp.RawKernel('extern "C" __global__ void f(float* x) {}', "f")
        kernel((1,), (1,), (cp.zeros(1, dtype="f4"),))

    with pytest.raises(plover.NotSimulated, match="RawKernel") as caught:
        raw()
    assert isinstance(caught.value, NotImplementedError)
    assert "RawKernel" in caught.value.feature


@pytest.mark.parametrize("name", ["runtime", "polynomial", "vectorize"])
def test_not_simulated_names_what_is_missing(name: str) -> None:
    @gpu_function
    def reach() -> Any:
        import cupy as cp

        if name == "runtime":
            return cp.cuda.runtime.deviceSetLimit(0, 1)
        if name == "polynomial":
            return cp.poly1d([1, 2])
        return cp.vectorize(lambda v: v)

    missing = {"runtime": "deviceSetLimit", "polynomial": "poly1d", "vectorize": "vectorize"}[name]
    with pytest.raises(plover.NotSimulated, match=missing) as caught:
        reach()
    assert missing in caught.value.feature


def test_mixing_host_and_device_arrays_fails_as_in_cupy() -> None:
    @gpu_function
    def mix(x: Any, how: str) -> Any:
        import cupy as cp

        device = cp.asarray(x)
        if how == "add":
            return device + x
        if how == "function":
            return cp.sum(x)
        return np.asarray(device)

    x = np.ones(3)
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy\.ndarray'>"):
        mix(x, "add")
    with pytest.raises(TypeError):
        mix(x, "function")
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        mix(x, "implicit")


def test_cupy_elementwise_kernel_or_its_refusal() -> None:
    """Whether or not the simulator has them: a value or a named refusal, never another error."""

    @gpu_function
    def elementwise(x: Any) -> Any:
        import cupy as cp

        return cp.ElementwiseKernel("float64 x", "float64 y", "y = x * x", "squares")(cp.asarray(x))

    future = elementwise.submit(np.arange(3.0))
    error = future.exception(PATIENCE_S)
    if error is None:
        np.testing.assert_array_equal(future.result(), [0, 1, 4])
    else:
        assert isinstance(error, plover.NotSimulated)
        assert "ElementwiseKernel" in str(error)


def test_the_simulated_device_runs_out_of_memory_by_name() -> None:
    @gpu_function
    def eat() -> Any:
        import cupy as cp

        return cp.zeros(1 << 34, dtype="f8").size

    with pytest.raises(plover.DeviceOutOfMemory) as caught:
        eat()
    assert caught.value.total_bytes == 8 << 30
    assert isinstance(caught.value, MemoryError)


def test_a_kernel_submitted_on_a_session(session: plover.Session) -> None:
    from numba import cuda

    @gpu_function
    @cuda.jit
    def double(x: Any) -> None:
        i = cuda.grid(1)
        if i < x.size:
            x[i] *= 2

    x = np.arange(4.0)
    session.submit(double[1, 4], x).result(PATIENCE_S)
    assert x.tolist() == [0, 2, 4, 6]
    with pytest.raises(ValueError, match="say how to launch it"):
        session.submit(double, x)


def test_a_read_only_array_that_a_kernel_writes_to_is_an_error() -> None:
    from numba import cuda

    @gpu_function
    @cuda.jit
    def fill(x: Any, y: Any) -> None:
        i = cuda.grid(1)
        x[i] = y[i]

    x, y = np.zeros(4), np.ones(4)
    y.flags.writeable = False
    fill[1, 4](x, y)  # read, it may be
    assert x.tolist() == [1] * 4
    x = np.zeros(4)
    x.flags.writeable = False
    with pytest.raises(
        ValueError, match="array argument 0 of the kernel is read-only here, and the kernel wrote to it"
    ):
        fill[1, 4](x, y)
    fill[1, 4](cuda.In(x), y)
    assert x.tolist() == [0] * 4


def test_submodules_that_are_not_simulated_say_so_when_they_are_imported() -> None:
    @gpu_function
    def imports() -> None:
        import cupyx.scipy.ndimage  # noqa: F401

    with pytest.raises(plover.NotSimulated, match=r"cupyx\.scipy is not simulated"):
        imports()
