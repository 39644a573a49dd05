"""Calls that are made when their daemon has ended, or cannot be reached any more."""

from __future__ import annotations

from pathlib import Path

import pytest

import plover
from plover import gpu_function
from plover.client import conversation
from plover.client.connection import Connection
from tests.support.blocking import blocker
from tests.support.daemons import PATIENCE_S, Daemon, Fifo, daemon
from tests.support.daemons import plover as command
from tests.support.fake_daemon import wait_until
from tests.support.remote import User, configuration, host, proxy


@gpu_function
def seven() -> int:
    return 7


wait = blocker()


def _wait_until_noticed(connection: Connection) -> None:
    wait_until(lambda: not connection.in_order, "the connection's break")


def test_calls_after_an_orderly_end_are_unreachable_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "RECONNECT_S", 3600.0)  # whatever waits for the daemon's return, hangs here
    first = Daemon()
    with plover.connect(first.address) as session:
        assert seven() == 7
        connection = session.connection()
        assert command("stop", "--address", first.address)[0] == 0
        first.wait()
        _wait_until_noticed(connection)
        for _ in range(2):
            with pytest.raises(plover.DaemonUnreachable, match=f"no daemon runs at {first.address}: start one with"):
                seven()
        assert connection.usable  # it still waits
        with daemon(mark=first.mark) as second:
            wait_until(lambda: connection.ended, "the end of the first daemon's connection")
            assert seven() == 7
            assert second.status()["scheduler"]["ended"]["succeeded"] == 1
        connection.close()


def test_what_was_not_sent_is_not_lost(tmp_path: Path, fifos: list[Fifo], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "RECONNECT_S", 1.0)
    with host() as far, proxy(far.port) as network, configuration(tmp_path):
        User(tmp_path).enrol(far, "alice", address=network.address)
        with plover.connect("gpu1") as session:
            begun, gate, _ = fifos
            sent = wait.submit(begun.path, gate.path)
            begun.wait()
            network.close_the_line()
            _wait_until_noticed(session.connection())
            unsent = seven.submit()
            with pytest.raises(plover.DaemonLost, match=f"the daemon at {network.address} went away; whether"):
                sent.result(PATIENCE_S)
            with pytest.raises(plover.DaemonUnreachable) as caught:
                unsent.result(PATIENCE_S)
            assert caught.value.call_id == unsent.call_id
            assert str(caught.value) == (
                f"seven ({unsent.call_id}) was not sent, as the daemon at {network.address} had gone away: see whether one "
                "runs there with `plover status`, and make the call again"
            )
            gate.say()
