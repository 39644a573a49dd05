"""A control group with a limit on memory, of the kernel's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["LIMIT_BYTES", "memory_group"]

LIMIT_BYTES = 256 << 20


def memory_group(word: str) -> Path | None:
    """A new cgroup of 256 MiB, below this process's own or as near above it as one may be made; None if none may be.
    Whoever calls removes it.
    """
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        elif not controllers:
            root, limit = Path("/sys/fs/cgroup"), "memory.max"
        else:
            continue
        own = root / path.lstrip("/")
        for above in (own, *own.parents):
            if above.is_relative_to(root) and (controllers or "memory" in _delegated(above)):
                group = _group(above / f"plover-{os.getpid()}-{word[-8:]}", limit)
                if group is not None:
                    return group
    return None


def _group(group: Path, limit: str) -> Path | None:
    """Make a cgroup, limit it, and see that a process may enter it: one that may not would not be limited."""
    try:
        group.mkdir()
    except OSError:
        return None
    enter = ["/bin/sh", "-c", f'echo {LIMIT_BYTES} > "{group}/{limit}" && echo $$ > "{group}/cgroup.procs"']
    if subprocess.run(enter, capture_output=True).returncode:
        group.rmdir()
        return None
    return group


def _delegated(group: Path) -> list[str]:
    """The controllers that cgroups below this one have."""
    try:
        return (group / "cgroup.subtree_control").read_text().split()
    except OSError:
        return []
