"""Which device for whom: kinds and models, several at once, and taking turns on devices that are all taken."""

from __future__ import annotations

import itertools

from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.placement import OVER_RUN_S

PAIR = ev.GpuRequest("H100", 2)


def gone(desk: Desk, *nests: int) -> list[cmd.Command]:
    for nest in nests:
        desk.tell(ev.NestGone(nest=nest, reason="stopped"))
    return desk.last


def test_gpu_never_runs_on_a_simulated_device() -> None:
    desk = Desk("sim", "H100")
    desk.submit(gpu=ev.GpuRequest())
    assert desk.sent().worker == 2
    desk.submit(require_gpu=True)
    assert desk.last == []
    desk.submit()
    assert desk.sent().worker == 1


def test_an_idle_nest_of_another_tenant_gives_way() -> None:
    desk = Desk("sim")
    desk.submit(tenant="lab")
    assert desk.last == [cmd.StopNest(nest=1)]
    gone(desk, 1)
    start = desk.one(cmd.StartNest)
    assert (start.tenant, start.devices) == ("lab", ("simulated:0",))
    desk.warm_all(desk.last)
    assert desk.sent().call == 1


def test_only_as_many_give_way_as_calls_wait() -> None:
    desk = Desk("sim", "sim", "sim")
    desk.submit(tenant="lab")
    assert desk.of(cmd.StopNest) == [cmd.StopNest(nest=1)]
    desk.submit(tenant="lab")
    assert desk.of(cmd.StopNest) == [cmd.StopNest(nest=2)]


def test_a_nest_that_is_starting_gives_way_when_it_is_up() -> None:
    desk = Desk("sim", start=False)
    started = desk.tell(ev.DaemonStarted())
    desk.submit(tenant="lab")
    assert desk.last == []
    desk.warm_all(started)
    assert desk.last == [cmd.StopNest(nest=1)]


def test_a_device_that_nobody_wants_any_more_is_for_others() -> None:
    desk = Desk("sim")
    desk.submit(tenant="lab")
    desk.cancel(1, tenant="lab")
    desk.submit()
    assert desk.last == []
    gone(desk, 1)
    assert desk.one(cmd.StartNest).tenant == "default"


def test_an_evicted_prewarmed_nest_does_not_come_back_unasked() -> None:
    desk = Desk("sim")
    desk.submit(tenant="lab")
    gone(desk, 1)
    desk.cancel(1, tenant="lab")
    gone(desk, 2)
    assert desk.last == []


def test_tenants_take_turns_on_one_device() -> None:
    desk = Desk("sim")
    for _ in range(12):
        desk.submit()
    for number in range(12):
        desk.submit(submission=100 + number, client=b"l", tenant="lab")
    (worker,) = desk.scheduler.world.workers.values()
    order = []
    while worker.sent:
        call = worker.sent[0]
        order.append(call.client.tenant)
        desk.now += 1.0
        desk.tell(ev.ClientSeen(client=b"c"))
        desk.tell(ev.ClientSeen(client=b"l", tenant="lab"))
        desk.finish(desk.as_sent(call))
        if desk.of(cmd.StopNest):
            gone(desk, desk.one(cmd.StopNest).nest)
            desk.warm_all(desk.last)
            (worker,) = desk.scheduler.world.workers.values()
    assert len(order) == 24
    for end in range(1, 25):
        default = order[:end].count("default")
        lab = end - default
        if max(default, lab) < 12:
            assert abs(default - lab) <= 2 * OVER_RUN_S + 2
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes <= 8  # and they do not change places after every call


def test_a_worker_with_calls_in_hand_is_fed_no_more_when_its_device_is_due_to_others() -> None:
    desk = Desk("sim", dispatched_per_worker=2, prefetch_s=10.0)
    desk.run(run_s=2.0)
    sent = []
    for _ in range(10):
        desk.submit()
        sent += desk.of(cmd.SendCall)
    assert len(sent) == 2
    desk.submit(submission=99, tenant="lab")
    while not desk.of(cmd.StopNest):
        desk.now += 2.0
        desk.finish(sent.pop(0))
        sent += desk.of(cmd.SendCall)
        if len(sent) == 1:
            desk.submit()  # room there is, but not for this one
            assert desk.last == []
    assert not sent
    gone(desk, 1)
    assert desk.one(cmd.StartNest).tenant == "lab"


