"""Memory, pools, streams, events, devices, random numbers, pickles, kernels in CUDA C, and Plover's own surface."""

from __future__ import annotations

import copy
import os
import pickle

import cupy as cp
import cupyx
import numpy as np
import pytest

from plover.errors import NotSimulated
from plover_runtime import simulator
from plover_runtime.simulator.memory import DEVICE, Device

MIB = 2**20


def test_memory_is_counted_and_given_back():
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    before, used = simulator.memory_info()[0], simulator.used_bytes()
    a = cp.zeros(MIB, "u1")
    view = a[10:].reshape(2, -1)
    assert simulator.used_bytes() == used + MIB
    assert simulator.memory_info() == (before - MIB, DEVICE.total_bytes)
    del a
    assert simulator.used_bytes() == used + MIB
    del view
    assert simulator.used_bytes() == used
    assert pool.free_bytes() == MIB
    assert pool.n_free_blocks() == 1
    assert simulator.memory_info()[0] == before - MIB  # the pool keeps it, as on a GPU
    assert simulator.release_pools() == MIB
    assert simulator.memory_info()[0] == before
    small = cp.zeros(3)
    assert pool.used_bytes() == used + 512
    assert pool.total_bytes() == pool.used_bytes() + pool.free_bytes()
    del small


def test_a_full_device_refuses_in_cupys_words():
    DEVICE.total_bytes = 4 * MIB
    keep = cp.zeros(3 * MIB, "u1")
    with pytest.raises(
        cp.cuda.memory.OutOfMemoryError, match=r"Out of memory allocating 2,097,152 bytes \(allocated so far: "
    ):
        cp.zeros(2 * MIB, "u1")
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        keep.astype("f8")
    error = pickle.loads(pickle.dumps(cp.cuda.memory.OutOfMemoryError(1, 2, 3)))
    assert str(error) == "Out of memory allocating 1 bytes (allocated so far: 2 bytes, limit set to: 3 bytes)."
    assert isinstance(error, MemoryError)
    del keep
    cp.zeros(2 * MIB, "u1")  # what the pool kept makes room


def test_more_than_the_host_has_is_a_full_device_too():
    DEVICE.total_bytes = 2**62
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="allocating"):
        cp.tile(cp.zeros((2**20, 1)), (1, 2**36))


def test_the_pools_limit():
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + MIB)
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match=r"limit set to: [\d,]+ bytes"):
        cp.zeros(2 * MIB, "u1")
    pool.set_limit(fraction=0.5)
    assert pool.get_limit() == DEVICE.total_bytes // 2
    for wrong in ({}, {"size": 1, "fraction": 0.5}, {"fraction": 2}, {"size": -1}):
        with pytest.raises(ValueError, match=r"exactly one|out of range"):
            pool.set_limit(**wrong)


def test_the_ledger_by_itself():
    device = Device(1000)
    one = np.zeros(400, "u1")
    device.hold(one, pooled=False)
    device.hold(one[5:], pooled=False)
    assert device.used_bytes() == 400
    assert device.holds(one[::2])
    assert "400 used" in repr(device)
    del one
    assert device.used_bytes() == 0


def test_pointers_and_allocators():
    a = cp.arange(4, dtype="f4")
    assert a[1:].data.ptr == a.data.ptr + 4
    assert int(a.data + 8) == a.data.ptr + 8
    assert a.data.device == a.device == cp.cuda.Device(0)
    memory = cp.cuda.alloc(16)
    memory.memset(0, 16)
    memory.copy_from_device(a.data, 16)
    again = cp.ndarray((4,), "f4", memory)
    assert cp.array_equal(again, a)
    host = np.ones(4, "f4")
    memory.copy_from_host(host.ctypes.data, 16)
    memory.copy_to_host(host.ctypes.data, 8)
    assert again.tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="outside of the 16 allocated"):
        memory.memset(0, 17)
    shared = cp.ndarray(4, "f4", cp.cuda.MemoryPointer(cp.cuda.UnownedMemory(a.data.ptr, 16, a), 0))
    shared[0] = 9
    assert a[0] == 9
    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc):
        assert cp.cuda.get_allocator() == pool.malloc
    cp.cuda.set_allocator(None)
    assert len(memoryview(cp.cuda.alloc_pinned_memory(8))) == 8
    cp.get_default_pinned_memory_pool().free_all_blocks()
    assert cupyx.zeros_pinned(3).tolist() == [0, 0, 0]
    assert cupyx.empty_pinned(3).shape == cupyx.empty_like_pinned(cp.zeros(3)).shape
    assert cupyx.zeros_like_pinned(cp.ones(2)).tolist() == [0, 0]


