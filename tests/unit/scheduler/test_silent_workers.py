"""Workers that do not begin what they were sent: noticed, killed, replaced, and their calls sent to others."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev


def desk(**limits: Any) -> Desk:
    return Desk("sim", worker_silent_s=10.0, interrupt_grace_s=2.0, client_lease_s=10_000.0, **limits)


def silent(at: Desk, moved_at: float = 0.0) -> list[cmd.Command]:
    return at.tell(ev.PageRead(worker=1, begun=None, begun_at=None, moved_at=moved_at))


def test_a_call_that_its_worker_does_not_begin_goes_to_another() -> None:
    at = desk()
    at.submit()
    call = at.sent().call
    assert at.wait(9.9) == []
    assert at.wait(0.1) == [cmd.ReadPage(worker=1)]
    silent(at)
    killed = at.one(cmd.KillWorker)
    assert killed.reason == "it was sent a call 10 s ago and has not begun it (is it stopped?)"
    at.die(1, signal=9)
    at.warm_all(at.last)
    sent = at.sent()
    assert (sent.worker, sent.call, sent.attempt) == (2, call, 1)


def test_what_was_lost_with_it_says_why() -> None:
    at = desk()
    at.run()
    at.submit()
    first = at.sent()
    at.submit()
    at.wait(10.0)
    silent(at)
    at.die(1, first, signal=9)  # it had begun it at last
    lost = at.one(cmd.SendOutcome).outcome
    assert isinstance(lost, cmd.Lost)
    assert lost.reason == (
        "worker 1 was ended by signal 9; before, it was given up: it was sent a call 10 s ago and has not begun it "
        "(is it stopped?)"
    )


def test_a_call_that_runs_for_long_is_left_alone() -> None:
    at = desk()
    at.submit()
    sent = at.sent()
    for _ in range(5):
        assert at.wait(10.0) == [cmd.ReadPage(worker=1)]
        assert at.tell(ev.PageRead(worker=1, begun=(sent.call, 1), begun_at=0.5)) == []


def test_one_that_ends_calls_is_not_asked() -> None:
    at = desk()
    at.run()
    at.submit()
    first = at.sent()
    at.submit()
    assert at.wait(9.0) == []
    at.finish(first)
    assert at.wait(9.0) == []  # since then, not since it was sent
    assert at.wait(1.0) == [cmd.ReadPage(worker=1)]


def test_one_that_was_idle_meanwhile_is_given_its_whole_time() -> None:
    at = desk()
    at.run()
    assert at.wait(20.0) == []
    at.submit()
    assert at.wait(9.9) == []
    assert at.wait(0.1) == [cmd.ReadPage(worker=1)]


def test_a_large_message_takes_as_long_as_it_moves() -> None:
    at = desk()
    at.submit()
    assert at.wait(10.0) == [cmd.ReadPage(worker=1)]
    assert silent(at, moved_at=9.0) == []
    assert at.wait(8.9) == []
    assert at.wait(0.1) == [cmd.ReadPage(worker=1)]
    silent(at, moved_at=9.0)
    assert at.one(cmd.KillWorker)


def test_an_answer_that_is_lost_is_asked_for_again() -> None:
    at = desk()
    at.submit()
    assert at.wait(10.0) == [cmd.ReadPage(worker=1)]
    assert at.wait(2.0) == [cmd.ReadPage(worker=1)]


@pytest.mark.parametrize("ends", ["finishes", "dies"])
def test_an_answer_that_comes_too_late_changes_nothing(ends: str) -> None:
    at = desk()
    at.submit()
    sent = at.sent()
    at.wait(10.0)
    if ends == "finishes":
        at.finish(sent)
    else:
        at.tell(ev.WorkerUnwell(worker=1, reason="sticky"))
    assert silent(at) == []


def test_waiting_at_a_worker_that_never_began_counts_for_the_queue() -> None:
    at = desk()
    at.submit(queue_timeout_s=5.0)
    at.sent()
    assert at.wait(4.9) == []
    assert at.wait(0.1) == [cmd.ReadPage(worker=1)]  # it may not wait longer, so neither does who looks after it
    silent(at)
    at.die(1, signal=9)
    at.wait(0.0)
    reason = "worker 1 was ended by signal 9; before, it was given up: it was sent a call 5 s ago and has not begun it"
    assert at.outcome() == cmd.TimedOut("queue", 5.0, "silent", f"{reason} (is it stopped?)")


def test_a_short_wait_gives_its_worker_a_moment_to_begin() -> None:
    at = desk()
    at.submit(queue_timeout_s=0.1)
    at.sent()
    assert at.wait(1.9) == []
    assert at.wait(0.1) == [cmd.ReadPage(worker=1)]


def test_a_worker_that_was_busy_before_is_looked_after_as_soon() -> None:
    at = desk()
    at.run()
    at.submit(queue_timeout_s=3.0)
    assert at.wait(2.9) == []
    assert at.wait(0.1) == [cmd.ReadPage(worker=1)]


def test_a_call_that_may_wait_longer_goes_to_another_and_says_then_what_that_does() -> None:
    at = desk()
    at.submit(queue_timeout_s=30.0)
    at.wait(10.0)
    silent(at)
    at.die(1, signal=9)
    at.wait(20.0)
    assert at.outcome() == cmd.TimedOut("queue", 30.0, "starting")
