"""What several files of tests need: a host elsewhere, and users of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plover import keys
from tests.support.remote import Host, User


@pytest.fixture(scope="module")
def gpu1() -> Iterator[Host]:
    """A host, shared by the module's tests."""
    running = Host()
    yield running
    running.close()


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    """The user that this process is, with keys that nobody knows yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "me"))
    return User(tmp_path / "me")


@pytest.fixture
def alice(me: User, gpu1: Host) -> Iterator[User]:
    """The user that this process is, enrolled at the host as tenant alice."""
    me.enrol(gpu1, "alice")
    yield me
    gpu1.revoke(keys.client_key().public)
