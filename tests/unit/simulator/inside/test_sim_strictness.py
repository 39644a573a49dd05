"""Where CuPy refuses, the stand-in refuses, and says so as CuPy does."""

from __future__ import annotations

import cupy as cp
import cupyx
import numpy as np
import pytest

from plover.errors import NotSimulated

HOST = np.ones(3)
UNSUPPORTED = r"Unsupported type <class 'numpy.ndarray'>"


@pytest.mark.parametrize(
    "mixing",
    [
        lambda a: a + HOST, lambda a: HOST + a, lambda a: a * HOST, lambda a: a == HOST, lambda a: a < HOST,
        lambda a: cp.add(HOST, a), lambda a: cp.add(a, HOST), lambda a: cp.sum(HOST),
        lambda a: cp.concatenate([a, HOST]),
        lambda a: cp.dot(a, HOST), lambda a: a @ HOST, lambda a: cp.where(a > 1, a, HOST), lambda a: cp.stack([HOST]),
        lambda a: cp.linalg.norm(HOST), lambda a: cp.fft.fft(HOST), lambda a: np.add(HOST, a), lambda a: cp.sort(HOST),
        lambda a: np.concatenate([a, HOST]), lambda a: cp.clip(a, HOST, 2), lambda a: cp.einsum("i,i", a, HOST),
        lambda a: cp.zeros_like(HOST), lambda a: cp.maximum(a, HOST), lambda a: cp.interp(a, a, HOST),
        lambda a: cp.full(3, HOST), lambda a: cp.meshgrid(HOST), lambda a: cp.digitize(a, HOST),
        lambda a: cp.take_along_axis(a, HOST, 0), lambda a: cp.histogram(a, HOST), lambda a: cp.copyto(a, HOST),
    ],
)  # fmt: skip
def test_host_and_device_arrays_do_not_mix(mixing):
    with pytest.raises(TypeError, match=UNSUPPORTED):
        mixing(cp.ones(3))


def test_in_place_mixing_is_refused():
    a = cp.ones(3)
    with pytest.raises(TypeError, match=UNSUPPORTED):
        a += HOST
    with pytest.raises(ValueError, match=r"non-scalar numpy.ndarray cannot be used for fill"):
        a[:] = HOST
    with pytest.raises(ValueError, match=r"non-scalar numpy.ndarray cannot be used for fill"):
        a.fill(HOST)
    a.fill(np.array(2.0))
    assert a.tolist() == [2, 2, 2]


@pytest.mark.parametrize("convert", [np.asarray, np.array, lambda a: np.zeros(3).__setitem__(slice(None), a)])
def test_nothing_is_converted_to_the_host_by_accident(convert):
    with pytest.raises(TypeError, match=r"Implicit conversion to a NumPy array is not allowed.*`\.get\(\)`"):
        convert(cp.ones(3))


@pytest.mark.parametrize("value", [[1, 2], (1, 2), "text", None, b"x"])
def test_an_operand_is_a_device_array_or_a_scalar(value):
    with pytest.raises(TypeError, match="Unsupported type"):
        cp.ones(2) + value
    with pytest.raises(TypeError, match="Unsupported type"):
        cp.sin(value)


