"""Which devices this host has: its GPUs by NVML, or simulated ones.

Guarantees: the driver is asked through NVML only, which makes no context. A GPU that is there but cannot be used is an
error with the remedy, not a reason to simulate. Assumes: Linux.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec

from plover.daemon.scheduler.config import Device
from plover.errors import DeviceError

__all__ = ["Survey", "find_devices", "survey"]


class Survey(msgspec.Struct, frozen=True):
    """What a look at the host found: its GPUs, the driver's version, and why there are none to be used, if so.

    `problem` is set where a GPU seems to be there and cannot be used.
    """

    gpus: tuple[Device, ...]
    driver: str | None
    absence: str | None
    problem: str | None


def survey() -> Survey:
    """Look at the host's GPUs."""
    seen = _gpu_nodes()
    if importlib.util.find_spec("pynvml") is None:
        if seen:
            return Survey((), None, None, f"{seen} is there, but NVML's binding is not: pip install 'plover-gpu[host]'")
        return Survey((), None, "no GPU device node, and no NVML binding to look further with", None)
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if seen:
            return Survey(
                (), None, None, f"{seen} is there, but NVML says: {error}. Is the driver loaded (nvidia-smi)?"
            )
        return Survey((), None, f"NVML finds no driver ({error})", None)
    try:
        gpus = tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return Survey((), None, None, f"NVML cannot list the GPUs: {error}")
    finally:
        pynvml.nvmlShutdown()
    if not gpus:
        return Survey((), driver, "the driver has no GPU", None)
    if importlib.util.find_spec("cupy") is None and importlib.util.find_spec("numba_cuda") is None:
        return Survey(gpus, driver, None, "neither CuPy nor numba-cuda is installed: pip install 'plover-gpu[cuda13]'")
    return Survey(gpus, driver, None, None)


def find_devices(wanted: str | None, simulated_memory_bytes: int) -> tuple[Device, ...]:
    """The devices that a daemon is to use.

    Args:
        wanted: None for every GPU, or one simulated device where there is none; ``simulated:N``; or GPUs by index or
            UUID with commas between them.
        simulated_memory_bytes: the size of each simulated device.

    Raises:
        DeviceError: there is a GPU that cannot be used, or not the GPU that was asked for.
    """
    if wanted is not None and wanted.partition(":")[0] == "simulated":
        count = wanted.partition(":")[2] or "1"
        if not count.isdecimal() or not 1 <= int(count) <= 1024:
            raise DeviceError(f"--devices {wanted}: simulated:N with N from 1 to 1024 is meant")
        return tuple(
            Device(f"simulated:{index}", "simulated", "Simulated GPU", simulated_memory_bytes)
            for index in range(int(count))
        )
    found = survey()
    if found.problem is not None:
        raise DeviceError(f"{found.problem} To run without it, ask for `--devices simulated:1`.")
    if wanted is None:
        return found.gpus or find_devices("simulated:1", simulated_memory_bytes)
    by_name = {str(index): gpu for index, gpu in enumerate(found.gpus)} | {gpu.id: gpu for gpu in found.gpus}
    chosen: dict[str, Device] = {}
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        if name not in by_name:
            there = ", ".join(gpu.id for gpu in found.gpus) or f"none ({found.absence})"
            raise DeviceError(f"--devices {wanted}: there is no GPU {name!r} here; there are: {there}")
        chosen[by_name[name].id] = by_name[name]
    if not chosen:
        raise DeviceError(f"--devices {wanted!r} names no device")
    return tuple(chosen.values())


def _gpu_nodes() -> str | None:
    """What of NVIDIA's kernel driver can be seen without any library."""
    for path in ("/proc/driver/nvidia/gpus", "/dev/nvidia0"):
        if Path(path).exists():
            return path
    return None


def _gpu(nvml: Any, index: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return Device(
        _text(nvml.nvmlDeviceGetUUID(handle)),
        "cuda",
        _text(nvml.nvmlDeviceGetName(handle)),
        int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
