"""``plover``: the commands of operators and users.

Guarantees: an error is one readable line and exit status 1, never a stack trace; a wrong use is exit status 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from plover.cli import daemon, doctor, keys, whereabouts
from plover.errors import PloverError
from plover.versions import PLOVER

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="plover", description="GPU functions that run somewhere else.")
    parser.add_argument("--version", action="version", version=f"plover-gpu {PLOVER}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    daemon.add_commands(commands)
    doctor.add_command(commands)
    keys.add_commands(commands)
    whereabouts.add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (PloverError, ValueError, OSError) as error:
        print(f"plover: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
