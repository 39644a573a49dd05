"""Which call goes to which worker, and which devices go to whom. A policy, and nothing else.

A call goes to an idle worker that holds its function, else to any idle one that can take it, else a slot is cleared
for it: a free device, else one whose nest idles (that nest is stopped). Busy nests are waited for. A worker that has
room takes the call of least virtual time among those it can serve, unless somebody whom it cannot serve has been
waiting for its device with a virtual time that is less by `OVER_RUN_S`: then its nest gives way once it is idle.

Guarantees: a demand with waiting calls has idle workers only where its calls are about to be sent there; it clears no
more slots than it has calls waiting; one that needs several devices keeps what it was given until it has them all
(one such claim at a time, or two could each hold what the other lacks). What one event costs depends on no number of
calls or workers: workers are found by index, demands by ranking. Assumes: `settle` runs after every event.
"""

from __future__ import annotations

from plover.daemon.scheduler.attempts import Attempts
from plover.daemon.scheduler.commands import Refused
from plover.daemon.scheduler.events import GpuRequest
from plover.daemon.scheduler.fleet import Fleet
from plover.daemon.scheduler.queues import FairQueues
from plover.daemon.scheduler.results import Results
from plover.daemon.scheduler.state import Claim, Demand, DemandKey, DeviceRecord, Nest, Worker, World

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
        only_cuda = gpu is not None or require_gpu
        model = "" if gpu is None else gpu.model.lower()
        classes = tuple(
            each
            for each in self._world.classes.values()
            if (each.kind == "cuda" or not only_cuda) and model in each.model.lower()
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
                self._seek(world.seekers.popitem(last=False)[1], now)
            elif world.freed:
                self._offer(world.freed.popleft(), now)
            else:
                return

    def _serve(self, worker: Worker, now: float) -> None:
        """A worker may have room: for one of those that it can serve, or for those that want its devices."""
        nest, limit = worker.nest, self._world.limits.dispatched_per_worker
        while worker.state in ("ready", "busy") and len(worker.sent) < limit:
            demand: Demand | None = None
            start = 0.0
            for each in nest.pool.demands:
                if each.waiting:
                    head = each.flows.first_key()
                    if demand is None or head < start:
                        demand, start = each, head
            rival = self._rival(nest, None if demand is None else start)
            if rival is not None:
                nest.pool.partial.pop(worker.number, None)
                if worker.state == "ready":
                    self._evict(nest, rival, now)
                return
            if demand is None:
                if worker.state == "busy" and limit > 1:
                    self._attempts.file_partial(worker)
                return
            self._attempts.send(self._queues.take(demand, nest.kinds), worker, now)
            if demand.claims:
                self._world.seek(demand)
            elif demand.rank:
                self._rank(demand)

    def _rival(self, nest: Nest, start: float | None) -> Demand | None:
        """Who wants this nest's devices, cannot be served by it, and is to go before its own call of tag `start`."""
        rival: Demand | None = None
        for kind in nest.kinds:
            first = kind.ranking.first()
            if (
                first is not None
                and nest.pool not in first.pools
                and (rival is None or first.ranked_at < rival.ranked_at)
            ):
                rival = first
        if rival is None or (start is not None and rival.ranked_at + OVER_RUN_S >= start):
            return None
        return rival

    def _seek(self, demand: Demand, now: float) -> None:
        """A demand's calls or chances have changed: send what can be sent, clear slots for the rest."""
        while demand.waiting:
            worker = self._idle_worker(demand)
            if worker is None:
                break
            self._attempts.send(self._queues.take(demand, worker.nest.kinds), worker, now)
        if demand.waiting:
            while self.wants_more(demand) and self._clear_a_slot(demand, now):
                pass
            if self._world.limits.dispatched_per_worker > 1:
                self._prefetch(demand, now)
        if demand.claims and not demand.waiting:
            for claim in list(demand.claims.values()):
                self._drop(claim)
        if demand.waiting or demand.rank:
            self._rank(demand)

    def _idle_worker(self, demand: Demand) -> Worker | None:
        """An idle worker for the demand's next call: the last used that holds the function, else the longest idle."""
        flow = demand.flows.first()
        function = b"" if flow is None else flow.function
        other: Worker | None = None
        for pool in demand.pools:
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
                other = next(iter(pool.idle.values()))
        return other

    def _prefetch(self, demand: Demand, now: float) -> None:
        """Send calls behind those that busy workers have, where a worker may be sent several."""
        for pool in demand.pools:
            while pool.partial and demand.waiting:
                worker = next(iter(pool.partial.values()))
                if self._rival(worker.nest, demand.flows.first_key()) is not None:
                    del pool.partial[worker.number]
                    continue
                self._attempts.send(self._queues.take(demand, worker.nest.kinds), worker, now)

    # -- clearing slots ------------------------------------------------------------------------------------------------

    def wants_more(self, demand: Demand) -> bool:
        """More slots should be cleared for it than already are, and may be."""
        if not demand.waiting:
            return False
        claim = self._world.set_claim
        if demand.count > 1 and claim is not None:
            return claim.demand is demand and claim.missing > 0
        return demand.waiting > len(demand.claims) + _starting(demand)

    def _rank(self, demand: Demand) -> None:
        """Enter the demand with those that want the devices of others, or take it out."""
        if not self.wants_more(demand):
            demand.rank = 0
            return
        start = demand.flows.first_key()
        if demand.rank and demand.ranked_at == start:
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
        if any(device.state == "broken" for device in claim.devices) or demand.waiting <= _starting(demand):
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


def _starting(demand: Demand) -> int:
    return sum(pool.starting for pool in demand.pools)


def _asked(gpu: GpuRequest | None, require_gpu: bool) -> str:
    if gpu is None:
        return "requires a real GPU (require_gpu)" if require_gpu else "needs a device"
    what = f"asks for {gpu.count} x {gpu.model or 'any model'}"
    return what + " (a real GPU: gpu= never runs on a simulated device)"
