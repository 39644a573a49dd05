"""Numba's simulator, mended: launches, barriers, warps, arrays, and what it refuses."""

from __future__ import annotations

import math
import pickle
import threading

import cupy as cp
import numba.cuda
import numpy as np
import pytest
from numba import cuda, float32, guvectorize, int32, vectorize
from numba.cuda.random import create_xoroshiro128p_states, xoroshiro128p_uniform_float32

from plover.errors import NotSimulated
from plover_runtime import simulator
from plover_runtime.simulator.kernels.analysis import may_wait
from plover_runtime.simulator.kernels.blocks import DivergentBarrier
from plover_runtime.simulator.memory import DEVICE


@cuda.jit(device=True)
def doubled(x):
    return 2 * x


@cuda.jit
def double(x, out):
    i = cuda.grid(1)
    if i < x.shape[0]:
        out[i] = doubled(x[i])


def test_host_arrays_are_copied_in_and_back():
    x, out = np.arange(10.0), np.zeros(10)
    double[2, 8](x, out)
    assert out.tolist() == (2 * x).tolist()
    kept = np.zeros(10)
    double[2, 8](x, cuda.In(kept))
    assert not kept.any()
    double[2, 8](x, cuda.Out(kept))
    assert kept[1] == 2
    double.forall(10)(x, kept)
    double.forall(0)(x, kept)
    double.configure(2, 8)(x, kept)
    x.flags.writeable = False
    double[2, 8](x, kept)
    with pytest.raises(ValueError, match="read-only"):
        double[2, 8](x, cuda.InOut(x))


def test_one_host_array_given_twice_is_two_arrays():
    @cuda.jit
    def shift(x, out):
        i = cuda.grid(1)
        if i:
            out[i] = x[i - 1]

    a = np.arange(4.0)
    shift[1, 4](a, a)
    assert a.tolist() == [0, 0, 1, 2]


def test_device_arrays_of_both_libraries_are_written_in_place():
    x, out = cp.arange(10.0), cp.zeros(10)
    double[2, 8](x, out)
    assert cp.array_equal(out, 2 * x)
    mine = cuda.to_device(np.arange(10.0))
    double[2, 8](mine, out[::-1])
    assert out[0] == 18
    shared = cuda.as_cuda_array(out)
    shared[0] = -1.0
    assert out[0] == -1
    back = cp.asarray(mine)
    back[1] = 50
    assert mine.copy_to_host()[1] == 50
    assert (back + mine)[1] == 100
    assert cp.asnumpy(mine)[1] == 50
    assert cuda.is_cuda_array(out)
    assert cuda.from_cuda_array_interface(out.__cuda_array_interface__)[0] == -1
    assert simulator.is_device_array(mine)
    assert simulator.to_host(mine)[1] == 50
    assert np.asarray(mine)[1] == 50
    with pytest.raises(TypeError, match="cuda array interface"):
        cuda.as_cuda_array(np.ones(2))
    again = pickle.loads(pickle.dumps(mine))
    assert again.copy_to_host()[1] == 50


