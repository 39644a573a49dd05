"""cupy.cuda.device: the one simulated device, number 0."""

from __future__ import annotations

from typing import Any

from .. import _names
from . import runtime


class Device:
    """The simulated device; any number but 0 is refused as CUDA refuses it."""

    __module__ = "cupy.cuda.device"

    def __init__(self, device: Any = None) -> None:
        self.id = 0 if device is None else int(device)

    def _exists(self) -> None:
        if self.id != 0:
            raise runtime.CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")

    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        self._exists()
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return self.id

    def __lt__(self, other: Device) -> bool:
        return self.id < other.id

    def use(self) -> None:
        self._exists()

    def synchronize(self) -> None:
        self._exists()

    @property
    def compute_capability(self) -> str:
        self._exists()
        return "{}{}".format(*runtime.COMPUTE_CAPABILITY)

    @property
    def mem_info(self) -> tuple[int, int]:
        self._exists()
        return runtime.memGetInfo()

    @property
    def attributes(self) -> dict[str, int]:
        self._exists()
        return dict(runtime.ATTRIBUTES)

    @property
    def pci_bus_id(self) -> str:
        self._exists()
        return runtime.deviceGetPCIBusId(0)

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_handle"):
            from .._core import not_simulated

            raise not_simulated(f"cupy.cuda.Device.{name}")
        raise AttributeError(f"'Device' object has no attribute '{name}'")


def get_device_id() -> int:
    return 0


def get_compute_capability() -> str:
    return Device().compute_capability


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.cuda.device", name)