def test_streams_and_events():
    stream = cp.cuda.Stream(non_blocking=True)
    assert cp.cuda.get_current_stream() == cp.cuda.Stream.null
    with stream:
        assert cp.cuda.get_current_stream() is stream
        with cp.cuda.Stream.null:
            assert cp.cuda.get_current_stream() is cp.cuda.Stream.null
    start, end = cp.cuda.Event(), cp.cuda.Event()
    start.record()
    sum(range(1000))
    stream.record(end)
    end.synchronize()
    assert 0 < cp.cuda.get_elapsed_time(start, end) < 1e5
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
        cp.cuda.get_elapsed_time(start, cp.cuda.Event())
    with pytest.raises(ValueError, match="Timing must be disabled"):
        cp.cuda.Event(interprocess=True)
    with pytest.raises(ValueError, match="null and ptds"):
        cp.cuda.Stream(null=True, ptds=True)
    called = []
    stream.add_callback(lambda s, status, arg: called.append(arg), 1)
    stream.launch_host_func(called.append, 2)
    stream.wait_event(end)
    stream.synchronize()
    assert called == [1, 2]
    assert stream.done
    assert end.done
    assert not stream.is_capturing()
    assert stream in {stream}
    assert "device 0" in repr(stream)


def test_the_device():
    device = cp.cuda.Device(0)
    with device:
        device.use()
        device.synchronize()
    assert device.compute_capability == "80"
    assert device.attributes["WarpSize"] == 32
    assert device.mem_info == simulator.memory_info() == cp.cuda.runtime.memGetInfo()
    assert cp.cuda.runtime.getDeviceCount() == 1
    assert cp.cuda.runtime.getDeviceProperties(0)["name"] == b"Plover simulated device"
    assert device.pci_bus_id == "0000:00:00.0"
    assert cp.is_available()
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidDevice") as caught:
        cp.cuda.Device(1).use()
    assert caught.value.status == 101


def test_random_numbers_have_cupys_shapes_and_dtypes():
    cp.random.seed(3)
    first = cp.random.rand(4, dtype="f4")
    cp.random.seed(3)
    assert cp.array_equal(first, cp.random.rand(4, dtype="f4"))
    assert first.dtype == "f4"
    assert cp.random.randint(0, 5).shape == ()
    assert cp.random.randn(2, 3).shape == (2, 3)
    state = cp.random.RandomState(1)
    assert state.normal(cp.zeros(3), 1.0, size=3, dtype="f4").dtype == "f4"
    assert state.poisson(3, 5).dtype == "i8"
    deck = cp.arange(10)
    cp.random.shuffle(deck)
    assert sorted(deck.tolist()) == list(range(10))
    assert sorted(cp.random.permutation(5).tolist()) == [0, 1, 2, 3, 4]
    assert cp.random.choice(5, 3, replace=False).shape == (3,)
    assert cp.random.multivariate_normal(cp.zeros(2), cp.eye(2), 3).shape == (3, 2)
    generator = cp.random.default_rng(1)
    assert generator.random(3, dtype="f4").dtype == "f4"
    assert generator.integers(0, 5, 4).shape == (4,)
    assert generator.standard_normal(2).shape == (2,)
    assert generator.binomial(3, 0.5, size=2).shape == (2,)
    assert cp.random.default_rng(generator) is generator
    for name in ("uniform", "gamma", "beta", "exponential", "binomial", "geometric", "standard_t", "zipf"):
        parameters = {
            "gamma": (2,),
            "beta": (1, 2),
            "binomial": (3, 0.5),
            "geometric": (0.5,),
            "standard_t": (3,),
            "zipf": (2,),
        }
        assert getattr(cp.random, name)(*parameters.get(name, ()), size=3).shape == (3,)
    with pytest.raises(TypeError, match=r"beta\(\) missing required argument 'a'"):
        cp.random.beta()
    with pytest.raises(TypeError, match="unexpected keyword argument 'shape'"):
        cp.random.normal(shape=3)
    with pytest.raises(TypeError, match="multiple values"):
        cp.random.normal(0.0, loc=1)
    with pytest.raises(TypeError, match="at most 4"):
        cp.random.normal(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="float32 or float64"):
        cp.random.normal(dtype=int)
    with pytest.raises(TypeError, match="must be an instance of RandomState"):
        cp.random.set_random_state(1)


def test_forked_processes_draw_differently():
    cp.random.rand()
    read, write = os.pipe()
    for _ in range(2):
        child = os.fork()
        if not child:
            os.write(write, cp.random.bytes(8))
            os._exit(0)
        os.waitpid(child, 0)
    assert os.read(read, 8) != os.read(read, 8)
    os.close(read)
    os.close(write)