def test_numba_arrays_count_on_the_device():
    before = simulator.used_bytes()
    a = cuda.device_array(1000, "u1")
    view = a[10:20]
    assert simulator.used_bytes() == before + 1000
    del a, view
    assert simulator.used_bytes() == before
    DEVICE.total_bytes = before + 1000
    with pytest.raises(cuda.cudadrv.driver.CudaAPIError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.device_array(2000, "u1")
    assert cuda.current_context().get_memory_info().total == DEVICE.total_bytes


def test_two_shared_arrays_on_one_line_are_two():
    @cuda.jit
    def swap(a):
        left, right = cuda.shared.array(4, float32), cuda.shared.array(4, float32)
        i = cuda.threadIdx.x
        left[i], right[i] = a[i], -a[i]
        cuda.syncthreads()
        a[i] = left[3 - i] + 10 * right[i]

    a = np.arange(4, dtype="f4")
    swap[1, 4](a)
    assert a.tolist() == [3, -8, -19, -30]


def test_dynamic_shared_memory_and_its_limits():
    @cuda.jit
    def reverse(a):
        s = cuda.shared.array(0, int32)
        i = cuda.threadIdx.x
        s[i] = a[i]
        cuda.syncthreads()
        a[i] = s[cuda.blockDim.x - 1 - i]

    a = np.arange(4, dtype="i4")
    reverse[1, 4, 0, 16](a)
    assert a.tolist() == [3, 2, 1, 0]
    with pytest.raises(cuda.cudadrv.driver.CudaAPIError, match="dynamic shared memory"):
        reverse[1, 4, 0, 2**20](a)

    @cuda.jit
    def greedy(a):
        s = cuda.shared.array(10**5, float32)
        s[0] = a[0]

    with pytest.raises(cuda.cudadrv.driver.LinkerError, match="too much shared memory: 400,000 bytes"):
        greedy[1, 1](np.zeros(1))


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        (1, 1025, "1025 threads in a block, of at most 1024"), (1, (32, 33), "1056 threads"),
        ((1, 70000), 1, "grid's y is 70000"), (0, 1, "grid's x is 0"), (1, (1, 1, 65), "block's z is 65"),
    ],
)  # fmt: skip
def test_a_launch_that_no_device_takes(grid, block, message):
    with pytest.raises(cuda.cudadrv.driver.CudaAPIError, match="CUDA_ERROR_INVALID_VALUE.*" + message):
        double[grid, block](np.zeros(1), np.zeros(1))


def test_barriers_with_values():
    @cuda.jit
    def votes(out):
        i = cuda.threadIdx.x
        count = cuda.syncthreads_count(i < 3)
        every = cuda.syncthreads_and(i < 3)
        some = cuda.syncthreads_or(i == 5)
        if i == 0:
            out[0], out[1], out[2] = count, every, some

    out = np.zeros(3)
    votes[2, 8](out)
    assert out.tolist() == [3, 0, 1]


def test_a_barrier_that_only_some_reach():
    @cuda.jit
    def some(a):
        if cuda.threadIdx.x < 4:
            cuda.syncthreads()
        a[0] = 1

    with pytest.raises(DivergentBarrier, match=r"4 threads wait at syncthreads in line \d+ of some.*\(4, 0, 0\) ended"):
        some[1, 8](np.zeros(1))

    @cuda.jit
    def apart(a):
        if cuda.threadIdx.x < 4:
            cuda.syncthreads()
        else:
            cuda.syncthreads()
        a[0] = 1

    with pytest.raises(DivergentBarrier, match="wait at different places"):
        apart[1, 8](np.zeros(1))


def test_a_thread_that_returned_before_the_barrier_does_not_count():
    @cuda.jit
    def early(a):
        i = cuda.threadIdx.x
        if i >= a.shape[0]:
            return
        cuda.syncthreads()
        a[i] += 1

    a = np.zeros(5)
    early[1, 8](a)
    assert a.tolist() == [1] * 5


