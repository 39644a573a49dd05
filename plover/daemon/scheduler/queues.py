"""Who is next: waiting calls in flows, and fairness between flows on virtual time. A policy, and nothing else.

Start-time fair queueing (Goyal et al., SIGCOMM'96): a flow is charged for a call when it is sent, by the estimate of
the function's run, and the charge is put right when the run was measured. The flow that has been charged least goes
first.

Guarantees: inside a flow, higher priority first, then the order of arrival, which a call keeps when it comes back. A
flow that was empty re-enters at the virtual time of those that were not, and no correction puts a flow behind that
time, so nobody saves up for a burst. All operations are O(log n). Assumes: estimates and measurements are in seconds.
"""

from __future__ import annotations

from collections import OrderedDict

from plover.daemon.scheduler.state import Call, Demand, DemandKey, DeviceClass, Flow, FlowKey, Shape, World

UNKNOWN_RUN_S = 1.0  # the estimate for a function that was never measured
SMALLEST_RUN_S = 1e-4  # a call costs at least its dispatch; without a floor, runs of 0 s would starve all others
_WEIGHT = 0.25  # of the newest measurement in the moving average
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

    def open_flow(self, demand: Demand, key: FlowKey) -> Flow:
        """A new flow in `demand`, which may be new too. The longest unused flow may be forgotten for it."""
        if len(self.idle) >= IDLE_FLOWS_REMEMBERED:
            self._forget(next(iter(self.idle.values())))
        flow = Flow(key=key, function=key[1], demand=demand, start=virtual_time(demand))
        self.flows[key] = self.idle[id(flow)] = flow
        if not demand.flow_count:
            self.demands[demand.key] = demand
            demand.pools = [pool for pool in self._world.pools.get(demand.key[:2], ()) if fits(demand, pool.key[2])]
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
        if not flow.waiting:
            self.idle.pop(id(flow), None)
            entry = virtual_time(demand)
            if flow.start < entry:
                flow.start = entry
            demand.flows.push(flow.start, world.next_number(), flow)
            if not demand.waiting:
                self.waiting[id(demand)] = demand
        flow.calls.push((-call.priority, call.number), world.next_number(), call)
        flow.waiting += 1
        demand.waiting += 1
        tenant = demand.key[0]
        self.queued[tenant] = self.queued.get(tenant, 0) + 1
        world.seek(demand)

    def take(self, demand: Demand, kinds: tuple[DeviceClass, ...]) -> Call:
        """The next call of a demand that has one, charged to its flow, for a slot on devices of these kinds."""
        flow = demand.flows.pop()
        call = flow.calls.pop()
        start = flow.start
        for kind in kinds:
            if start > kind.virtual_s:
                kind.virtual_s = start
        estimate_s = flow.estimate_s
        call.charge = (UNKNOWN_RUN_S if estimate_s is None else estimate_s) * demand.count
        flow.start = start + call.charge
        flow.running += 1
        self._count_out(flow)
        if flow.waiting:
            demand.flows.push(flow.start, self._world.next_number(), flow)
        return call

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

    def settle(self, call: Call, run_s: float | None) -> bool:
        """Put the charge of a sent call right: it ran for `run_s`, or never began (None).

        Returns whether the flow's place in line changed, so that its demand must be ranked anew.
        """
        flow = call.flow
        demand = flow.demand
        if run_s is None:
            spent = 0.0
        else:
            run_s = max(run_s, SMALLEST_RUN_S)
            known_s = flow.estimate_s
            flow.estimate_s = run_s if known_s is None else known_s + _WEIGHT * (run_s - known_s)
            spent = run_s * demand.count
        flow.running -= 1
        corrected = flow.start + spent - call.charge
        call.charge = 0.0
        before = flow.start
        flow.start = max(corrected, min(before, virtual_time(demand)))
        if not flow.waiting:
            self._rest(flow)
        elif flow.start != before:
            demand.flows.push(flow.start, self._world.next_number(), flow)
            return True
        return False

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


def fits(demand: Demand, shape: Shape) -> bool:
    """Whether a slot on devices of these kinds and models is one that the demand can use."""
    usable = [(each.kind, each.model) for each in demand.classes]
    return len(shape) == demand.count and all(each in usable for each in shape)
