"""The author's own modules in the scheduler: a worker means one thing by each name, and gives way to a fresh one."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_support import Desk

from plover.bundles.format import BundleSet
from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.placement import OVER_RUN_S

ONE = BundleSet.of({"own": b"1"})
TWO = BundleSet.of({"own": b"2"})
WIDER = BundleSet.of({"own": b"1", "more": b"1"}, ["torch"])
THEIRS = BundleSet.of({}, ["own"])
KEYS = {b"": BundleSet(), b"1": ONE, b"2": TWO, b"w": WIDER, b"t": THEIRS}


def submit(desk: Desk, key: bytes, function: bytes = b"f", **more: Any) -> int:
    return desk.submit(function + key, modules=KEYS[key], **more)


def run(desk: Desk, key: bytes, run_s: float = 0.0) -> cmd.SendCall:
    return desk.run(b"f" + key, run_s, modules=KEYS[key])


def replace(desk: Desk) -> cmd.SendCall:
    """The worker that was told to go goes, a fresh one comes, and takes the call that waits."""
    killed = desk.one(cmd.KillWorker)
    assert not desk.of(cmd.SendCall)
    assert not desk.of(cmd.StopNest)
    desk.warm_all(desk.die(killed.worker, signal=9))
    return desk.sent()


def test_calls_with_and_without_modules_that_fit_share_a_worker() -> None:
    desk = Desk("sim")
    assert len({run(desk, key).worker for key in (b"", b"1", b"w", b"", b"1")}) == 1


@pytest.mark.parametrize(("before", "then"), [(b"1", b"2"), (b"w", b"2"), (b"1", b"t"), (b"t", b"1")])
def test_an_idle_worker_that_means_something_else_is_renewed_in_its_nest(before: bytes, then: bytes) -> None:
    desk = Desk("sim")
    first = run(desk, before)
    submission = submit(desk, then)
    assert "another version" in desk.one(cmd.KillWorker).reason
    sent = replace(desk)
    assert sent.worker != first.worker
    assert (sent.attempt, sent.with_payload) == (1, True)
    desk.finish(sent)
    assert desk.one(cmd.SendOutcome).submission == submission


def test_another_idle_worker_that_fits_is_taken_first() -> None:
    desk = Desk("sim", "sim")
    one = run(desk, b"1")
    submit(desk, b"2")
    assert desk.sent().worker != one.worker


def test_the_longest_idle_is_renewed_and_no_more_than_are_needed() -> None:
    desk = Desk("sim", "sim")
    sent = [(submit(desk, b"1"), desk.sent())[1] for _ in range(2)]
    for each in sent:
        desk.finish(each)
    desk.acknowledge(1, 2)
    submit(desk, b"2")
    killed = desk.one(cmd.KillWorker)
    assert killed.worker == sent[0].worker
    submit(desk, b"1")
    assert desk.sent().worker == sent[1].worker
    submit(desk, b"2")
    assert not desk.of(cmd.KillWorker)


def test_two_calls_renew_two_idle_workers() -> None:
    desk = Desk("sim", "sim")
    sent = [(submit(desk, b"1"), desk.sent())[1] for _ in range(2)]
    for each in sent:
        desk.finish(each)
    submit(desk, b"2")
    first = desk.one(cmd.KillWorker)
    submit(desk, b"2", b"g")
    second = desk.one(cmd.KillWorker)
    assert {first.worker, second.worker} == {each.worker for each in sent}


def test_nothing_is_sent_behind_calls_of_another_version() -> None:
    desk = Desk("sim")
    for key in (b"1", b"1", b"1"):
        run(desk, key, 0.0001)
    submit(desk, b"1")
    running = desk.sent()
    submit(desk, b"2")
    assert not desk.of(cmd.SendCall)
    submit(desk, b"1")
    assert not desk.of(cmd.SendCall), "somebody else is first in line"
    desk.finish(running)


def test_calls_that_fit_go_on_until_who_does_not_has_waited_long_enough() -> None:
    """One slot and two versions: not a fork for each call."""
    desk = Desk("sim")
    run(desk, b"1", 1.0)
    submit(desk, b"1")
    running = desk.sent()
    submit(desk, b"2", client=b"d")
    for _ in range(8):
        submit(desk, b"1")
    served = 0
    while True:
        desk.now += 1.0
        desk.finish(running)
        if desk.of(cmd.KillWorker):
            break
        running = desk.sent()
        served += 1
    assert OVER_RUN_S - 1 <= served <= OVER_RUN_S + 2
    assert replace(desk).function == b"f2"


def test_a_worker_whose_first_in_line_is_provided_for_serves_others() -> None:
    desk = Desk("sim", "sim")
    sent = [(submit(desk, b"1"), desk.sent())[1] for _ in range(2)]
    desk.finish(sent[0])
    submit(desk, b"2")
    assert desk.one(cmd.KillWorker).worker == sent[0].worker
    submit(desk, b"1")
    desk.finish(sent[1])
    assert (desk.sent().worker, desk.sent().function) == (sent[1].worker, b"f1")


def test_an_idle_worker_that_fits_nobody_stays_where_a_fresh_one_is_coming() -> None:
    desk = Desk("sim", "sim")
    sent = [(submit(desk, b"1"), desk.sent())[1] for _ in range(2)]
    desk.finish(sent[0])
    submit(desk, b"2")
    desk.finish(sent[1])
    assert not desk.of(cmd.KillWorker)
    assert not desk.of(cmd.SendCall)


def test_a_renewed_worker_that_cannot_be_killed_takes_its_nest_with_it() -> None:
    desk = Desk("sim", stop_grace_s=10.0)
    run(desk, b"1")
    submit(desk, b"2")
    desk.wait(10.0)
    nest = desk.one(cmd.StopNest).nest
    desk.warm_all(desk.tell(ev.NestGone(nest=nest, reason="stopped")))
    assert desk.sent().function == b"f2"


def test_the_call_is_gone_when_the_fresh_worker_comes() -> None:
    desk = Desk("sim")
    run(desk, b"1")
    submission = submit(desk, b"2")
    killed = desk.one(cmd.KillWorker)
    desk.cancel(submission)
    assert desk.warm_all(desk.die(killed.worker, signal=9)) == []
    submit(desk, b"1")
    assert desk.sent().worker != killed.worker


def test_who_needs_the_device_for_itself_gets_it_from_a_worker_that_fits_nobody() -> None:
    desk = Desk("sim")
    run(desk, b"1")
    submit(desk, b"2", tenant="other", client=b"o")
    assert desk.of(cmd.StopNest)
    assert not desk.of(cmd.KillWorker)


def test_a_worker_that_cannot_take_the_modules_after_all_costs_no_attempt() -> None:
    desk = Desk("sim")
    submit(desk, b"1")
    sent = desk.sent()
    desk.tell(ev.WorkerUnwell(worker=sent.worker, reason="it has looked for 'own' in vain"))
    desk.warm_all(desk.die(sent.worker, exit_code=1))
    again = desk.sent()
    assert (again.call, again.attempt, again.with_payload) == (sent.call, 1, True)
    assert again.worker != sent.worker


def test_a_worker_is_sent_again_what_it_lacks_and_keeps_its_meanings() -> None:
    desk = Desk("sim")
    submit(desk, b"1")
    sent = desk.sent()
    desk.tell(ev.PayloadMissed(worker=sent.worker, call=sent.call, attempt=sent.attempt))
    assert desk.sent().with_payload
    desk.finish(sent)
    submit(desk, b"2")
    assert desk.one(cmd.KillWorker).worker == sent.worker


def test_demands_of_one_pool_are_each_provided_for() -> None:
    """Both demands wait for the same workers; what comes for one is no reason to leave the other waiting."""
    desk = Desk("NVIDIA H100", "NVIDIA H100")
    sent = [(submit(desk, b"1"), desk.sent())[1] for _ in range(2)]
    for each in sent:
        desk.finish(each)
    submit(desk, b"2")
    assert len(desk.of(cmd.KillWorker)) == 1
    for _ in range(2):
        submit(desk, b"2", gpu=ev.GpuRequest("H100"), client=b"d")
    assert len(desk.of(cmd.KillWorker)) == 1


def test_whoever_fits_and_has_waited_longest_goes_first_of_all_demands() -> None:
    desk = Desk("NVIDIA H100")
    submit(desk, b"1")
    running = desk.sent()
    submit(desk, b"2", client=b"d")
    longest = submit(desk, b"1", b"g")
    for _ in range(2):
        submit(desk, b"1", gpu=ev.GpuRequest("H100"))
    desk.finish(running)
    assert desk.scheduler.world.calls[desk.sent().call].submission == longest
