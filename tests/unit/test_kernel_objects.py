"""Kernels as values: the real numba-cuda's and CuPy's objects, which need no GPU to be made."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from plover import kernels, serialize

cupy = pytest.importorskip("cupy")
cuda = pytest.importorskip("numba.cuda")


def rebuilt(kernel: Any) -> Any:
    return serialize.unpack(serialize.pack(kernel, (kernels.reduce,)))


def parameters(kernel: Any) -> list[tuple[Any, ...]]:
    """What CuPy made of a kernel's parameter lists."""
    return [(p.ctype, p.dtype, p.name, p.raw, p.is_const) for p in (*kernel.in_params, *kernel.out_params)]


SOURCE = 'extern "C" __global__ void stencil(float* x) { x[0] = 1; }'


class TestKinds:
    def test_each_kind_is_known(self) -> None:
        @cuda.jit
        def add(x: Any) -> None:
            x[0] = 1

        assert kernels.kind_of(add) == "numba"
        assert kernels.kind_of(cupy.RawKernel(SOURCE, "stencil")) == "cupy"
        assert kernels.kind_of(cupy.ElementwiseKernel("T x", "T y", "y = x", "copy")) == "cupy"
        assert kernels.kind_of(cupy.ReductionKernel("T x", "T y", "x", "a + b", "y = a", "0", "total")) == "cupy"

    @pytest.mark.parametrize("other", [None, 1, len, int, lambda: None, np.zeros(1)])
    def test_other_things_are_none(self, other: Any) -> None:
        assert kernels.kind_of(other) is None
        assert kernels.reduce(other) is NotImplemented

    def test_a_module_of_kernels_is_no_kernel_but_travels(self) -> None:
        module = cupy.RawModule(code=SOURCE, options=("-std=c++17",))
        assert kernels.kind_of(module) is None
        found = rebuilt(module)
        assert (found.code, found.options, found.backend) == (SOURCE, ("-std=c++17",), "nvrtc")


class TestDispatchers:
    def test_function_and_options_come_back(self) -> None:
        @cuda.jit(fastmath=True, max_registers=32)
        def add(x: Any, y: Any) -> None:
            x[0] += y[0]

        found = rebuilt(add)
        assert type(found) is type(add)
        assert found.py_func.__code__.co_code == add.py_func.__code__.co_code
        assert found.targetoptions["fastmath"] is True
        assert found.targetoptions["max_registers"] == 32

    def test_a_device_function_captured_by_a_kernel_comes_along(self) -> None:
        @cuda.jit(device=True)
        def twice(x: Any) -> Any:
            return 2 * x

        @cuda.jit
        def apply(x: Any) -> None:
            x[0] = twice(x[0])

        found = rebuilt(apply)
        inner = found.py_func.__closure__[0].cell_contents
        assert type(inner) is type(twice)
        assert inner.targetoptions["device"] is True

    def test_a_debugging_kernel_stays_one(self) -> None:
        """Numba warns of `debug` with `opt`, which is its default: what was switched off must stay off."""

        @cuda.jit(debug=True, opt=False)
        def add(x: Any) -> None:
            x[0] = 1

        found = rebuilt(add)
        assert found.targetoptions["debug"] is True
        assert found.targetoptions["opt"] is False

    def test_one_of_the_simulator_is_reduced_to_what_it_keeps(self) -> None:
        class FakeCUDAKernel:
            __module__ = "numba.cuda.simulator.kernel"
            _device, _fastmath = False, 1

            @staticmethod
            def fn(x: Any) -> None: ...

        FakeCUDAKernel.__qualname__ = "FakeCUDAKernel"
        make, (function, options) = kernels.reduce(FakeCUDAKernel())
        assert function is FakeCUDAKernel.fn
        assert options == {"device": False, "fastmath": True}
        assert make(function, options).targetoptions["fastmath"] is True


class TestCupyKernels:
    def test_a_raw_kernel(self) -> None:
        found = rebuilt(cupy.RawKernel(SOURCE, "stencil", options=("-DN=3",), backend="nvrtc"))
        assert type(found) is cupy.RawKernel
        assert (found.code, found.name, found.options, found.backend) == (SOURCE, "stencil", ("-DN=3",), "nvrtc")

    def test_an_elementwise_kernel(self) -> None:
        kernel = cupy.ElementwiseKernel(
            "T x, raw U y", "T z", "z = x + y[i]", "plus", preamble="// p", reduce_dims=False, loop_prep="int k = 0;"
        )
        found = rebuilt(kernel)
        assert parameters(found) == parameters(kernel)
        names = ("operation", "name", "preamble", "reduce_dims", "no_return", "return_tuple", "kwargs")
        assert [getattr(found, name) for name in names] == [getattr(kernel, name) for name in names]

    @pytest.mark.parametrize(
        "declared",
        [
            "float32 x",
            "float64 x",
            "int32 x",
            "int64 x",
            "uint8 x",
            "bool x",
            "complex64 x",
            "float16 x",
            "raw uint64 x",
        ],
    )
    def test_parameters_keep_their_types(self, declared: str) -> None:
        kernel = cupy.ElementwiseKernel(declared, "float64 y", "y = 0", "typed")
        assert parameters(rebuilt(kernel)) == parameters(kernel)

    def test_parameters_that_may_be_written_stay_so(self) -> None:
        kernel = cupy.ElementwiseKernel("_non_const raw T x", "T y", "y = x[i]", "written")
        assert parameters(rebuilt(kernel)) == parameters(kernel)

    def test_a_reduction_kernel(self) -> None:
        kernel = cupy.ReductionKernel(
            "T x",
            "T y",
            "x * x",
            "a + b",
            "y = sqrt(a)",
            "0",
            "norm",
            reduce_type="T",
            preamble="// p",
            options=("-DX",),
        )
        found = rebuilt(kernel)
        assert parameters(found) == parameters(kernel)
        names = ("map_expr", "reduce_expr", "post_map_expr", "identity", "name", "reduce_type", "preamble", "options")
        assert [getattr(found, name) for name in names] == [getattr(kernel, name) for name in names]

    def test_a_reduction_kernel_keeps_its_types(self) -> None:
        kernel = cupy.ReductionKernel("float32 x", "float32 y", "x", "a + b", "y = a", "0", "total")
        assert parameters(rebuilt(kernel)) == parameters(kernel)

    def test_a_kernel_inside_a_function_goes_with_it(self) -> None:
        kernel = cupy.RawKernel(SOURCE, "stencil")

        def use() -> Any:
            return kernel

        buffers, _ = serialize.pack_function(use)
        assert serialize.unpack(buffers)().name == "stencil"


