"""Interrupts, signal handlers and destructors at every point of a caller's and of the I/O thread's work, one after another.

Whatever is struck, and wherever: the struck thread's next call works, nobody else's result is lost or wrong, nothing runs
twice, and in the end the daemon holds nothing of this client and nobody has the turn. Nothing here waits for a tick, unless
it says so.
"""

from __future__ import annotations

import concurrent.futures
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plover.client import connection, conversation, ending, io_thread, turns
from plover.client.unbreakable import Event
from tests.support.fake_daemon import PATIENCE_S, FakeSession, fake_session, wait_until
from tests.support.interrupts import Points, interrupted, traced

#: Where it strikes: Plover's own code, and what it uses of the standard library's.
WITHIN = ("plover/client", "plover/wire", "concurrent/futures", "threading.py")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a socket's path."""
    path = Path(tempfile.mkdtemp(prefix="plv-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _times(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ticks; and what is put off for long otherwise is done soon."""
    for name in ("GRACE_S", "STUCK_S", "_WATCH_S"):
        monkeypatch.setattr(turns, name, 3600.0)
    monkeypatch.setattr(connection, "SLICE_S", 3600.0)
    monkeypatch.setattr(conversation, "ACKNOWLEDGE_S", 0.001)
    monkeypatch.setattr(conversation, "PING_S", 0.05)  # with which a cancellation is told that an interrupt cut short
    monkeypatch.setattr(ending, "_LEFT_BEHIND_S", 0.05)


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """Whoever was still inside a socket when its connection ended closes it."""
    yield
    wait_until(lambda: not io_thread._parked, "what was left behind is closed")


# -- what is struck ----------------------------------------------------------------------------------------------------


def synchronous(session: FakeSession) -> None:
    assert session.call("x") == "x"


def submitted(session: FakeSession) -> None:
    assert session.submit("x").result(PATIENCE_S) == "x"


def waited(session: FakeSession) -> None:
    future = session.submit("x")
    assert concurrent.futures.wait([future], PATIENCE_S).done == {future}
    assert future.result(0) == "x"


def as_completed(session: FakeSession) -> None:
    pending = [session.submit(number) for number in range(3)]
    assert sorted(each.result(0) for each in concurrent.futures.as_completed(pending, PATIENCE_S)) == [0, 1, 2]


def called_back(session: FakeSession) -> None:
    told = Event()
    session.submit("x").add_done_callback(lambda _: told.set())
    assert told.wait(PATIENCE_S)


def cancelled(session: FakeSession) -> None:
    session.daemon.held.add("never")
    future = session.submit("never")
    try:
        future.cancel()
    finally:
        if not future.cancelled():
            session.daemon.release("never")


OPERATIONS = (synchronous, submitted, waited, as_completed, called_back, cancelled)


class Other:
    """Another call, which is pending meanwhile, and must not be harmed.

    Args:
        session: where.
        how: ``waited for`` by another thread; ``pending`` without anybody's waiting; or answered ``in between``, so that who
            is struck takes its outcome before its own.
    """

    def __init__(self, session: FakeSession, how: str) -> None:
        self._session = session
        session.daemon.held.add("other")
        self._future = session.submit("other")
        self._got: list[Any] = []
        self._thread: threading.Thread | None = None
        if how == "waited for":
            session.connection.attend()
            self._thread = threading.Thread(target=lambda: self._got.append(self._future.result(PATIENCE_S)))
            self._thread.start()
            wait_until(lambda: session.connection._line.turns.waiting, "another thread waits")
        elif how == "in between":
            session.daemon.before = ["other"]

    def must_come(self) -> None:
        """Its result comes now, if it has not come before."""
        self._session.daemon.before = []
        self._session.daemon.release("other")
        if self._thread is None:  # not by this one, whose next call would mend what it left behind
            self._thread = threading.Thread(target=lambda: self._got.append(self._future.result(PATIENCE_S)))
            self._thread.start()
        self._thread.join(PATIENCE_S)
        assert self._got == ["other"]


def strike_everywhere(
    session: FakeSession,
    operation: Callable[[FakeSession], None],
    others: str,
    points_at: Callable[[int], Points],
    handler: Callable[[], None] | None = None,
) -> int:
    """Strike at every point of an operation, and see after each that all is well; returns how many points there are."""
    session.call("warm")
    session.assert_clean()
    number = 0
    while True:
        points = points_at(number)
        other = Other(session, others)
        with interrupted(points, handler):
            operation(session)
        where = f"struck at point {number}: {', '.join(points.struck)}"
        try:
            other.must_come()
            assert session.call("next") == "next"
            session.assert_clean()
        except BaseException as error:
            error.add_note(where)
            raise
        if not points.struck:
            return number
        number += 1


@pytest.mark.parametrize("others", ["waited for", "pending", "in between"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interrupt_at_every_point(directory: Path, operation: Callable[[FakeSession], None], others: str) -> None:
    with fake_session(directory) as session:
        assert strike_everywhere(session, operation, others, lambda number: Points(number, WITHIN)) > 20


@pytest.mark.parametrize("others", ["waited for", "pending", "in between"])
def test_a_second_interrupt_at_every_point_of_the_handling_of_the_first(directory: Path, others: str) -> None:
    """Only at every fifth point of the first: there are thousands of pairs."""
    with fake_session(directory) as session:
        session.call("warm")
        session.assert_clean()
        first, struck = 0, True
        while struck:
            for second in range(1000):
                points = Points(first, WITHIN, again=second)
                other = Other(session, others)
                with interrupted(points):
                    synchronous(session)
                try:
                    other.must_come()
                    assert session.call("next") == "next"
                    session.assert_clean()
                except BaseException as error:
                    error.add_note(f"struck at {first} and {second}: {points.struck}")
                    raise
                if len(points.struck) < 2:
                    break
            first, struck = first + 5, bool(points.struck)
        assert first > 20


# -- handlers and destructors ------------------------------------------------------------------------------------------


def make_a_call(session: FakeSession) -> None:
    assert session.call("nested") == "nested"


def make_a_long_call(session: FakeSession) -> None:
    """Others do the work in the end."""
    session.daemon.held.add("long")
    future = session.submit("long", waits=False)
    session.connection.attend()
    session.daemon.release("long")
    assert future.result(PATIENCE_S) == "long"


def make_a_call_that_needs_another_threads(session: FakeSession) -> None:
    """Which therefore must be let in meanwhile."""
    session.daemon.held.add("needs another")
    thread = threading.Thread(target=lambda: (session.call("another"), session.daemon.release("needs another")))
    thread.start()
    assert session.call("needs another") == "needs another"
    thread.join(PATIENCE_S)


def begin_a_call(session: FakeSession) -> None:
    session.submit("begun")


def begin_and_cancel(session: FakeSession) -> None:
    session.daemon.held.add("cancelled")
    session.submit("cancelled").cancel()


def wait_for_a_call(session: FakeSession) -> None:
    future = session.submit("nested")
    assert concurrent.futures.wait([future], PATIENCE_S).done == {future}


NESTED = (
    make_a_call,
    make_a_long_call,
    make_a_call_that_needs_another_threads,
    begin_a_call,
    begin_and_cancel,
    wait_for_a_call,
)


@pytest.mark.parametrize("others", ["waited for", "pending", "in between"])
@pytest.mark.parametrize("operation", [synchronous, submitted])
@pytest.mark.parametrize("nested", NESTED)
def test_a_signal_handler_that_makes_calls_at_every_point(
    directory: Path, nested: Callable[[FakeSession], None], operation: Callable[[FakeSession], None], others: str
) -> None:
    with fake_session(directory) as session:
        count = strike_everywhere(
            session, operation, others, lambda number: Points(number, WITHIN), lambda: nested(session)
        )
        assert count > 20


@pytest.mark.parametrize("nested", NESTED)
def test_a_destructor_that_makes_calls_at_every_point_of_its_own_threads(
    directory: Path, nested: Callable[[FakeSession], None]
) -> None:
    with fake_session(directory) as session:
        count = strike_everywhere(
            session, synchronous, "in between", lambda number: Points(number, WITHIN, lambda: nested(session))
        )
        assert count > 50


@pytest.mark.parametrize("operation", [submitted, as_completed, called_back])
@pytest.mark.parametrize("nested", NESTED)
def test_a_destructor_that_makes_calls_on_the_io_thread(
    directory: Path, nested: Callable[[FakeSession], None], operation: Callable[[FakeSession], None]
) -> None:
    """At every tenth point of it, each with a connection of its own: an I/O thread that waits has another take its place."""
    struck = 0
    for number in range(len(operation.__name__) % 10, 1000, 10):  # others with each operation
        done: list[None] = []
        points = Points(-1, WITHIN, lambda: done.append(nested(session)), thread="plover-io")  # noqa: B023
        with traced(points):
            session = FakeSession(directory)
        try:
            session.call("warm")
            points.arm(number)
            other = Other(session, "pending")
            session.connection.attend()
            operation(session)
            other.must_come()
            session.connection.attend()
            assert session.call("next") == "next"
            wait_until(lambda: not points.struck or done or points.is_due, "the nested call")  # noqa: B023
            points.arm(-1)
            session.assert_clean()
        except BaseException as error:
            error.add_note(f"struck at point {number}: {points.struck}")
            raise
        finally:
            session.close()
        if not points.struck:
            break
        struck += 1
    assert struck > 10
