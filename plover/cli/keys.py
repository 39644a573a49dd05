"""``plover keys new | show | trust | list | revoke``: who may connect from other machines, and to whom this one does.

The user runs ``plover keys show`` and gives the line that it prints to the operator, who runs ``plover keys trust`` with it
on the daemon's host and gives the line back that this prints; the user runs ``plover keys trust`` with that.

Guarantees: what is to be handed on is alone on stdout, all else is on stderr. No command shows a secret.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import sys
from typing import Any

from plover import addresses, keys, profiles, trusted
from plover.cli import here
from plover.errors import PloverError
from plover.keys import ClientLine, DaemonLine

__all__ = ["add_commands"]

_PORT = 7707


def add_commands(commands: Any) -> None:
    """Add this group's commands to the parser."""
    group = commands.add_parser("keys", help="who may connect over tcp, and to whom")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    new = actions.add_parser("new", help="make a key; `show` makes the first one by itself")
    new.add_argument("--daemon", action="store_true", help="the key of this machine's daemon, not the user's")
    new.add_argument(
        "--replace", action="store_true", help="an earlier one is lost, and whoever trusts it must be told"
    )
    new.set_defaults(run=_new)

    show = actions.add_parser("show", help="print the line that says who you are, for a daemon's operator")
    show.add_argument("--daemon", action="store_true", help="the line of this machine's daemon, for its users")
    show.add_argument("--address", metavar="ADDRESS", help="with --daemon: where users reach it, tcp://host:port")
    show.set_defaults(run=_show)

    trust = actions.add_parser(
        "trust", help="trust a line: a user's, on the daemon's host, or a daemon's, on the user's"
    )
    trust.add_argument("line", metavar="LINE", help="between quotes")
    trust.add_argument(
        "--tenant", metavar="NAME", help="of a user: whose workers and data it shares; default: a new one's"
    )
    trust.add_argument("--address", metavar="ADDRESS", help="where users reach this host's daemon, or how you reach it")
    trust.add_argument("--name", metavar="NAME", help="of the daemon's profile; default: its host's name")
    trust.add_argument("--replace", action="store_true", help="a profile of this name may be lost")
    trust.set_defaults(run=_trust)

    actions.add_parser("list", help="whom this machine trusts, and who it is").set_defaults(run=_list)

    revoke = actions.add_parser("revoke", help="trust a user or a daemon no more")
    revoke.add_argument("which", metavar="WHICH", help="a tenant, a name, a key or its beginning; or a profile's name")
    revoke.set_defaults(run=_revoke)


def _say(text: str) -> None:
    print(f"plover: {text}", file=sys.stderr)


def _new(arguments: argparse.Namespace) -> int:
    pair = keys.make_key(of_daemon=arguments.daemon, replace=arguments.replace)
    if arguments.daemon:
        _say(
            f"this machine's daemon has the key {pair.public} from its next start on; give its line to all users again"
        )
        return 0
    _say("you have a new key; give this line to the operator of each daemon that you use")
    print(keys.client_line(pair))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    if arguments.daemon:
        own, note = _own_daemon(arguments.address)
        _say_note(note)
        print(own)
        return 0
    if arguments.address:
        raise ValueError("--address goes with --daemon: a user's line has no address")
    line = keys.client_line(keys.client_key())
    _say("give this line to the daemon's operator, who runs `plover keys trust` with it and gives a line back")
    print(line)
    return 0


# -- trust -------------------------------------------------------------------------------------------------------------


def _trust(arguments: argparse.Namespace) -> int:
    line = keys.parse_line(arguments.line)
    if isinstance(line, ClientLine):
        if arguments.name or arguments.replace:
            raise ValueError("--name and --replace go with a daemon's line, and this is a user's")
        return _trust_client(line, arguments)
    if arguments.tenant:
        raise ValueError("--tenant goes with a user's line, and this is a daemon's")
    profile = profiles.add(line, name=arguments.name, address=arguments.address, replace=arguments.replace)
    _say(
        f"{profile.address} is profile {profile.name!r} in {profiles.path()}: plover.connect({profile.name!r}), or "
        f"`plover doctor --address {profile.name}` to see whether it lets you in"
    )
    return 0


def _trust_client(line: ClientLine, arguments: argparse.Namespace) -> int:
    own, note = _own_daemon(arguments.address)
    entry = trusted.trust(trusted.path(), line, arguments.tenant)
    _say(
        f"{entry.name} is trusted as tenant {entry.tenant}, and may run code as {_user()} on this machine. "
        "Give this line back, for `plover keys trust`"
    )
    _say_note(note)
    print(own)
    return 0


def _say_note(note: str) -> None:
    if note:
        _say(note)


def _user() -> str:
    with contextlib.suppress(OSError, KeyError):
        return getpass.getuser()
    return "this user"


def _own_daemon(address: str | None) -> tuple[DaemonLine, str]:
    """This machine's daemon as its users know it, and what is to be said about that."""
    public = keys.daemon_key().public
    if address:
        if not isinstance(addresses.parse(address), addresses.Tcp):
            raise ValueError(f"{address!r}: users reach a daemon by its key over tcp: --address tcp://host:{_PORT}")
        return DaemonLine(keys.host_name(), address, public), ""
    host, port, note = keys.host_name(), _PORT, ""
    served = here.served_tcp()
    if not served:
        note = (
            f"no daemon serves tcp here yet: `plover start --bind tcp://*:{port}`. The line says tcp://{host}:{port}; if "
            "users reach it elsewhere, say so by --address"
        )
    else:
        bound = next((each for each in served if not _is_loopback(each.host)), served[0])
        host, port = (host if bound.host in here.EVERYWHERE else bound.host), bound.port
        if _is_loopback(bound.host):
            note = (
                f"the daemon listens at {bound.host} alone, where nobody on another machine reaches it: for them "
                f"`plover start --bind tcp://*:{port}`; if a tunnel leads to it, say by --address where it begins"
            )
    address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    return DaemonLine(keys.host_name(), address, public), note


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


# -- list and revoke -----------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    print(
        f"you are {keys.client_key().public}"
        if keys.has_client_key()
        else "you have no key yet: `plover keys show` makes it"
    )
    content = trusted.read(trusted.path())
    print(f"users who may connect to this machine's daemon ({trusted.path()}):")
    for entry in content.by_key.values():
        print(f"  {entry.key}  tenant {entry.tenant}  {entry.name}")
    for problem in content.problems:
        print(f"  problem: {problem}")
    config = profiles.load()
    print(f"daemons that you know ({config.file}):")
    for profile in config.profiles.values():
        mark = "  (default)" if config.default == profile.name else ""
        print(f"  {profile.server_key or 'no key':52}  {profile.name}  {profile.address}{mark}")
    return 1 if content.problems else 0


def _revoke(arguments: argparse.Namespace) -> int:
    entry = trusted.revoke(trusted.path(), arguments.which)
    if entry is not None:
        _say(f"{entry.name} (tenant {entry.tenant}) is not trusted any more; a running daemon forgets them at once")
        return 0
    if profiles.remove(arguments.which):
        _say(f"profile {arguments.which!r} is gone from {profiles.path()}")
        return 0
    raise PloverError(
        f"{arguments.which!r} is no tenant, name or key that is trusted here, and no profile: see `plover keys list`"
    )
