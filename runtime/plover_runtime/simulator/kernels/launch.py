"""Dispatchers: what ``@cuda.jit`` makes, and what a launch does.

Guarantees: the limits that CUDA sets on a launch hold; a launch works on device copies of host arrays and copies back,
so that two parameters given one host array are two arrays, as on a GPU; one launch runs at a time, and others wait.
Assumes that Numba's simulator offers the class that it replaces here, so that what asks for that class finds this one.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba.cuda.args import ArgHint, In, Out
from numba.cuda.core.sigutils import is_signature
from numba.cuda.errors import normalize_kernel_dimensions
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray, FakeWithinKernelCUDAArray
from numba.cuda.simulator.kernel import FakeCUDAKernel, FakeOverloadDict

from plover.errors import NotSimulated

from . import arrays, blocks, elements, integers
from .analysis import may_wait
from .state import LAUNCH_LOCK, blockDim, blockIdx, gridDim, inside, running, threadIdx

MAX_THREADS: Final = 1024
MAX_BLOCK: Final = (1024, 1024, 64)
MAX_GRID: Final = (2**31 - 1, 65535, 65535)
MAX_DYNAMIC_BYTES: Final = 48 * 1024

#: Options of the real ``cuda.jit`` that change nothing here.
_OPTIONS = frozenset(
    "inline forceinline opt lineinfo cache launch_bounds lto shared_memory_carveout max_registers argtypes restype "  # noqa: SIM905
    "abi abi_info nopython boundscheck".split()
)


def launch_error(why: str) -> Exception:
    """CUDA's own error for a launch that it cannot do."""
    return arrays.cuda_error(1, "cuLaunchKernel", "CUDA_ERROR_INVALID_VALUE", why)


def check_launch(grid: blocks.Dim, block: blocks.Dim, dynamic_bytes: int) -> None:
    """Raise what CUDA raises for a grid or block that no device takes."""
    threads = block[0] * block[1] * block[2]
    if threads > MAX_THREADS:
        raise launch_error(f"{threads} threads in a block, of at most {MAX_THREADS}")
    for what, extent, limits in (("block", block, MAX_BLOCK), ("grid", grid, MAX_GRID)):
        for axis, length, limit in zip("xyz", extent, limits, strict=True):
            if not 1 <= length <= limit:
                raise launch_error(f"the {what}'s {axis} is {length}; it must be from 1 to {limit}")
    if dynamic_bytes > MAX_DYNAMIC_BYTES:
        raise launch_error(f"{dynamic_bytes:,} bytes of dynamic shared memory, of at most {MAX_DYNAMIC_BYTES:,}")


