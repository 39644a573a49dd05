"""Sending short calls behind others: which, to whom, how many, and what becomes of them when something goes wrong."""

from __future__ import annotations

import math

import pytest
from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.queues import PEAK_FADES, UNKNOWN_RUN_S


def burst(desk: Desk, count: int, function: bytes = b"f", **more: object) -> list[cmd.SendCall]:
    """Submit calls, all at this moment; what was sent."""
    sent: list[cmd.SendCall] = []
    for _ in range(count):
        desk.submit(function, **more)
        sent += desk.of(cmd.SendCall)
    return sent


def finish_all(desk: Desk, sent: list[cmd.SendCall], run_s: float = 0.0) -> list[bytes]:
    """Finish what was sent, and what is sent for it, in order; the functions in that order."""
    todo, order = list(sent), []
    while todo:
        desk.now += run_s
        order.append(todo[0].function)
        desk.finish(todo.pop(0))
        todo += desk.of(cmd.SendCall)
    return order


# -- which flows are short ---------------------------------------------------------------------------------------------


def test_a_function_that_never_ended_a_call_is_not_short() -> None:
    desk = Desk("sim")
    first, *others = burst(desk, 3)
    assert not others
    desk.finish(first)
    # Now it is, and a worker has its next calls before it asks.
    assert [each.call for each in desk.of(cmd.SendCall)] == [2, 3]


def test_a_worker_has_its_next_short_calls_before_it_asks_up_to_the_limit() -> None:
    desk = Desk("sim", dispatched_per_worker=16)
    desk.run()
    sent = burst(desk, 20)
    assert [each.call for each in sent] == list(range(2, 18))
    assert not any(each.with_payload for each in sent)
    desk.finish(sent[0])
    assert desk.sent().call == 18
    assert finish_all(desk, [*sent[1:], desk.sent()]) == [b"f"] * 19
    assert desk.scheduler.snapshot().ended == {"succeeded": 21}


def test_what_stands_in_front_is_expected_to_take_prefetch_s_at_most() -> None:
    desk = Desk("sim", prefetch_s=0.002)
    desk.run(run_s=0.0006)
    # 0, 0.6, 1.2 and 1.8 ms stand in front of these.
    assert len(burst(desk, 10)) == 4


def test_a_long_function_is_sent_one_call_at_a_time() -> None:
    desk = Desk("sim", prefetch_s=0.002)
    desk.run(run_s=0.0021)
    sent = burst(desk, 3)
    assert len(sent) == 1
    desk.now += 0.5
    desk.finish(sent[0])
    assert len(desk.of(cmd.SendCall)) == 1


@pytest.mark.parametrize("limits", [{"dispatched_per_worker": 1}, {"prefetch_s": 0.0}])
def test_either_limit_turns_it_off(limits: dict[str, float]) -> None:
    desk = Desk("sim", **limits)
    desk.run()
    assert len(burst(desk, 5)) == 1


def test_after_a_long_run_a_function_is_not_short_for_a_while() -> None:
    desk = Desk("sim", prefetch_s=0.002)
    desk.run(run_s=0.2)
    needed = math.ceil(math.log(0.002 / 0.2, PEAK_FADES))
    assert needed == 44  # as queues.py says
    for _ in range(needed):
        (sent,) = burst(desk, 1)
        desk.submit()
        assert desk.last == []
        desk.cancel(desk.submissions)
        finish_all(desk, [sent])
    assert len(burst(desk, 2)) == 2


def test_one_long_call_in_ten_keeps_a_function_from_being_short() -> None:
    desk = Desk("sim")
    desk.run(run_s=0.1)
    for number in range(1, 200):
        sent = burst(desk, 2)
        assert len(sent) == 1
        finish_all(desk, sent, 0.1 if number % 5 == 0 else 0.0001)


