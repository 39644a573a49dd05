"""The simulated device: real GPU code on the CPU, for machines without a GPU. See docs/simulator.md for what it is not.

Guarantees: it says that it is simulated everywhere it is seen. Assumes: `preload` ran before anything imported Numba's
CUDA or CuPy in this process or in the one that it was forked from.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
from typing import Any

from plover.serialize import as_is
from plover_runtime import simulator
from plover_runtime.device.base import Diagnosis


def preload(memory_bytes: int) -> None:
    """Put the stand-ins in place of CuPy and Numba's CUDA, and import them, so that no worker has to."""
    simulator.install(memory_bytes=memory_bytes)
    importlib.import_module("cupy")
    if importlib.util.find_spec("numba") is not None:
        importlib.import_module("numba.cuda")


class SimulatedDevice:
    """A device that the CPU plays."""

    simulated = True

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def synchronize(self) -> None:
        """Nothing is ever under way: simulated launches end before they return."""

    def diagnose(self, error: BaseException) -> Diagnosis:
        """A simulated context cannot break; its memory can run out."""
        return "memory" if type(error).__name__ == "OutOfMemoryError" else "none"

    def reduce(self, obj: Any) -> Any:
        """Stand-in arrays, CuPy's and Numba's, become NumPy arrays."""
        return (as_is, (simulator.to_host(obj),)) if simulator.is_device_array(obj) else NotImplemented

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the size that it was given."""
        return simulator.memory_info()

    def pin(self, address: int, size_bytes: int) -> None:
        """Nothing is gained by it here."""

    def unpin(self, address: int) -> None:
        """Nothing was done."""

    def release_memory(self) -> None:
        """Drop what is unreferenced."""
        gc.collect()
        simulator.release_pools()
