"""Nests, workers and devices: prewarmed, replaced, backed off from, given up, written off."""

from __future__ import annotations

import pytest
from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev


def states(desk: Desk) -> list[str]:
    return [each.state for each in desk.scheduler.snapshot().devices]


def test_every_device_is_warmed_for_the_default_tenant() -> None:
    desk = Desk("sim", "H100", start=False)
    desk.tell(ev.DaemonStarted())
    assert desk.last == [
        cmd.StartNest(nest=1, tenant="default", environment="default", devices=("simulated:0",)),
        cmd.StartNest(nest=2, tenant="default", environment="default", devices=("cuda:1",)),
    ]
    desk.tell(ev.DaemonStarted())
    assert desk.last == []
    desk.tell(ev.NestReady(nest=1))
    assert desk.last == [cmd.StartWorker(worker=1, nest=1)]
    assert [each.state for each in desk.scheduler.snapshot().nests] == ["warm", "creating"]


def test_a_waiting_call_uses_the_nest_that_is_coming() -> None:
    desk = Desk("sim", "sim", start=False)
    started = desk.tell(ev.DaemonStarted())
    desk.submit()
    assert desk.last == []
    desk.warm_all(started)
    assert desk.sent().call == 1


def test_without_prewarming_a_call_starts_what_it_needs_and_no_more() -> None:
    desk = Desk("sim", "sim", "sim", start=False)
    desk.submit()
    started = desk.of(cmd.StartNest)
    desk.submit()
    started += desk.of(cmd.StartNest)
    assert len(started) == 2
    desk.warm_all(list(started))
    assert len(desk.of(cmd.SendCall)) == 2


def test_a_dead_prewarmed_nest_comes_back_by_itself() -> None:
    desk = Desk("sim")
    desk.tell(ev.NestGone(nest=1, reason="zygote died"))
    assert desk.one(cmd.StartNest).tenant == "default"


def test_a_dead_nest_that_was_asked_for_comes_back_only_if_calls_wait() -> None:
    desk = Desk("sim", start=False)
    desk.submit()
    desk.warm_all(desk.last)
    desk.finish(desk.sent())
    desk.tell(ev.NestGone(nest=1, reason="zygote died"))
    assert desk.last == []
    desk.submit()
    assert desk.one(cmd.StartNest)


def test_failed_starts_back_off_and_then_break_the_device() -> None:
    desk = Desk("sim", start=False, start_failures=3, start_backoff_s=0.5)
    submission = desk.submit()
    desk.tell(ev.NestGone(nest=1, reason="no such image"))
    assert desk.last == []
    assert states(desk) == ["suspect"]
    assert desk.wait(0.4) == []
    desk.wait(0.1)
    assert desk.one(cmd.StartNest).nest == 2
    desk.tell(ev.NestGone(nest=2, reason="no such image"))
    assert desk.wait(0.9) == []
    desk.wait(0.1)
    assert desk.one(cmd.StartNest).nest == 3
    desk.tell(ev.NestGone(nest=3, reason="no such image"))
    assert states(desk) == ["broken"]
    refused = desk.outcome()
    assert isinstance(refused, cmd.Refused)
    assert refused.error == "NoCapacity"
    assert "no such image" in refused.reason
    assert desk.scheduler.snapshot().ended == {"refused": 1}
    desk.acknowledge(submission)
    desk.submit()
    refused = desk.outcome()
    assert isinstance(refused, cmd.Refused)
    assert "1 of them broken" in refused.reason


def test_a_worker_that_gets_ready_makes_its_device_healthy_again() -> None:
    desk = Desk("sim", start_failures=2)
    for round_ in range(3):
        desk.tell(ev.NestGone(nest=desk.scheduler.snapshot().nests[0].nest, reason="fell"))
        nest = desk.one(cmd.StartNest).nest
        desk.tell(ev.NestGone(nest=nest, reason="fell"))
        assert states(desk) == ["suspect"], round_
        desk.wait(0.5)
        desk.warm_all(desk.last)
        assert states(desk) == ["healthy"]
        assert desk.scheduler.snapshot().devices[0].failures == 0


def test_a_prewarmed_nest_is_tried_again_until_its_device_breaks() -> None:
    desk = Desk("sim", start=False, start_failures=2)
    desk.tell(ev.DaemonStarted())
    desk.tell(ev.NestGone(nest=1, reason="fell"))
    desk.wait(0.5)
    assert desk.one(cmd.StartNest)
    desk.tell(ev.NestGone(nest=2, reason="fell"))
    assert states(desk) == ["broken"]
    assert desk.wait(100.0) == []


def test_workers_that_do_not_get_ready_count_as_failed_starts() -> None:
    desk = Desk("sim", start=False, start_failures=3)
    submission = desk.submit()
    desk.tell(ev.NestReady(nest=1))
    desk.die(1, exit_code=1)
    assert desk.last == []  # its device backs off
    desk.wait(0.5)
    assert desk.one(cmd.StartWorker).worker == 2
    desk.die(2, exit_code=1)
    desk.wait(1.0)
    desk.die(3, exit_code=1, reason="no process to be had")
    assert states(desk) == ["broken"]
    assert desk.one(cmd.StopNest).nest == 1
    refused = desk.outcome()
    assert isinstance(refused, cmd.Refused)
    assert "code 1 before it was ready (no process to be had)" in refused.reason
    assert desk.one(cmd.SendOutcome).submission == submission
    desk.tell(ev.NestGone(nest=1, reason="stopped"))
    assert desk.last == []


