"""CuPy's kernel objects as values: all that they were made with travels, or is refused by name. No GPU is needed."""

from __future__ import annotations

from typing import Any

import pytest

from plover import kernels, serialize
from plover.errors import NotSerializable
from tests.support.preconditions import needs_module

cupy = needs_module("cupy")

SOURCE = 'extern "C" __global__ void stencil(float* x) { x[0] = 1; }'


def rebuilt(kernel: Any) -> Any:
    return serialize.unpack(serialize.pack(kernel, (kernels.reduce,)))


def parameters(kernel: Any) -> list[tuple[Any, ...]]:
    """What CuPy made of a kernel's parameter lists."""
    return [(p.ctype, p.dtype, p.name, p.raw, p.is_const) for p in (*kernel.in_params, *kernel.out_params)]


def state(kernel: Any) -> dict[str, Any]:
    """All that CuPy keeps of a RawKernel."""
    return dict(kernel.__reduce_ex__(2)[2])


def test_a_raw_kernel() -> None:
    found = rebuilt(cupy.RawKernel(SOURCE, "stencil", options=("-DN=3",), backend="nvrtc"))
    assert type(found) is cupy.RawKernel
    assert (found.code, found.name, found.options, found.backend) == (SOURCE, "stencil", ("-DN=3",), "nvrtc")


@pytest.mark.filterwarnings("ignore:.*jitify:DeprecationWarning")
@pytest.mark.parametrize("option", ["translate_cucomplex", "jitify", "enable_cooperative_groups"])
def test_every_option_of_a_raw_kernel_travels(option: str) -> None:
    kernel = cupy.RawKernel(SOURCE, "stencil", **{option: True})
    assert state(kernel)[option] is True
    assert state(rebuilt(kernel)) == state(kernel)


def test_a_raw_kernel_of_a_template_is_made_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `RawModule.get_function` gives, which compiles; so the kernel is put together as CuPy unpickles one."""
    kernel = cupy.RawKernel.__new__(cupy.RawKernel)
    made = state(cupy.RawKernel(SOURCE, "_Z1fIiE", translate_cucomplex=True, options=("-DX",)))
    kernel.__setstate__(made | {"name_expressions": ("f<int>",)})
    asked: list[Any] = []

    class RawModule:
        def __init__(self, **arguments: Any) -> None:
            asked.append(arguments)

        def get_function(self, name: str) -> str:
            return f"the kernel {name}"

    monkeypatch.setattr(cupy, "RawModule", RawModule)
    assert rebuilt(kernel) == "the kernel _Z1fIiE"
    assert asked == [
        {
            "code": SOURCE,
            "options": ("-DX",),
            "backend": "nvrtc",
            "translate_cucomplex": True,
            "name_expressions": ("f<int>",),
        }
    ]


def test_a_raw_kernel_from_a_file_is_refused() -> None:
    kernel = cupy.RawKernel.__new__(cupy.RawKernel)
    kernel.__setstate__(state(cupy.RawKernel(SOURCE, "stencil")) | {"file_path": "/here/x.cubin"})
    with pytest.raises(NotSerializable, match=r"RawKernel → path → '/here/x\.cubin'"):
        serialize.pack_function(kernels.KernelLaunch(kernel, "cupy"))


def test_a_raw_module() -> None:
    module = cupy.RawModule(code=SOURCE, options=("-std=c++17",), name_expressions=("stencil",))
    found = rebuilt(module)
    assert type(found) is cupy.RawModule
    assert (found.code, found.options, found.backend) == (SOURCE, ("-std=c++17",), "nvrtc")
    assert found.name_expressions == ("stencil",)


@pytest.mark.filterwarnings("ignore:.*jitify:DeprecationWarning")
@pytest.mark.parametrize(
    "option",
    [
        {"translate_cucomplex": True},
        {"jitify": True},
        {"enable_cooperative_groups": True},
        {"backend": "nvcc"},
        {"name_expressions": ("f<int>", "f<float>")},
        {"options": ("-DX", "-DY")},
        {},
    ],
    ids=str,
)
def test_every_option_of_a_raw_module_travels(option: dict[str, Any]) -> None:
    module = cupy.RawModule(code=SOURCE, **option)
    assert rebuilt(module).__reduce_ex__(2) == module.__reduce_ex__(2)
    assert kernels.reduce(module)[1][1].items() >= option.items()


def test_a_raw_module_from_a_file_is_refused_with_the_remedy() -> None:
    module = cupy.RawModule(path="/here/x.cubin")

    def use() -> Any:
        return module

    with pytest.raises(NotSerializable, match=r"'/here/x\.cubin'.*RawModule\(code=…\)") as caught:
        serialize.pack_function(use)
    assert "closure 'module'" in str(caught.value)
    with pytest.raises(NotSerializable, match="argument 0"):
        serialize.pack_arguments("f", (module,), {})


@pytest.mark.parametrize("pickle", [(1, 2, 3), None, ("nvrtc", "other", *[None] * 7)], ids=["short", "none", "order"])
def test_a_raw_module_of_an_unknown_kind_is_refused(pickle: Any) -> None:
    class RawModule:
        code, backend = SOURCE, "nvrtc"

        def __reduce_ex__(self, protocol: Any) -> Any:
            if pickle is None:
                raise TypeError("no default __reduce__ due to non-trivial __cinit__")
            return RawModule, (), pickle

    RawModule.__module__, RawModule.__qualname__ = "cupy._core.raw", "RawModule"
    with pytest.raises(NotSerializable, match="this version of CuPy"):
        kernels.reduce(RawModule())


def test_an_elementwise_kernel() -> None:
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
def test_parameters_keep_their_types(declared: str) -> None:
    kernel = cupy.ElementwiseKernel(declared, "float64 y", "y = 0", "typed")
    assert parameters(rebuilt(kernel)) == parameters(kernel)


def test_parameters_that_may_be_written_stay_so() -> None:
    kernel = cupy.ElementwiseKernel("_non_const raw T x", "T y", "y = x[i]", "written")
    assert parameters(rebuilt(kernel)) == parameters(kernel)


def test_a_reduction_kernel() -> None:
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


def test_a_reduction_kernel_keeps_its_types() -> None:
    kernel = cupy.ReductionKernel("float32 x", "float32 y", "x", "a + b", "y = a", "0", "total")
    assert parameters(rebuilt(kernel)) == parameters(kernel)


def test_a_kernel_inside_a_function_goes_with_it() -> None:
    kernel = cupy.RawKernel(SOURCE, "stencil")

    def use() -> Any:
        return kernel

    buffers, _, _ = serialize.pack_function(use)
    assert serialize.unpack(buffers)().name == "stencil"