def test_lists_are_not_arrays():
    for call in (
        lambda: cp.sum([1]),
        lambda: cp.sort([1]),
        lambda: cp.reshape([1], (1, 1)),
        lambda: cp.linalg.inv([[1]]),
    ):
        with pytest.raises(TypeError, match=r"Unsupported type <class 'list'>"):
            call()


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("O", "Unsupported dtype object"), ("S3", r"Unsupported dtype \|S3"), ("U2", "Unsupported dtype <U2"),
        ("M8[s]", r"Unsupported dtype datetime64\[s\]"), ("g", "Unsupported dtype"),
    ],
)  # fmt: skip
def test_dtypes_that_no_device_has(dtype, message):
    for call in (
        lambda: cp.empty(2, dtype), lambda: cp.zeros(2, dtype), lambda: cp.full(2, 0, dtype),
        lambda: cp.ones(2).astype(dtype), lambda: cp.sum(cp.ones(2), dtype=dtype),
        lambda: cp.zeros_like(cp.ones(2), dtype),
        lambda: cp.array([1], dtype), lambda: cp.add(cp.ones(2), 1, dtype=dtype),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("content", [["a"], [None], np.array(["x"]), [b"y"], [{}]])
def test_contents_that_no_device_has(content):
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cp.array(content)


def test_keywords_that_cupy_does_not_have():
    a = cp.ones(3)
    with pytest.raises(TypeError, match=r"sum\(\) got an unexpected keyword argument 'where'"):
        cp.sum(a, where=a > 0)
    with pytest.raises(TypeError, match=r"sum\(\) got an unexpected keyword argument 'initial'"):
        a.sum(initial=0)
    with pytest.raises(TypeError, match=r"Wrong arguments \{'where': True\}"):
        cp.add(a, 1, where=True)
    with pytest.raises(TypeError, match=r"sum\(\) got multiple values for argument 'axis'"):
        cp.sum(a, 0, axis=0)
    with pytest.raises(TypeError, match=r"argwhere\(\) takes at most 1 positional arguments \(2 given\)"):
        cp.argwhere(a, 1)
    with pytest.raises(TypeError, match=r"Wrong number of arguments for 'cupy_add'.*given 1"):
        cp.add(a)
    with pytest.raises(NotImplementedError, match=r"`cupy_subtract.reduce` is not supported yet"):
        cp.subtract.reduce(a)
    with pytest.raises(ValueError, match="order not understood"):
        cp.zeros(2, order="Q")


def test_small_refusals():
    a = cp.arange(3)
    with pytest.raises(IndexError):
        a[3]
    with pytest.raises(IndexError):
        a[cp.array([5])]  # stricter than CuPy, which wraps round
    with pytest.raises(IndexError):
        a[cp.array([0.5])]
    with pytest.raises(TypeError, match="len"):
        len(a.sum())
    with pytest.raises(TypeError, match="iteration over a 0-d array"):
        iter(a.sum())
    with pytest.raises(ValueError, match="size 1"):
        a.item()
    with pytest.raises(ValueError, match="ambiguous"):
        bool(a)
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)
    with pytest.raises(TypeError):
        [1, 2, 3][a[0]]  # no __index__, as in CuPy
    with pytest.raises(ValueError, match="must set either max or min"):
        cp.clip(a, None, None)
    with pytest.raises(ValueError, match="Must provide both"):
        cp.where(a > 1, a, None)
    with pytest.raises(NotImplementedError, match="Callable functions are not supported"):
        cp.piecewise(a, [a > 1], [lambda x: x])
    with pytest.raises(TypeError, match="imaginary part to set"):
        a.imag = 1
    with pytest.raises(ValueError, match=r"infs or NaNs|Infs or NaNs"):
        cp.asarray_chkfinite([float("nan")])
    with pytest.raises(ValueError, match="object too deep"):
        cp.bincount(cp.zeros((2, 2), int))
    with pytest.raises(ValueError, match="too small depth"):
        cp.bincount(cp.array(1))
    with pytest.raises(KeyError, match="is not defined"):
        a.flags["ALIGNED"]
    with pytest.raises(TypeError, match="float16"):
        cp.linalg.inv(cp.eye(2, dtype="f2"))
    with pytest.raises(ValueError, match="Unable to avoid copy"):
        cp.asarray([1], copy=False)


def test_getting_and_setting_check_what_they_are_given():
    a = cp.arange(3.0)
    out = np.empty(3)
    assert a.get(out=out) is out
    with pytest.raises(TypeError, match=r"Only numpy.ndarray can be obtained from cupy.ndarray"):
        a.get(out=[0, 0, 0])
    with pytest.raises(TypeError, match="float32 array cannot be obtained from float64 array"):
        a.get(out=np.empty(3, "f4"))
    with pytest.raises(ValueError, match=r"Shape mismatch. Expected shape: \(3,\), actual shape: \(4,\)"):
        a.get(out=np.empty(4))
    a.set(np.array([7.0, 8, 9]))
    assert a.tolist() == [7, 8, 9]
    with pytest.raises(TypeError, match=r"Only numpy.ndarray can be set to cupy.ndarray"):
        a.set([1, 2, 3])
    with pytest.raises(TypeError, match="float32 array cannot be set to float64 array"):
        a.set(np.empty(3, "f4"))
    with pytest.raises(ValueError, match="Shape mismatch"):
        a.set(np.empty(4))


def test_what_is_missing_is_named_and_what_is_misspelt_is_not_there():
    with pytest.raises(AttributeError, match="module 'cupy' has no attribute 'zeroz'"):
        cp.zeroz
    with pytest.raises(NotSimulated, match=r"cupy\.poly1d is not simulated") as caught:
        cp.poly1d
    assert caught.value.feature == "cupy.poly1d"
    for module, missing in (
        (cp.cuda, "Graph"), (cp.cuda.runtime, "ipcGetMemHandle"), (cp.testing, "parameterize"), (cupyx, "scipy"),
        (cp.cuda.memory, "MemoryAsyncPool"), (cp.cuda.device, "get_cublas_handle"),
        (cp, "polynomial"),
    ):  # fmt: skip
        with pytest.raises(NotSimulated, match=f"{module.__name__}.{missing} is not simulated"):
            getattr(module, missing)
        with pytest.raises(AttributeError):
            getattr(module, missing + "zzz")
    for module in (cp.linalg, cp.fft, cp.random, cp.cuda.stream, cp.cuda.pinned_memory):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
            module.nothing
    for call in (
        lambda: cp.ones(2).cstruct, lambda: cp.ones(2).mdspan(index_type=None), lambda: cp.ones(2).__dlpack__(),
        lambda: cp.ones(2).toDlpack(), lambda: cp.from_dlpack(np.ones(2)), lambda: cp.array([1], subok=True),
        lambda: cp.ones(2).astype("f4", subok=True), lambda: cp.pad(cp.ones(2), 1, mode=max),
        lambda: cp.cuda.Stream().begin_capture(), lambda: cp.cuda.Stream().end_capture(),
        lambda: cp.cuda.Device(0).cublas_handle, lambda: cp.cuda.set_allocator(lambda size: None),
    ):  # fmt: skip
        with pytest.raises(NotSimulated, match="is not simulated"):
            call()


def test_get_array_module():
    assert cp.get_array_module(cp.ones(1), 1) is cp
    assert cp.get_array_module(np.ones(1), 1) is np
