"""Daemons that are stopped (SIGSTOP, Ctrl-Z) with calls pending, and those whose answers only take long."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import plover
from plover import gpu_function
from plover.client import attention, conversation, silence
from plover.client.connection import Connection
from tests.support.blocking import blocker
from tests.support.daemons import PATIENCE_S, Daemon, Fifo, daemon
from tests.support.daemons import plover as command
from tests.support.fake_daemon import wait_until
from tests.support.remote import User, configuration, host, proxy


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "PING_S", 0.1)
    monkeypatch.setattr(attention, "SILENCE_S", 0.5)
    monkeypatch.setattr(attention, "PROBE_S", 0.5)


@contextlib.contextmanager
def stopped(running: Daemon) -> Iterator[None]:
    """It goes on behind the test."""
    os.kill(running.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(running.pid, signal.SIGCONT)


def _wait_for_probe(connection: Connection) -> None:
    wait_until(lambda: connection._line.talk._attention.due() is not None, "a question over another connection")


wait = blocker()


def test_calls_at_a_daemon_that_is_stopped_end_with_the_reason(fifos: list[Fifo]) -> None:
    with daemon() as running, plover.connect(running.address):
        begun, gate, _ = fifos
        runs = wait.submit(begun.path, gate.path)
        begun.wait()
        with stopped(running):
            waits = wait.submit(begun.path, gate.path)
            for future in (runs, waits):
                with pytest.raises(plover.DaemonLost) as caught:
                    future.result(PATIENCE_S)
                said = str(caught.value)
                assert said.startswith(
                    f"blocker.<locals>.block ({future.call_id}) has no outcome: no daemon answered at {running.address}"
                )
                assert f"is stopped (SIGSTOP, Ctrl-Z or a debugger): `kill -CONT {running.pid}` lets it go on" in said
                assert said.endswith("Whether its pending calls ran is not known")
        gate.say()


@pytest.mark.parametrize("verb", ["stop", "drain"])
def test_one_that_is_stopped_goes_on_to_end(verb: str) -> None:
    with daemon() as running:
        os.kill(running.pid, signal.SIGSTOP)
        wait_until(lambda: silence.is_stopped(running.pid), "the daemon stops")
        code, out, errors = command(verb, "--address", running.address)
        assert (code, errors) == (0, "")
        assert out.startswith(
            f"plover: daemon {running.pid} was stopped (SIGSTOP, Ctrl-Z); it goes on, so that it can end"
        )
        assert out.endswith(f"plover: daemon {running.pid} has ended\n")
        assert running.wait() == 0


def test_a_daemon_that_goes_on_in_time_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PROBE_S", PATIENCE_S)
    with daemon() as running, plover.connect(running.address) as session:
        assert gpu_function(lambda: 1)() == 1
        with stopped(running):
            future = gpu_function(lambda: 2).submit()
            _wait_for_probe(session.connection())
        assert future.result(PATIENCE_S) == 2


def test_a_daemon_whose_answers_are_stuck_behind_others_is_not_lost(
    tmp_path: Path, fifos: list[Fifo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "PROBE_S", PATIENCE_S)
    with host() as far, proxy(far.port) as network, configuration(tmp_path):
        User(tmp_path).enrol(far, "alice", address=network.address)
        with plover.connect("gpu1") as session:
            begun, gate, _ = fifos
            future = wait.submit(begun.path, gate.path)
            begun.wait()
            flows = network.stall()
            watched = session.connection()._line.talk._attention
            for _ in range(3):
                _wait_for_probe(session.connection())
                probe = watched._probe
                wait_until(lambda probe=probe: watched._probe is not probe, "the probe's end")
            gate.say("done")
            assert not future.done()
            flows.set()
            assert future.result(PATIENCE_S) == "done\n"