def test_room_that_was_offered_is_taken_back_when_its_device_is_due_to_others() -> None:
    desk = Desk("sim")
    desk.run(b"f")
    desk.submit(b"f")
    sent = desk.sent()
    assert len(desk.scheduler.world.nests[1].pool.partial) == 1
    desk.submit(submission=99, tenant="lab")
    desk.scheduler.queues.flows[("default", "default", None, False), b"f"].start += 10.0
    desk.submit(b"f")
    assert desk.last == []
    desk.finish(sent)
    assert desk.one(cmd.StopNest)


def test_several_devices_make_one_slot() -> None:
    desk = Desk("H100", "A100", "H100", start=False)
    desk.submit(gpu=PAIR)
    assert desk.one(cmd.StartNest).devices == ("cuda:0", "cuda:2")
    desk.warm_all(desk.last)
    desk.finish(desk.sent())
    assert desk.one(cmd.SendOutcome).devices == ("cuda:0", "cuda:2")
    desk.submit()
    assert desk.one(cmd.StartNest).devices == ("cuda:1",)
    desk.submit(gpu=PAIR)
    assert desk.sent()


def test_a_call_for_several_devices_claims_them_as_they_come_free() -> None:
    desk = Desk("H100", "H100")
    ones = []
    for _ in range(8):
        desk.submit(b"one")
        ones += desk.of(cmd.SendCall)
    pair = desk.submit(b"pair", gpu=PAIR)
    assert desk.last == []
    stopped: list[int] = []
    for _ in range(8):
        desk.now += 3.0
        desk.finish(ones.pop(0))
        ones += desk.of(cmd.SendCall)
        stopped += [each.nest for each in desk.of(cmd.StopNest)]
        if len(stopped) == 2:
            break
    assert sorted(stopped) == [1, 2]
    gone(desk, stopped[0])
    assert desk.last == []  # one device is set aside; later calls do not get it
    desk.submit(b"one")
    assert desk.last == []
    gone(desk, stopped[1])
    assert len(desk.one(cmd.StartNest).devices) == 2
    desk.warm_all(desk.last)
    assert desk.sent().call == desk.scheduler.find_call(b"c", pair)


def test_only_one_call_at_a_time_gathers_several_devices() -> None:
    desk = Desk("H100", "H100")
    for _ in range(2):
        desk.submit(b"one")
    desk.submit(b"x", gpu=PAIR)
    desk.submit(b"y", gpu=PAIR, tenant="lab")
    assert desk.last == []
    desk.finish(cmd.SendCall(worker=1, call=1, attempt=1, function=b"", with_payload=False))
    assert desk.one(cmd.StopNest).nest == 1
    gone(desk, 1)
    desk.finish(cmd.SendCall(worker=2, call=2, attempt=1, function=b"", with_payload=False))
    gone(desk, desk.one(cmd.StopNest).nest)
    first = desk.one(cmd.StartNest)
    desk.warm_all(desk.last)
    desk.finish(desk.sent())
    assert desk.one(cmd.StopNest).nest == first.nest
    gone(desk, first.nest)
    second = desk.one(cmd.StartNest)
    assert {first.tenant, second.tenant} == {"default", "lab"}


def test_claimed_devices_are_given_back_when_the_call_is_cancelled() -> None:
    desk = Desk("H100", "H100")
    desk.submit(b"one")
    sent = desk.sent()
    pair = desk.submit(b"pair", gpu=PAIR)
    assert desk.one(cmd.StopNest).nest == 2
    gone(desk, 2)
    desk.submit(b"one")
    assert desk.last == []
    desk.cancel(pair)
    assert desk.one(cmd.StartNest).devices == ("cuda:1",)
    desk.finish(sent)
    assert desk.sent().call == 3


def test_a_slot_of_several_devices_that_does_not_start_is_held_against_all_of_them() -> None:
    desk = Desk("H100", "H100", "sim", start=False, start_failures=2)
    desk.submit(gpu=PAIR)
    desk.tell(ev.NestGone(nest=1, reason="no NVLink"))
    desk.wait(0.5)
    desk.tell(ev.NestGone(nest=2, reason="no NVLink"))
    refused = desk.outcome()
    assert isinstance(refused, cmd.Refused)
    assert "2 of them broken (the last failure: nest 2 did not start: no NVLink)" in refused.reason


