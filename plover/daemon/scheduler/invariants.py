"""What must be true of a scheduler between any two events; the tests check it after each.

Guarantees: `check` changes nothing but what looking at a ranking changes (stale entries are dropped), and its message
says which thing is wrong and how. Assumes nothing of how the state came about. Linear, and more: for tests only.
"""

from __future__ import annotations

from plover.daemon.scheduler.config import Limits
from plover.daemon.scheduler.placement import Placement
from plover.daemon.scheduler.queues import IDLE_FLOWS_REMEMBERED, is_ranked_right, virtual_time
from plover.daemon.scheduler.scheduler import Scheduler
from plover.daemon.scheduler.state import (
    LONG_S,
    UNFINISHED,
    Call,
    Client,
    Demand,
    DeviceRecord,
    Flow,
    Nest,
    Timer,
    Worker,
    World,
)

_DRIFT_S = 1e-6  # how far a sum of floats may be off


def check(scheduler: Scheduler) -> None:
    """Raise AssertionError, with a readable message, where the scheduler's books contradict each other."""
    world = scheduler.world
    unread = [*world.offers, *world.seekers, *world.freed]
    assert not unread, f"placement left news unread: {unread}"
    _check_calls(world)
    _check_queues(scheduler)
    _check_clients(world)
    _check_workers(world)
    _check_nests(world)
    _check_devices(world)
    _check_placement(scheduler.placement, scheduler)
    _check_timers(world)


def _check_calls(world: World) -> None:
    unfinished = 0
    for number, call in world.calls.items():
        assert number == call.number, f"{call!r} is filed as {number}"
        assert call.client.calls.get(call.submission) is call, f"{call!r} is missing at {call.client!r}"
        assert 1 <= call.attempt <= call.retries + 1, f"{call!r} has {call.retries} retries"
        assert call.sent <= call.attempt, f"{call!r} was sent as attempt {call.sent}"
        assert (call.state in UNFINISHED) == (call.outcome is None), f"{call!r} has outcome {call.outcome!r}"
        assert (call.state == "queued") == bool(call.rank), f"{call!r} is ranked {call.rank}"
        assert (call.state == "dispatched") == (call.worker is not None), f"{call!r} is at {call.worker!r}"
        unfinished += call.outcome is None
        if call.state == "queued":
            assert not call.charge, f"{call!r} waits, but its flow is charged {call.charge}"
            assert call.ending is None, f"{call!r} waits, but is being stopped ({call.ending})"
            assert (call.timer is not None) == (call.queue_timeout_s is not None), f"{call!r} has timer {call.timer!r}"
        elif call.worker is not None:
            assert call in call.worker.sent, f"{call!r} is missing at {call.worker!r}"
            _check_can_end(call, call.worker)
        else:
            assert call.timer is None, f"{call!r} has ended, but has a timer"
            assert call.client.state != "gone", f"{call!r} is kept for {call.client!r}"
    assert unfinished == world.unfinished, f"{unfinished} calls are unfinished, the counter says {world.unfinished}"


def _check_can_end(call: Call, worker: Worker) -> None:
    """A call at a worker has a deadline where one is due: its own, that of a call before it, or its worker's end."""
    if worker.state == "draining":
        return
    if call.ending is not None and worker.sent[0] is call:
        assert call.interrupted, f"{call!r} is to be stopped, but was not interrupted"
        assert call.timer is not None, f"{call!r} was interrupted, but has no deadline"
    if call.ending is None and call.timeout_s is not None:
        assert call.timer is not None, f"{call!r} has a time limit, but no timer"


