"""Who is next: waiting calls in flows, and fairness between flows on virtual time. A policy, and nothing else.

Start-time fair queueing (Goyal et al., SIGCOMM'96): a flow is charged for a call when it is sent, by the estimate of
the function's run, and the charge is put right when the run was measured. The flow that has been charged least goes
first. Which flows are *short* is known here too: those of which no run was longer than `prefetch_s` lately.

Guarantees: inside a flow, higher priority first, then the order of arrival, which a call keeps when it comes back. A
flow that was empty re-enters at the virtual time of those that were not, and no correction puts a flow behind that
time, so nobody saves up for a burst. A flow is not short before a run of it was measured, nor soon after a long one or
one that killed its worker. All operations are O(log n). Assumes: estimates and measurements are in seconds, from one
result's arrival to the next, so that they are too long rather than too short.
"""

from __future__ import annotations

from collections import OrderedDict

from plover.bundles.format import BundleSet
from plover.daemon.scheduler.commands import Workers
from plover.daemon.scheduler.state import LONG_S, Call, Demand, DemandKey, DeviceClass, Flow, FlowKey, Shape, World

UNKNOWN_RUN_S = 1.0  # the estimate for a function that was never measured
SMALLEST_RUN_S = 1e-4  # a call costs at least its dispatch; without a floor, runs of 0 s would starve all others
_WEIGHT = 0.25  # of the newest measurement in the moving average
# So far a demand's rank may lag behind its first call: a tenth of what placement takes for behind. A new rank for each
# call would cost as much as taking it.
RANKED_WITHIN_S = 0.2
# What is left of a peak after each further run. After a run of 0.2 s a flow is short again (2 ms) after 44 short ones,
# after 2 s after 66. That is over in some milliseconds for a flow that was only loading, and hardly ever comes for one of
# which each tenth call is long (0.9 ** 44 = 0.01). The daemon's own hiccups of 3 ms on a crowded machine fade in 4.
PEAK_FADES = 0.9
SMALLEST_PACE_S = 3e-5  # what a worker does for a call that does nothing, as measured
IDLE_FLOWS_REMEMBERED = 1024  # beyond: the estimates of the longest unused are forgotten


