"""Kernels as values: the real numba-cuda's and CuPy's objects, which need no GPU to be made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plover import kernels, serialize
from plover.errors import NotSerializable
from tests.support.preconditions import needs_module

cupy = needs_module("cupy")
cuda = needs_module("numba.cuda")


def rebuilt(kernel: Any) -> Any:
    return serialize.unpack(serialize.pack(kernel, (kernels.reduce,)))


def has_nvjitlink(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Whether Numba finds the library that links by LTO."""
    for module in ("numba.cuda.decorators", "numba.cuda.cudadrv.driver"):
        monkeypatch.setattr(sys.modules[module], "_have_nvjitlink", lambda: there)


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

    def test_a_module_of_kernels_is_no_kernel(self) -> None:
        assert kernels.kind_of(cupy.RawModule(code=SOURCE)) is None


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

    def test_one_of_the_simulator_stays_a_debugging_one_with_its_extensions(self) -> None:
        class FakeCUDAKernel:
            __module__ = "numba.cuda.simulator.kernel"
            _device, _fastmath, _debug, extensions = False, False, True, ("an extension",)

            @staticmethod
            def fn(x: Any) -> None: ...

        FakeCUDAKernel.__qualname__ = "FakeCUDAKernel"
        make, (function, options) = kernels.reduce(FakeCUDAKernel())
        made = make(function, options)  # Numba would warn of `debug` with `opt`, and warnings are errors here
        assert made.targetoptions["debug"] is True
        assert made.targetoptions["opt"] is False
        assert made.targetoptions["extensions"] == ["an extension"]

    @pytest.mark.parametrize(
        "options",
        [
            {"shared_memory_carveout": "MaxL1"},
            {"shared_memory_carveout": 50},
            {"launch_bounds": (128, 2)},
            {"lineinfo": True},
            {"inline": "always", "device": True},
            {"forceinline": True, "device": True},
            {"fastmath": {"contract", "nnan"}},
            {"max_registers": 16},
            {"opt": False},
            {"of_a_later_numba": "something"},
        ],
        ids=", ".join,
    )
    def test_every_option_travels(self, options: dict[str, Any]) -> None:
        def add(x: Any) -> None:
            x[0] = 1

        kernel = cuda.jit(**options)(add)
        assert rebuilt(kernel).targetoptions == kernel.targetoptions

    def test_extensions_travel(self) -> None:
        class Extension:
            def prepare_args(self, ty: Any, val: Any, **_: Any) -> Any:
                return ty, val

        kernel = cuda.jit(lambda x: None, extensions=[Extension()])
        (found,) = rebuilt(kernel).extensions
        assert type(found).__name__ == "Extension"
        assert found.prepare_args(1, 2) == (1, 2)

    @pytest.mark.parametrize(("client", "worker"), [(True, False), (False, True), (True, True), (False, False)])
    def test_linking_by_lto_is_each_sides_own_default(
        self, client: bool, worker: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It depends on a library: a client that has it must not ask a worker for it that has not, nor forbid it one."""
        has_nvjitlink(monkeypatch, client)
        make, arguments = kernels.reduce(cuda.jit(lambda x: None))
        has_nvjitlink(monkeypatch, worker)
        assert make(*arguments).targetoptions["lto"] is worker

    def test_a_refusal_to_link_by_lto_travels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        has_nvjitlink(monkeypatch, True)
        assert rebuilt(cuda.jit(lambda x: None, lto=False)).targetoptions["lto"] is False

    def test_a_debugging_kernel_is_not_linked_by_lto(self, monkeypatch: pytest.MonkeyPatch) -> None:
        has_nvjitlink(monkeypatch, True)
        debugging = cuda.jit(lambda x: None, debug=True, opt=False)
        assert "lto" not in kernels.reduce(debugging)[1][1]
        assert rebuilt(debugging).targetoptions["lto"] is False

    def test_linked_sources_travel(self) -> None:
        found = rebuilt(cuda.jit(lambda x: None, link=[cuda.CUSource("// some C", name="more.cu")]))
        (source,) = found.targetoptions["link"]
        assert (type(source), source.data, source.name) == (cuda.CUSource, "// some C", "more.cu")

    @pytest.mark.parametrize("file", ["more.cu", "/somewhere/more.ptx", Path("more.cu")])
    def test_linked_files_are_refused_with_the_remedy(self, file: Any) -> None:
        @cuda.jit(link=[file])
        def add(x: Any) -> None:
            x[0] = 1

        with pytest.raises(NotSerializable, match=r"link → '.*more.* file on this machine.*cuda\.CUSource") as caught:
            serialize.pack_function(lambda: add)
        assert "closure 'add'" in str(caught.value)
        with pytest.raises(NotSerializable, match="kernel '.*add' → link"):
            serialize.pack_function(kernels.KernelLaunch(add, "numba"))


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
