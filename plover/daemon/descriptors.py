"""How many descriptors a daemon may have, what it needs them for, and from when on nobody else is let in.

A connection is a descriptor, one more for the client's process, and one for what it borrows; a segment is one. libzmq 4.3.5
aborts the process where it cannot accept a connection for want of one, and a worker that cannot be given its pipes does not
start. So the limit is raised as far as it may be, a daemon that could not hold its workers does not start, and the rest is
divided: see `Budget`.

Workers get the limit back that the daemon was started with: `select()` cannot take descriptors from 1024 on, and what user
code or the libraries below it do with many is between the author and the operator's `ulimit -n`.

Guarantees: nothing is taken, only counted. Assumes: Linux's /proc.
"""

from __future__ import annotations

import logging
import os
import resource

import msgspec

from plover.errors import PloverError

__all__ = ["ENOUGH", "OVERRUN", "Budget", "budget", "count_open", "raise_limit"]

log = logging.getLogger("plover.daemon")

#: The daemon's own: log, lock, epolls, libzmq's, signals, zygotes' and borrowers' sockets, keys. 23 were counted.
OWN = 30
#: A nest with its worker has 11.
PER_DEVICE = 11
#: While a nest or a worker takes the place of another, there are both, and copies that are on their way to the new one.
PER_DEVICE_AT_MOST = 26
#: So many connections libzmq makes at most before the loop has seen the first: its thread waits at a full pipe of 1000 + 1
#: events (`doors`), with the next one made.
OVERRUN = 1002
#: With less room for clients there is no use in a daemon.
_FEWEST = 64
#: No flood can end a daemon with so many, on any host of today.
ENOUGH = 4096
#: More segments than this are of no use to anybody.
_SEGMENTS = 1024
#: Stands for no limit.
_MANY = 1 << 20


class Budget(msgspec.Struct, frozen=True):
    """What of the limit is for whom. `base` descriptors are open where no client is; when `full` are, nobody else is let in.
    Beyond that there is room for workers that are being replaced, and for those who come in before the door is shut. At most
    `segments` are for segments.
    """

    base: int
    full: int
    segments: int = _SEGMENTS


def raise_limit() -> tuple[int, int]:
    """Have as many descriptors as this process may; returns how many it could have before, and can now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return tuple(_MANY if each == resource.RLIM_INFINITY else each for each in (soft, hard))  # type: ignore[return-value]


def budget(limit: int, devices: int, connections: int) -> Budget:
    """Divide a limit.

    Args:
        limit: how many descriptors may be open.
        devices: of this daemon, each with a worker.
        connections: how many clients are let in at most, whatever the limit.

    Raises:
        PloverError: it cannot hold that many workers, and a few clients.
    """
    at_most = PER_DEVICE_AT_MOST * devices
    spare = limit - OWN - at_most
    if spare < _FEWEST:
        each = f"{PER_DEVICE_AT_MOST} for each of {devices} devices" if devices > 1 else f"{at_most} for its device"
        raise PloverError(
            f"this daemon may open {limit} files, and needs {OWN + at_most + _FEWEST} ({OWN} for itself, {each}, "
            f"{_FEWEST} for clients): raise the hard limit (`ulimit -n {ENOUGH}` as root, LimitNOFILE={ENOUGH} in its "
            f"systemd unit, --ulimit nofile={ENOUGH} for its container)"
        )
    if spare < _FEWEST + OVERRUN:
        log.warning(
            "only %d files may be open, so a flood of connections can end this daemon: from %d on, none can",
            limit,
            OWN + at_most + _FEWEST + OVERRUN,
        )
    base = OWN + PER_DEVICE * devices
    segments = min(_SEGMENTS, spare // 8)
    full = min(limit - at_most - min(OVERRUN, spare // 2), base + segments + 3 * connections)
    return Budget(base, full, segments)


def count_open() -> int:
    """How many descriptors this process has."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # the listing's own
    except OSError:  # there was none left for it
        return _MANY