def test_an_array_pickles_as_a_host_copy():
    a = cp.asfortranarray(cp.arange(6.0).reshape(2, 3))
    rebuild, (host,) = a.__reduce__()[:2]
    assert type(host) is np.ndarray
    assert (rebuild.__module__, rebuild.__name__) == ("cupy", "array")
    for back in (pickle.loads(pickle.dumps(a, 5)), copy.copy(a), copy.deepcopy(a)):
        assert isinstance(back, cp.ndarray)
        assert back.data.ptr != a.data.ptr
        assert cp.array_equal(back, a)


@pytest.mark.parametrize(
    "named", ["sum", "add", "zeros", "ndarray", "linalg.norm", "random.rand", "fft.fft", "cuda.Stream"]
)
def test_functions_pickle_as_cupys(named):
    found = cp
    for part in named.split("."):
        found = getattr(found, part)
    assert pickle.loads(pickle.dumps(found)) is found
    assert b"plover" not in pickle.dumps(found)


@pytest.mark.parametrize(
    ("kernel", "launch"),
    [
        (cp.RawKernel("code", "f"), lambda k: k((1,), (1,), ())),
        (cp.RawModule(code="code").get_function("g"), lambda k: k((1,), (1,), ())),
        (cp.ElementwiseKernel("float32 x, float32 y", "float32 z", "z = x + y", "add"), lambda k: k(1, 2)),
        (cp.ReductionKernel("T x", "T y", "x", "a + b", "y = a", "0", "total"), lambda k: k(cp.ones(2))),
    ],
)
def test_kernels_in_cuda_c_are_made_and_pickled_but_not_launched(kernel, launch):
    again = pickle.loads(pickle.dumps(kernel))
    assert (type(again), again.name) == (type(kernel), kernel.name)
    with pytest.raises(
        NotSimulated, match=f"launching the {type(kernel).__name__} '{kernel.name}' is not simulated.*CUDA C"
    ):
        launch(again)


def test_more_of_kernels_in_cuda_c():
    assert cp.ElementwiseKernel("T x, T y", "T z", "z = x").nargs == 3
    with pytest.raises(TypeError, match="Exactly one of `code` and `path`"):
        cp.RawModule()
    for call in (
        cp.RawKernel("", "f").compile,
        cp.RawModule(code="").compile,
        lambda: cp.RawModule(code="").get_global("x"),
    ):
        with pytest.raises(NotSimulated, match="CUDA C"):
            call()


def test_small_conveniences():
    @cp.fuse()
    def fused(x):
        return x + 1

    @cp.fuse
    def fused_too(x):
        return x + 2

    assert (fused(cp.ones(1))[0], fused_too(cp.ones(1))[0]) == (2, 3)
    calls = []

    @cp.memoize()
    def remembered(x):
        calls.append(x)
        return x

    assert (remembered(1), remembered(1)) == (1, 1)
    cp.clear_memo()
    remembered(1)
    assert calls == [1, 1]
    cp.testing.assert_allclose(cp.ones(2), np.ones(2))
    cp.testing.assert_array_list_equal([cp.ones(2)], [np.ones(2)])
    with pytest.raises(AssertionError, match="List size is different: 1 and 0"):
        cp.testing.assert_array_list_equal([cp.ones(2)], [])
    assert cp.broadcast(cp.ones(3), cp.ones((2, 1))).shape == (2, 3)
    assert list(cp.arange(3).flat) == [0, 1, 2]
    assert cp.arange(3).flags["C_CONTIGUOUS"]
    assert cp.arange(3).flags.forc
    assert not cp.arange(3).flags.fnc
    assert "C_CONTIGUOUS" in repr(cp.arange(3).flags)
    assert cp.lib.stride_tricks.sliding_window_view(cp.arange(4), 2).shape == (3, 2)
    assert cp.lib.stride_tricks.as_strided(cp.arange(4), (2,), (16,)).tolist() == [0, 2]
    assert cp.ones(2).__dlpack_device__() == (2, 0)
    a = cp.arange(3)
    assert cp.from_dlpack(a).data.ptr == a.data.ptr
    assert cp.result_type(cp.ones(1, "f4"), "f8") == "f8"
    assert (cp.ndim(cp.ones((2, 1))), cp.shape(cp.ones(2)), cp.size(cp.ones((2, 3)), 1)) == (2, (2,), 3)
    assert "simulated" in cupyx.get_runtime_info()
    assert cupyx.rsqrt(cp.array(4.0)) == 0.5


def test_plovers_own_surface():
    a = cp.arange(3)
    assert simulator.installed()
    assert simulator.is_device_array(a)
    assert not simulator.is_device_array(np.arange(3))
    host = simulator.to_host(a)
    host[0] = 7
    assert a[0] == 0
    with pytest.raises(TypeError, match="ndarray is not an array on the simulated device"):
        simulator.to_host(np.arange(3))
    simulator.install(memory_bytes=DEVICE.total_bytes)  # again: only the size
