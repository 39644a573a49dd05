"""Workers and nests that die under calls: what was lost, what goes back, what is tried again."""

from __future__ import annotations

import pytest
from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.attempts import RETURNS_ALLOWED


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"signal": 11}, "signal 11"),
        ({"exit_code": 3}, "code 3"),
        ({"signal": 9, "out_of_memory": True}, "memory ran out"),
        ({}, "ended"),
    ],
)
def test_a_begun_call_is_lost_with_its_worker(how: dict[str, int], says: str) -> None:
    desk = Desk("sim")
    desk.submit()
    desk.die(1, desk.sent(), **how)
    lost = desk.outcome()
    assert isinstance(lost, cmd.Lost)
    assert says in lost.reason
    assert (lost.signal, lost.exit_code) == (how.get("signal"), how.get("exit_code"))
    assert lost.out_of_memory == how.get("out_of_memory", False)
    assert desk.one(cmd.StartWorker).nest == 1


def test_a_lost_attempt_is_tried_again_where_retries_allow_it() -> None:
    desk = Desk("sim")
    desk.submit(retries=1)
    first = desk.sent()
    desk.die(1, first)
    assert not desk.of(cmd.SendOutcome)
    assert not desk.of(cmd.ReleaseArguments)
    desk.warm_all(desk.last)
    second = desk.sent()
    assert (second.call, second.attempt, second.with_payload) == (first.call, 2, True)
    desk.finish(first)
    assert desk.last == []
    desk.die(2, second)
    assert isinstance(desk.outcome(), cmd.Lost)
    assert desk.one(cmd.SendOutcome).attempt == 2


def test_a_page_of_an_attempt_that_was_finished_loses_nothing() -> None:
    desk = Desk("sim")
    desk.submit()
    done = desk.sent()
    desk.finish(done)
    desk.submit()
    desk.die(1, done)
    assert not desk.of(cmd.SendOutcome)
    desk.warm_all(desk.last)
    assert (desk.sent().call, desk.sent().attempt) == (2, 1)


def test_a_call_that_never_gets_to_begin_is_lost_in_the_end() -> None:
    desk = Desk("sim")
    desk.submit()
    for _ in range(RETURNS_ALLOWED):
        worker = desk.sent().worker
        desk.die(worker, signal=9)
        desk.warm_all(desk.last)
    desk.die(desk.sent().worker, signal=9)
    lost = desk.outcome()
    assert isinstance(lost, cmd.Lost)
    assert "17 workers ended before they had begun" in lost.reason
    assert lost.signal == 9


def test_a_nest_takes_its_workers_with_it() -> None:
    desk = Desk("sim")
    desk.submit(retries=1)
    desk.tell(ev.NestGone(nest=1, reason="docker was restarted"))
    assert not desk.of(cmd.SendOutcome)
    desk.warm_all(desk.last)
    assert (desk.sent().call, desk.sent().attempt) == (1, 2)
    desk.tell(ev.NestGone(nest=2, reason="docker was restarted"))
    lost = desk.outcome()
    assert isinstance(lost, cmd.Lost)
    assert "docker was restarted" in lost.reason
    assert desk.tell(ev.WorkerGone(worker=2, begun=(1, 2))) == []


def test_an_unwell_worker_is_sent_nothing_more_and_replaced() -> None:
    desk = Desk("sim")
    desk.submit()
    sent = desk.sent()
    desk.tell(ev.WorkerUnwell(worker=1, reason="sticky error 700"))
    desk.submit()
    assert desk.last == []
    desk.finish(sent)
    assert desk.outcome() == cmd.FromWorker(1)
    assert not desk.of(cmd.SendCall)
    desk.tell(ev.WorkerUnwell(worker=1, reason="again"))
    assert desk.last == []
    desk.die(1)
    desk.warm_all(desk.last)
    assert desk.sent().call == 2


def test_an_unwell_worker_that_stays_is_killed_and_its_call_lost() -> None:
    desk = Desk("sim", interrupt_grace_s=2.0, stop_grace_s=10.0)
    desk.submit()
    sent = desk.sent()
    desk.tell(ev.WorkerUnwell(worker=1, reason="sticky error 700"))
    desk.wait(2.0)
    assert "sticky error 700" in desk.one(cmd.KillWorker).reason
    desk.die(1, sent, signal=9)
    lost = desk.outcome()
    assert isinstance(lost, cmd.Lost)
    assert "sticky error 700" in lost.reason


def test_cancelling_a_call_of_an_unwell_worker_waits_for_its_end() -> None:
    desk = Desk("sim")
    submission = desk.submit()
    sent = desk.sent()
    desk.tell(ev.WorkerUnwell(worker=1, reason="sticky"))
    assert desk.cancel(submission) == []
    desk.die(1, sent)
    assert desk.outcome() == cmd.Cancelled("kill")


