"""What looking at the package shows: its public names, and none of its files."""

from __future__ import annotations

import rlcompleter
import types
from typing import Any

import plover


def test_looking_shows_what_is_public_and_what_python_needs() -> None:
    shown = dir(plover)
    assert [name for name in shown if not name.startswith("__")] == sorted(
        name for name in plover.__all__ if not name.startswith("__")
    )
    assert {"__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"} <= set(shown)


def test_completion_offers_no_submodules() -> None:
    completer, offered = rlcompleter.Completer({"plover": plover}), []
    while (name := completer.complete("plover.", len(offered))) is not None:
        offered.append(name.partition(".")[2].rstrip("()"))
    assert set(offered) == {name for name in plover.__all__ if not name.startswith("__")}


def test_everything_public_can_be_imported_at_once() -> None:
    names: dict[str, Any] = {}
    exec("from plover import *", names)
    assert set(plover.__all__) <= set(names)
    assert not any(isinstance(value, types.ModuleType) for name, value in names.items() if name != "__builtins__")


def test_submodules_are_there_all_the_same() -> None:
    import plover.session

    assert plover.session.connect is plover.connect
