"""What the scheduler is told when it is made: the host's devices, the environments, and the limits.

Guarantees: constant for the scheduler's life. The numbers are the defaults of docs/configuration.md.
"""

from __future__ import annotations

import msgspec

from plover.daemon.scheduler.events import DeviceKind


class Device(msgspec.Struct, frozen=True):
    """A device of this host. `id` is the GPU's UUID or ``simulated:N``, `model` what NVML calls it."""

    id: str
    kind: DeviceKind
    model: str
    memory_bytes: int


class Environment(msgspec.Struct, frozen=True):
    """What a nest runs with; `python` is its minor version, such as ``3.11``."""

    name: str
    python: str


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Every number that bounds the scheduler."""

    queued_calls_per_tenant: int = 10_000
    dispatched_per_worker: int = 64
    prefetch_s: float = 0.002
    functions_known_per_worker: int = 256
    client_lease_s: float = 30.0
    held_result_s: float = 600.0
    held_result_bytes: int = 1 << 30
    nest_start_s: float = 60.0
    worker_start_s: float = 60.0
    worker_silent_s: float = 15.0
    interrupt_grace_s: float = 2.0
    stop_grace_s: float = 10.0
    start_failures: int = 3
    start_backoff_s: float = 0.5


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The host, as far as scheduling needs to know it."""

    devices: tuple[Device, ...]
    environments: tuple[Environment, ...]
    limits: Limits = Limits()
