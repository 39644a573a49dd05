"""``plover``: the commands of operators and users.

Guarantees: an error is one readable line and exit status 1, never a stack trace; a wrong use is exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any

from plover.cli import daemon, doctor, keys, whereabouts
from plover.errors import PloverError
from plover.versions import PLOVER

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """A parser whose commands' parsers are of its kind, too."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A command that does not exist gets one line, and no list with what is run by programs only."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            listed = [str(each.dest) for each in action._choices_actions]  # those that have a help
            close = difflib.get_close_matches(str(value), listed, 1)
            hint = f"did you mean `{self.prog} {close[0]}`?" if close else f"there are {', '.join(listed)}."
            self.exit(
                2, f"{self.prog}: there is no command {value!r}: {hint} `{self.prog} --help` says what each does\n"
            )
        super()._check_value(action, value)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command; returns the exit status."""
    parser = _Parser(prog="plover", description="GPU functions that run somewhere else.")
    parser.add_argument("--version", action="version", version=f"plover-gpu {PLOVER}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    daemon.add_commands(commands)
    doctor.add_command(commands)
    keys.add_commands(commands)
    whereabouts.add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()  # here, where whoever does not read on (`plover status | head -1`) is no error
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter flushes at its end
        return 1
    except (PloverError, ValueError, OSError) as error:
        print(f"plover: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
