"""Which devices can serve a call."""

from __future__ import annotations

import pytest

from plover.suits import suits
from plover.wire.messages import HostDevices, Versions, Welcome

H100 = ("cuda", "NVIDIA H100 80GB HBM3")
SIMULATED = ("simulated", "Simulated GPU")


@pytest.mark.parametrize(
    ("device", "asked", "require_gpu", "suited"),
    [
        (H100, None, False, True),
        (SIMULATED, None, False, True),
        (H100, None, True, True),
        (SIMULATED, None, True, False),
        (H100, "", False, True),
        (SIMULATED, "", False, False),
        (H100, "h100", False, True),
        (H100, "A100", False, False),
        (SIMULATED, "Simulated", False, False),
    ],
)
def test_one_device_and_one_call(device: tuple[str, str], asked: str | None, require_gpu: bool, suited: bool) -> None:
    assert suits(*device, asked, require_gpu) is suited


@pytest.mark.parametrize(
    ("kinds", "simulated"), [(["simulated"], True), (["simulated", "cuda"], False), (["cuda"], False), ([], True)]
)
def test_a_daemon_is_simulated_where_no_device_is_real(kinds: list[str], simulated: bool) -> None:
    devices = tuple(HostDevices(kind, "a model", 1) for kind in kinds)  # type: ignore[arg-type]
    assert Welcome(1, "default", Versions("0.1", "3.11"), 1, 1, 1, devices).simulated is simulated
