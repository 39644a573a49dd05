"""What the daemon is started with, and every limit's default. docs/configuration.md has the same table for people.

Guarantees: the defaults are numbers, and `plover doctor` prints them from here.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from plover.daemon.scheduler.config import Limits

__all__ = ["DaemonConfig", "DaemonLimits", "limits_table"]


class DaemonLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the shell; the scheduler's own are in `Limits`."""

    payload_bytes: int = 4 << 30
    function_bytes: int = 256 << 20
    bundles_bytes: int = 80 << 20
    functions_bytes_per_tenant: int = 1 << 30
    output_bytes_per_call: int = 10 << 20
    last_output_bytes: int = 4 << 10
    segments_share: float = 0.25
    segments_share_per_tenant: float = 0.125
    segments_per_borrower: int = 128
    segment_idle_s: float = 60.0
    connections: int = 10_000


class DaemonConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a daemon is to run.

    Attributes:
        addresses: ``ipc://…`` and ``tcp://…``, at least one. A socket is added where no ``ipc://…`` is among them.
        state_dir: private to the daemon: sockets of its nests, caches, its pid file.
        devices: None for what the host has, or see `plover.daemon.devices.find_devices`.
        parent_fd: a pidfd; the daemon ends when that process does.
    """

    addresses: tuple[str, ...]
    state_dir: Path
    launcher: str = "process"
    devices: str | None = None
    parent_fd: int | None = None
    simulated_memory_bytes: int = 8 << 30
    limits: DaemonLimits = DaemonLimits()
    scheduler_limits: Limits = Limits()


def limits_table(config: DaemonConfig) -> dict[str, int | float]:
    """Every limit by its name, for `plover doctor` and `plover status`."""
    return {**msgspec.structs.asdict(config.limits), **msgspec.structs.asdict(config.scheduler_limits)}
