"""Processes, pidfds and descriptors, as the kernel tells of them: small tools that launchers share.

Guarantees: nothing blocks, and a process that is gone is an answer, not an exception. Assumes: Linux 5.4 or later.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct

#: A packet is one message; a zygote sends none that is larger.
PACKET_LIMIT = 64 * 1024
_DESCRIPTORS_LIMIT = 8
_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


def receive(connection: socket.socket) -> tuple[bytes | None, list[int]]:
    """One packet and its descriptors, close-on-exec.

    The packet is None if there is none now; it is empty at the end of the connection, and where one is cut off.
    """
    try:
        packet, descriptors, flags, _ = socket.recv_fds(
            connection, PACKET_LIMIT, _DESCRIPTORS_LIMIT, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        )
    except (BlockingIOError, ConnectionResetError):
        # The peer's end with packets of ours unread is told once as a reset, *before* the packets that it had sent.
        return None, []
    except OSError:
        return b"", []
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close(descriptors)
        return b"", []
    return packet, descriptors


def close(descriptors: list[int]) -> None:
    """Close all that nobody took out of the list."""
    while descriptors:
        os.close(descriptors.pop())


def peer(connection: socket.socket) -> int:
    """The pid of who connected, as the kernel says, in this process's numbering."""
    pid, _, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(pid)


def send_signal(pidfd: int, number: signal.Signals) -> None:
    """Signal a process that may be gone; nothing for -1."""
    if pidfd >= 0:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(pidfd, number)


def reap(pidfd: int) -> None:
    """Reap a dead process, if it is, or has become, a child of ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def pid_of(pidfd: int) -> int | None:
    """The process behind a pidfd, in this process's numbering; -1 if it is gone; None if this is no pidfd (proc(5))."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("Pid:")), None)
    return None


def parent_of(pid: int) -> int | None:
    """A process's parent; None if the process is gone."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
    return None


def children() -> list[int]:
    """The pids of this process's children, of any of its threads; none on a kernel that does not list them."""
    pids: list[int] = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children") as file:
            pids += map(int, file.read().split())
    return pids


def set_subreaper(on: bool) -> bool:
    """Whether orphans below this process become its children; returns what was so before (prctl(2))."""
    prctl = ctypes.CDLL(None).prctl
    before = ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0)
    return bool(before.value)
