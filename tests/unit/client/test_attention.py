"""How long a daemon may say nothing: the clock is an argument, the probe a real one, at a socket of somebody or of nobody."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plover.client import attention
from plover.client.attention import PROBE_S, SILENCE_S, Attention
from plover.wire import messages as m
from tests.support.fake_daemon import FakeDaemon, wait_until

HELLO = m.Hello(b"c" * 16, b"secret", m.Versions("0.1", "3.11"))
TEN_S = 10.0


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plv-", dir="/tmp") as directory:
        yield Path(directory)


def _ask(watched: Attention, until: float, since: float = TEN_S) -> float:
    """Pings as a conversation sends them; returns the time of the last."""
    now = since
    while now <= until:
        watched.asked(now, late=False)
        assert not watched.is_lost(now)
        now += TEN_S
    return now - TEN_S


def test_a_daemon_that_answers_is_never_asked_elsewhere() -> None:
    watched = Attention("ipc:///nowhere", HELLO)
    for number in range(1, 100):
        watched.asked(number * TEN_S, late=False)
        watched.heard()
        assert (watched.due(), watched.is_lost(number * TEN_S + 1)) == (None, False)


def test_who_says_nothing_here_and_there_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PROBE_S", 0.05)
    watched = Attention(f"ipc://{path}/d.sock", HELLO)
    asked = _ask(watched, TEN_S + SILENCE_S)
    due = watched.due()
    assert due is not None
    assert asked < due < asked + PROBE_S
    assert not watched.is_lost(asked)
    probe = watched._probe
    assert probe is not None
    wait_until(lambda: probe.answered is not None, "the probe's end")
    assert watched.is_lost(due)
    assert watched.due() is None


def test_who_answers_elsewhere_is_busy_and_asked_again_later(path: Path) -> None:
    fake = FakeDaemon(path)
    try:
        watched = Attention(fake.address, HELLO)
        asked = _ask(watched, TEN_S + SILENCE_S)
        probe = watched._probe
        assert probe is not None
        wait_until(lambda: probe.answered, "the probe's answer")
        fake.wait_for(m.Goodbye)
        assert not watched.is_lost(asked + PROBE_S + 1)
        _ask(watched, asked + SILENCE_S, since=asked + TEN_S)
        assert watched.due() is None
    finally:
        fake.close()


def test_who_is_heard_meanwhile_is_not_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PROBE_S", 0.05)
    watched = Attention(f"ipc://{path}/d.sock", HELLO)
    _ask(watched, TEN_S + SILENCE_S)
    watched.heard()
    probe, due = watched._probe, watched.due()
    assert probe is not None
    assert due is not None
    wait_until(lambda: probe.answered is not None, "the probe's end")
    assert not watched.is_lost(due)


def test_a_probe_that_was_stopped_is_waited_for(path: Path) -> None:
    fake = FakeDaemon(path)
    fake.silent = True
    try:
        watched = Attention(fake.address, HELLO)
        _ask(watched, TEN_S + SILENCE_S)
        due = watched.due()
        assert due is not None
        assert not watched.is_lost(due)  # it has not told yet
        later = watched.due()
        assert later is not None
        assert later > due
    finally:
        fake.close()


def test_time_in_which_this_process_did_not_run_does_not_count() -> None:
    watched = Attention("ipc:///nowhere", HELLO)
    asked = _ask(watched, SILENCE_S)
    watched.asked(asked + 3600, late=True)
    _ask(watched, asked + 3600 + SILENCE_S - TEN_S, since=asked + 3600 + TEN_S)
    assert watched.due() is None