def _check_queues(scheduler: Scheduler) -> None:
    world, queues = scheduler.world, scheduler.queues
    queued: dict[str, int] = {}
    waiting: dict[int, list[Call]] = {}
    running: dict[int, int] = {}
    for call in world.calls.values():
        if call.state == "queued":
            tenant = call.flow.demand.key[0]
            queued[tenant] = queued.get(tenant, 0) + 1
            waiting.setdefault(id(call.flow), []).append(call)
        elif call.state == "dispatched":
            running[id(call.flow)] = running.get(id(call.flow), 0) + 1
    assert queued == queues.queued, f"{queued} calls wait, the counters say {queues.queued}"
    for key, flow in queues.flows.items():
        calls = sorted(waiting.pop(id(flow), []), key=lambda call: (-call.priority, call.number))
        assert flow.key == key, f"{flow!r} is filed as {key}"
        assert flow.calls.items() == calls, f"{flow!r} ranks {flow.calls.items()}, not {calls}"
        assert flow.waiting == len(calls), f"{flow!r} has {len(calls)} calls waiting"
        assert flow.running == running.pop(id(flow), 0), f"{flow!r} counts its running calls wrong"
        assert bool(flow.rank) == bool(calls), f"{flow!r} is ranked {flow.rank}"
        assert (id(flow) in queues.idle) == (not calls and not flow.running), f"{flow!r} is idle, or not"
        assert queues.demands.get(flow.demand.key) is flow.demand, f"{flow!r} has a forgotten demand"
        _check_short(flow, world.limits)
    assert not waiting, f"calls wait in forgotten flows: {list(waiting.values())}"
    assert not running, "calls run in forgotten flows"
    assert len(queues.idle) <= IDLE_FLOWS_REMEMBERED, f"{len(queues.idle)} idle flows are remembered"
    for demand in queues.demands.values():
        flows = [flow for flow in queues.flows.values() if flow.demand is demand]
        assert demand.flow_count == len(flows), f"{demand!r} has {len(flows)} flows, not {demand.flow_count}"
        assert demand.waiting == sum(flow.waiting for flow in flows), f"{demand!r} counts its calls wrong"
        assert (id(demand) in queues.waiting) == bool(demand.waiting), f"{demand!r} is filed as waiting, or not"
        assert set(map(id, demand.flows.items())) == {id(flow) for flow in flows if flow.waiting}, f"{demand!r} flows"
        assert demand.starting == sum(pool.starting for pool in demand.pools), f"{demand!r} counts what is coming wrong"
        assert not demand.sought, f"{demand!r} is not in line to be looked at"
        _check_fair(demand)


def _check_short(flow: Flow, limits: Limits) -> None:
    if flow.is_short:
        assert flow.pace_s == flow.expected_s, f"{flow!r} is expected to run {flow.expected_s} s"
        assert flow.peak_s <= limits.prefetch_s, f"{flow!r} counts as short, but had a run of {flow.peak_s} s"


def _check_fair(demand: Demand) -> None:
    for flow in demand.flows.items():
        assert flow.start >= 0, f"{flow!r} was paid for waiting"
    head = demand.flows.first()
    if head is not None:
        starts = [flow.start for flow in demand.flows.items()]
        assert head.start == min(starts), f"{head!r} goes first, but {starts} wait"
    assert virtual_time(demand) >= 0, f"{demand!r}: virtual time ran backwards"


def _check_clients(world: World) -> None:
    owed, held, held_bytes = 0, [], 0
    for key, client in world.clients.items():
        assert key == (client.tenant, client.id), f"{client!r} is filed as {key}"
        assert client.state in ("present", "absent"), f"{client!r} should be forgotten"
        assert (client.state == "present") == (client.timer is not None), f"{client!r} has lease {client.timer!r}"
        assert client.state == "present" or client.calls, f"{client!r} is remembered for nothing"
        for call in client.calls.values():
            assert world.calls.get(call.number) is call, f"{call!r} of {client!r} is forgotten elsewhere"
            if call.outcome is not None and client.state == "present":
                owed += 1
                assert call.told, f"{client!r} was not told how {call!r} ended"
            elif call.outcome is not None:
                held.append(call.number)
                held_bytes += call.size_bytes
            else:
                _check_absent(call, client)
    assert owed == world.owed, f"{owed} results are owed, the counter says {world.owed}"
    assert sorted(held) == sorted(world.held), f"{sorted(held)} should be held, {sorted(world.held)} are"
    assert held_bytes == world.held_bytes, f"{held_bytes} bytes are held, the counter says {world.held_bytes}"
    assert held_bytes <= world.limits.held_result_bytes, f"{held_bytes} bytes are held"
    assert bool(held) == (world.held_timer is not None), "the hold's timer is armed for nothing, or missing"
    since = [call.held_since for call in world.held.values()]
    assert since == sorted(since), "held results are out of order"


def _check_absent(call: Call, client: Client) -> None:
    assert client.state == "present" or call.state != "queued", f"{call!r} waits for the absent {client!r}"