class TestArguments:
    def test_wrappers_become_marks(self) -> None:
        x = np.zeros(2)
        marked = kernels.mark_arguments((cuda.In(x), cuda.Out(x), cuda.InOut(x), x, 3))
        assert [each.direction for each in marked[:3]] == ["in", "out", "inout"]
        assert all(each.value is x for each in (*marked[:1], marked[1], marked[2]))
        assert marked[3] is x
        assert marked[4] == 3

    def test_the_wrappers_of_the_simulator_are_known_too(self) -> None:
        cls = type("Out", (), {"__module__": "numba.cuda.simulator.args", "value": 5})
        (marked,) = kernels.mark_arguments((cls(),))
        assert (marked.value, marked.direction) == (5, "out")

    def test_arrays_are_listed_in_order_and_once_for_each_place(self) -> None:
        a, b, c = np.zeros(1), np.zeros(2), np.zeros(3)
        found = list(kernels.array_arguments((1, a, (b, 2, a)), {"out": c, "n": 4}))
        assert [each.size for each in found] == [1, 2, 1, 3]
        assert found[0] is a
        assert found[3] is c


class _Copied:
    """A device array of the fakes below."""

    def __init__(self, content: np.ndarray[Any, Any]) -> None:
        self.content = content.copy()

    def copy_to_host(self) -> np.ndarray[Any, Any]:
        return self.content


class _FakeCuda:
    def __init__(self) -> None:
        self.made: list[tuple[str, np.ndarray[Any, Any]]] = []

    def to_device(self, array: np.ndarray[Any, Any]) -> _Copied:
        self.made.append(("to_device", array))
        return _Copied(array)

    def device_array_like(self, array: np.ndarray[Any, Any]) -> _Copied:
        self.made.append(("like", array))
        return _Copied(np.zeros_like(array))


class TestLaunches:
    def test_numba_arrays_go_there_and_come_back_by_direction(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = _FakeCuda()
        monkeypatch.setattr(sys.modules["numba"], "cuda", fake)
        launches: list[Any] = []

        class Kernel:
            __name__ = "add"

            def __getitem__(self, launch: Any) -> Any:
                launches.append(launch)
                return self

            def __call__(self, x: Any, y: Any, out: Any, n: int) -> None:
                out.content[:] = x.content + y.content
                y.content[:] = n

        launch = kernels.KernelLaunch(Kernel(), "numba")
        x, y = np.ones(3), np.full(3, 2.0)
        out = np.full(3, 9.0)
        marked = (kernels.KernelArgument(x, "in"), y, kernels.KernelArgument(out, "out"), 5)
        value, changed = launch((1, 3), marked, {})
        assert value is None
        assert launches == [(1, 3)]
        assert [name for name, _ in fake.made] == ["to_device", "to_device", "like"]
        assert {index: array.tolist() for index, array in changed.items()} == {1: [5, 5, 5], 2: [3, 3, 3]}
        assert launch.__name__ == "add"

    def test_cupy_arrays_go_once_and_come_back_for_each_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[int] = []

        def asarray(array: np.ndarray[Any, Any]) -> _Copied:
            sent.append(array.size)
            return _Copied(array)

        monkeypatch.setattr(cupy, "asarray", asarray)
        monkeypatch.setattr(cupy, "asnumpy", lambda array: array.content)
        seen: list[Any] = []

        class Kernel:
            name = "stencil"

            def __call__(self, *args: Any, **kwargs: Any) -> str:
                seen.append((args, kwargs))
                args[2][0].content[:] = 7
                return "value"

        launch = kernels.KernelLaunch(Kernel(), "cupy")
        x = np.zeros(2)
        value, changed = launch((), ((1,), (2,), (x, x, 4)), {"more": x})
        assert value == "value"
        assert sent == [2]
        (args, kwargs) = seen[0]
        assert args[:2] == ((1,), (2,))
        assert args[2][0] is args[2][1] is kwargs["more"]
        assert {index: array.tolist() for index, array in changed.items()} == {0: [7, 7], 1: [7, 7], 2: [7, 7]}
        assert launch.__name__ == "stencil"