class Kernel(FakeCUDAKernel):  # type: ignore[misc]
    """A kernel or device function."""

    def __init__(
        self, fn: Callable[..., Any], device: bool = False, fastmath: bool = False, extensions: Any = (),
        debug: bool = False,
    ) -> None:  # fmt: skip
        self.fn = fn
        self._device, self._fastmath, self._debug = device, fastmath, debug
        self.extensions = list(extensions)
        functools.update_wrapper(self, fn)

    def __reduce__(self) -> tuple[Any, ...]:
        from numba import cuda

        options = {"device": self._device, "fastmath": self._fastmath, "debug": self._debug}
        return functools.partial(cuda.jit, **options), (self.fn,)

    @property
    def py_func(self) -> Callable[..., Any]:
        return self.fn

    @property
    def overloads(self) -> Any:
        return FakeOverloadDict()

    @property
    def signatures(self) -> list[Any]:
        return []

    def __call__(self, *args: Any) -> Any:
        if self._device or inside():
            return self.fn(*args)
        normalize_kernel_dimensions(None, None)  # raises Numba's error about the missing configuration
        raise AssertionError("unreachable")

    def __getitem__(self, configuration: Any) -> Configured:
        if not isinstance(configuration, tuple) or len(configuration) not in (2, 3, 4, 5):
            raise ValueError("must specify at least the griddim and blockdim")
        if self._device:
            raise TypeError("a device function cannot be launched")
        grid, block = normalize_kernel_dimensions(*configuration[:2])
        return Configured(self, grid, block, int(configuration[3]) if len(configuration) > 3 else 0)

    def configure(self, griddim: Any, blockdim: Any, stream: Any = 0, sharedmem: int = 0) -> Configured:
        return self[griddim, blockdim, stream, sharedmem]

    def forall(self, ntasks: int, tpb: int = 0, stream: Any = 0, sharedmem: int = 0) -> Any:
        if ntasks < 0:
            raise ValueError(f"Can't create ForAll with negative task count: {ntasks}")
        if ntasks == 0:
            return lambda *args: None
        tpb = tpb or 128
        return self[-(-ntasks // tpb), tpb, stream, sharedmem]

    def specialize(self, *args: Any) -> Kernel:
        return self

    def bind(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name in _ASKING:
            raise NotSimulated(f"numba.cuda dispatcher.{name} is not simulated: nothing is compiled", feature=name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


#: What a real dispatcher can be asked about its compiled code.
_ASKING = frozenset(
    "inspect_asm inspect_llvm inspect_lto_ptx inspect_sass inspect_sass_cfg inspect_types get_regs_per_thread "  # noqa: SIM905
    "get_const_mem_size get_shared_mem_per_block get_max_threads_per_block get_local_mem_per_thread compile "
    "compile_device".split()
)


class Configured:
    """A kernel with a grid, ready to launch; two of one kernel do not disturb each other."""

    def __init__(self, kernel: Kernel, grid: blocks.Dim, block: blocks.Dim, dynamic_bytes: int) -> None:
        self.dispatcher = kernel
        self.griddim, self.blockdim, self.sharedmem = grid, block, dynamic_bytes

    def __repr__(self) -> str:
        return f"<{self.dispatcher.fn.__name__}[{self.griddim}, {self.blockdim}]>"

    def __call__(self, *args: Any) -> None:
        if inside() and running.owner == threading.get_ident():
            raise RuntimeError("a kernel cannot launch a kernel")
        check_launch(self.griddim, self.blockdim, self.sharedmem)
        kernel = self.dispatcher
        copy_back: list[Callable[[], Any]] = []
        given = elements.together([_argument(kernel, value, copy_back) for value in args])
        with LAUNCH_LOCK, np.errstate(all="ignore", divide="raise" if kernel._debug else "ignore"):
            _run(kernel.fn, given, self.griddim, self.blockdim, self.sharedmem)
        for copy in copy_back:
            copy()


def _run(function: Any, args: tuple[Any, ...], grid: blocks.Dim, block: blocks.Dim, dynamic_bytes: int) -> None:
    running.owner = threading.get_ident()
    running.shared.clear()
    running.static_bytes = 0
    running.dynamic = np.zeros(dynamic_bytes, np.byte)
    gridDim.set(*grid)
    blockDim.set(*block)
    blockIdx.set(0, 0, 0)
    threadIdx.set(0, 0, 0)
    try:
        if may_wait(function, args):
            running.block = blocks.Block(function, function.__code__, args, grid, block)
            running.block.run()
        else:
            blocks.run_in_turn(function, args, grid, block)
    finally:
        running.block = running.owner = running.dynamic = None
        running.shared.clear()
        for index in (gridDim, blockDim, blockIdx, threadIdx):
            index.clear()


def _argument(kernel: Kernel, value: Any, copy_back: list[Callable[[], Any]]) -> Any:
    """A launch's argument as the kernel sees it."""
    for extension in reversed(kernel.extensions):
        _, value = extension.prepare_args(None, value, stream=0, retr=copy_back)
    hint: Any = value if isinstance(value, ArgHint) else None
    if hint is not None:
        value = hint.value
    if isinstance(value, arrays.HostVisible):
        return _seen(value.view(np.ndarray))
    if isinstance(value, (np.ndarray, np.void)):
        return _seen(_copied(value, hint, copy_back))
    inside_view = arrays.device_view(value)
    if inside_view is not None:
        return _seen(inside_view)
    return integers.seen(value)


def _copied(host: Any, hint: Any, copy_back: list[Callable[[], Any]]) -> Any:
    """A device copy of a host array, to be copied back unless it is only an input."""
    inner = np.array(host, subok=True)
    if isinstance(inner, np.ndarray):
        arrays.hold(inner)
        if not isinstance(hint, In):
            if not host.flags.writeable:
                if isinstance(hint, Out) or hint is not None:
                    raise ValueError("the array to write back into is read-only")
                return inner
            copy_back.append(lambda: np.copyto(host, inner))
    return inner


def _seen(array: Any) -> Any:
    """The array as kernels see it: records by attribute too, as Numba has them."""
    if array.dtype.fields is None:
        return elements.seen(array)
    return Records(FakeCUDAArray(array))


class Records(FakeWithinKernelCUDAArray):  # type: ignore[misc]
    """Records in a kernel; their integer fields are read and stored as elements of arrays are."""

    def __getattr__(self, name: str) -> Any:
        return _field(super().__getattr__(name))

    def __getitem__(self, index: Any) -> Any:
        return _field(super().__getitem__(index))

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __setitem__(self, index: Any, value: Any) -> None:
        target = self._item._ary
        kind = target.dtype[index] if isinstance(index, str) else None
        if kind is not None and kind.kind in "iu" and isinstance(value, (int, float, np.integer)):
            value = elements.low_bits(value, kind)
        target[index] = value


def _field(value: Any) -> Any:
    if isinstance(value, FakeWithinKernelCUDAArray):
        return _seen(value._item._ary)
    return integers.seen(value)


def jit(
    func_or_sig: Any = None, device: bool = False, debug: bool | None = None, fastmath: bool = False, link: Any = (),
    extensions: Any = (), **options: Any,
) -> Any:  # fmt: skip
    """As ``numba.cuda.jit``: signatures are accepted and not looked at."""
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise TypeError(f"jit() got an unexpected keyword argument '{unknown[0]}'")
    if link:
        raise NotSimulated("numba.cuda.jit(link=…) is not simulated: linked code is for a GPU", feature="link")
    if options.get("boundscheck"):
        raise NotImplementedError("bounds checking is not supported for CUDA")

    def make(function: Callable[..., Any]) -> Kernel:
        if isinstance(function, Kernel):
            function = function.fn
        return Kernel(function, device, fastmath, extensions, bool(debug))

    if func_or_sig is None or is_signature(func_or_sig) or isinstance(func_or_sig, (list, tuple)):
        return make
    return make(func_or_sig)