def _check_workers(world: World) -> None:
    limits = world.limits
    for number, worker in world.workers.items():
        nest, pool, sent = worker.nest, worker.nest.pool, worker.sent
        assert number == worker.number, f"{worker!r} is filed as {number}"
        assert worker in nest.workers, f"{worker!r} is missing in its nest"
        assert worker.state != "gone", f"{worker!r} should be forgotten"
        assert len(sent) <= limits.dispatched_per_worker, f"{worker!r} was sent {len(sent)} calls"
        assert len(worker.known) <= limits.functions_known_per_worker, f"{worker!r} knows {len(worker.known)} functions"
        assert not worker.renewed or worker.killed, f"{worker!r} is to be renewed, but was not killed"
        assert bool(sent) == (worker.state == "busy") or worker.state == "draining", f"{worker!r} has {sent}"
        assert all(call.worker is worker for call in sent), f"{worker!r} has a call of another's: {sent}"
        assert (number in pool.idle) == (worker.state == "ready"), f"{worker!r} is filed as idle, or not"
        _check_sent(worker, limits)
        if number in pool.partial:
            assert worker.state == "busy", f"{worker!r} is filed as having room"
            assert len(sent) < limits.dispatched_per_worker, f"{worker!r} has no room"
            assert worker.expected_s <= limits.prefetch_s, f"{worker!r} has no room for {worker.expected_s} s"
        for function in worker.known:
            filed = number in pool.holders.get(function, ())
            assert filed != (function in worker.dropped), f"{worker!r}: function {function!r} filed {filed}"
        assert worker.state != "ready" or not worker.dropped, f"{worker!r} is idle, but not found by what it holds"
        if worker.state == "starting" or (worker.state == "draining" and nest.state == "warm"):
            assert worker.timer is not None, f"{worker!r} may stay like this for ever"
        elif worker.state == "busy":
            assert worker.timer is not None, f"{worker!r} may never begin what it was sent"
        elif worker.state == "draining":
            assert worker.timer is None, f"{worker!r} has a timer beside its nest's"


def _check_sent(worker: Worker, limits: Limits) -> None:
    """Nothing was sent behind a call that was not known to be short, or behind too much; but a call that had to be sent
    again with its function stands wherever it came to stand.
    """
    ahead_s = 0.0
    for call in worker.sent:
        if call is not worker.sent[0] and not call.misses:
            assert call.expected_s != LONG_S, (
                f"{call!r} stands behind others at {worker!r}, but is not known to be short"
            )
            assert ahead_s <= limits.prefetch_s + _DRIFT_S, f"{call!r} stands behind {ahead_s} s at {worker!r}"
        ahead_s += call.expected_s
    assert abs(ahead_s - worker.expected_s) < _DRIFT_S, f"{worker!r} has calls of {ahead_s} s, not {worker.expected_s}"
    assert worker.sent or not worker.expected_s, f"{worker!r} has no calls, but {worker.expected_s} s of them"


def _check_nests(world: World) -> None:
    for number, nest in world.nests.items():
        assert number == nest.number, f"{nest!r} is filed as {number}"
        assert nest.state != "gone", f"{nest!r} should be forgotten"
        assert (nest.state == "warm") == (nest.timer is None), f"{nest!r} has timer {nest.timer!r}"
        assert all(device.nest is nest for device in nest.devices), f"{nest!r} shares a device"
        assert all(world.workers.get(worker.number) is worker for worker in nest.workers), f"{nest!r} has a dead worker"
        assert len(nest.workers) <= 1, f"{nest!r} has {nest.workers}"
        starting = [worker for worker in nest.workers if worker.state == "starting"]
        renewed = [worker for worker in nest.workers if worker.renewed and nest.state == "warm"]
        assert nest.coming == (nest.state == "creating" or bool(starting or renewed)), f"{nest!r}: coming {nest.coming}"
        if nest.state == "warm" and not nest.workers:
            assert any(device.timer for device in nest.devices), f"{nest!r} has no worker, and none will come"
        idle = nest.state == "warm" and any(worker.state == "ready" for worker in nest.workers)
        assert all((number in kind.idle) == idle for kind in nest.kinds), f"{nest!r} is filed as idle, or not"
    pools = [pool for pools in world.pools.values() for pool in pools]
    for pool in pools:
        nests = [nest for nest in world.nests.values() if nest.pool is pool]
        assert pool.nests == len(nests) > 0, f"{pool!r} has {len(nests)} nests"
        assert pool.starting == sum(nest.coming for nest in nests), f"{pool!r} counts what is coming wrong"
        workers = [number for holders in pool.holders.values() for number in holders]
        assert all(number in world.workers for number in workers), f"{pool!r} holds dead workers"
        assert all(pool.holders.values()), f"{pool!r} keeps functions that nobody holds"
        assert all(pool in demand.pools for demand in pool.demands), f"{pool!r} serves a demand that does not know it"


