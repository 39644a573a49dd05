"""The way to a daemon, as the commands need it, and `plover doctor --address`: how far it is and what may be used there.

Guarantees: what cannot be reached is said with the reason, as one error. Nothing here needs Linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from plover import addresses, keys, profiles
from plover.errors import AccessDenied, DaemonUnreachable, PloverError
from plover.profiles import Target
from plover.versions import PLOVER, PYTHON
from plover.wire import messages as m

if TYPE_CHECKING:
    from plover.client.connection import Connection
    from plover.ways import Look

__all__ = ["ask_status", "connected", "examine", "find_target", "round_trip"]

_TRIPS = 10


def find_target(address: str | None, *, of_this_machine: bool = False) -> Target:
    """Which daemon a command is about.

    Args:
        address: as it was given: an address, a profile's name, or None.
        of_this_machine: a default profile does not count, and a daemon of this user's and machine goes by its socket.
    """
    from plover.cli import here

    skip_profiles = of_this_machine and not os.environ.get("PLOVER_ADDRESS")
    target = profiles.find(address) if address else None if skip_profiles else profiles.configured()
    if target is not None:
        return (of_this_machine and here.socket_of(target)) or target
    default = f"ipc://{addresses.default_directory() / addresses.SOCKET_NAME}"
    others = here.others_than(default)
    if others and not addresses.is_alive(addresses.socket_path(default)):
        raise DaemonUnreachable(
            f"no daemon runs at {default}, but at {', '.join(others)}: name it with --address", address=default
        )
    return Target(default)


@contextlib.contextmanager
def connected(target: Target) -> Iterator[tuple[Connection, Look | None]]:
    """A connection to a daemon, for as long as it is needed; raises as `ways.open_way` does."""
    from plover.ways import open_way

    if target.address.startswith("tcp://") and not keys.has_client_key():  # a look must not leave a key behind
        raise AccessDenied(
            f"you have no key yet, and {target.address} lets only known keys in: `plover keys show` makes one, and says what "
            "to give to the daemon's operator"
        )
    way = open_way(target)
    try:
        connection = way.connect(target.address)
        try:
            yield connection, way.look
        finally:
            connection.close()
    finally:
        way.close()


def ask_status(connection: Connection) -> m.Status:
    """The daemon's status."""
    status: m.Status = connection.ask(m.AskStatus())
    return status


def round_trip(connection: Connection) -> tuple[dict[str, Any], float]:
    """The status, and how long a question and its answer take, in seconds: the median of some."""
    took = []
    for _ in range(_TRIPS):
        began = time.monotonic()
        status = ask_status(connection)
        took.append(time.monotonic() - began)
    return json.loads(status.document), statistics.median(took)


def examine(address: str) -> tuple[list[str], bool]:
    """What `plover doctor --address` says, and whether all is well."""
    lines = [f"plover-gpu {PLOVER}, Python {PYTHON}"]
    try:
        target = profiles.find(address)
        lines += ["", "where", f"  {target.address}" + (f" ({target.source})" if target.source else "")]
        if target.address.startswith("tcp://") and keys.has_client_key():
            lines.append(f"  this user's key: {keys.client_key().public}")
        with connected(target) as (connection, look):
            document, took_s = round_trip(connection)
            lines += _reached(connection.welcome, look, took_s, document)
    except (PloverError, ValueError, OSError) as error:
        return [*lines, "", f"not to be used: {error}"], False
    return lines, True


def _reached(welcome: m.Welcome, look: Look | None, took_s: float, document: dict[str, Any]) -> list[str]:
    lines = ["", "how far"]
    if look is not None:
        lines.append(
            f"  {look.endpoint}: connected in {look.connect_s * 1e3:.1f} ms, "
            f"both keys proved in {look.prove_s * 1e3:.1f} ms"
        )
    scheduler = document["scheduler"]
    return [
        *lines,
        f"  a question and its answer take {took_s * 1e3:.2f} ms",
        "",
        "who",
        f"  a daemon of plover-gpu {welcome.versions.plover}, which knows you as tenant {welcome.tenant}",
        "",
        "what may be used",
        *_devices(scheduler["devices"]),
        f"  environment default: Python {welcome.versions.python}"
        + _different(welcome.versions.python)
        + "".join(f", {name} {version}" for name, version in sorted(welcome.versions.packages.items())),
        f"  your calls waiting: {scheduler['queued'].get(welcome.tenant, 0)}",
        "",
        "limits",
        *(f"  {name} = {value}" for name, value in document["limits"].items()),
    ]


def _devices(devices: list[dict[str, Any]]) -> list[str]:
    return [
        f"  {device['id']}  {device['model']}  {device['memory_bytes'] / 2**30:.1f} GiB  {device['state']}"
        for device in devices
    ]


def _different(python: str) -> str:
    return "" if python == PYTHON else f" (here: {PYTHON}; functions that go by value need the same)"
