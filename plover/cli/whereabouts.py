"""``plover whereabouts``: what a tunnel's far side says; run by `plover.tunnel` through ssh, and by nobody else.

Guarantees: one line for a program, whatever else the login's scripts print. With --hold it stays until its input ends, so
that the ssh session lives as long as its tunnel. Whoever may run it may read the socket's secret anyway.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from plover import addresses
from plover.errors import PloverError
from plover.tunnel import ANSWER, Answer

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser; without help, it is not listed."""
    command = commands.add_parser("whereabouts")
    command.add_argument("--address")
    command.add_argument("--hold", action="store_true")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        path = _find(arguments.address)
        answer = Answer(socket=str(path), secret=addresses.read_secret(path))
    except (PloverError, ValueError) as error:
        answer = Answer(error=str(error))
    sys.stdout.buffer.write(ANSWER + msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
    if arguments.hold and not answer.error:
        sys.stdin.buffer.read()
    return 0


def _find(address: str | None) -> Path:
    """The daemon's socket. A login by ssh often has no $XDG_RUNTIME_DIR, though the daemon was started in one that has."""
    if address:
        candidates = [addresses.socket_path(address)]
    else:
        directories = [addresses.default_directory(), Path(f"/run/user/{os.getuid()}/plover")]
        directories.append(Path(tempfile.gettempdir()) / f"plover-{os.getuid()}")
        candidates = [directory / addresses.SOCKET_NAME for directory in directories]
    for path in candidates:
        if path.exists() and addresses.is_alive(path):
            return path
    raise PloverError(
        f"no daemon runs there at {candidates[0]}: log in and start one with `plover start --detach`, or name its socket, "
        "as in ssh://user@host/path/of/a/socket"
    )
