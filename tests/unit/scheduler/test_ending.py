"""Draining finishes what was accepted, stopping does not; both end in one Exit within a bound."""

from __future__ import annotations

from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev


def test_draining_finishes_what_was_accepted_and_takes_nothing_new() -> None:
    desk = Desk("sim")
    first, second = desk.submit(), desk.submit()
    sent = desk.scheduler.world.workers[1].sent[0]
    assert desk.tell(ev.DrainRequested()) == []
    assert desk.scheduler.snapshot().draining
    desk.submit()
    refused = desk.outcome()
    assert isinstance(refused, cmd.Refused)
    assert "is draining" in refused.reason
    desk.finish(cmd.SendCall(worker=1, call=sent.number, attempt=1, function=b"", with_payload=False))
    desk.finish(desk.sent())
    assert not desk.of(cmd.StopNest)
    desk.acknowledge(first)
    desk.acknowledge(second)
    assert desk.last == [cmd.ReleaseCall(call=second), cmd.StopNest(nest=1)]
    desk.tell(ev.NestGone(nest=1, reason="stopped"))
    assert desk.last == [cmd.Exit()]
    assert desk.scheduler.snapshot().phase == "exited"
    assert desk.wait(1000.0) == []
    assert desk.tell(ev.DrainRequested()) == []
    assert desk.tell(ev.StopRequested()) == []


def test_draining_does_not_wait_for_clients_whose_lease_has_ended() -> None:
    desk = Desk("sim")
    desk.submit()
    desk.finish(desk.sent())
    assert desk.tell(ev.DrainRequested()) == []
    assert desk.wait(29.0) == []
    desk.wait(1.0)
    assert desk.one(cmd.StopNest)
    desk.keep()
    assert not desk.of(cmd.Exit)


def test_draining_with_nothing_to_do_exits() -> None:
    desk = Desk("sim", start=False)
    assert desk.tell(ev.DrainRequested()) == [cmd.Exit()]
    assert desk.tell(ev.DaemonStarted()) == []


def test_draining_is_bounded_by_the_grace_for_nests() -> None:
    desk = Desk("sim", stop_grace_s=10.0)
    desk.tell(ev.DrainRequested())
    assert desk.one(cmd.StopNest)
    assert desk.wait(9.9) == []
    assert desk.wait(0.1) == [cmd.Exit()]


def test_stopping_cancels_everything() -> None:
    desk = Desk("sim")
    running, queued = desk.submit(), desk.submit()
    desk.tell(ev.StopRequested())
    assert desk.last[0] == cmd.StopNest(nest=1)
    assert (desk.one(cmd.SendOutcome).submission, desk.outcome()) == (queued, cmd.Cancelled("queue", True))
    assert not desk.of(cmd.InterruptCall)
    desk.submit()
    refused = desk.outcome()
    assert isinstance(refused, cmd.Refused)
    assert "is stopping" in refused.reason
    desk.tell(ev.NestGone(nest=1, reason="stopped"))
    assert (desk.one(cmd.SendOutcome).submission, desk.outcome()) == (running, cmd.Cancelled("kill", True))
    assert desk.last[-1] == cmd.Exit()
    assert desk.tell(ev.StopRequested()) == []


def test_stopping_has_a_bound_and_everybody_is_told() -> None:
    desk = Desk("sim", stop_grace_s=10.0)
    desk.submit()
    sent = desk.sent()
    desk.tell(ev.DrainRequested())
    desk.tell(ev.StopRequested())
    assert desk.one(cmd.StopNest)
    came = desk.wait(10.0)
    assert [type(each) for each in came] == [cmd.SendOutcome, cmd.ReleaseArguments, cmd.Exit]
    assert desk.finish(sent) == []


def test_a_call_that_ends_while_stopping_was_killed() -> None:
    desk = Desk("sim")
    desk.submit()
    sent = desk.sent()
    desk.tell(ev.StopRequested())
    desk.finish(sent)
    assert desk.outcome() == cmd.Cancelled("kill", True)


def test_what_comes_back_while_stopping_is_not_placed_again() -> None:
    desk = Desk("sim", dispatched_per_worker=2)
    desk.submit(retries=5)
    sent = desk.sent()
    desk.tell(ev.StopRequested())
    desk.die(1, sent)
    assert desk.outcome() == cmd.Cancelled("kill", True)
    assert not desk.of(cmd.StartWorker)


def test_a_nest_that_is_only_starting_is_stopped_too() -> None:
    desk = Desk("sim", start=False)
    desk.tell(ev.DaemonStarted())
    desk.tell(ev.StopRequested())
    assert desk.last == [cmd.StopNest(nest=1)]
    assert desk.tell(ev.NestReady(nest=1)) == []
    assert desk.tell(ev.NestGone(nest=1, reason="stopped")) == [cmd.Exit()]


def test_a_nest_that_is_being_stopped_already_is_not_told_again() -> None:
    desk = Desk("sim", "sim")
    desk.submit(tenant="lab")
    assert desk.one(cmd.StopNest).nest == 1
    desk.tell(ev.StopRequested())
    assert desk.one(cmd.StopNest).nest == 2


def test_a_nest_on_a_broken_device_may_outlast_the_grace() -> None:
    desk = Desk("sim", start=False, start_failures=1)
    desk.tell(ev.DaemonStarted())
    desk.tell(ev.NestReady(nest=1))
    desk.die(1)
    assert desk.one(cmd.StopNest)
    desk.tell(ev.StopRequested())
    assert desk.wait(10.0) == [cmd.Exit()]


def test_stopping_leaves_alone_what_has_ended() -> None:
    desk = Desk("sim")
    desk.submit()
    desk.finish(desk.sent())
    desk.tell(ev.StopRequested())
    assert desk.last == [cmd.StopNest(nest=1)]
