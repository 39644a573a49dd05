"""The keeper: the root of a nest's process tree, and the process tools that it shares with the zygote.

::

    daemon ─ keeper ─ zygote ─┬ worker ─ what user code started …
                              └ worker

Keeper, zygote and worker are subreapers, so whatever user code starts stays below them, however often it forks, calls
`setsid` or clears its environment. From that follows an exact rule, with no guessing: every child of the zygote that is
not a live worker, and every child of the keeper that is not the zygote, is an orphan, and is killed. It also ends: each
round kills all children there are, each death brings a SIGCHLD, and the children of the dead have become ours by then.

Guarantees: when the keeper has exited, its nest has no process left. It ends with its zygote, with the daemon (by a
pidfd), and on SIGTERM; so it holds as PID 1 of a container too. It imports only a little of the standard library, so it
costs a small process.

Assumes: one thread. Nothing of another user runs below it: such a process could not be killed, and would be waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


def become_subreaper() -> None:
    """From now on this process is the parent of its descendants whose own parent has died."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int, parent: int) -> None:
    """Get signal `number` when the thread that forked this process ends; end here if `parent` has ended already.

    The signal follows the parent's *thread* (prctl(2)), which is right here: keeper and zygote have only one.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def children() -> list[int]:
    """The pids of this process's children, zombies too.

    The kernel's list may skip one while another dies (proc(5)); that death is a SIGCHLD, and callers look again.
    """
    found: list[int] = []
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == os.getpid()]
    return found


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def kill(pids: Iterable[int]) -> None:
    """SIGKILL processes that are unreaped children of ours, so that no pid can mean another by now."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


class Death:
    """How a child ended: with an exit code, or by a signal."""

    __slots__ = ("exit_code", "pid", "signal")

    def __init__(self, pid: int, exit_code: int | None, signal: int | None) -> None:
        self.pid, self.exit_code, self.signal = pid, exit_code, signal


def reap() -> tuple[list[Death], bool]:
    """Reap all children that have died; also says whether any child is left."""
    deaths: list[Death] = []
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return deaths, False
        if info is None:
            return deaths, True
        if info.si_code == os.CLD_EXITED:
            deaths.append(Death(info.si_pid, info.si_status, None))
        else:
            deaths.append(Death(info.si_pid, None, info.si_status))


class Wakeups:
    """Turns SIGCHLD and SIGTERM into a readable descriptor; while it stands, SIGINT and SIGHUP are ignored.

    Invariant: a signal that came after `clear` makes `fd` readable.
    """

    def __init__(self) -> None:
        self.terminated = False
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _terminate(self, *_: object) -> None:
        self.terminated = True

    def clear(self) -> None:
        """Forget the signals so far; call it before looking at what they may mean."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass

    def restore(self) -> None:
        """In a forked child: Python's usual handlers again, and no descriptor."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self.fd)
        os.close(self._write_fd)


def end_all(wakeups: Wakeups, within_s: float | None = None) -> list[Death]:
    """Kill all children, and theirs, until none is left or the time is over; returns the deaths."""
    deadline = None if within_s is None else time.monotonic() + within_s
    deaths: list[Death] = []
    poll = select.poll()
    poll.register(wakeups.fd, select.POLLIN)
    while True:
        wakeups.clear()
        kill(children())
        died, left = reap()
        deaths += died
        if not left:
            return deaths
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            return deaths
        if not died:
            poll.poll(remaining if remaining is None else remaining * 1000)


def fork_under_keeper(daemon: int) -> None:
    """Fork: the child returns and becomes the zygote, this process stays behind as its keeper and never returns.

    Args:
        daemon: the pid of the daemon that started this process, 0 where it cannot be seen from here (a container).
    """
    daemon_fd = os.pidfd_open(daemon) if daemon else -1
    if daemon and os.getppid() != daemon:
        os._exit(1)  # it died before it could be watched; the pidfd may be another process's
    become_subreaper()
    keeper = os.getpid()
    wakeups = Wakeups()
    zygote = os.fork()
    if zygote == 0:
        wakeups.restore()
        if daemon_fd >= 0:
            os.close(daemon_fd)
        # Without its keeper the zygote ends in an orderly way, and sweeps itself: SIGTERM, not SIGKILL.
        die_with_parent(signal.SIGTERM, keeper)
        return
    _keep(zygote, daemon_fd, wakeups)


def _keep(zygote: int, daemon_fd: int, wakeups: Wakeups) -> NoReturn:
    poll = select.poll()
    poll.register(wakeups.fd, select.POLLIN)
    if daemon_fd >= 0:
        poll.register(daemon_fd, select.POLLIN)
    death: Death | None = None
    while death is None and not wakeups.terminated:
        if any(fd == daemon_fd for fd, _ in poll.poll()):
            break
        wakeups.clear()
        death = next((death for death in reap()[0] if death.pid == zygote), None)
    # Nothing to be nice about: workers lose nothing by a SIGKILL that they would not lose by any other end.
    end_all(wakeups)
    if death is None:
        os._exit(0)
    if death.signal is not None:
        with contextlib.suppress(OSError):
            print(f"plover: the zygote was killed by {signal_name(death.signal)}", file=sys.stderr, flush=True)
        os._exit(128 + death.signal)
    os._exit(death.exit_code or 0)


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
