"""Fixtures of the tests of the whole system. Tests that start no daemon are not touched by any of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import plover
from tests.support.daemons import Daemon, Fifo


@pytest.fixture(scope="session", autouse=True)
def _no_daemon_of_the_users() -> Iterator[None]:
    """Tests never talk to a daemon that happens to run on this machine."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="plv-") as directory:
        for name in (
            "PLOVER_ADDRESS",
            "PLOVER_EMBEDDED_ADDRESS",
            "PLOVER_DEVICES",
            "PLOVER_REQUIRE_GPU",
            "PLOVER_SAID_SIMULATED",
        ):
            patch.delenv(name, raising=False)
        patch.setenv("XDG_RUNTIME_DIR", directory)
        patch.setenv("XDG_CONFIG_HOME", str(Path(directory) / "config"))
        yield


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon with one simulated device, shared by a module's tests; nothing of it may be left at the end."""
    running = Daemon("simulated:1")
    yield running
    running.close()


@pytest.fixture(scope="module")
def session(daemon: Daemon) -> Iterator[plover.Session]:
    """This process's calls go to the module's daemon."""
    with plover.connect(daemon.address) as session:
        yield session


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[list[Fifo]]:
    """Three named pipes for events between a test and its calls."""
    made = [Fifo(tmp_path / f"fifo{number}") for number in range(3)]
    yield made
    for fifo in made:
        fifo.close()
