"""Which call goes to which worker, and which devices go to whom. A policy, and nothing else.

A call goes to an idle worker that holds its function, else to any idle one that can take it, else behind the calls of a
busy one (if all of them are short: see below), else a slot is cleared for it: a free device, else one whose nest idles
(that nest is stopped). Other busy nests are waited for. A worker that has room takes the call of least virtual time
among those it can serve, unless somebody whom it cannot serve has been waiting for its device with a virtual time that
is less by `OVER_RUN_S`: then its nest gives way once it is idle.

*Modules*: a worker means one thing by each name of an author's module (`Worker.meanings`), so an idle one may be unable
to take the first in line. Then it serves calls that fit it, unless the first in line is behind them by `OVER_RUN_S`, too:
otherwise two versions of a module on one slot would cost a fork for each call. An idle worker that has nobody else to
serve is *renewed*: killed, so that its nest forks a fresh one, as long as fewer are coming than calls wait.

*Prefetch*: a busy worker has room while all calls that it was sent are of short flows (queues.py), were sent without
their function, and are expected to take `prefetch_s` together at most. Then it may be sent the call that is first in
line for it, if that is of a short flow too and needs no function sent. If the first in line is not like that, nothing
is sent to the worker until it is idle: no call passes another on its way to a worker. So a new call, a rival or an
interrupt waits for one run more than without prefetch, and for what is expected to take `prefetch_s`.

Guarantees: a demand with waiting calls has idle workers only where its calls are about to be sent there (or none of them
fits, and fresh ones are coming), so none of them is sent behind others; it clears no more slots than it has calls
waiting; one that needs several devices keeps what it was given until it has them all (one such claim at a time, or two
could each hold what the other lacks). What one event costs depends on no number of calls or workers, amortized: workers
are found by index, demands by ranking (but misfits one by one), and a busy worker that was looked at in vain is not
looked at again before something ends on it. Assumes: `settle` runs after every event.
"""

from __future__ import annotations

from plover.daemon.scheduler.attempts import Attempts
from plover.daemon.scheduler.commands import Refused
from plover.daemon.scheduler.events import GpuRequest
from plover.daemon.scheduler.fleet import Fleet
from plover.daemon.scheduler.queues import FairQueues, is_ranked_right
from plover.daemon.scheduler.results import Results
from plover.daemon.scheduler.state import (
    Call,
    Claim,
    Demand,
    DemandKey,
    DeviceRecord,
    Flow,
    Nest,
    Pool,
    Worker,
    World,
)
from plover.suits import suits

OVER_RUN_S = 2.0  # some times what a new nest costs (0.6 s to its imports, measured); cf. the over-run of MQFQ-Sticky