def test_warp_operations():
    @cuda.jit
    def warp(out):
        i = cuda.threadIdx.x
        lane = cuda.laneid
        out[9, i] = cuda.activemask()
        out[0, i] = cuda.shfl_sync(0xFFFFFFFF, i, 3)
        out[1, i] = cuda.shfl_up_sync(0xFFFFFFFF, i, 1)
        out[2, i] = cuda.shfl_down_sync(0xFFFFFFFF, i, 1)
        out[3, i] = cuda.shfl_xor_sync(0xFFFFFFFF, i, 1)
        out[4, i] = cuda.ballot_sync(0xFFFFFFFF, lane < 2)
        out[5, i] = cuda.all_sync(0xFFFFFFFF, lane < 2) + 2 * cuda.any_sync(0xFFFFFFFF, lane < 2)
        out[6, i] = cuda.match_any_sync(0xFFFFFFFF, lane // 16)
        mask, same = cuda.match_all_sync(0xFFFFFFFF, 7)
        out[7, i] = mask if same else 0
        cuda.syncwarp()
        out[8, i] = cuda.eq_sync(-1, lane)
        out[10, i] = cuda.lanemask_lt()

    out = np.zeros((11, 64), dtype="i8")
    warp[1, 64](out)
    i = np.arange(64)
    assert out[0].tolist() == [3] * 32 + [35] * 32
    assert out[1].tolist() == np.where(i % 32 == 0, i, i - 1).tolist()
    assert out[2].tolist() == np.where(i % 32 == 31, i, i + 1).tolist()
    assert out[3].tolist() == (i ^ 1).tolist()
    assert set(out[4]) == {3}
    assert set(out[5]) == {2}
    assert set(out[6]) == {0xFFFF, 0xFFFF0000}
    assert set(out[7]) == {0xFFFFFFFF}
    assert set(out[8]) == {0}
    assert set(out[9]) == {0xFFFFFFFF}
    assert out[10, :3].tolist() == [0, 1, 3]


def test_warp_operations_that_do_not_meet():
    @cuda.jit
    def half(out):
        if cuda.threadIdx.x < 16:
            out[0] = cuda.ballot_sync(0xFFFFFFFF, 1)
        else:
            cuda.syncthreads()

    with pytest.raises(DivergentBarrier, match="ballot_sync with mask 0xffffffff"):
        half[1, 32](np.zeros(1))

    @cuda.jit
    def unnamed(out):
        out[0] = cuda.ballot_sync(1, 1)

    with pytest.raises(RuntimeError, match="lane 1 calls ballot_sync with mask 0x00000001, which does not name it"):
        unnamed[1, 2](np.zeros(1))


def test_every_way_to_import_cuda():
    def made_here():
        from numba import cuda as local
        from numba.cuda import grid, threadIdx

        @local.jit
        def kernel(out):
            from numba import cuda as inner

            out[0, local.grid(1)] = 1
            out[1, grid(1)] = threadIdx.x
            out[2, inner.grid(1)] = inner.blockIdx.x
            out[3, numba.cuda.grid(1)] = inner.gridDim.x

        return kernel

    out = np.zeros((4, 8), dtype="i8")
    made_here()[2, 4](out)
    assert out.tolist() == [[1] * 8, [0, 1, 2, 3] * 2, [0] * 4 + [1] * 4, [2] * 8]


def test_grids_of_more_dimensions():
    @cuda.jit
    def mark(out):
        x, y, z = cuda.grid(3)
        gx, gy, gz = cuda.gridsize(3)
        i, j = cuda.grid(2)
        out[x, y, z] = gx * 100 + gy * 10 + gz + (i - x) + (j - y)

    out = np.zeros((2, 4, 2))
    mark[(1, 2, 1), (2, 2, 2)](out)
    assert set(out.ravel()) == {242}

    @cuda.jit
    def wrong(out):
        out[0] = cuda.grid(4)

    with pytest.raises(RuntimeError, match=r"1-3 dimensions. 4 requested") as caught:
        wrong[1, 1](np.zeros(1))
    assert "in CUDA thread (0, 0, 0) of block (0, 0, 0)" in caught.value.__notes__[0]


def test_atomics():
    @cuda.jit
    def atomics(a):
        i = cuda.grid(1)
        cuda.atomic.add(a, 0, 1)
        cuda.atomic.sub(a, 1, 1)
        cuda.atomic.max(a, 2, i)
        cuda.atomic.min(a, 3, -i)
        cuda.atomic.or_(a, 4, 1 << (i % 8))
        cuda.atomic.and_(a, 5, ~(1 << (i % 8)))
        cuda.atomic.xor(a, 6, 1)
        cuda.atomic.inc(a, 7, 3)
        cuda.atomic.dec(a, 8, 3)
        cuda.atomic.exch(a, 9, i)
        cuda.atomic.cas(a, 10, 0, i + 1)

    a = np.zeros(11, dtype="i8")
    a[5] = 255
    atomics[2, 5](a)
    assert a[:9].tolist() == [10, -10, 9, -9, 255, 0, 0, 2, 2]
    assert 0 <= a[9] < 10
    assert 1 <= a[10] <= 10

    @cuda.jit
    def floats(a, one):
        cuda.atomic.nanmax(a, 0, a[2])
        cuda.atomic.nanmin(a, 1, 3.0)
        cuda.atomic.compare_and_swap(one, 0, 5)

    b, one = np.array([math.nan, 4.0, 2.0]), np.zeros(1)
    floats[1, 1](b, one)
    assert (b.tolist(), one[0]) == ([2.0, 3.0, 2.0], 5)


def test_a_lock_between_threads_of_a_block():
    @cuda.jit
    def locked(lock, total):
        while cuda.atomic.cas(lock, 0, 0, 1) != 0:
            pass
        total[0] += 1
        cuda.threadfence()
        cuda.atomic.exch(lock, 0, 0)

    total = np.zeros(1)
    locked[2, 16](np.zeros(1, "i4"), total)
    assert total[0] == 32

    @cuda.jit
    def stuck(flag):
        while cuda.atomic.cas(flag, 0, 1, 2) != 1:
            pass

    with pytest.raises(RuntimeError, match="the threads only spin"):
        stuck[1, 2](np.zeros(1, "i4"))


def test_local_constant_and_cooperative():
    table = np.arange(4.0)

    @cuda.jit
    def kernel(out):
        mine = cuda.local.array(2, float32)
        fixed = cuda.const.array_like(table)
        mine[0] = fixed[cuda.threadIdx.x]
        cuda.cg.this_grid().sync()
        out[cuda.threadIdx.x] = mine[0]

    out = np.zeros(4)
    kernel[1, 4](out)
    assert out.tolist() == [0, 1, 2, 3]
    with pytest.raises(NotSimulated, match="over more than one block is not simulated"):
        kernel[2, 4](out)


def test_bit_operations_and_the_like():
    @cuda.jit
    def bits(out, wide):
        out[0] = cuda.popc(-1)
        out[1] = cuda.clz(1)
        out[2] = cuda.ffs(8)
        out[3] = cuda.brev(1)
        out[4] = cuda.clz(wide[0])
        out[5] = cuda.selp(True, 5, 6)
        out[6] = cuda.fma(2, 3, 4)
        out[7] = cuda.cbrt(27.0)
        out[8] = cuda.fp16.hfloor(np.float16(-1.5))
        out[9] = cuda.warpsize

    out = np.zeros(10)
    bits[1, 1](out, np.ones(1, "u8"))
    expected = [32, 31, 4, 2**31, 63, 5, 10, 3, -2, 32]
    np.testing.assert_array_max_ulp(out, np.array(expected, float), 1)  # cbrt is another one's on each processor


def test_records():
    @cuda.jit
    def kernel(a):
        i = cuda.grid(1)
        a[i].x = a[i]["y"] * 2

    a = np.zeros(3, dtype=[("x", "f4"), ("y", "f4")])
    a["y"] = 3
    kernel[1, 3](a)
    assert a["x"].tolist() == [6, 6, 6]


def test_random_states():
    states = create_xoroshiro128p_states(3, seed=1)
    assert states.copy_to_host().tolist() == [
        (10451216379200822465, 10451216379200822465), (8341117667364343960, 7824662623250379246),
        (809817624983272012, 15258973161149853818),
    ]  # fmt: skip

    @cuda.jit
    def draw(states, out):
        i = cuda.grid(1)
        out[i] = xoroshiro128p_uniform_float32(states, i)

    out = np.zeros(3, "f4")
    draw[1, 3](states, out)
    assert ((out >= 0) & (out < 1)).all()
    assert len(set(out)) == 3


def test_reduce_vectorize_and_eager_jit():
    total = cuda.reduce(lambda a, b: a + b)
    assert total(np.arange(5.0)) == 10
    assert total(np.arange(5.0), size=3, init=1) == 4
    assert total(np.zeros(0)) == 0
    result = cuda.device_array(1)
    assert cuda.Reduce(max)(cuda.to_device(np.arange(3.0)), res=result) is None
    assert result[0] == 2
    with pytest.raises(TypeError, match="only support 1D array"):
        total(np.zeros((2, 2)))

    @vectorize(["float32(float32, float32)", "float64(float64, float64)"], target="cuda")
    def plus(a, b):
        return a + b

    assert plus(np.ones(2, "f4"), 1).dtype == "f4" or plus.types == ["ff->f", "dd->d"]
    assert plus(cuda.to_device(np.ones(2)), 1).copy_to_host().tolist() == [2, 2]
    out = cuda.device_array(2)
    assert plus(np.ones(2), 1, out=out) is out
    with pytest.raises(TypeError, match="no matching signature of plus"):
        plus(np.ones(2, "c16"), 1)
    with pytest.raises(NotSimulated, match=r"reduce of a vectorize"):
        plus.reduce(np.ones(2))
    with pytest.raises(NotSimulated, match=r"without signatures is not simulated"):
        cuda.vectorize([])(lambda a: a)(1)
    with pytest.raises(TypeError, match="needs a return type"):
        vectorize(["(float32,)"], target="cuda")(lambda a: a)
    with pytest.raises(NotSimulated, match=r"guvectorize.*is not simulated"):
        guvectorize(["void(float32[:], float32[:])"], "(n)->(n)", target="cuda")(lambda a, b: None)

    @cuda.jit("void(float32[:])")
    def eager(a):
        a[cuda.grid(1)] = 1

    a = np.zeros(4, "f4")
    eager[1, 4](a)
    assert a.sum() == 4


def test_events_streams_and_host_visible_arrays():
    start, end = cuda.event(), cuda.event()
    with pytest.raises(cuda.cudadrv.driver.CudaAPIError, match="has not been recorded"):
        start.elapsed_time(end)
    start.record()
    sum(range(1000))
    end.record(cuda.stream())
    end.synchronize()
    assert 0 < cuda.event_elapsed_time(start, end) < 1e5
    assert end.query()
    stream, called = cuda.stream(), []
    stream.add_callback(lambda *args: called.append(args[2]), 1)
    with stream.auto_synchronize():
        double[1, 4, stream](np.zeros(4), np.zeros(4))
    assert called == [1]
    for made in (cuda.managed_array(4), cuda.mapped_array(4), cuda.mapped_array_like(np.zeros(4))):
        made[:] = 0
        double[1, 4](np.ones(4), made)
        assert made.sum() == 8
        assert made.copy_to_host().sum() == 8
    host = np.zeros(4)
    with cuda.mapped(host) as seen, cuda.pinned(host):
        double[1, 4](np.ones(4), seen)
    assert host.sum() == 8
    assert cuda.pinned_array(3).shape == (3,)
    device = cuda.get_current_device()
    assert (device.WARP_SIZE, device.compute_capability, device.name) == (32, (8, 0), b"Plover simulated device")
    assert cuda.select_device(0) is cuda.gpus[0]
    with pytest.raises(cuda.cudadrv.driver.CudaAPIError, match="CUDA_ERROR_INVALID_DEVICE"):
        cuda.select_device(1)


def test_launches_from_several_threads_wait_for_each_other():
    outs = [np.zeros(64) for _ in range(4)]
    hosts = [threading.Thread(target=lambda out=out: double[2, 32](np.ones(64), out)) for out in outs]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join()
    assert [out.sum() for out in outs] == [128] * 4


def test_two_configurations_of_a_kernel_do_not_disturb_each_other():
    one, two = double[1, 2], double[1, 4]
    out = np.zeros(4)
    one(np.ones(4), out)
    assert out.sum() == 4
    two(np.ones(4), out)
    assert out.sum() == 8
    assert "double" in repr(one)


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"[Ll]aunch configuration"):
        double(np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match="griddim and blockdim"):
        double[1]
    with pytest.raises(TypeError, match="device function cannot be launched"):
        doubled[1, 1]
    with pytest.raises(RuntimeError, match=r"threadIdx.x has a value only inside a kernel"):
        cuda.threadIdx.x
    with pytest.raises(RuntimeError, match="syncthreads can be called only inside a kernel"):
        cuda.syncthreads()
    with pytest.raises(RuntimeError, match=r"shared.array can be called only inside a kernel"):
        cuda.shared.array(1, float32)
    with pytest.raises(TypeError, match="unexpected keyword argument 'fastmaths'"):
        cuda.jit(fastmaths=True)
    with pytest.raises(NotSimulated, match="link"):
        cuda.jit(link=["a.cu"])
    with pytest.raises(NotImplementedError, match="bounds checking"):
        cuda.jit(boundscheck=True)
    with pytest.raises(NotSimulated, match=r"dispatcher.inspect_asm is not simulated"):
        double.inspect_asm()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        double.nonsense
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cuda.nonsense
    with pytest.raises(NotSimulated, match=r"numba.cuda.profile_start is not simulated"):
        cuda.profile_start
    with pytest.raises(NotSimulated, match=r"numba.cuda.compile_ptx is not simulated"):
        cuda.compile_ptx(lambda: None, ())
    with pytest.raises(NotSimulated, match=r"open_ipc_array is not simulated"):
        cuda.open_ipc_array()
    with pytest.raises(NotSimulated, match=r"get_ipc_handle is not simulated"):
        cuda.to_device(np.ones(1)).get_ipc_handle()
    assert repr(cuda.threadIdx) == "<threadIdx outside of a kernel>"

    @cuda.jit
    def nested(a):
        double[1, 1](a, a)

    with pytest.raises(RuntimeError, match="a kernel cannot launch a kernel"):
        nested[1, 1](np.zeros(1))


