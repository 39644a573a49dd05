"""Cancelling calls, and the limits on how long they may wait and run."""

from __future__ import annotations

from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev


def test_a_queued_call_is_cancelled_at_once() -> None:
    desk = Desk("sim", start=False)
    submission = desk.submit()
    desk.cancel(submission)
    assert desk.outcome() == cmd.Cancelled("queue")
    assert desk.of(cmd.ReleaseArguments)
    desk.cancel(submission)
    assert desk.last == []
    desk.cancel(99)
    assert desk.last == []
    assert desk.scheduler.snapshot().ignored == 2


def test_a_running_call_is_interrupted_and_ends_when_it_has_ended() -> None:
    for status in ("interrupted", "succeeded", "failed"):
        desk = Desk("sim")
        submission = desk.submit()
        sent = desk.sent()
        desk.cancel(submission)
        assert desk.last == [cmd.InterruptCall(worker=1, call=1, attempt=1)]
        desk.cancel(submission)
        assert desk.last == []
        desk.finish(sent, status)
        assert desk.outcome() == cmd.Cancelled("interrupt")
        assert desk.wait(29.0) == []


def test_a_call_that_does_not_heed_it_is_killed_with_its_worker() -> None:
    desk = Desk("sim", interrupt_grace_s=2.0)
    submission = desk.submit(retries=3)
    sent = desk.sent()
    desk.cancel(submission)
    desk.wait(2.0)
    assert desk.one(cmd.KillWorker).worker == sent.worker
    desk.die(sent.worker, sent, signal=9)
    assert desk.outcome() == cmd.Cancelled("kill")
    assert desk.one(cmd.StartWorker)


def test_an_outcome_after_the_kill_was_ordered_still_ends_it_as_killed() -> None:
    desk = Desk("sim")
    submission = desk.submit()
    sent = desk.sent()
    desk.cancel(submission)
    desk.wait(2.0)
    desk.finish(sent)
    assert desk.outcome() == cmd.Cancelled("kill")


def test_calls_behind_a_killed_one_go_back() -> None:
    desk = Desk("sim")
    desk.run()
    front = desk.submit()
    first = desk.sent()
    cancelled, behind = desk.submit(), desk.submit()
    desk.cancel(front)
    assert desk.one(cmd.InterruptCall).call == first.call
    desk.cancel(cancelled)
    assert desk.last == []  # it has not begun: nothing to interrupt yet
    desk.wait(2.0)
    desk.die(1, first)
    ends = {each.submission: each.outcome for each in desk.of(cmd.SendOutcome)}
    assert ends == {front: cmd.Cancelled("kill"), cancelled: cmd.Cancelled("kill")}
    desk.warm_all(desk.last)
    assert (desk.sent().call, desk.sent().attempt) == (behind, 1)


def test_a_cancelled_call_behind_another_is_interrupted_when_its_turn_comes() -> None:
    desk = Desk("sim")
    desk.run()
    desk.submit()
    first = desk.sent()
    second = desk.submit()
    assert desk.sent()
    desk.cancel(second)
    assert desk.last == []
    desk.finish(first)
    assert desk.one(cmd.InterruptCall).call == second
    desk.wait(2.0)
    assert desk.one(cmd.KillWorker)


def test_a_call_may_wait_only_so_long() -> None:
    desk = Desk("sim", start=False)
    desk.submit(queue_timeout_s=3.0)
    assert not desk.of(cmd.SendOutcome, desk.wait(2.9))
    desk.wait(0.1)
    assert desk.outcome() == cmd.TimedOut("queue", 3.0, "starting")


def test_waiting_counts_in_all_before_and_between_attempts() -> None:
    desk = Desk("sim", start=False)
    desk.submit(queue_timeout_s=3.0, retries=1)
    desk.now = 2.0
    desk.warm_all([cmd.StartNest(nest=1, tenant="", environment="", devices=())])
    sent = desk.sent()
    desk.wait(10.0)
    assert not desk.of(cmd.SendOutcome)
    desk.die(sent.worker, sent)
    assert not desk.of(cmd.SendOutcome, desk.wait(0.9))
    desk.wait(0.2)
    assert desk.outcome() == cmd.TimedOut("queue", 3.0, "starting")


def reads(desk: Desk, seconds: float) -> list[cmd.Command]:
    desk.keep()
    return desk.wait(seconds)


def test_the_run_counts_from_what_the_page_says() -> None:
    desk = Desk("sim")
    desk.submit(timeout_s=5.0)
    sent = desk.sent()
    assert reads(desk, 5.0) == [cmd.ReadPage(worker=1)]
    desk.tell(ev.PageRead(worker=1, begun=(sent.call, 1), begun_at=2.0))
    assert desk.last == []
    assert desk.scheduler.next_deadline() == 7.0
    assert reads(desk, 2.0) == [cmd.ReadPage(worker=1)]
    desk.tell(ev.PageRead(worker=1, begun=(sent.call, 1), begun_at=2.0))
    assert desk.last == [cmd.InterruptCall(worker=1, call=1, attempt=1)]
    desk.finish(sent, "interrupted")
    assert desk.outcome() == cmd.TimedOut("run", 5.0)