def test_a_function_that_killed_its_worker_is_not_short_for_a_while() -> None:
    desk = Desk("sim")
    desk.run()
    sent = burst(desk, 4)
    assert len(sent) == 4
    desk.die(1, sent[0], signal=11)
    assert isinstance(desk.outcome(), cmd.Lost)
    desk.warm_all(desk.last)
    assert len(desk.of(cmd.SendCall)) == 1
    flow = next(iter(desk.scheduler.queues.flows.values()))
    assert flow.peak_s == UNKNOWN_RUN_S
    desk.finish(desk.sent())
    assert len(desk.of(cmd.SendCall)) == 1


# -- to whom -----------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_behind_a_call_that_brings_its_function() -> None:
    desk = Desk("sim", "sim", dispatched_per_worker=16)
    desk.run()
    assert desk.scheduler.world.workers[1].known
    sent = burst(desk, 30)
    # One worker holds the function; the other is idle and so comes first, but may load for long.
    assert [each.worker for each in sent].count(2) == 1
    assert [each.with_payload for each in sent if each.worker == 2] == [True]
    assert [each.worker for each in sent].count(1) == 16


def test_a_worker_that_lacks_the_function_of_whoever_is_next_is_left_to_become_idle() -> None:
    desk = Desk("sim", "sim")
    desk.run(b"f")
    desk.run(b"g")
    (f,), (g,) = burst(desk, 1, b"f"), burst(desk, 1, b"g")
    assert f.worker != g.worker
    assert [each.worker for each in burst(desk, 3, b"f")] == [f.worker] * 3
    desk.submit(b"g")
    assert desk.last == []
    desk.finish(g)
    assert (desk.sent().function, desk.sent().worker) == (b"g", g.worker)


def test_idle_workers_come_first() -> None:
    desk = Desk("sim", "sim")
    desk.run()
    assert [each.worker for each in burst(desk, 4)] == [1, 2, 1, 1]


def test_a_call_that_comes_back_looks_for_idle_workers_first() -> None:
    desk = Desk("sim", "sim")
    desk.run()
    first, other, behind = burst(desk, 3, retries=1)
    assert first.worker == behind.worker != other.worker
    desk.finish(other)
    desk.finish(first, "interrupted")
    assert (desk.sent().call, desk.sent().attempt, desk.sent().worker) == (first.call, 2, other.worker)


def test_busy_workers_are_sent_calls_in_turn() -> None:
    desk = Desk("sim", "sim", "sim")
    for sent in (burst(desk, 3), burst(desk, 3)):
        finish_all(desk, sent)
    turns = [each.worker for each in burst(desk, 9)[3:]]
    assert sorted(turns[:3]) == [1, 2, 3]
    assert turns[3:] == turns[:3]


def test_short_functions_share_a_worker_fairly() -> None:
    desk = Desk("sim")
    desk.run(b"f")
    desk.run(b"g")
    sent = burst(desk, 30, b"f")
    sent += burst(desk, 10, b"g")
    order = finish_all(desk, sent, 0.0001)
    assert order[:16] == [b"f"] * 16
    assert 9 <= order[16:36].count(b"g") <= 10


# -- nobody is passed --------------------------------------------------------------------------------------------------


def test_short_calls_do_not_keep_a_worker_from_a_long_one_that_is_next() -> None:
    desk = Desk("sim")
    desk.run(b"f")
    sent = burst(desk, 3, b"f")
    assert len(sent) == 3
    desk.submit(b"new")
    assert desk.last == []
    assert burst(desk, 5, b"f") == []
    order = finish_all(desk, sent)
    assert order == [b"f"] * 3 + [b"new"] + [b"f"] * 5


def test_a_higher_priority_waits_for_what_was_sent_and_no_more() -> None:
    desk = Desk("sim", dispatched_per_worker=2)
    desk.run()
    sent = burst(desk, 10)
    desk.submit(priority=5)
    high = desk.submissions
    desk.finish(sent[0])
    assert desk.sent().call == high


def test_a_call_of_another_demand_that_is_next_is_not_passed() -> None:
    desk = Desk("H100")
    desk.run(b"f")
    assert len(burst(desk, 2, b"f")) == 2
    desk.submit(b"new", gpu=ev.GpuRequest("H100"))
    assert burst(desk, 2, b"f") == []