@pytest.mark.parametrize("name", ["syncthreads", "ballot_sync", "activemask"])
def test_waiting_in_a_way_that_could_not_be_seen_is_named(name, monkeypatch):
    from plover_runtime.simulator.kernels import launch

    monkeypatch.setattr(launch, "may_wait", lambda *args: False)
    function, arguments = getattr(cuda, name), (1, 1) if name == "ballot_sync" else ()

    @cuda.jit
    def kernel(a):
        function(*arguments)

    with pytest.raises(RuntimeError, match=f"cuda.{name} was reached in a way that could not be seen beforehand"):
        kernel[1, 1](np.zeros(1))


def test_what_may_wait():
    @cuda.jit(device=True)
    def meets():
        cuda.syncthreads()

    @cuda.jit
    def through(a):
        meets()

    class Other:
        def __call__(self):
            cuda.syncthreads()

    other = Other()
    assert may_wait(through.py_func)
    assert may_wait(lambda a: other())
    assert may_wait(lambda a: getattr(cuda, a)(1))
    assert may_wait(lambda f: f(), (print,))
    assert not may_wait(double.py_func)
    assert not may_wait(lambda a: math.sqrt(np.float32(a[0])))


def test_an_error_in_one_thread_ends_all():
    @cuda.jit
    def failing(a):
        if cuda.threadIdx.x == 3:
            a[100] = 1
        cuda.syncthreads()

    before = threading.active_count()
    with pytest.raises(IndexError) as caught:
        failing[1, 8](np.zeros(1))
    assert "in CUDA thread (3, 0, 0)" in caught.value.__notes__[0]
    assert threading.active_count() == before


def test_a_dispatcher_pickles_as_a_call_of_jit():
    rebuild, arguments = double.__reduce__()
    assert rebuild.func is cuda.jit
    assert cuda.jit.__module__ == "numba.cuda"
    assert arguments == (double.py_func,)
    out = np.zeros(2)
    rebuild(*arguments)[1, 2](np.ones(2), out)
    assert out.sum() == 4
    assert pickle.loads(pickle.dumps(cuda.grid)) is cuda.grid
