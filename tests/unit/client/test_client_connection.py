"""Connections at their edges, against a daemon that is a thread of this process."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plover.client import connection as connections
from plover.client import conversation, io_thread, turns
from plover.client.connection import Connection
from plover.client.turns import Turn
from plover.errors import AccessDenied, CallCancelled, DaemonLost, DaemonUnreachable, PloverError
from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m
from tests.support.fake_daemon import PATIENCE_S, FakeDaemon, FakeSession, wait_until


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a socket's path."""
    path = Path(tempfile.mkdtemp(prefix="plv-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon(directory: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(directory)
    yield daemon
    daemon.close()


@pytest.fixture
def session(directory: Path) -> Iterator[FakeSession]:
    session = FakeSession(directory)
    yield session
    session.close()


def io_threads() -> int:
    return sum(thread.name == "plover-io" for thread in threading.enumerate())


class TestConnecting:
    def test_it_knows_the_daemon(self, session: FakeSession) -> None:
        connection = session.connection
        assert connection.welcome.incarnation == session.daemon.incarnation
        assert (connection.usable, connection.in_order) == (True, True)
        assert repr(connection) == (
            f"<connection to {session.daemon.address}: <0 pending calls, 0 outcomes to acknowledge>>"
        )

    def test_nobody_answers(self, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(conversation, "HANDSHAKE_S", 0.05)
        daemon.silent = True
        with pytest.raises(
            DaemonUnreachable, match="no daemon answered at ipc:.* within 0.05 s. Process .* listens there"
        ):
            Connection(daemon.address, b"secret", versions())
        wait_until(lambda: io_threads() == 0, "its thread has ended")

    def test_the_daemon_refuses(self, daemon: FakeDaemon) -> None:
        daemon.refusal = m.Rejected("AccessDenied", "this client does not know the secret", None, 0)
        with pytest.raises(AccessDenied, match="does not know the secret"):
            Connection(daemon.address, b"wrong", versions())
        wait_until(lambda: io_threads() == 0, "its thread has ended")

    def test_an_interrupt_while_it_waits_for_the_daemon(
        self, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.silent = True
        before = len(os.listdir("/proc/self/fd"))

        def wait(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("plover.client.io_thread.Event.wait", wait)
        with pytest.raises(KeyboardInterrupt):
            Connection(daemon.address, b"secret", versions())
        wait_until(lambda: io_threads() == 0, "its thread has ended")
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the descriptors")


class TestRunning:
    def test_a_call_runs_once_it_has_written_something(self, session: FakeSession) -> None:
        session.daemon.held.add("held")
        future = session.submit("held")
        session.daemon.wait_for(m.Submit)
        assert not future.running()
        session.daemon.say(m.Output(1, 2, b""))
        wait_until(future.running, "it is known to run")
        session.daemon.release("held")
        wait_until(future.done, "it has ended")
        assert not future.running()


class TestAsking:
    def test_an_answer(self, session: FakeSession) -> None:
        assert session.connection.ask(m.AskStatus()) == m.Status(b"{}")
        session.assert_clean()

    def test_no_answer_in_time(self, session: FakeSession) -> None:
        session.daemon.silent = True
        with pytest.raises(DaemonUnreachable, match="no daemon answered at .* within 0.01 s"):
            session.connection.ask(m.AskStatus(), 0.01)
        session.daemon.silent = False
        session.daemon.say(m.Status(b"late"))
        assert session.connection.ask(m.AskStatus()).document in (b"{}", b"late")
        assert not session.connection._line.talk.questions

    def test_a_question_that_was_lost_with_the_connection_is_asked_again(self, session: FakeSession) -> None:
        line = session.connection._line
        session.daemon.silent = True

        def break_it() -> None:
            session.daemon.wait_for(m.AskStatus)
            session.daemon.silent = False
            line.turns.doubtful = True
            line.want_io()

        breaking = threading.Thread(target=break_it)
        breaking.start()
        assert session.connection.ask(m.AskStatus(), PATIENCE_S) == m.Status(b"{}")
        breaking.join()
        session.daemon.wait_for(m.AskStatus, 2)
        assert not line.talk.questions

    def test_the_connection_ends_meanwhile(self, session: FakeSession) -> None:
        session.daemon.silent = True
        reason = DaemonLost("it died", address="a")
        threading.Thread(
            target=lambda: (session.daemon.wait_for(m.AskStatus), session.connection.give_up(reason))
        ).start()
        with pytest.raises(DaemonLost, match="it died") as caught:
            session.connection.ask(m.AskStatus(), PATIENCE_S)
        assert caught.value is not reason


class TestCancelling:
    def test_a_cancelled_call_is_named(self, session: FakeSession) -> None:
        session.daemon.held.add("held")
        future = session.submit("held")
        assert future.cancel()
        with pytest.raises(CallCancelled, match=rf"^work \({future.call_id}\) was cancelled$"):
            future.result()
        session.assert_clean()


class TestEnding:
    def test_goodbye(self, session: FakeSession) -> None:
        session.daemon.held.add("never")
        future = session.submit("never")
        session.connection.close()
        session.daemon.wait_for(m.Goodbye)
        error = future.exception(0)
        assert isinstance(error, DaemonLost)
        assert str(error) == (
            f"work ({future.call_id}) has no outcome: the connection to {session.daemon.address} is closed"
        )
        assert error.call_id == future.call_id
        assert (session.connection.usable, session.connection.in_order) == (False, False)
        with pytest.raises(DaemonLost, match="is closed"):
            session.call("more")
        assert future.cancel() is False
        session.connection.close()
        assert io_threads() == 0

    def test_a_daemon_that_is_away_is_not_waited_for_for_long(
        self, session: FakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "PARTING_S", 0.05)
        session.daemon.silent = True
        session.connection._line.turns.doubtful = True
        session.connection._line.want_io()
        wait_until(lambda: not session.connection._line.talk.shaken, "it shakes hands again")
        began = time.monotonic()
        session.connection.close()
        assert time.monotonic() - began < 1.5
        assert io_threads() == 0

    def test_a_goodbye_in_the_middle_of_a_reconnection(self, session: FakeSession) -> None:
        session.connection._line.turns.doubtful = True
        session.connection.close()
        session.daemon.wait_for(m.Goodbye)

    def test_a_daemon_that_is_known_to_be_dead(self, session: FakeSession) -> None:
        session.daemon.held.add("never")
        futures = [session.submit("never"), session.submit("never")]
        session.connection.give_up(DaemonLost("the embedded daemon died", address="a"))
        for future in futures:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, DaemonLost)
            assert str(error) == f"work ({future.call_id}) has no outcome: the embedded daemon died"
            assert error.call_id == future.call_id
        assert futures[0].exception() is not futures[1].exception()

    def test_a_fault_of_ours_ends_the_calls(self, session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        session.daemon.held.add("never")
        future = session.submit("never")

        def broken(*_: Any) -> None:
            raise ZeroDivisionError("a fault")

        monkeypatch.setattr(session.connection._line.talk, "keep_time", broken)
        error = future.exception(PATIENCE_S)
        assert type(error) is PloverError
        assert str(error) == (
            f"work ({future.call_id}) has no outcome: "
            f"the connection to {session.daemon.address} failed: ZeroDivisionError: a fault"
        )
        wait_until(lambda: io_threads() == 0, "its thread has ended")

    def test_the_thread_of_callbacks_ends_too(self, session: FakeSession) -> None:
        before = threading.active_count()
        told = threading.Event()
        session.submit(1).add_done_callback(lambda _: told.set())
        assert told.wait(PATIENCE_S)
        session.connection.close()
        wait_until(lambda: threading.active_count() < before, "the threads")


class TestGoingOn:
    def test_polling_waits_for_no_tick(self, session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns, "GRACE_S", 3600.0)
        future = session.submit(1)
        wait_until(future.done, "it is done")
        assert future.result(0) == 1

    def test_what_nobody_asks_for_is_taken_all_the_same(self, session: FakeSession) -> None:
        future = session.submit(1)
        wait_until(future.has_ended, "it has ended")
        session.daemon.wait_for(m.Acknowledge)

    def test_calls_that_nobody_waits_for_are_gathered(
        self, session: FakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session.call("first")
        sent: list[int] = []
        link, send = session.connection._line.link, session.connection._line.link.send
        monkeypatch.setattr(
            link, "send", lambda frames: (sent.append(len(codec.split(frames, "client"))), send(frames))
        )
        monkeypatch.setattr(connections, "GATHER_S", 60.0)
        futures = [session.submit(number) for number in range(100)]
        assert sent[0] == 1, "the first one goes at once"
        assert max(sent) > 20, "many go together"
        assert [future.result(PATIENCE_S) for future in futures] == list(range(100))
        assert sum(sent) >= 100

    def test_gathered_calls_go_though_nobody_asks(self, session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "GATHER_S", 60.0)
        session.call("first")
        futures = [session.submit(number) for number in range(10)]
        wait_until(lambda: all(future.has_ended() for future in futures), "all have ended")

    def test_the_turn_comes_back_from_the_io_thread(self, session: FakeSession) -> None:
        turns = session.connection._line.turns
        session.daemon.held.add("slow")
        slow = session.submit("slow")
        wait_until(lambda: turns.holder is turns.io, "the I/O thread looks after what nobody waits for")
        assert session.call("quick") == "quick"
        assert session.call("another") == "another"
        session.daemon.release("slow")
        assert slow.result(PATIENCE_S) == "slow"

    def test_a_daemon_that_has_forgotten_the_client(self, session: FakeSession) -> None:
        session.daemon.held.add("held")
        held = session.submit("held")
        session.daemon.wait_for(m.Submit)
        session.daemon.forget_peer()
        assert session.call("next") == "next"
        session.daemon.release("held")
        assert held.result(PATIENCE_S) == "held"
        session.assert_clean()

    def test_a_daemon_that_has_forgotten_a_function(self, session: FakeSession) -> None:
        assert session.call(1) == 1
        session.daemon.forget_functions()
        assert session.call(2) == 2
        session.assert_clean()

    def test_what_was_written_over_a_link_in_doubt_is_shown(
        self, session: FakeSession, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("GRACE_S", "_WATCH_S"):
            monkeypatch.setattr(turns, name, 3600.0)
        session.call(0)
        session.daemon.held.add("held")
        future = session.submit("held")
        line = session.connection._line
        session.daemon.say(m.Output(future._submission, 1, b"written\n"))
        old = line.link
        wait_until(old.has_more, "it has come")
        line.turns.doubtful = True
        line.want_io()
        wait_until(lambda: line.link is not old and line.talk.shaken, "a new link")
        session.daemon.release("held")
        assert future.result(PATIENCE_S) == "held"
        assert capsys.readouterr().out == "written\n"

    def test_a_turn_whose_thread_is_lost_is_taken_away(
        self, session: FakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(turns, "STUCK_S", 0.05)
        session.call(0)
        session.assert_clean()
        line = session.connection._line
        lost = Turn(1, time.monotonic())
        with line.lock:
            assert line.turns.claim(lost, line.link)
        old = line.link
        assert session.call(1) == 1
        assert line.link is not old
        assert [link for link, _ in session.connection._io._left] == [old]  # it may still be inside
        lost.over = True
        line.want_io()
        wait_until(lambda: not session.connection._io._left, "the old link is closed")
        session.assert_clean()

    def test_a_thread_that_never_leaves_a_link_does_not_keep_the_connection_from_ending(
        self, session: FakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(turns, "STUCK_S", 0.05)
        session.call(0)
        session.assert_clean()
        line = session.connection._line
        lost = Turn(1, time.monotonic())
        with line.lock:
            assert line.turns.claim(lost, line.link)
        assert session.call(1) == 1
        session.connection.close()
        assert io_threads() == 0
        io_thread.close_parked()
        ((_, context, _),) = io_thread._parked  # somebody may be inside
        lost.over = True
        io_thread.close_parked()
        assert (io_thread._parked, context.closed) == ([], True)

    def test_descriptors_and_threads_after_many_reconnections(self, session: FakeSession) -> None:
        session.call(0)
        session.assert_clean()
        line = session.connection._line
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        for number in range(30):
            old = line.link
            line.turns.doubtful = True
            line.want_io()
            assert session.call(number) == number
            assert line.link is not old
        session.assert_clean()
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before[0], "the descriptors")
        assert threading.active_count() == before[1]


class TestOtherThreads:
    def test_one_that_waits_while_another_drives_is_not_left_alone_when_that_leaves(
        self, session: FakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver's own call ends first; and no tick helps."""
        session.call(0)
        session.assert_clean()
        for name in ("GRACE_S", "STUCK_S", "_WATCH_S"):
            monkeypatch.setattr(turns, name, 3600.0)
        monkeypatch.setattr(connections, "SLICE_S", 3600.0)
        session.daemon.held |= {"driver's", "other's"}
        results: list[Any] = []

        def ask(name: str) -> threading.Thread:
            thread = threading.Thread(target=lambda: results.append(session.call(name)))
            thread.start()
            return thread

        driver = ask("driver's")
        wait_until(lambda: session.connection._line.turns.holder, "it drives")
        other = ask("other's")
        wait_until(lambda: session.connection._line.turns.waiting, "it waits")
        session.daemon.release("driver's")
        driver.join(PATIENCE_S)
        session.daemon.release("other's")
        other.join(PATIENCE_S)
        assert results == ["driver's", "other's"]

    def test_a_cancellation_by_another_thread_ends_the_wait(self, session: FakeSession) -> None:
        session.daemon.held.add("never")
        future = session.submit("never")
        threading.Thread(target=lambda: (session.daemon.wait_for(m.Submit), future.cancel())).start()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(PATIENCE_S)
        session.daemon.wait_for(m.Cancel)
        session.assert_clean()