class FairQueues:
    """All flows and demands."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.flows: dict[FlowKey, Flow] = {}
        self.idle: OrderedDict[int, Flow] = OrderedDict()  # those with nothing queued or dispatched, by id()
        self.demands: dict[DemandKey, Demand] = {}  # those with a flow
        self.waiting: dict[int, Demand] = {}  # those with queued calls, by id(): hashing keys is dear
        self.queued: dict[str, int] = {}  # queued calls by tenant; never 0

    def open_flow(self, demand: Demand, key: FlowKey, modules: BundleSet) -> Flow:
        """A new flow in `demand`, which may be new too. The longest unused flow may be forgotten for it."""
        if len(self.idle) >= IDLE_FLOWS_REMEMBERED:
            self._forget(next(iter(self.idle.values())))
        flow = Flow(key=key, function=key[1], modules=modules, demand=demand, start=virtual_time(demand))
        self.flows[key] = self.idle[id(flow)] = flow
        if not demand.flow_count:
            self.demands[demand.key] = demand
            demand.pools = [pool for pool in self._world.pools.get(demand.key[:2], ()) if fits(demand, pool.key[2])]
            demand.starting = sum(pool.starting for pool in demand.pools)
            for pool in demand.pools:
                pool.demands.append(demand)
        demand.flow_count += 1
        return flow

    def _forget(self, flow: Flow) -> None:
        demand = flow.demand
        del self.flows[flow.key], self.idle[id(flow)]
        demand.flow_count -= 1
        if not demand.flow_count:
            del self.demands[demand.key]
            for pool in demand.pools:
                pool.demands.remove(demand)

    def add(self, call: Call) -> None:
        """Put a call in line, for the first time or back where it was."""
        flow, world = call.flow, self._world
        demand = flow.demand
        # A ranked demand has got what is to be had: one more call of a flow that waits already changes nothing.
        if not flow.waiting or not demand.rank:
            world.seek(demand)
        if not flow.waiting:
            self._enter(flow)
            demand.flows.push(flow.start, world.next_number(), flow)
            if not demand.waiting:
                self.waiting[id(demand)] = demand
        # Its own number is good for an entry: when a call comes back, it was popped, and its old entry is gone.
        flow.calls.push(-call.priority, call.number, call)
        flow.waiting += 1
        demand.waiting += 1
        tenant = demand.key[0]
        self.queued[tenant] = self.queued.get(tenant, 0) + 1

    def _enter(self, flow: Flow) -> None:
        """A flow of which nothing waits gets a call."""
        self.idle.pop(id(flow), None)
        entry = virtual_time(flow.demand)
        if flow.start < entry:
            flow.start = entry

    def take(self, flow: Flow, kinds: tuple[DeviceClass, ...]) -> Call:
        """The next call of a flow that has one, charged to it, for a slot on devices of these kinds."""
        demand = flow.demand
        flow.rank = 0  # its entry is void from now on; it is the first one, unless modules are in the way
        call = flow.calls.pop()
        self._charge(call, flow, kinds)
        self._count_out(flow)
        if flow.waiting:
            demand.flows.push(flow.start, self._world.next_number(), flow)
        return call

    def pass_by(self, call: Call, kinds: tuple[DeviceClass, ...]) -> None:
        """Charge a new call that need not stand in line, as if it had, for a slot on devices of these kinds."""
        self._enter(call.flow)
        self._charge(call, call.flow, kinds)

    def _charge(self, call: Call, flow: Flow, kinds: tuple[DeviceClass, ...]) -> None:
        start = flow.start
        for kind in kinds:
            if start > kind.virtual_s:
                kind.virtual_s = start
        estimate_s = flow.estimate_s
        call.charge = (UNKNOWN_RUN_S if estimate_s is None else estimate_s) * flow.demand.count
        flow.start = start + call.charge
        flow.running += 1

    def remove(self, call: Call) -> None:
        """Take a call out of line that will not be served."""
        flow = call.flow
        call.rank = 0
        self._count_out(flow)
        if not flow.waiting:
            flow.rank = 0
            self._rest(flow)
        self._world.seek(flow.demand)

    def _count_out(self, flow: Flow) -> None:
        demand = flow.demand
        flow.waiting -= 1
        demand.waiting -= 1
        if not demand.waiting:
            del self.waiting[id(demand)]
        tenant = demand.key[0]
        left = self.queued[tenant] - 1
        if left:
            self.queued[tenant] = left
        else:
            del self.queued[tenant]

    def settle(self, call: Call, run_s: float | None, said_s: float | None = None) -> bool:
        """Put the charge of a sent call right: it ran for `run_s`, or never began (None). What its worker says (`said_s`) is
        nearer to the truth, which for a short call is a small part of what is measured here; but nobody is charged by his own
        word: it decides only what may be sent behind the next one.

        Returns whether the flow's place in line changed so much that its demand must be ranked anew.
        """
        flow = call.flow
        demand = flow.demand
        if run_s is None:
            spent = 0.0
        else:
            if run_s < SMALLEST_RUN_S:
                run_s = SMALLEST_RUN_S
            known_s = flow.estimate_s
            flow.estimate_s = run_s if known_s is None else known_s + _WEIGHT * (run_s - known_s)
            self._pace(
                flow, run_s if said_s is None or said_s > run_s else max(said_s, SMALLEST_PACE_S), known_s is None
            )
            spent = run_s * demand.count
        correction = spent - call.charge
        call.charge = 0.0
        if correction > 0:
            flow.start += correction
        elif correction < 0:
            flow.start = max(flow.start + correction, min(flow.start, virtual_time(demand)))
        flow.running -= 1
        if not flow.waiting:
            self._rest(flow)
        elif correction:
            demand.flows.push(flow.start, self._world.next_number(), flow)
            return bool(demand.rank) and not is_ranked_right(demand, flow.start)
        return False

    def _pace(self, flow: Flow, run_s: float, is_first: bool) -> None:
        peak_s = flow.peak_s * PEAK_FADES
        flow.peak_s = peak_s = run_s if run_s > peak_s else peak_s
        flow.pace_s = run_s if is_first else flow.pace_s + _WEIGHT * (run_s - flow.pace_s)
        flow.expected_s = flow.pace_s if peak_s <= self._world.limits.prefetch_s else LONG_S

    def obstacle(self, demand: Demand) -> tuple[Workers, str]:
        """Why a call of this demand waits: for whom, and what failed last. Linear: for rare events only."""
        workers = [each for each in self._world.workers.values() if each.nest.pool in demand.pools]
        if any(worker.state == "busy" for worker in workers):
            return "busy", ""
        if demand.starting or demand.claims:
            return "starting", ""
        failures = [each.last_failure for kind in demand.classes for each in kind.devices if each.state == "suspect"]
        return ("failing", failures[-1]) if failures else ("busy", "")

    def distrust(self, flow: Flow) -> None:
        """A call of this flow killed its worker: whatever stands behind the next one is in danger."""
        flow.peak_s = max(flow.peak_s, UNKNOWN_RUN_S)
        flow.expected_s = LONG_S

    def _rest(self, flow: Flow) -> None:
        if not flow.running:
            self.idle[id(flow)] = flow


def virtual_time(demand: Demand) -> float:
    """The virtual time at which a flow of this demand enters: that of the devices on which it competes.

    Each kind of device has its own, or a flow that has one kind to itself would run ahead, and whoever entered at its
    time on another kind would wait for all the others to catch up.
    """
    latest = 0.0
    for kind in demand.classes:
        if kind.virtual_s > latest:
            latest = kind.virtual_s
    return latest


def is_ranked_right(demand: Demand, start: float) -> bool:
    """Whether a ranked demand's place fits the start tag of its first flow: if a bit too early, it does."""
    return 0.0 <= start - demand.ranked_at <= RANKED_WITHIN_S


def fits(demand: Demand, shape: Shape) -> bool:
    """Whether a slot on devices of these kinds and models is one that the demand can use."""
    usable = [(each.kind, each.model) for each in demand.classes]
    return len(shape) == demand.count and all(each in usable for each in shape)
