"""Which process says hello: its number, and when it began.

A number alone may mean another process by now, or in another PID namespace (a container's), or on another machine (a tunnel's
other end); together with the time of its beginning, in the kernel's ticks since the machine booted, it means one.

Guarantees: nothing is claimed where it cannot be told. Assumes: Linux's /proc; elsewhere there is no answer.
"""

from __future__ import annotations

import os

__all__ = ["of_this_process", "started"]


def of_this_process() -> tuple[int, int]:
    """Its number and when it began, as it sees them itself."""
    pid = os.getpid()
    return pid, started(pid)


def started(pid: int) -> int:
    """When a process began; 0 where that cannot be told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may itself have spaces and parentheses (proc_pid_stat(5)); this is the 22nd field.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0
