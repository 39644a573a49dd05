"""Who goes first: priority, arrival, fairness between flows, and stickiness to workers that hold the function."""

from __future__ import annotations

from scheduler_support import Desk

from plover.daemon.scheduler.events import GpuRequest
from plover.daemon.scheduler.queues import SMALLEST_RUN_S


def serve(desk: Desk, runs_s: dict[bytes, float], count: int) -> list[bytes]:
    """Let the busy worker run `count` calls, each as long as its function takes; the functions in order."""
    order = []
    (worker,) = desk.scheduler.world.workers.values()
    for _ in range(count):
        call = worker.sent[0]
        order.append(call.flow.function)
        desk.now += runs_s[call.flow.function]
        desk.finish(desk.as_sent(call))
    return order


def test_priority_then_arrival() -> None:
    desk = Desk("sim", dispatched_per_worker=1)
    desk.submit()
    sent = desk.sent()
    low, high, also_high = desk.submit(), desk.submit(priority=5), desk.submit(priority=5)
    order = []
    for _ in range(3):
        desk.finish(sent)
        sent = desk.sent()
        order.append(sent.call)
    assert order == [high, also_high, low]


def test_a_call_that_comes_back_keeps_its_place() -> None:
    desk = Desk("sim")
    first = desk.submit()
    desk.submit()
    worker = desk.scheduler.world.workers[1].number
    desk.die(worker)
    desk.warm_all(desk.last)
    sent = desk.sent()
    assert (sent.call, sent.attempt) == (first, 1)


def test_flows_share_by_time_not_by_calls() -> None:
    desk = Desk("sim")
    for _ in range(40):
        desk.submit(b"long")
    for _ in range(200):
        desk.submit(b"short")
    order = serve(desk, {b"long": 1.0, b"short": 0.1}, 120)
    long, short = order.count(b"long") * 1.0, order.count(b"short") * 0.1
    assert abs(long - short) <= 2.0


def test_nobody_saves_up_for_a_burst() -> None:
    desk = Desk("sim")
    desk.submit(b"rare")
    serve(desk, {b"rare": 0.1}, 1)
    for _ in range(300):
        desk.submit(b"often")
    serve(desk, {b"often": 0.1}, 200)
    for _ in range(50):
        desk.submit(b"rare")
    order = serve(desk, {b"often": 0.1, b"rare": 0.1}, 40)
    assert 15 <= order.count(b"often") <= 25


def test_calls_of_no_length_do_not_starve_others() -> None:
    desk = Desk("sim")
    for _ in range(20):
        desk.submit(b"a")
        desk.submit(b"b")
    order = serve(desk, {b"a": 0.0, b"b": 0.0}, 20)
    assert 9 <= order.count(b"a") <= 11
    assert desk.scheduler.queues.flows[("default", "default", None, False), b"a"].estimate_s == SMALLEST_RUN_S


def test_a_flow_alone_on_one_kind_of_device_holds_nobody_up_on_another() -> None:
    desk = Desk("H100", "A100")
    a100, h100 = GpuRequest("A100"), GpuRequest("H100")
    for _ in range(30):
        desk.submit(b"alone", gpu=h100)
    (busy,) = [w for w in desk.scheduler.world.workers.values() if w.sent]
    for _ in range(20):
        call = busy.sent[0]
        desk.now += 5.0
        desk.keep()
        desk.finish(desk.as_sent(call))
    for _ in range(10):
        desk.submit(b"old", gpu=a100)
    desk.submit(b"new", gpu=a100)
    (other,) = [w for w in desk.scheduler.world.workers.values() if w is not busy]
    served = []
    for _ in range(3):
        call = other.sent[0]
        served.append(call.flow.function)
        desk.now += 1.0
        desk.finish(desk.as_sent(call))
    assert b"new" in served


def test_an_idle_worker_that_holds_the_function_is_preferred() -> None:
    desk = Desk("sim", "sim")
    desk.submit(b"f")
    f = desk.sent()
    desk.submit(b"g")
    g = desk.sent()
    assert f.worker != g.worker
    desk.finish(f)
    desk.finish(g)
    for function, worker in [(b"g", g.worker), (b"f", f.worker), (b"g", g.worker)]:
        desk.submit(function)
        assert (desk.sent().worker, desk.sent().with_payload) == (worker, False)
        desk.finish(desk.sent())


def test_a_worker_that_holds_it_but_is_busy_is_found_again_once_idle() -> None:
    desk = Desk("sim", "sim")
    desk.submit(b"f")
    first = desk.sent()
    desk.submit(b"f")
    second = desk.sent()
    assert second.with_payload
    desk.finish(first)
    desk.submit(b"g")
    assert desk.sent().worker == first.worker
    busy = desk.sent()
    desk.finish(second)
    desk.submit(b"f")
    third = desk.sent()
    assert third.worker == second.worker
    desk.finish(busy)
    desk.submit(b"f")
    assert (desk.sent().worker, desk.sent().with_payload) == (first.worker, False)


def test_a_worker_forgets_the_function_it_used_least_lately() -> None:
    desk = Desk("sim", functions_known_per_worker=2)
    payloads = []
    for function in [b"f", b"g", b"f", b"h", b"f", b"g"]:
        desk.submit(function)
        payloads.append(desk.sent().with_payload)
        desk.finish(desk.sent())
    assert payloads == [True, True, False, True, False, True]


def test_idle_flows_are_forgotten_in_the_end() -> None:
    desk = Desk("H100", functions_known_per_worker=2)
    desk.checked = False
    desk.submit(b"first", gpu=GpuRequest("H100"))
    desk.finish(desk.sent())
    assert len(desk.scheduler.world.nests[1].pool.demands) == 1
    for number in range(1_030):
        desk.submit(b"%d" % number)
        desk.finish(desk.sent())
        desk.acknowledge(desk.submissions)
    queues = desk.scheduler.queues
    assert len(queues.flows) == 1_024
    assert len(queues.demands) == len(desk.scheduler.world.nests[1].pool.demands) == 1
    desk.checked = True
    desk.submit(b"first", gpu=GpuRequest("H100"))
    assert desk.sent()