def test_calls_that_come_back_are_sent_behind_others_in_order() -> None:
    desk = Desk("H100", "H100")
    h100 = ev.GpuRequest("H100")
    finish_all(desk, burst(desk, 2, b"f"))
    finish_all(desk, burst(desk, 2, b"g", gpu=h100))
    sent = burst(desk, 2, b"f") + burst(desk, 2, b"g", gpu=h100) + burst(desk, 2, b"f")
    assert sorted(each.worker for each in sent) == [1, 1, 1, 2, 2, 2]
    desk.die(1)
    again = desk.of(cmd.SendCall)
    assert {each.call for each in again} == {each.call for each in sent if each.worker == 1}
    assert all(each.worker == 2 for each in again)


def test_of_several_calls_that_come_back_each_looks_for_idle_workers_first() -> None:
    desk = Desk("H100", "H100", "sim")
    h100 = ev.GpuRequest("H100")
    finish_all(desk, burst(desk, 2, b"f", gpu=h100))
    finish_all(desk, burst(desk, 3, b"g"))
    on_h100 = burst(desk, 2, b"f", gpu=h100)
    (on_sim,) = burst(desk, 1, b"g")
    behind = burst(desk, 2, b"g")
    desk.finish(on_sim)
    # One of the GPUs' workers dies. Its g is before its f, and goes to the idle one.
    (g,) = [each for each in behind if each.worker == on_h100[0].worker]
    next(flow for flow in desk.scheduler.queues.flows.values() if flow.function == b"f").start += 1.0
    desk.die(on_h100[0].worker)
    again = {each.call: each.worker for each in desk.of(cmd.SendCall)}
    assert again == {on_h100[0].call: on_h100[1].worker, g.call: on_sim.worker}


# -- when something goes wrong -----------------------------------------------------------------------------------------


def test_what_had_ended_unheard_of_before_a_worker_died_does_not_run_again() -> None:
    desk = Desk("sim")
    desk.run()
    sent = burst(desk, 4)
    desk.die(1, sent[1], signal=11)
    ends = {each.call: type(each.outcome) for each in desk.of(cmd.SendOutcome)}
    assert ends == {sent[0].call: cmd.Lost, sent[1].call: cmd.Lost}
    desk.warm_all(desk.last)
    assert (desk.sent().call, desk.sent().attempt) == (sent[2].call, 1)
    desk.finish(desk.sent())
    assert (desk.sent().call, desk.sent().attempt) == (sent[3].call, 1)


def test_what_had_ended_unheard_of_runs_again_where_its_author_allowed_it() -> None:
    desk = Desk("sim")
    desk.run()
    sent = burst(desk, 2, retries=1)
    desk.die(1, sent[1])
    desk.warm_all(desk.last)
    assert (desk.sent().call, desk.sent().attempt) == (sent[0].call, 2)


def test_all_calls_of_a_nest_whose_pages_nobody_read_may_have_run() -> None:
    desk = Desk("sim")
    desk.run()
    sent = burst(desk, 3)
    desk.tell(ev.NestGone(nest=1, reason="docker was restarted"))
    assert [each.call for each in desk.of(cmd.SendOutcome)] == [each.call for each in sent]
    assert all(isinstance(each.outcome, cmd.Lost) for each in desk.of(cmd.SendOutcome))


def test_run_time_of_a_call_behind_another_counts_from_the_end_of_that_one() -> None:
    desk = Desk("sim", prefetch_s=10.0)
    desk.run(b"f", run_s=2.0)
    desk.run(b"g", run_s=2.0)
    (f,), (g,) = burst(desk, 1, b"f"), burst(desk, 1, b"g")
    desk.now += 6.0
    desk.finish(f)
    desk.now += 4.0
    desk.finish(g)
    estimates = {flow.function: flow.estimate_s for flow in desk.scheduler.queues.flows.values()}
    assert estimates == {b"f": 3.0, b"g": 2.5}
