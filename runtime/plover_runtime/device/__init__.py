"""Devices: what a worker runs its calls on. `base` says what one is; `cuda` is real, `simulated` is not."""

from __future__ import annotations

from typing import Literal

from plover_runtime.device.base import Device

__all__ = ["Device", "open_device", "preload"]

Kind = Literal["cuda", "simulated"]


def preload(kind: Kind, memory_bytes: int) -> None:
    """Import in the zygote whatever workers will need, so that a fork has it; touches no driver.

    Args:
        kind: which device the nest's workers will open.
        memory_bytes: the size of a simulated device; a real one knows its own.
    """
    if kind == "cuda":
        from plover_runtime.device import cuda

        cuda.preload()
    else:
        from plover_runtime.device import simulated

        simulated.preload(memory_bytes)


def open_device(kind: Kind, names: tuple[str, ...]) -> Device:
    """Open the nest's device in a worker: the context and everything that the first call should not have to pay for."""
    if kind == "cuda":
        from plover_runtime.device.cuda import CudaDevice

        return CudaDevice(names)
    from plover_runtime.device.simulated import SimulatedDevice

    return SimulatedDevice(names)
