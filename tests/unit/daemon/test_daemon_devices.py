"""What a host has, seen through a fake of NVML's binding."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from plover.daemon import devices
from plover.daemon.scheduler.config import Device
from plover.errors import DeviceError

A, B = Device("GPU-aaaa", "cuda", "NVIDIA H100", 80 << 30), Device("GPU-bbbb", "cuda", "NVIDIA L4", 24 << 30)


class FakeNvml(types.ModuleType):
    """`pynvml` of a host with these GPUs; `fails` is the function that raises."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: Device, fails: str = "", as_bytes: bool = False) -> None:
        super().__init__("pynvml")
        self.__spec__ = importlib.util.spec_from_loader("pynvml", None)
        self._gpus, self._fails, self._as_bytes = gpus, fails, as_bytes
        self.open = 0

    def _do(self, name: str) -> None:
        if name == self._fails:
            raise self.NVMLError("Driver Not Loaded")
        assert name == "init" or self.open == 1

    def _text(self, text: str) -> Any:
        return text.encode() if self._as_bytes else text

    def nvmlInit(self) -> None:
        self._do("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._do("count")
        return len(self._gpus)

    def nvmlSystemGetDriverVersion(self) -> Any:
        return self._text("570.1")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:
        return self._gpus[index]

    def nvmlDeviceGetUUID(self, gpu: Device) -> Any:
        return self._text(gpu.id)

    def nvmlDeviceGetName(self, gpu: Device) -> Any:
        return self._text(gpu.model)

    def nvmlDeviceGetMemoryInfo(self, gpu: Device) -> Any:
        return types.SimpleNamespace(total=gpu.memory_bytes)


class Host:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.missing: set[str] = set()
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in self.missing else find(name))
        self.shows(None)

    def has(self, nvml: FakeNvml) -> FakeNvml:
        self._patch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    def shows(self, node: str | None) -> None:
        self._patch.setattr(devices, "_gpu_nodes", lambda: node)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


class TestSurvey:
    @pytest.mark.parametrize("as_bytes", [False, True])
    def test_gpus_that_are_there(self, host: Host, as_bytes: bool) -> None:
        nvml = host.has(FakeNvml(A, B, as_bytes=as_bytes))
        assert devices.survey() == devices.Survey((A, B), "570.1", None, None)
        assert nvml.open == 0

    def test_a_driver_without_a_gpu(self, host: Host) -> None:
        host.has(FakeNvml())
        assert devices.survey() == devices.Survey((), "570.1", "the driver has no GPU", None)

    def test_no_driver(self, host: Host) -> None:
        host.has(FakeNvml(fails="init"))
        assert devices.survey() == devices.Survey((), None, "NVML finds no driver (Driver Not Loaded)", None)

    def test_a_device_node_without_a_working_driver_is_a_problem(self, host: Host) -> None:
        host.has(FakeNvml(fails="init"))
        host.shows("/dev/nvidia0")
        problem = devices.survey().problem
        assert problem == "/dev/nvidia0 is there, but NVML says: Driver Not Loaded. Is the driver loaded (nvidia-smi)?"

    def test_gpus_that_cannot_be_listed_are_a_problem(self, host: Host) -> None:
        nvml = host.has(FakeNvml(A, fails="count"))
        assert devices.survey().problem == "NVML cannot list the GPUs: Driver Not Loaded"
        assert nvml.open == 0

    def test_no_binding_and_no_device_node(self, host: Host) -> None:
        host.missing.add("pynvml")
        found = devices.survey()
        assert (found.gpus, found.problem) == ((), None)
        assert found.absence == "no GPU device node, and no NVML binding to look further with"

    def test_no_binding_but_a_device_node_is_a_problem(self, host: Host) -> None:
        host.missing.add("pynvml")
        host.shows("/dev/nvidia0")
        problem = devices.survey().problem
        assert problem == "/dev/nvidia0 is there, but NVML's binding is not: pip install 'plover-gpu[host]'"

    def test_a_gpu_that_no_library_here_can_use_is_a_problem(self, host: Host) -> None:
        host.has(FakeNvml(A))
        host.missing |= {"cupy", "numba_cuda"}
        found = devices.survey()
        assert found.gpus == (A,)
        assert found.problem == "neither CuPy nor numba-cuda is installed: pip install 'plover-gpu[cuda13]'"

    @pytest.mark.parametrize("there", ["/proc/driver/nvidia/gpus", "/dev/nvidia0", None])
    def test_the_kernel_driver_is_seen_without_a_library(
        self, there: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Path, "exists", lambda path: str(path) == there)
        assert devices._gpu_nodes() == there