def _check_devices(world: World) -> None:
    for device in world.devices.values():
        kind = device.kind_of
        assert (device.config.id in kind.free) == device.is_free, f"{device!r} is filed as free, or not"
        assert device.nest is None or world.nests.get(device.nest.number) is device.nest, f"{device!r} has a dead nest"
        if device.claim is not None:
            assert device in device.claim.devices, f"{device!r} is claimed by {device.claim!r}"
            assert device.claim.number in device.claim.demand.claims, f"{device.claim!r} is over"
        limit = world.limits.start_failures
        assert (device.state == "suspect") == (0 < device.failures < limit) or device.state == "broken", f"{device!r}"
        assert device.timer is None or device.state == "suspect", f"{device!r} backs off"
    for kind in world.classes.values():
        assert kind.usable == sum(device.state != "broken" for device in kind.devices), f"{kind!r}"
        assert all(nest.state == "warm" for nest in kind.idle.values()), f"{kind!r} has {list(kind.idle.values())} idle"


def _check_placement(placement: Placement, scheduler: Scheduler) -> None:
    world = scheduler.world
    if world.phase in ("stopping", "exited"):
        return
    for demand in scheduler.queues.demands.values():
        pools = [pool for pool in world.pools.get(demand.key[:2], ()) if pool in demand.pools]
        assert pools == demand.pools or len(pools) == len(demand.pools), f"{demand!r} knows dead pools"
        for claim in demand.claims.values():
            assert demand.waiting, f"{claim!r} is held for nothing"
            assert 0 < len(claim.devices) <= demand.count, f"{claim!r}"
            assert all(device.claim is claim for device in claim.devices), f"{claim!r} holds others' devices"
        if demand.count > 1:
            assert list(demand.claims.values()) in ([], [world.set_claim]), f"{demand!r} has {demand.claims}"
        assert bool(demand.rank) == placement.wants_more(demand), f"{demand!r} is ranked {demand.rank}"
        if demand.waiting:
            assert demand.refusal is None, f"{demand!r} waits for ever: {demand.refusal}"
            idle = [worker for pool in demand.pools for worker in pool.idle.values()]
            for flow in demand.flows.items():
                fit = [worker for worker in idle if worker.meanings.fits(flow.modules)]
                assert not fit, f"{flow!r} waits beside idle workers that fit: {fit}"
            claimed = len(demand.claims) + demand.starting
            assert not idle or demand.waiting <= claimed, f"{demand!r} waits beside {idle}, and nothing is coming"
            _check_progress(demand, world, placement)


def _check_progress(demand: Demand, world: World, placement: Placement) -> None:
    """Whoever waits for a slot either has one coming, or waits for something that is alive and bounded."""
    if placement.wants_more(demand):
        assert is_ranked_right(demand, demand.flows.first_key()), f"{demand!r} is ranked at {demand.ranked_at}"
        for kind in demand.classes:
            assert not kind.free, f"{demand!r} waits beside free devices: {list(kind.free.values())}"
            assert not kind.idle, f"{demand!r} waits beside idle nests: {list(kind.idle.values())}"


def _check_timers(world: World) -> None:
    owners: list[Call | Worker | Nest | DeviceRecord | Client] = [
        *world.calls.values(),
        *world.workers.values(),
        *world.nests.values(),
        *world.devices.values(),
        *world.clients.values(),
    ]
    timers: list[Timer] = [owner.timer for owner in owners if owner.timer is not None]
    timers += [timer for timer in (world.held_timer, world.exit_timer) if timer is not None]
    armed = world.timers.items()
    assert all(timer.rank for timer in timers), f"a timer that somebody counts on is not armed: {timers}"
    assert len(armed) == len(timers), f"{len(armed)} timers are armed, {len(timers)} have an owner"
