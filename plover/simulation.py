"""The line that says that calls run on a simulated device.

Guarantees: it is said once in a tree of processes: not by children of one that has said it, and once by all the children of
a pool (multiprocessing's, joblib's) whose parent makes no call itself.
"""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["say_simulated"]

#: Set for the children of a process that has said it.
_SAID = "PLOVER_SAID_SIMULATED"


def say_simulated(address: str) -> None:
    """Say, unless it has been said, that the daemon at this address has no GPU."""
    if _SAID in os.environ:
        return
    os.environ[_SAID] = "1"
    if _is_first_child():
        where, why = ("here", " (`plover doctor` says why)") if address.startswith("ipc://") else (f"at {address}", "")
        print(f"plover: no GPU {where}: calls run on a simulated device{why}", file=sys.stderr)


def _is_first_child() -> bool:
    """Whether none of this process's siblings says it. They share nothing but their parent: a name of the kernel's that
    can be had once, is no file, and is free again when this process ends.
    """
    processes = sys.modules.get("multiprocessing.process")
    parent = processes.parent_process() if processes is not None else None
    if parent is None or not sys.platform.startswith("linux"):
        return True
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0plover-simulated-{parent.pid}")
    except OSError:
        name.close()
        return False
    name.detach()  # for as long as this process lives
    return True
