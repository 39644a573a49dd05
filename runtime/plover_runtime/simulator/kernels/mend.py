"""Puts the mended simulator into ``numba.cuda``, right after its import.

Guarantees: kernels find what they use in the module itself, under whatever name they import it; a name that only the
real module has raises NotSimulated, a misspelt one AttributeError. Assumes numba-cuda 0.30's simulator: a name of its
that is gone shows here, at import.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from plover.errors import NotSimulated


def mend(cuda: ModuleType) -> None:
    """Mend the just imported ``numba.cuda``."""
    from numba.cuda import simulator
    from numba.cuda.simulator import api, compiler, kernel
    from numba.cuda.simulator.cudadrv import devicearray

    from . import arrays, atomics, host, inside, launch, state, vectorizing, warps

    arrays.mend()
    host.mend()
    vectorizing.mend()
    names: dict[str, Any] = {
        "threadIdx": state.threadIdx, "blockIdx": state.blockIdx, "blockDim": state.blockDim,
        "gridDim": state.gridDim, "warpsize": state.WARP_SIZE, "shared": inside.Shared(), "local": inside.Local(),
        "const": inside.Const(), "atomic": atomics.Atomic(), "cg": inside.CooperativeGroups(),
        "GridGroup": inside.GridGroup, "fp16": _half(), "jit": launch.jit, "FakeCUDAKernel": launch.Kernel,
        "Reduce": host.Reduce, "reduce": host.Reduce, "Event": host.Event,
        "current_context": devicearray_context(), **host.ABSENT,
    }  # fmt: skip
    functions = [
        *inside.FUNCTIONS, *(getattr(warps, name) for name in warps.NAMES), *host.FUNCTIONS,
        arrays.managed_array, arrays.mapped_array, arrays.mapped_array_like, arrays.mapped, arrays.pinned,
        arrays.pinned_array, arrays.is_cuda_array, arrays.as_cuda_array, arrays.from_cuda_array_interface,
        arrays.open_ipc_array,
    ]  # fmt: skip
    names.update({function.__name__: function for function in functions})
    for function in (*functions, launch.jit):
        function.__module__ = cuda.__name__  # so that they pickle as what they stand for
    for place in (cuda, simulator, api):
        vars(place).update(names)
    for name in host.COMPILING:
        setattr(compiler, name, host.ABSENT[name])
    kernel.FakeCUDAKernel = launch.Kernel
    devicearray.open_ipc_array = arrays.open_ipc_array

    def missing(name: str) -> Any:
        if name == "laneid":
            return inside.laneid()
        if name in host.NAMED_ONLY:
            raise NotSimulated(f"numba.cuda.{name} is not simulated", feature=f"numba.cuda.{name}")
        raise AttributeError(f"module '{cuda.__name__}' has no attribute '{name}'")

    cuda.__getattr__ = missing  # type: ignore[method-assign]


def mend_random(module: ModuleType) -> None:
    """Mend the just imported ``numba.cuda.random``."""
    from . import xoroshiro

    xoroshiro.mend(module)


def devicearray_context() -> Any:
    from numba.cuda.simulator.cudadrv import devices

    def current_context(devnum: int | None = None) -> Any:
        return devices.gpus[devnum or 0]

    return current_context


def _half() -> Any:
    """Numba's own simulated half-precision functions, with a floor that rounds down."""
    import numpy as np
    from numba.cuda.simulator.kernelapi import FakeCUDAFp16

    class Half(FakeCUDAFp16):  # type: ignore[misc]
        def hfloor(self, x: Any) -> Any:
            return np.floor(x, dtype=np.float16)

    return Half()


__all__ = ["mend", "mend_random"]