def test_an_idle_worker_may_be_unwell_too() -> None:
    desk = Desk("sim")
    desk.tell(ev.WorkerUnwell(worker=1, reason="ECC"))
    assert desk.tell(ev.WorkerReady(worker=1)) == []
    desk.submit()
    assert desk.last == []
    desk.die(1)
    desk.warm_all(desk.last)
    assert desk.sent().worker == 2


def test_an_interruption_that_nobody_asked_for_is_a_loss() -> None:
    desk = Desk("sim")
    desk.submit(retries=1)
    desk.finish(desk.sent(), "interrupted")
    again = desk.sent()
    assert again.attempt == 2
    desk.finish(again, "interrupted")
    lost = desk.outcome()
    assert isinstance(lost, cmd.Lost)
    assert "nobody asked" in lost.reason


def test_a_worker_that_lacks_the_function_is_sent_it_once() -> None:
    desk = Desk("sim")
    desk.submit()
    desk.finish(desk.sent())
    desk.submit()
    sent = desk.sent()
    assert not sent.with_payload
    missed = ev.PayloadMissed(worker=1, call=sent.call, attempt=1)
    desk.tell(missed)
    assert desk.last == [cmd.SendCall(worker=1, call=sent.call, attempt=1, function=b"f", with_payload=True)]
    desk.tell(missed)
    lost = desk.outcome()
    assert isinstance(lost, cmd.Lost)
    assert "sent twice" in lost.reason
    assert desk.scheduler.snapshot().workers[0].state == "ready"
    desk.tell(missed)
    assert desk.last == []


def test_a_call_that_must_be_sent_again_stands_behind_the_others() -> None:
    desk = Desk("sim")
    desk.run()
    first, second, third = desk.submit(), desk.submit(), desk.submit()
    desk.cancel(second)
    desk.tell(ev.PayloadMissed(worker=1, call=first, attempt=1))
    assert desk.sent().with_payload
    assert desk.one(cmd.InterruptCall).call == second
    desk.submit()
    assert desk.last == []  # nothing goes behind a call that brings its function
    desk.tell(ev.PayloadMissed(worker=1, call=second, attempt=1))
    assert desk.outcome() == cmd.Cancelled("interrupt")
    assert desk.scheduler.snapshot().workers[0].calls == (third, first)
    desk.tell(ev.PayloadMissed(worker=1, call=first, attempt=1))
    assert isinstance(desk.outcome(), cmd.Lost)


def test_a_missed_payload_at_a_worker_that_is_ending_changes_nothing() -> None:
    desk = Desk("sim")
    desk.submit()
    desk.tell(ev.WorkerUnwell(worker=1, reason="sticky"))
    assert desk.tell(ev.PayloadMissed(worker=1, call=1, attempt=1)) == []


def test_what_is_forgotten_while_busy_is_not_found_when_idle() -> None:
    desk = Desk("sim", "sim")
    desk.submit(b"f")
    first = desk.sent()
    desk.submit(b"f")
    desk.finish(desk.sent())
    desk.submit(b"g")  # looks for an idle holder of g only
    desk.finish(desk.sent())
    desk.submit(b"f")
    second = desk.sent()
    assert not second.with_payload
    desk.submit(b"f", tenant="lab")
    desk.tell(ev.PayloadMissed(worker=first.worker, call=first.call, attempt=1))
    assert desk.sent().with_payload


@pytest.mark.parametrize(
    "event",
    [
        ev.CallFinished(worker=1, call=1, attempt=2, status="succeeded"),
        ev.CallFinished(worker=2, call=1, attempt=1, status="succeeded"),
        ev.CallFinished(worker=1, call=9, attempt=1, status="succeeded"),
        ev.PayloadMissed(worker=9, call=1, attempt=1),
        ev.WorkerReady(worker=1),
        ev.WorkerReady(worker=9),
        ev.WorkerUnwell(worker=9, reason=""),
        ev.WorkerGone(worker=9, begun=(1, 1)),
        ev.PageRead(worker=9, begun=(1, 1), begun_at=0.0),
        ev.PageRead(worker=1, begun=(1, 1), begun_at=0.0),
        ev.NestReady(nest=1),
        ev.NestReady(nest=9),
        ev.NestGone(nest=9, reason=""),
        ev.DeadlineReached(),
    ],
)
def test_stale_and_foreign_events_change_nothing(event: ev.AnyEvent) -> None:
    desk = Desk("sim", "sim")
    desk.submit()
    before = desk.scheduler.snapshot()
    assert desk.sent().worker == 1
    assert desk.tell(event) == []
    after = desk.scheduler.snapshot()
    assert after.ignored == before.ignored + 1
    assert (after.workers, after.nests, after.calls, after.devices) == (
        before.workers,
        before.nests,
        before.calls,
        before.devices,
    )
