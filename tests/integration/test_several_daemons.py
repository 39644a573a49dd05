"""One session with several daemons: who gets a call, and what happens where one is away, dies, or has not what is asked."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import plover
from plover import gpu_function, several
from plover.errors import DaemonLost, DaemonUnreachable, NoCapacity
from tests.support.daemons import PATIENCE_S, Daemon, Fifo
from tests.support.fake_daemon import wait_until

# Functions of this file travel by value, since the workers have no such module.


def where_function() -> Any:
    @gpu_function
    def where() -> str:
        import os

        return os.environ["PLOVER_TEST_MARK"]

    return where


def blocker() -> Any:
    @gpu_function
    def block(begun: str, gate: str) -> str:
        import os

        with open(begun, "w") as fifo:
            fifo.write("begun\n")
        with open(gate) as fifo:
            fifo.readline()
        return os.environ["PLOVER_TEST_MARK"]

    return block


@pytest.fixture
def pair() -> Iterator[tuple[Daemon, Daemon]]:
    one, two = Daemon(), Daemon()
    try:
        yield one, two
    finally:
        one.close()
        two.close()


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[list[Fifo]]:
    made = [Fifo(tmp_path / name) for name in ("begun", "gate")]
    yield made
    for fifo in made:
        fifo.close()


def test_calls_go_to_all_of_them(pair: tuple[Daemon, Daemon]) -> None:
    where = where_function()
    with plover.connect([daemon.address for daemon in pair]) as session:
        marks: collections.Counter[str] = collections.Counter()
        for future in [session.submit(where) for _ in range(20)]:
            marks[future.result(PATIENCE_S)] += 1
        assert marks.keys() == {daemon.mark.word for daemon in pair}
        assert min(marks.values()) >= 8
        assert repr(session) == (
            f"<session with 2 daemons: {pair[0].address} (0 pending), {pair[1].address} (0 pending)>"
        )
        assert "session with 2 daemons" in session._repr_html_()


def test_a_call_goes_where_less_is_to_be_done(pair: tuple[Daemon, Daemon], fifos: list[Fifo]) -> None:
    begun, gate = fifos
    where = where_function()
    with plover.connect([daemon.address for daemon in pair]) as session:
        busy = session.submit(blocker(), begun.path, gate.path)
        begun.wait()
        free = {session.submit(where).result(PATIENCE_S) for _ in range(5)}
        gate.say()
        assert free == {daemon.mark.word for daemon in pair} - {busy.result(PATIENCE_S)}


def test_the_decorator_uses_it_while_it_is_open(pair: tuple[Daemon, Daemon]) -> None:
    where = where_function()
    with plover.connect([daemon.address for daemon in pair]):
        assert where() in {daemon.mark.word for daemon in pair}


def test_one_that_is_away_is_said_once_and_used_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = where_function()
    first, second = Daemon(), Daemon()
    second.close()
    monkeypatch.setattr(several, "LOOK_AGAIN_S", 0.0)
    try:
        with pytest.warns(RuntimeWarning, match="cannot be reached now, and calls go to the others"):
            session = plover.connect([first.address, second.address])
        with session:
            assert "(away)" in repr(session)
            assert {where() for _ in range(4)} == {first.mark.word}
            second.mark.directory.mkdir()
            second.mark.temporary.mkdir()
            again = Daemon(mark=second.mark)
            try:
                found, give_up = set(), threading.Event()
                timer = threading.Timer(PATIENCE_S, give_up.set)
                timer.start()
                while again.mark.word not in found and not give_up.is_set():
                    found |= {future.result() for future in [where.submit() for _ in range(3)]}
                timer.cancel()
                assert again.mark.word in found
            finally:
                session.close()
                again.close()
    finally:
        first.close()


def test_a_daemon_that_dies_loses_its_calls_and_no_others(pair: tuple[Daemon, Daemon], fifos: list[Fifo]) -> None:
    begun, gate = fifos
    where = where_function()
    with plover.connect([daemon.address for daemon in pair]) as session:
        lost = session.submit(blocker(), begun.path, gate.path)
        begun.wait()
        (alive,) = {session.submit(where).result(PATIENCE_S) for _ in range(3)}
        victim = pair[0] if pair[1].mark.word == alive else pair[1]
        victim.kill()
        assert {session.submit(where).result(PATIENCE_S) for _ in range(5)} == {alive}
        with pytest.raises(
            DaemonLost, match=rf"block \({lost.call_id}\) has no outcome: the daemon at {victim.address}"
        ):
            lost.result(PATIENCE_S)
        assert session.submit(where).result(PATIENCE_S) == alive


def test_one_that_died_is_not_shown_as_well_though_no_call_goes_there(pair: tuple[Daemon, Daemon]) -> None:
    with plover.connect([daemon.address for daemon in pair]) as session:
        pair[1].kill()
        well = f"{pair[0].address} (0 pending), {pair[1].address}"
        wait_until(lambda: repr(session) == f"<session with 2 daemons: {well} (no answer)>", "it does not answer")
        wait_until(lambda: repr(session) == f"<session with 2 daemons: {well} (lost (DaemonLost))>", "it is lost")
        assert "lost (DaemonLost); the next call connects again" in session._repr_html_()


def test_what_none_of_them_has_is_refused_with_what_they_have(pair: tuple[Daemon, Daemon]) -> None:
    with plover.connect([daemon.address for daemon in pair]) as session:
        with pytest.raises(NoCapacity, match=r"asks for 2 x H100, and none of these daemons can run that") as caught:
            session.submit(gpu_function(gpu="H100:2")(lambda: 1))
        for daemon in pair:
            assert f"{daemon.address} has 1 x Simulated GPU" in str(caught.value)
        with pytest.raises(NoCapacity, match="asks for a real GPU"):
            session.submit(gpu_function(require_gpu=True)(lambda: 1))


def test_where_all_are_away_each_is_named(tmp_path: Path) -> None:
    addresses = [f"ipc://{tmp_path}/{name}.sock" for name in ("one", "two")]
    with pytest.raises(DaemonUnreachable, match="none of the 2 daemons can be reached") as caught:
        plover.connect(addresses)
    assert all(address in str(caught.value) for address in addresses)


def test_all_may_go_away_later(pair: tuple[Daemon, Daemon]) -> None:
    where = where_function()
    with plover.connect([daemon.address for daemon in pair]) as session:
        where()
        for daemon in pair:
            daemon.kill()
        with pytest.raises((DaemonLost, DaemonUnreachable)):
            for _ in range(4):
                session.submit(where).result(PATIENCE_S)


@pytest.mark.parametrize("addresses", [[], ["ipc:///a", "ipc:///a"]])
def test_each_needs_an_address_of_its_own(addresses: list[str]) -> None:
    with pytest.raises(ValueError, match="an address each, and each its own"):
        plover.connect(addresses)