class TestChoosing:
    def test_every_gpu_unless_told(self, host: Host) -> None:
        host.has(FakeNvml(A, B))
        assert devices.find_devices(None, 1 << 30) == (A, B)

    def test_one_simulated_device_where_there_is_no_gpu(self, host: Host) -> None:
        host.has(FakeNvml())
        expected = (Device("simulated:0", "simulated", "Simulated GPU", 1 << 30),)
        assert devices.find_devices(None, 1 << 30) == expected

    def test_a_gpu_that_cannot_be_used_is_no_reason_to_simulate(self, host: Host) -> None:
        host.missing.add("pynvml")
        host.shows("/dev/nvidia0")
        with pytest.raises(DeviceError, match=r"plover-gpu\[host\].* ask for `--devices simulated:1`"):
            devices.find_devices(None, 1 << 30)
        assert len(devices.find_devices("simulated:2", 1 << 30)) == 2

    @pytest.mark.parametrize(("wanted", "count"), [("simulated", 1), ("simulated:", 1), ("simulated:3", 3)])
    def test_simulated_ones_ask_no_driver(self, host: Host, wanted: str, count: int) -> None:
        host.has(FakeNvml(A))
        found = devices.find_devices(wanted, 5)
        assert [each.id for each in found] == [f"simulated:{number}" for number in range(count)]
        assert {(each.kind, each.memory_bytes) for each in found} == {("simulated", 5)}

    @pytest.mark.parametrize("wanted", ["simulated:0", "simulated:-1", "simulated:two", "simulated:1025"])
    def test_a_number_of_simulated_ones_that_makes_no_sense(self, wanted: str) -> None:
        with pytest.raises(DeviceError, match=f"--devices {wanted}: simulated:N with N from 1 to 1024 is meant"):
            devices.find_devices(wanted, 1 << 30)

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [("0", (A,)), ("1,0", (B, A)), ("GPU-bbbb", (B,)), (" 0 , GPU-bbbb,", (A, B)), ("0,GPU-aaaa", (A,))],
    )
    def test_by_index_or_uuid(self, host: Host, wanted: str, found: tuple[Device, ...]) -> None:
        host.has(FakeNvml(A, B))
        assert devices.find_devices(wanted, 1 << 30) == found

    def test_a_gpu_that_is_not_there_is_named_with_those_that_are(self, host: Host) -> None:
        host.has(FakeNvml(A, B))
        with pytest.raises(DeviceError, match="--devices 0,7: there is no GPU '7' here; there are: GPU-aaaa, GPU-bbbb"):
            devices.find_devices("0,7", 1 << 30)

    def test_a_gpu_where_there_is_none_says_why(self, host: Host) -> None:
        host.has(FakeNvml(fails="init"))
        with pytest.raises(DeviceError, match=r"there are: none \(NVML finds no driver \(Driver Not Loaded\)\)"):
            devices.find_devices("0", 1 << 30)

    @pytest.mark.parametrize("wanted", ["", " , "])
    def test_no_name_at_all(self, host: Host, wanted: str) -> None:
        host.has(FakeNvml(A))
        with pytest.raises(DeviceError, match="names no device"):
            devices.find_devices(wanted, 1 << 30)
