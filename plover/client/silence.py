"""Why a daemon does not answer, as far as this machine can tell, and what to do about it.

Guarantees: it looks at once and waits for nothing. Assumes: Linux's /proc for whether a process is stopped; elsewhere, and
of a daemon on another host, it only says that nothing came.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from plover import addresses

__all__ = ["explain", "is_stopped"]


def explain(address: str, waited_s: float) -> str:
    """A text for a `DaemonUnreachable`."""
    nothing = f"no daemon answered at {address} within {waited_s:g} s"
    if not address.startswith("ipc://"):
        return f"{nothing}: see whether one runs there with `plover status`, and start it with `plover start`"
    pid = addresses.listener(addresses.socket_path(address))
    if pid is None:
        return f"{nothing}: nobody listens there now. Start one with `plover start --bind {address}`"
    if not pid:
        return f"{nothing}: somebody listens there and takes nobody in. See what that is with `ss -xlp`, and end it"
    who = f"{nothing}. Process {pid}, {_command(pid)}, listens there"
    if is_stopped(pid):
        return (
            f"{who} and is stopped (SIGSTOP, Ctrl-Z or a debugger): `kill -CONT {pid}` lets it go on, `kill -9 {pid}` "
            "ends it"
        )
    return (
        f"{who} and does nothing: it hangs, or its machine is overloaded. If it goes on so, end it with `kill {pid}` "
        f"(`kill -9 {pid}` if it stays), and start a daemon with `plover start`"
    )


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        text = b" ".join(words).decode(errors="replace").strip()
        if text:
            return repr(text if len(text) <= 80 else text[:79] + "…")
    return "of which nothing can be seen from here"


def is_stopped(pid: int) -> bool:
    """Whether a process of this machine does nothing until it is told to go on."""
    with contextlib.suppress(OSError, IndexError):
        # The name in parentheses may itself have spaces and parentheses (proc_pid_stat(5)).
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in ("T", "t")
    return False