def test_a_nest_that_ends_later_is_not_said_not_to_have_started() -> None:
    desk = Desk("sim", start_failures=1)
    desk.tell(ev.WorkerGone(worker=1, begun=None, signal=9))
    assert desk.one(cmd.StartWorker).nest == 1
    desk.tell(ev.NestGone(nest=1, reason="its zygote was killed"))
    assert next(iter(desk.scheduler.world.devices.values())).last_failure == (
        "nest 1 ended while a worker of it started: its zygote was killed"
    )


def test_a_slot_with_a_device_that_broke_before_counts_on_for_the_others_only() -> None:
    desk = Desk("H100", "H100", start=False, start_failures=3)
    desk.submit(gpu=ev.GpuRequest())
    desk.tell(ev.NestGone(nest=1, reason="fell"))
    # The other device is free: the call goes there, and then the pair fails twice on both.
    desk.warm_all(desk.last)
    desk.finish(desk.sent())
    desk.submit(gpu=PAIR)
    gone(desk, 2)
    desk.wait(0.5)
    nest = desk.one(cmd.StartNest).nest
    desk.tell(ev.NestReady(nest=nest))
    desk.die(desk.one(cmd.StartWorker).worker)
    desk.wait(1.0)
    desk.die(desk.one(cmd.StartWorker).worker)
    assert [each.state for each in desk.scheduler.snapshot().devices] == ["broken", "suspect"]
    assert desk.one(cmd.StopNest).nest == nest
    assert isinstance(desk.outcome(), cmd.Refused)


def test_a_claimed_device_that_breaks_is_no_longer_waited_for() -> None:
    desk = Desk("H100", "H100", "H100", nest_start_s=60.0, client_lease_s=1000.0)
    for _ in range(2):
        desk.submit(b"one")
    desk.submit(b"pair", gpu=PAIR)
    assert desk.one(cmd.StopNest).nest == 3
    desk.wait(60.0)  # it cannot be ended
    assert [each.state for each in desk.scheduler.snapshot().devices] == ["healthy", "healthy", "broken"]
    for call in (1, 2):
        desk.finish(cmd.SendCall(worker=call, call=call, attempt=1, function=b"", with_payload=False))
        gone(desk, desk.one(cmd.StopNest).nest)
    assert desk.one(cmd.StartNest).devices == ("cuda:0", "cuda:1")


def test_a_device_that_was_cleared_in_vain_goes_to_whoever_waits() -> None:
    desk = Desk("sim", "sim")
    desk.submit(tenant="lab")
    desk.submit(tenant="lab")
    desk.submit()
    desk.cancel(2, tenant="lab")
    gone(desk, 1)
    first = desk.one(cmd.StartNest)
    gone(desk, 2)
    second = desk.one(cmd.StartNest)
    assert [first.tenant, second.tenant] == ["lab", "default"]


def test_a_slot_is_no_longer_cleared_when_a_worker_came_free_meanwhile() -> None:
    desk = Desk("sim", "sim", start=False)
    desk.submit(tenant="lab", client=b"l")
    desk.warm_all(desk.last)
    desk.finish(desk.sent())
    desk.submit()
    desk.warm_all(desk.last)
    sent = desk.sent()
    desk.submit()
    assert desk.one(cmd.StopNest).nest == 1
    desk.finish(sent)
    assert desk.sent().call == 3
    assert gone(desk, 1) == []
    assert not desk.of(cmd.StartNest)


def test_of_a_slot_of_several_devices_only_what_is_needed_is_kept() -> None:
    desk = Desk("H100", "H100", start=False)
    desk.submit(gpu=PAIR)
    desk.warm_all(desk.last)
    desk.finish(desk.sent())
    desk.submit()
    assert desk.one(cmd.StopNest).nest == 1
    gone(desk, 1)
    assert desk.one(cmd.StartNest).devices == ("cuda:0",)
    desk.submit()
    assert desk.one(cmd.StartNest).devices == ("cuda:1",)


def test_a_worker_takes_the_first_of_all_that_it_can_serve() -> None:
    desk = Desk("H100")
    desk.submit(b"f")
    sent = desk.sent()
    desk.submit(b"f")
    desk.submit(b"g", gpu=ev.GpuRequest("H100"))
    desk.submit(b"h", require_gpu=True)
    order = []
    for _ in range(3):
        desk.now += 2.0
        desk.finish(sent)
        sent = desk.sent()
        order.append(sent.function)
    assert order == [b"g", b"h", b"f"]