class Placement:
    """Decides after each event what its news allow, and has it done."""

    def __init__(self, world: World, queues: FairQueues, results: Results, attempts: Attempts, fleet: Fleet) -> None:
        self._world = world
        self._queues = queues
        self._results = results
        self._attempts = attempts
        self._fleet = fleet

    # -- what can run here at all --------------------------------------------------------------------------------------

    def demand(self, key: DemandKey) -> Demand:
        """The demand of this key: the living one, or a new one that is not entered anywhere yet."""
        known = self._queues.demands.get(key)
        if known is not None:
            return known
        gpu, require_gpu = key[2], key[3]
        model = None if gpu is None else gpu.model
        classes = tuple(
            each for each in self._world.classes.values() if suits(each.kind, each.model, model, require_gpu)
        )
        demand = Demand(key=key, count=1 if gpu is None else gpu.count, classes=classes)
        demand.refusal = self._refusal(demand)
        return demand

    def _refusal(self, demand: Demand) -> str | None:
        usable = sum(each.usable for each in demand.classes)
        if 1 <= demand.count <= usable:
            return None
        return f"{_asked(demand.key[2], demand.key[3])}, which no slot of this host can be: {self._host()}"

    def _host(self) -> str:
        parts = []
        for each in self._world.classes.values():
            part = f"{len(each.devices)} x {each.model} ({each.kind})"
            broken = [device for device in each.devices if device.state == "broken"]
            if broken:
                part += f", {len(broken)} of them broken (the last failure: {broken[-1].last_failure})"
            parts.append(part)
        return "it has " + "; ".join(parts) if parts else "it has no devices"

    def refuse_impossible(self, now: float) -> None:
        """After a device broke: end what waits and can never run any more."""
        for demand in self._queues.demands.values():
            demand.refusal = self._refusal(demand)
        for demand in [each for each in self._queues.waiting.values() if each.refusal is not None]:
            for flow in demand.flows.items():
                for call in flow.calls.items():
                    refused = Refused("NoCapacity", f"this call {demand.refusal}")
                    self._results.end(call, "never_possible", refused, now)

    # -- after each event ----------------------------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Use everything that the event at hand made possible."""
        world = self._world
        while True:
            if self._fleet.news_of_broken:
                self._fleet.news_of_broken = False
                self.refuse_impossible(now)
            elif world.offers:
                self._serve(world.offers.popleft(), now)
            elif world.seekers:
                demand = world.seekers.popleft()
                demand.sought = False
                self._seek(demand, now)
            elif world.freed:
                self._offer(world.freed.popleft(), now)
            else:
                return

    def send_at_once(self, call: Call, now: float) -> bool:
        """Send a new call to an idle worker that can take it, if there is one: then no other call of its flow waits."""
        worker = self._idle_worker(call.flow)
        if worker is None:
            return False
        self._queues.pass_by(call, worker.nest.kinds)
        self._attempts.send(call, worker, now)
        return True

    def _serve(self, worker: Worker, now: float) -> None:
        """A worker may have room: for one of those that it can serve, or for those that want its devices."""
        nest, attempts = worker.nest, self._attempts
        has_room = attempts.file_partial(worker) if worker.state == "busy" else worker.state == "ready"
        while has_room and self._queues.waiting:
            is_idle = worker.state == "ready"
            flow = _first_in_line(nest.pool)
            rival = self._rival(nest, flow)
            if rival is not None:
                if is_idle:
                    self._evict(nest, rival, now)
                return
            if flow is not None and is_idle and not _fits(worker, flow):
                flow = self._instead(flow, worker, now)
            if flow is None or not (is_idle or (flow.is_short and flow.function in worker.known)):
                return
            if flow.demand.sought and not is_idle:
                return  # it looks for idle workers first, and then for this one
            has_room = self._send_first(flow, worker, now)

    def _instead(self, flow: Flow, worker: Worker, now: float) -> Flow | None:
        """The first in line needs other modules than an idle worker can take: which flow the worker serves in its place.

        None if there is none, or if the worker is renewed for the first in line: because nobody else wants it, or has
        waited for so much less, and no other worker is coming for those calls.
        """
        other = _first_that_fits(worker)
        if other is None:
            needs_it = any(each.waiting > _coming(each) for each in worker.nest.pool.demands)
        else:
            needs_it = flow.waiting > _coming(flow.demand) and flow.start + OVER_RUN_S < other.start
        if not needs_it:
            return other
        self._fleet.renew(worker, now)
        return None

    def _send_first(self, flow: Flow, worker: Worker, now: float) -> bool:
        """Send the first call of a flow that has one. Returns whether the worker has room for another."""
        demand = flow.demand
        has_room = self._attempts.send(self._queues.take(flow, worker.nest.kinds), worker, now)
        if demand.claims:
            self._world.seek(demand)
        elif demand.rank:
            self._rank(demand)
        return has_room

    def _rival(self, nest: Nest, flow: Flow | None) -> Demand | None:
        """Who wants this nest's devices, cannot be served by it, and is to go before the flow that it can serve."""
        rival: Demand | None = None
        for kind in nest.kinds:
            first = kind.ranking.first()
            if (
                first is not None
                and nest.pool not in first.pools
                and (rival is None or first.ranked_at < rival.ranked_at)
            ):
                rival = first
        if rival is None or (flow is not None and rival.ranked_at + OVER_RUN_S >= flow.start):
            return None
        return rival

    def _seek(self, demand: Demand, now: float) -> None:
        """A demand's calls or chances have changed: send what can be sent, clear slots for the rest."""
        while (flow := demand.flows.first()) is not None:
            worker = self._idle_worker(flow)
            if worker is None:
                break
            self._attempts.send(self._queues.take(flow, worker.nest.kinds), worker, now)
        if demand.waiting:
            for worker in [each for pool in demand.pools for each in pool.idle.values()]:
                self._serve(worker, now)  # the first in line does not fit it
            self._prefetch(demand, now)
            while self.wants_more(demand) and self._clear_a_slot(demand, now):
                pass
        if demand.claims and not demand.waiting:
            for claim in list(demand.claims.values()):
                self._drop(claim)
        if demand.waiting or demand.rank:
            self._rank(demand)

    def _idle_worker(self, flow: Flow) -> Worker | None:
        """An idle worker for a call of this flow: the last used that holds the function, else the longest idle that can
        take its modules.
        """
        function = flow.function
        other: Worker | None = None
        for pool in flow.demand.pools:
            if not pool.idle:
                continue
            holders = pool.holders.get(function)
            while holders:
                worker = holders[next(reversed(holders))]
                if worker.state == "ready":
                    return worker
                # Out until it is idle again, so that nobody steps over it twice.
                del holders[worker.number]
                worker.dropped.append(function)
                if not holders:
                    del pool.holders[function]
            if other is None:
                other = next((each for each in pool.idle.values() if _fits(each, flow)), None)
        return other

    def _prefetch(self, demand: Demand, now: float) -> None:
        """Send calls behind those of busy workers with room, in turn. Assumes that no worker is idle for the demand."""
        for pool in demand.pools:
            while pool.partial:
                flow, worker = _first_in_line(pool), next(iter(pool.partial.values()))
                if flow is None or flow.demand.sought or not flow.is_short:
                    break
                if self._rival(worker.nest, flow) is not None:
                    break
                if flow.function in worker.known:
                    self._send_first(flow, worker, now)
                else:
                    del pool.partial[worker.number]  # not looked at again before something ends on it

    # -- clearing slots ------------------------------------------------------------------------------------------------

    def wants_more(self, demand: Demand) -> bool:
        """More slots should be cleared for it than already are, and may be."""
        if not demand.waiting:
            return False
        claim = self._world.set_claim
        if demand.count > 1 and claim is not None:
            return claim.demand is demand and claim.missing > 0
        return demand.waiting > _coming(demand)

    def _rank(self, demand: Demand) -> None:
        """Enter the demand with those that want the devices of others, or take it out."""
        if not self.wants_more(demand):
            demand.rank = 0
            return
        start = demand.flows.first_key()
        if demand.rank and is_ranked_right(demand, start):
            return
        demand.ranked_at = start
        number = self._world.next_number()
        for kind in demand.classes:
            kind.ranking.push(start, number, demand)

    def _clear_a_slot(self, demand: Demand, now: float) -> bool:
        """Start a nest for the demand, or stop idle ones that hold what it needs. False where nothing could be done."""
        for kind in demand.classes:
            if kind.free:
                self._claim(demand, next(iter(kind.free.values())), now)
                return True
        for kind in demand.classes:
            if kind.idle:
                self._evict(next(iter(kind.idle.values())), demand, now)
                return True
        return False

    def _evict(self, nest: Nest, demand: Demand, now: float) -> None:
        nest.prewarmed = False
        self._fleet.stop_nest(nest, "its device is needed for others", now)
        for device in nest.devices:
            if device.kind_of in demand.classes and self.wants_more(demand):
                self._claim(demand, device, now)

    def _claim(self, demand: Demand, device: DeviceRecord, now: float) -> None:
        """Set a device aside, and start the nest if that was the last one missing."""
        world = self._world
        claim = world.set_claim if demand.count > 1 else None
        if claim is None:
            claim = Claim(world.next_claim(), demand)
            demand.claims[claim.number] = claim
            if demand.count > 1:
                world.set_claim = claim
                self._tell_other_sets(demand)
        claim.devices.append(device)
        device.claim = claim
        device.kind_of.free.pop(device.config.id, None)
        world.seek(demand)
        self._use(claim, now)

    def _use(self, claim: Claim, now: float) -> None:
        """Start the claim's nest if all its devices are there; drop it if it is not needed or cannot be."""
        demand = claim.demand
        if any(device.state == "broken" for device in claim.devices) or demand.waiting <= demand.starting:
            self._drop(claim)
        elif not claim.missing and all(device.nest is None for device in claim.devices):
            self._close(claim)
            tenant, environment = demand.key[:2]
            self._fleet.start_nest(tenant, environment, claim.devices, now)

    def _drop(self, claim: Claim) -> None:
        self._close(claim)
        for device in claim.devices:
            device.claim = None
            self._world.free_up(device)

    def _close(self, claim: Claim) -> None:
        world = self._world
        del claim.demand.claims[claim.number]
        world.seek(claim.demand)
        if world.set_claim is claim:
            world.set_claim = None
            self._tell_other_sets(claim.demand)

    def _tell_other_sets(self, demand: Demand) -> None:
        """Whether another demand for several devices may claim any has changed."""
        others = [each for each in self._queues.waiting.values() if each.count > 1 and each is not demand]
        for each in sorted(others, key=lambda each: float(each.flows.first_key())):
            self._world.seek(each)

    def _offer(self, device: DeviceRecord, now: float) -> None:
        """A device has lost its nest, or its claim, or has backed off for long enough."""
        if device.claim is not None:
            self._use(device.claim, now)
        while device.is_free:
            demand = device.kind_of.ranking.first()
            if demand is None:
                break
            self._seek(demand, now)
        if device.is_free and device.prewarm:
            self.prewarm(device, now)

    def prewarm(self, device: DeviceRecord, now: float) -> None:
        """Start a nest for the default tenant on a free device, before anybody asks."""
        world = self._world
        self._fleet.start_nest("default", world.default_environment, [device], now, prewarmed=True)


