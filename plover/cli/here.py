"""This user's daemons on this machine, for the commands that are about those: they are talked to by their sockets.

Guarantees: a daemon that does not answer is an error that says why, never one that is passed over.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plover import addresses, profiles
from plover.addresses import Tcp
from plover.cli import reach
from plover.profiles import Target

__all__ = ["EVERYWHERE", "others_than", "served_tcp", "socket_of"]

#: Hosts of a tcp address that mean all of this machine's.
EVERYWHERE = ("*", "0.0.0.0", "::")  # noqa: S104


def served_tcp() -> list[Tcp]:
    """The tcp addresses that they listen at."""
    return [tcp for _, document in _daemons() for tcp in _tcp_of(document)]


def socket_of(target: Target) -> Target | None:
    """The socket of the one that listens at a tcp address; None where none of them does."""
    tcp = addresses.parse(target.address)
    if not isinstance(tcp, Tcp) or not _ips(tcp.host):
        return None
    for path, document in _daemons():
        if any(_leads_to(tcp, bound) for bound in _tcp_of(document)):
            return Target(f"ipc://{path}", source=target.source)
    return None


def others_than(address: str) -> list[str]:
    """The addresses of those that run, but for one."""
    found = [f"ipc://{path}" for path in addresses.own_sockets()]
    return [each for each in found if each != address]


def _daemons() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each with its status: that of $PLOVER_ADDRESS, if it is of this machine, and those in the default directory."""
    paths = addresses.own_sockets()
    given = os.environ.get("PLOVER_ADDRESS")
    if given:
        parsed = addresses.parse(profiles.find(given, "$PLOVER_ADDRESS").address)
        if isinstance(parsed, addresses.Ipc) and parsed.path.exists() and addresses.is_alive(parsed.path):
            paths.insert(0, parsed.path)
    for path in dict.fromkeys(paths):
        with reach.connected(Target(f"ipc://{path}")) as (connection, _):
            yield path, json.loads(reach.ask_status(connection).document)


def _tcp_of(document: dict[str, Any]) -> list[Tcp]:
    bound = map(addresses.parse_bind, document["addresses"])
    return [each for each in bound if isinstance(each, Tcp)]


def _leads_to(tcp: Tcp, bound: Tcp) -> bool:
    if bound.port != tcp.port:
        return False
    if bound.host in EVERYWHERE:
        return any(map(_is_of_this_machine, _ips(tcp.host)))
    return bool(_ips(tcp.host) & _ips(bound.host))


def _ips(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()


def _is_of_this_machine(ip: str) -> bool:
    """The kernel lets nobody bind another machine's address."""
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True