def test_a_run_beyond_its_limit_that_heeds_nothing_is_killed() -> None:
    desk = Desk("sim")
    desk.submit(timeout_s=5.0, retries=2)
    sent = desk.sent()
    desk.wait(5.0)
    desk.tell(ev.PageRead(worker=1, begun=(1, 1), begun_at=0.0))
    desk.wait(2.0)
    assert desk.one(cmd.KillWorker)
    desk.die(1, sent, signal=9)
    assert desk.outcome() == cmd.TimedOut("run", 5.0)


def test_a_cancellation_does_not_overrule_a_limit_that_was_reached() -> None:
    desk = Desk("sim")
    submission = desk.submit(timeout_s=5.0)
    sent = desk.sent()
    desk.wait(5.0)
    desk.tell(ev.PageRead(worker=1, begun=(1, 1), begun_at=0.0))
    desk.cancel(submission)
    assert desk.last == []
    desk.finish(sent)
    assert desk.outcome() == cmd.TimedOut("run", 5.0)


def test_a_call_that_has_not_begun_is_given_its_whole_time_anew() -> None:
    desk = Desk("sim")
    desk.run()
    desk.submit()
    first = desk.sent()
    desk.submit(timeout_s=5.0)
    assert reads(desk, 5.0) == [cmd.ReadPage(worker=1)]
    desk.tell(ev.PageRead(worker=1, begun=(first.call, 1), begun_at=0.0))
    assert desk.last == []
    assert desk.scheduler.next_deadline() == 10.0


def test_a_call_that_the_page_shows_is_stopped_though_the_one_before_it_has_not_been_heard_of() -> None:
    desk = Desk("sim")
    desk.run()
    desk.submit()
    first = desk.sent()
    desk.submit(timeout_s=5.0)
    second = desk.sent()
    reads(desk, 5.0)
    desk.tell(ev.PageRead(worker=1, begun=(second.call, 1), begun_at=0.0))
    assert desk.last == [cmd.InterruptCall(worker=1, call=second.call, attempt=1)]
    desk.finish(first)
    assert not desk.of(cmd.InterruptCall)
    reads(desk, 2.0)
    assert desk.one(cmd.KillWorker)
    desk.die(1, second)
    assert desk.outcome() == cmd.TimedOut("run", 5.0)


def test_a_page_that_nobody_asked_for_changes_nothing() -> None:
    desk = Desk("sim")
    desk.submit(timeout_s=5.0)
    desk.now = 6.0
    desk.tell(ev.PageRead(worker=1, begun=(1, 1), begun_at=0.0))
    assert desk.last == []
    assert desk.scheduler.snapshot().ignored == 1


def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    desk = Desk("sim")
    desk.submit(timeout_s=5.0)
    assert reads(desk, 5.0) == [cmd.ReadPage(worker=1)]
    assert reads(desk, 2.0) == [cmd.ReadPage(worker=1)]


def test_a_limit_that_comes_while_the_worker_is_ending_waits_for_that() -> None:
    desk = Desk("sim", interrupt_grace_s=10.0)
    desk.submit(timeout_s=5.0)
    sent = desk.sent()
    desk.tell(ev.WorkerUnwell(worker=1, reason="sticky"))
    assert desk.wait(5.0) == []
    desk.die(1, sent)
    assert isinstance(desk.outcome(), cmd.Lost)


def test_a_retry_after_the_page_was_asked_for_starts_afresh() -> None:
    desk = Desk("sim")
    desk.submit(timeout_s=5.0, retries=1)
    sent = desk.sent()
    desk.wait(5.0)
    desk.die(1, sent)
    desk.tell(ev.PageRead(worker=1, begun=(1, 1), begun_at=0.0))
    desk.warm_all([cmd.StartWorker(worker=2, nest=1)])
    assert desk.sent().attempt == 2
    assert desk.scheduler.next_deadline() == 10.0


def test_a_goodbye_cancels_all_and_says_nothing() -> None:
    desk = Desk("sim")
    desk.submit()
    sent = desk.sent()
    desk.submit()
    done = desk.submit()
    desk.cancel(done)
    desk.tell(ev.ClientGone(client=b"c"))
    assert desk.of(cmd.SendOutcome) == []
    assert desk.of(cmd.InterruptCall) == [cmd.InterruptCall(worker=1, call=1, attempt=1)]
    assert [each.call for each in desk.of(cmd.ReleaseCall)] == [3, 2]
    assert desk.scheduler.snapshot().clients_present == 0
    desk.wait(2.0)
    assert desk.one(cmd.KillWorker)
    desk.die(1, sent)
    assert desk.last[:2] == [cmd.ReleaseArguments(call=1), cmd.ReleaseCall(call=1)]
    assert not desk.of(cmd.SendOutcome)
    assert not desk.scheduler.world.calls
    desk.tell(ev.ClientGone(client=b"c"))
    assert desk.last == []


def test_cancelling_a_call_ends_its_time_limit() -> None:
    desk = Desk("sim", interrupt_grace_s=20.0)
    submission = desk.submit(timeout_s=5.0)
    desk.cancel(submission)
    assert desk.wait(10.0) == []