def test_a_nest_that_dies_while_its_worker_starts_counts_as_one() -> None:
    desk = Desk("sim", start=False)
    desk.tell(ev.DaemonStarted())
    desk.tell(ev.NestReady(nest=1))
    desk.tell(ev.NestGone(nest=1, reason="fell"))
    assert states(desk) == ["suspect"]


def test_a_nest_that_takes_too_long_is_stopped() -> None:
    desk = Desk("sim", start=False, nest_start_s=60.0)
    desk.submit()
    desk.wait(60.0)
    assert desk.one(cmd.StopNest).nest == 1
    assert states(desk) == ["suspect"]
    assert desk.tell(ev.NestReady(nest=1)) == []
    desk.tell(ev.NestGone(nest=1, reason="stopped"))
    assert states(desk) == ["suspect"]
    assert desk.scheduler.snapshot().devices[0].failures == 1


def test_a_worker_that_takes_too_long_is_given_up_with_its_nest() -> None:
    """What kept it may be the zygote, which would keep the next one, too."""
    desk = Desk("sim", start=False, worker_start_s=60.0)
    desk.submit(retries=1)
    desk.tell(ev.NestReady(nest=1))
    desk.keep()
    desk.wait(29.0)
    desk.keep()
    desk.wait(29.0)
    desk.keep()
    desk.wait(2.0)
    assert desk.one(cmd.StopNest).nest == 1
    assert desk.tell(ev.WorkerReady(worker=1)) == []
    assert "worker 1 was not ready within 60 s" in desk.scheduler.snapshot().devices[0].last_failure
    desk.keep()
    desk.die(1, signal=9)
    desk.tell(ev.NestGone(nest=1, reason="it was stopped"))
    desk.wait(0.5)
    assert desk.one(cmd.StartNest).nest == 2
    assert desk.scheduler.snapshot().devices[0].failures == 1


@pytest.mark.parametrize("before", [[], [ev.NestReady(nest=1)]])
def test_a_call_that_waits_for_a_worker_that_starts_says_so(before: list[ev.AnyEvent]) -> None:
    desk = Desk("sim", start=False)
    desk.submit(queue_timeout_s=5.0)
    for event in before:
        desk.tell(event)
    desk.wait(5.0)
    assert desk.outcome() == cmd.TimedOut("queue", 5.0, "starting")


def test_a_call_that_waits_for_a_start_that_fails_says_why() -> None:
    desk = Desk("sim", start=False, start_backoff_s=10.0)
    desk.submit(queue_timeout_s=5.0)
    desk.tell(ev.NestGone(nest=1, reason="no cupy"))
    desk.wait(5.0)
    assert desk.outcome() == cmd.TimedOut("queue", 5.0, "failing", "nest 1 did not start: no cupy")


def test_a_call_that_waits_behind_others_says_so() -> None:
    desk = Desk("sim")
    desk.submit()
    desk.submit(queue_timeout_s=5.0)
    desk.wait(5.0)
    assert desk.outcome() == cmd.TimedOut("queue", 5.0, "busy")
    theirs = desk.submit(tenant="other", queue_timeout_s=5.0)  # whose worker it is matters not
    desk.wait(5.0)
    assert {each.submission: each.outcome for each in desk.of(cmd.SendOutcome)}[theirs] == cmd.TimedOut("queue", 5.0)


def test_a_worker_that_cannot_be_killed_takes_its_nest_with_it_and_then_its_device() -> None:
    desk = Desk("sim", interrupt_grace_s=2.0, stop_grace_s=10.0, nest_start_s=60.0, client_lease_s=1000.0)
    running = desk.submit()
    waiting = desk.submit()
    desk.cancel(running)
    desk.wait(2.0)
    assert desk.one(cmd.KillWorker)
    desk.wait(10.0)
    assert desk.one(cmd.StopNest)
    desk.wait(60.0)
    outcomes = {each.submission: each.outcome for each in desk.of(cmd.SendOutcome)}
    assert outcomes[running] == cmd.Cancelled("kill")
    refused = outcomes[waiting]
    assert isinstance(refused, cmd.Refused)
    assert "could not be ended" in refused.reason
    assert states(desk) == ["broken"]
    assert desk.tell(ev.NestGone(nest=1, reason="late")) == []


def test_a_kill_that_was_due_in_a_nest_that_is_being_stopped_is_still_asked_for() -> None:
    desk = Desk("sim", interrupt_grace_s=2.0)
    submission = desk.submit()
    desk.cancel(submission)
    desk.tell(ev.StopRequested())
    desk.wait(2.0)
    assert desk.one(cmd.KillWorker)
    desk.wait(8.0)
    assert desk.outcome() == cmd.Cancelled("kill", True)


def test_backing_off_has_an_end() -> None:
    desk = Desk("sim", start=False, start_failures=12, start_backoff_s=1.0, client_lease_s=10_000.0)
    desk.submit()
    for nest in range(1, 11):
        desk.tell(ev.NestGone(nest=nest, reason="fell"))
        desk.wait(60.0)
        assert desk.one(cmd.StartNest).nest == nest + 1


def test_nests_of_one_tenant_on_other_kinds_of_device_go_their_own_way() -> None:
    desk = Desk("H100", "A100")
    desk.tell(ev.NestGone(nest=1, reason="fell"))
    desk.warm_all(desk.last)
    desk.submit(gpu=ev.GpuRequest("A100"))
    assert desk.sent().worker == 2