def _first_in_line(pool: Pool) -> Flow | None:
    """Whose call is to go to the pool's next worker: the flow of least virtual time."""
    first: Flow | None = None
    for demand in pool.demands:
        flow = demand.flows.first()
        if flow is not None and (first is None or flow.start < first.start):
            first = flow
    return first


def _coming(demand: Demand) -> int:
    """How many fresh workers will be there for the demand without anything more being done."""
    return len(demand.claims) + demand.starting


def _first_that_fits(worker: Worker) -> Flow | None:
    """The flow of least virtual time whose modules the worker can take. Linear in flows that wait: for a misfit only."""
    first: Flow | None = None
    for demand in worker.nest.pool.demands:
        for flow in demand.flows.items():
            if first is not None and first.start <= flow.start:
                break
            if _fits(worker, flow):
                first = flow
                break
    return first


def _fits(worker: Worker, flow: Flow) -> bool:
    """Whether a worker means by each module's name what a flow does, as far as it has a meaning there already."""
    return flow.function in worker.known or worker.meanings.fits(flow.modules)


def _asked(gpu: GpuRequest | None, require_gpu: bool) -> str:
    if gpu is None:
        return "requires a real GPU (require_gpu)" if require_gpu else "needs a device"
    what = f"asks for {gpu.count} x {gpu.model or 'any model'}"
    return what + " (a real GPU: gpu= never runs on a simulated device)"
