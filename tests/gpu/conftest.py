"""Tests for a real GPU. Where there is none they are taken out of the run, and the summary says so in one line.

They are not skipped: a run without a GPU has not tested them, and asking for nothing else is an error (exit status 5).
A GPU that is there but cannot be used does not count as none: then they run, and fail with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import plover
from plover.daemon.devices import survey
from tests.support.daemons import Daemon

_HERE = Path(__file__).parent
_left_out = pytest.StashKey[str]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mine = [item for item in items if _HERE in item.path.parents]
    assert all(item.get_closest_marker("gpu") for item in mine), "every test in tests/gpu is marked gpu"
    found = survey()
    if mine and not found.gpus and found.problem is None:
        config.hook.pytest_deselected(items=mine)
        items[:] = [item for item in items if item not in mine]
        config.stash[_left_out] = f"{len(mine)} tests of tests/gpu were left out: no GPU here ({found.absence})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reason = config.stash.get(_left_out, None)
    if reason is not None:
        terminalreporter.write_line(reason, yellow=True)


@pytest.fixture(scope="module")
def gpu() -> Iterator[plover.Session]:
    """A daemon on the host's first GPU, to which this process's calls go."""
    running = Daemon("0")
    with plover.connect(running.address) as session:
        yield session
    running.close()
