"""Illegal transitions: in tests they raise with their history, in production they cost one call."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.invariants import check
from plover.daemon.scheduler.state import Call, Client, DeviceRecord, Nest, Worker
from plover.daemon.scheduler.transitions import (
    INITIAL,
    TABLE,
    IllegalTransition,
    move_call,
    move_client,
    move_device,
    move_nest,
    move_worker,
)


def records() -> dict[str, Any]:
    desk = Desk("sim")
    desk.submit()
    world = desk.scheduler.world
    return {
        "call": (world.calls[1], move_call),
        "worker": (world.workers[1], move_worker),
        "nest": (world.nests[1], move_nest),
        "device": (world.devices["simulated:0"], move_device),
        "client": (world.clients["default", b"c"], move_client),
    }


def test_the_table_holds_all_that_is_legal_and_nothing_else() -> None:
    for entity, (record, move) in records().items():
        rows = [row for row in TABLE if row.entity == entity]
        states = {row.source for row in rows} | {row.target for row in rows}
        assert INITIAL[rows[0].entity] in states
        legal = {(row.source, row.reason): row.target for row in rows}
        assert len(legal) == len(rows)
        for state in sorted(states):
            for reason in sorted({row.reason for row in rows}):
                record.state = state
                if (state, reason) in legal:
                    move(record, reason)
                    assert record.state == legal[state, reason]
                    assert record.history[-1] == reason
                else:
                    with pytest.raises(IllegalTransition, match=f"{reason}.* not legal in state '{state}'"):
                        move(record, reason)
                    assert record.state == state


def test_an_illegal_transition_tells_state_event_and_history() -> None:
    desk = Desk("sim")
    desk.submit()
    sent = desk.sent()
    desk.scheduler.world.calls[1].state = "succeeded"
    desk.checked = False
    with pytest.raises(IllegalTransition) as caught:
        desk.finish(sent)
    assert (caught.value.entity, caught.value.state, caught.value.reason) == ("call", "succeeded", "succeeded")
    assert caught.value.history == ("sent",)
    assert "before it: sent" in str(caught.value)


def broken(**limits: Any) -> Desk:
    """A desk in production whose books a test is about to spoil."""
    desk = Desk("sim", strict=False, **limits)
    desk.checked = False
    return desk


def mend(desk: Desk) -> None:
    """Whatever was spoiled: new calls are served again once what was ended is gone, and the books are right."""
    commands = desk.last
    for _ in range(5):
        kills, stops = desk.of(cmd.KillWorker, commands), desk.of(cmd.StopNest, commands)
        for kill in kills:
            commands = desk.die(kill.worker)
        for stop in stops:
            commands = desk.tell(ev.NestGone(nest=stop.nest, reason="stopped"))
        commands = desk.warm_all(commands)
        if not kills and not stops:
            break
    check(desk.scheduler)
    desk.checked = True
    submission = desk.submit()
    desk.warm_all(desk.last)
    desk.finish(desk.sent())
    assert desk.outcome() == cmd.FromWorker(1)
    assert desk.one(cmd.SendOutcome).submission == submission


def test_in_production_it_costs_the_call_its_life_and_the_rest_goes_on() -> None:
    desk = broken()
    desk.submit()
    sent = desk.sent()
    desk.scheduler.world.calls[1].state = "succeeded"
    desk.finish(sent)
    assert "not legal" in desk.one(cmd.LogFault).reason
    lost = desk.outcome()
    assert isinstance(lost, cmd.Lost)
    assert "Plover's own fault" in lost.reason
    mend(desk)


def test_a_queued_call_at_fault_leaves_the_queue() -> None:
    desk = broken()
    desk.submit()
    queued = desk.submit()
    desk.scheduler.world.calls[2].state = "lost"
    desk.cancel(queued)
    assert desk.one(cmd.LogFault)
    assert isinstance(desk.outcome(), cmd.Lost)
    assert desk.scheduler.snapshot().queued == {}
    check(desk.scheduler)


def test_a_call_at_fault_that_is_at_a_worker_is_taken_from_it() -> None:
    desk = broken()
    desk.submit(queue_timeout_s=1.0)
    call = desk.scheduler.world.calls[1]
    call.state = "lost"
    desk.scheduler._contain(IllegalTransition("call", call, "made up"), desk.now)
    call_again = IllegalTransition("call", call, "made up")
    desk.last = desk.scheduler.world.commands
    assert isinstance(desk.outcome(), cmd.Lost)
    assert desk.one(cmd.KillWorker)
    desk.last = []
    desk.scheduler._contain(call_again, desk.now)  # it has ended: nothing more to do
    desk.last = [cmd.KillWorker(worker=1, reason="")]
    mend(desk)


def test_a_worker_at_fault_is_ended_with_its_nest() -> None:
    desk = broken()
    desk.submit()
    sent = desk.sent()
    desk.scheduler.world.workers[1].state = "starting"
    desk.scheduler.world.workers[1].sent[0].flow.estimate_s = None
    desk.scheduler._contain(IllegalTransition("worker", desk.scheduler.world.workers[1], "made up"), desk.now)
    desk.last = desk.scheduler.world.commands
    assert desk.one(cmd.StopNest)
    assert desk.one(cmd.LogFault)
    desk.finish(sent)
    desk.last = [cmd.StopNest(nest=1)]
    mend(desk)


def test_a_nest_at_fault_is_ended() -> None:
    desk = broken()
    desk.scheduler.world.nests[1].state = "gone"
    desk.tell(ev.NestGone(nest=1, reason="fell"))
    assert desk.one(cmd.LogFault)
    assert desk.one(cmd.StopNest)
    mend(desk)


def test_a_nest_at_fault_that_is_forgotten_already_needs_nothing() -> None:
    desk = broken()
    nest = desk.scheduler.world.nests[1]
    desk.tell(ev.NestGone(nest=1, reason="fell"))
    desk.scheduler._contain(IllegalTransition("nest", nest, "made up"), desk.now)
    assert not desk.of(cmd.StopNest)
    mend(desk)


def test_devices_and_clients_at_fault_cost_nothing() -> None:
    desk = broken()
    device, client = desk.scheduler.world.devices["simulated:0"], Client(id=b"c", tenant="t", seen_at=0.0)
    desk.scheduler._contain(IllegalTransition("device", device, "made up"), desk.now)
    desk.scheduler._contain(IllegalTransition("client", client, "made up"), desk.now)
    mend(desk)


def test_a_fault_while_containing_one_is_logged_too() -> None:
    desk = broken()
    desk.submit()
    sent = desk.sent()
    desk.scheduler.world.calls[1].state = "succeeded"
    desk.scheduler.world.workers[1].state = "gone"
    desk.scheduler.world.nests[1].state = "gone"
    desk.scheduler._contain(IllegalTransition("worker", desk.scheduler.world.workers[1], "made up"), desk.now)
    desk.last = desk.scheduler.world.commands
    assert len(desk.of(cmd.LogFault)) == 2
    assert desk.finish(sent)


def test_records_show_their_state() -> None:
    desk = Desk("sim", "H100", "H100")
    desk.submit()
    desk.submit(gpu=ev.GpuRequest("", 2))
    world = desk.scheduler.world
    call: Call = world.calls[1]
    worker: Worker = world.workers[1]
    nest: Nest = world.nests[1]
    device: DeviceRecord = world.devices["simulated:0"]
    assert repr(call) == "<call 1 dispatched attempt 1>"
    assert repr(worker).startswith("<worker 1 busy of <nest 1 warm")
    assert repr(device).startswith("<device simulated:0 healthy <nest 1")
    assert repr(device.kind_of) == "<1 of 1 Simulated (simulated) usable, 0 free>"
    assert repr(call.client) == "<client b'c' present with 2 calls>"
    assert "running 1" in repr(call.flow)
    assert "starting 0 idle 0" in repr(nest.pool)
    assert "waiting 1" in repr(world.calls[2].flow.demand)
    assert "on ['cuda:1', 'cuda:2']" in repr(world.set_claim)
    assert "entries" in repr(world.timers)
    assert len(world.timers) >= 3
    assert repr(desk.scheduler).startswith("<Scheduler running: 2 calls unfinished, 3 workers, 3 nests, 1 clients>")
