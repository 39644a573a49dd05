"""How much memory this host has, or the control groups leave to this process: what segments are sized by.

Guarantees: what cannot be read limits nothing. Assumes: Linux. cgroup v1 has a limit, what is used, and within that what
could be dropped (files that were not used lately) in `memory.limit_in_bytes`, `memory.usage_in_bytes` and `memory.stat`;
v2 in `memory.max`, `memory.current` and `memory.stat` (the kernel's admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst).
Every group above this process's own limits it as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_bytes", "total_bytes"]

_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def total_bytes() -> int:
    """All that there is for this process and others."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *(limit for _, limit in _limited())])


def available_bytes() -> int | None:
    """What can still be had; None if nobody knows."""
    found = [limit - used for group, limit in _limited() if (used := _used(group)) is not None]
    with contextlib.suppress(OSError, ValueError):
        found += [int(line.split()[1]) * 1024 for line in _lines(_MEMINFO) if line.startswith("MemAvailable:")]
    return min(found, default=None)


def _limited() -> Iterator[tuple[Path, int]]:
    """The groups that this process is in, with their limits."""
    for group in _groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                yield group, int((group / name).read_text())


def _groups() -> Iterator[Path]:
    for line in _lines(_GROUPS):
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            root = _MOUNTED / "memory" if controllers else _MOUNTED
            own = root / path.strip().lstrip("/")  # in a container perhaps the host's path: then only the root is there
            yield from (group for group in (own, *own.parents) if group.is_relative_to(root))


def _used(group: Path) -> int | None:
    """What a group uses and cannot drop."""
    droppable = [int(line.split()[1]) for line in _lines(group / "memory.stat") if "inactive_file " in line]
    for name in ("memory.current", "memory.usage_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int((group / name).read_text()) - max(droppable, default=0)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
