"""What the shell asks of a launcher: a small protocol that `process` (and later `docker`) keeps.

Guarantees asked of every launcher: commands return at once and never raise for what happens later; whatever happens is
told as an `AnyNews` from `news()`, each nest's and worker's end exactly once; `fileno()` is readable while there may be
news. A worker's death is told within 100 ms plus what the kernel takes to free its memory. Nothing that a launcher
started outlives the daemon.

Assumes: one thread, the shell's, calls everything in here.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from plover.daemon.scheduler.events import DeviceKind
from plover.wire.messages import Versions


class NestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A nest to be started. `devices` are the driver's names of its devices, `memory_bytes` the size of a simulated
    one; where the tenant's bundles become files is the launcher's to say.
    """

    nest: int
    tenant: str
    environment: str
    device_kind: DeviceKind
    devices: tuple[str, ...]
    memory_bytes: int
    payload_limit_bytes: int = 4 << 30
    cache_directory: str = ""


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A worker to be forked. The descriptors stay the caller's: the launcher duplicates or sends what it needs."""

    worker: int
    nest: int
    marker: bytes
    stdout_fd: int
    stderr_fd: int
    records_fd: int
    page_fd: int
    line_fd: int
    segments_fd: int


# -- news --------------------------------------------------------------------------------------------------------------


class NestPrepared(msgspec.Struct, frozen=True):
    """The nest's zygote has its imports done."""

    nest: int
    pid: int
    import_s: float
    versions: Versions


class NestEnded(msgspec.Struct, frozen=True):
    """The nest is gone, with all its workers; `reason` is for people, with the last lines that the zygote wrote."""

    nest: int
    reason: str


class WorkerForked(msgspec.Struct, frozen=True):
    """The worker's process lives."""

    worker: int
    pid: int


class WorkerEnded(msgspec.Struct, frozen=True):
    """The worker's process is gone, or could not be forked (then neither code nor signal is known)."""

    worker: int
    exit_code: int | None
    signal: int | None
    out_of_memory: bool
    reason: str = ""


AnyNews = NestPrepared | NestEnded | WorkerForked | WorkerEnded


class Launcher(Protocol):
    """How nests come to life."""

    def start_nest(self, spec: NestSpec) -> None:
        """Begin to start a nest; `NestPrepared` or `NestEnded` follows."""

    def stop_nest(self, nest: int) -> None:
        """End a nest and everything in it; `NestEnded` follows."""

    def start_worker(self, spec: WorkerSpec) -> None:
        """Ask a nest for a worker; `WorkerForked` and, once, `WorkerEnded` follow."""

    def interrupt_worker(self, worker: int) -> None:
        """Send the worker SIGINT; its handler looks at its status page."""

    def kill_worker(self, worker: int) -> None:
        """SIGKILL the worker; `WorkerEnded` follows."""

    def fileno(self) -> int:
        """A descriptor that is readable while there may be news."""

    def news(self) -> list[AnyNews]:
        """What has happened since the last call; never blocks."""

    def next_deadline(self) -> float | None:
        """When `news` should be called even if nothing is readable, on the monotonic clock."""

    def close(self) -> None:
        """Kill everything that was started, wait (bounded) until it is gone, and give all descriptors back."""
