"""What the scheduler remembers: calls, flows, workers, nests, devices, clients, and the `World` that holds them.

Guarantees: every attribute says what is true of it between two events (invariants.py checks it). All containers are
ordered, so that the same events always give the same commands. Assumes: states change only through transitions.py.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import partial
from itertools import count
from typing import Literal

import msgspec

from plover.bundles.format import BundleSet
from plover.bundles.format import World as Meanings
from plover.daemon.scheduler.commands import Command, Outcome
from plover.daemon.scheduler.config import Device, Environment, SchedulerConfig
from plover.daemon.scheduler.events import DeviceKind, GpuRequest
from plover.daemon.scheduler.ranking import Ranking

CallState = Literal["queued", "dispatched", "succeeded", "failed", "cancelled", "timed_out", "lost", "refused"]
WorkerState = Literal["starting", "ready", "busy", "draining", "gone"]
NestState = Literal["creating", "warm", "stopping", "gone"]
DeviceState = Literal["healthy", "suspect", "broken"]
ClientState = Literal["present", "absent", "gone"]
Phase = Literal["running", "draining", "stopping", "exited"]

UNFINISHED = ("queued", "dispatched")
HISTORY = 12  # reasons that a record remembers for the message of an illegal transition
LONG_S = (
    1e6  # stands for a run that is not known to be short: beyond any prefetch_s, and a float adds it exactly enough
)

DemandKey = tuple[str, str, GpuRequest | None, bool]  # tenant, environment, gpu, require_gpu
FlowKey = tuple[DemandKey, bytes]  # and the function
Shape = tuple[tuple[DeviceKind, str], ...]  # the kinds and models of a slot's devices, sorted
PoolKey = tuple[str, str, Shape]  # tenant, environment, shape

_history: partial[deque[str]] = partial(deque, (), HISTORY)


class Timer(msgspec.Struct, eq=False):
    """One deadline. What is due follows from the target's state when it comes."""

    target: Timed
    when: float
    rank: int = 0  # the entry in World.timers; 0 once it rang or was disarmed


class Call(msgspec.Struct, eq=False):
    """One call, from acceptance until its outcome is acknowledged or forgotten."""

    number: int  # unique and growing: also its place in line inside its flow
    client: Client
    submission: int  # unique among the client's calls
    flow: Flow
    timeout_s: float | None
    queue_timeout_s: float | None
    retries: int
    priority: int
    submitted_at: float
    queued_since: float  # when it last entered the queue
    state: CallState = "queued"
    attempt: int = 1  # the attempt that is under way or comes next; at most retries + 1
    sent: int = 0  # the last attempt that was sent to a worker; 0 while none was
    returns: int = 0  # how often an attempt came back that had not begun
    rank: int = 0  # the entry in its flow's ranking: not 0 iff queued
    worker: Worker | None = None  # not None iff dispatched; then the call is in worker.sent
    waited_s: float = 0.0  # time spent in the queue before queued_since
    queue_s: float = 0.0  # from submission to the last dispatch
    dispatched_at: float = 0.0  # of the last attempt
    charge: float = 0.0  # what the flow was charged for the attempt under way; 0 while queued
    warm: bool = False  # the last worker held the function before the last dispatch
    expected_s: float = 0.0  # its share of worker.expected_s; LONG_S unless its flow was short and its worker warm
    misses: int = 0  # PayloadMissed of the attempt under way
    overdue: str = ""  # how a worker ended that kept it, without beginning it, for longer than it may wait
    ending: Literal["cancel", "timeout"] | None = None  # why a dispatched call is being stopped
    interrupted: bool = False  # InterruptCall was sent for the attempt under way
    page_wanted: bool = False  # ReadPage was sent for it and not answered yet
    worker_number: int | None = None  # of the last dispatch; kept for the receipt
    devices: tuple[str, ...] = ()  # of the last dispatch; kept for the receipt
    timer: Timer | None = None  # queued: queue_timeout; dispatched: reading the page; ending: the kill
    outcome: Outcome | None = None  # not None iff the call has ended
    size_bytes: int = 0  # what its result weighs
    told: bool = False  # the outcome was sent to the client
    held_since: float = 0.0  # when it entered World.held
    history: tuple[str, ...] = ()  # not a deque: one is made for every call

    def __repr__(self) -> str:
        return f"<call {self.number} {self.state} attempt {self.attempt}>"


class Flow(msgspec.Struct, eq=False):
    """The waiting calls of one function of one demand, and its account in virtual time."""

    key: FlowKey
    function: bytes
    modules: BundleSet  # the author's own that it needs: a worker must mean the same by each name
    demand: Demand
    start: float  # the start tag of its next call: virtual time that it has been charged up to
    calls: Ranking[Call] = msgspec.field(default_factory=Ranking)  # the queued ones, by priority and number
    waiting: int = 0  # how many are queued
    running: int = 0  # how many are dispatched
    estimate_s: float | None = None  # moving average of measured runs
    peak_s: float = 0.0  # the longest run, as the worker says, fading with each that follows; see PEAK_FADES
    pace_s: float = 0.0  # moving average of the runs as the worker says, if it does
    expected_s: float = LONG_S  # the pace while it is known to be short (peak_s <= prefetch_s), else LONG_S
    rank: int = 0  # the entry in demand.flows: not 0 iff waiting > 0

    @property
    def is_short(self) -> bool:
        """Its calls are known to be short."""
        return self.expected_s != LONG_S

    def __repr__(self) -> str:
        return f"<flow {self.key} waiting {self.waiting} running {self.running} start {self.start:.6f}>"


class Demand(msgspec.Struct, eq=False):
    """What a flow needs a slot of: its flows can be served by the same workers."""

    key: DemandKey
    count: int  # devices in one slot
    classes: tuple[DeviceClass, ...]  # whose devices may be in the slot
    refusal: str | None = None  # why no slot of this host can take it (any more)
    flows: Ranking[Flow] = msgspec.field(default_factory=Ranking)  # those with waiting calls, by start tag
    flow_count: int = 0  # all its flows; it is forgotten with the last one
    waiting: int = 0  # queued calls of all its flows
    pools: list[Pool] = msgspec.field(default_factory=list)  # the living pools whose workers can serve it
    starting: int = 0  # the sum over its pools
    sought: bool = False  # it stands in World.seekers
    claims: OrderedDict[int, Claim] = msgspec.field(default_factory=OrderedDict)  # slots it is clearing for itself
    rank: int = 0  # the entry in its classes' rankings: not 0 iff it wants devices that others hold
    ranked_at: float = 0.0  # the start tag of that entry

    def __repr__(self) -> str:
        return f"<demand {self.key} waiting {self.waiting}>"


class Claim(msgspec.Struct, eq=False):
    """Devices that are set aside for a demand until they are all free and its nest can start."""

    number: int
    demand: Demand
    devices: list[DeviceRecord] = msgspec.field(default_factory=list)  # each has this as its claim

    @property
    def missing(self) -> int:
        """How many devices have still to be found."""
        return self.demand.count - len(self.devices)

    def __repr__(self) -> str:
        return f"<claim {self.number} of {self.demand!r} on {[device.config.id for device in self.devices]}>"


class DeviceClass(msgspec.Struct, eq=False):
    """Devices that nothing tells apart: same kind, same model."""

    kind: DeviceKind
    model: str
    devices: list[DeviceRecord] = msgspec.field(default_factory=list)
    free: OrderedDict[str, DeviceRecord] = msgspec.field(default_factory=OrderedDict)  # see DeviceRecord.is_free
    idle: OrderedDict[int, Nest] = msgspec.field(default_factory=OrderedDict)  # warm nests that run nothing, by age
    ranking: Ranking[Demand] = msgspec.field(default_factory=Ranking)  # demands that want such a device
    usable: int = 0  # devices that are not broken
    virtual_s: float = 0.0  # the largest start tag served on such a device; only grows

    def __repr__(self) -> str:
        return f"<{self.usable} of {len(self.devices)} {self.model} ({self.kind}) usable, {len(self.free)} free>"


class DeviceRecord(msgspec.Struct, eq=False):
    """A device of this host."""

    config: Device
    kind_of: DeviceClass
    state: DeviceState = "healthy"
    nest: Nest | None = None  # the nest that occupies it
    claim: Claim | None = None  # for whom it is set aside
    failures: int = 0  # failed starts in a row
    last_failure: str = ""  # what the last one said
    prewarm: bool = False  # the default tenant's nest that was here is to come back when nobody else wants it
    timer: Timer | None = None  # backing off until then; only while suspect
    history: deque[str] = msgspec.field(default_factory=_history)

    @property
    def is_free(self) -> bool:
        """A nest may be started on it now, for anybody."""
        return self.nest is None and self.claim is None and self.timer is None and self.state != "broken"

    def __repr__(self) -> str:
        return f"<device {self.config.id} {self.state} {self.nest!r}>"


class Pool(msgspec.Struct, eq=False):
    """The nests that can stand in for each other: same tenant, environment and kinds of device."""

    key: PoolKey
    nests: int = 0  # it is forgotten with the last one
    starting: int = 0  # nests that will bring a worker without anything more being asked
    idle: OrderedDict[int, Worker] = msgspec.field(default_factory=OrderedDict)  # ready, by how long
    partial: OrderedDict[int, Worker] = msgspec.field(default_factory=OrderedDict)  # busy, with room, to be looked at
    holders: dict[bytes, OrderedDict[int, Worker]] = msgspec.field(default_factory=dict)  # by function: who holds it
    demands: list[Demand] = msgspec.field(default_factory=list)  # those it can serve

    def __repr__(self) -> str:
        return f"<pool {self.key} nests {self.nests} starting {self.starting} idle {len(self.idle)}>"


class Nest(msgspec.Struct, eq=False):
    """A container or process tree on one device set."""

    number: int
    pool: Pool
    devices: tuple[DeviceRecord, ...]  # each has this as its nest, until it is gone
    device_ids: tuple[str, ...]
    kinds: tuple[DeviceClass, ...]  # the classes of its devices, each once
    prewarmed: bool  # made without being asked for: comes back by itself
    coming: bool = False  # counted in pool.starting
    state: NestState = "creating"
    workers: list[Worker] = msgspec.field(default_factory=list)  # those that are not gone
    stop_reason: str = ""  # why it is being stopped
    timer: Timer | None = None  # creating: the start's limit; stopping: when it is written off
    history: deque[str] = msgspec.field(default_factory=_history)

    def __repr__(self) -> str:
        return f"<nest {self.number} {self.state} on {self.device_ids}>"


class Worker(msgspec.Struct, eq=False):
    """A process with one device context."""

    number: int
    nest: Nest
    state: WorkerState = "starting"
    sent: list[Call] = msgspec.field(default_factory=list)  # dispatched to it, in order; empty unless busy or draining
    known: OrderedDict[bytes, None] = msgspec.field(default_factory=OrderedDict)  # functions it holds, oldest use first
    meanings: Meanings = msgspec.field(default_factory=Meanings)  # of module names; fits the modules of all it knows
    dropped: list[bytes] = msgspec.field(default_factory=list)  # known, but out of pool.holders until it is idle again
    expected_s: float = 0.0  # how long what it was sent will take: the sum over sent
    finished_at: float = 0.0  # when it last ended an attempt
    calls_done: int = 0
    killed: bool = False  # KillWorker was sent
    renewed: bool = False  # killed so that a fresh one can take modules that do not fit: counted as coming
    unwell: str = ""  # why it is of no more use: what WorkerUnwell said, or its silence
    page_wanted: bool = False  # ReadPage was sent to see whether it has begun anything
    # starting: the start's limit; draining: the next harsher step; busy: when it should have begun something; ready: none,
    # or that of a time when it was busy, which then says nothing
    timer: Timer | None = None
    history: deque[str] = msgspec.field(default_factory=_history)

    def __repr__(self) -> str:
        return f"<worker {self.number} {self.state} of {self.nest!r}>"


class Client(msgspec.Struct, eq=False):
    """A client, from its first word until its last call is forgotten."""

    id: bytes
    tenant: str
    seen_at: float
    state: ClientState = "present"  # gone: not in World.clients any more, but calls of it may still be ending
    calls: dict[int, Call] = msgspec.field(default_factory=dict)  # by submission; unfinished or unacknowledged
    timer: Timer | None = None  # while present: looks whether the lease has ended
    history: deque[str] = msgspec.field(default_factory=_history)

    def __repr__(self) -> str:
        return f"<client {self.id!r} {self.state} with {len(self.calls)} calls>"


Timed = Call | Worker | Nest | DeviceRecord | Client | Literal["held", "exit"]


class World:
    """Everything that the parts of the scheduler share, and the news of the event at hand."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.limits = config.limits
        self.environments: dict[str, Environment] = {each.name: each for each in config.environments}
        self.default_environment = config.environments[0].name if config.environments else ""
        self.phase: Phase = "running"  # only ever moves on
        self.commands: list[Command] = []  # of the event at hand

        self.calls: dict[int, Call] = {}  # accepted and not released
        self.clients: dict[tuple[str, bytes], Client] = {}  # present or absent ones
        self.workers: dict[int, Worker] = {}  # all but the gone
        self.nests: dict[int, Nest] = {}  # all but the gone
        self.pools: dict[tuple[str, str], list[Pool]] = {}  # by tenant and environment
        self.classes: dict[tuple[DeviceKind, str], DeviceClass] = {}
        self.devices: dict[str, DeviceRecord] = {}
        self.held: OrderedDict[int, Call] = OrderedDict()  # ended calls of absent clients, the longest held first
        self.held_bytes = 0  # the sum of their results
        self.held_timer: Timer | None = None  # not None iff held is not empty
        self.exit_timer: Timer | None = None  # the limit for ending all nests, once stopping
        self.set_claim: Claim | None = None  # the one claim on several devices: two could block each other

        self.unfinished = 0  # calls that are queued or dispatched
        self.owed = 0  # ended, unacknowledged calls of present clients
        self.ended: dict[CallState, int] = {}  # calls ended so far, by state
        self.refused = 0  # submissions that were never taken
        self.ignored = 0  # events about something unknown, stale or done already

        self.timers: Ranking[Timer] = Ranking()  # by time
        # Each gives the next number of its kind, from 1: of an entry in a ranking, a call, a worker …
        self.next_number = count(1).__next__
        self.next_call = count(1).__next__
        self.next_worker = count(1).__next__
        self.next_nest = count(1).__next__
        self.next_claim = count(1).__next__

        # What changed in this event; placement empties these before `handle` returns.
        self.offers: deque[Worker] = deque()  # workers that may have room now
        self.seekers: deque[Demand] = deque()  # demands whose calls or chances changed, each once
        self.freed: deque[DeviceRecord] = deque()  # devices without a nest now

        for each in config.devices:
            of = self.classes.setdefault((each.kind, each.model), DeviceClass(kind=each.kind, model=each.model))
            device = self.devices[each.id] = DeviceRecord(config=each, kind_of=of)
            of.devices.append(device)
            of.free[each.id] = device
            of.usable += 1

    # -- deadlines and news --------------------------------------------------------------------------------------------

    def arm(self, when: float, target: Timed) -> Timer:
        """A deadline at `when`; whoever asks keeps the timer to disarm it."""
        timer = Timer(target, when)
        self.timers.push(when, self.next_number(), timer)
        return timer

    def seek(self, demand: Demand) -> None:
        """Placement shall look at this demand before the event is done."""
        if not demand.sought:
            demand.sought = True
            self.seekers.append(demand)

    def free_up(self, device: DeviceRecord) -> None:
        """Tell placement of a device that may have become free."""
        if device.is_free:
            device.kind_of.free[device.config.id] = device
        self.freed.append(device)

    def drop_news(self) -> None:
        """Placement need not look at anything."""
        self.offers.clear()
        self.freed.clear()
        for demand in self.seekers:
            demand.sought = False
        self.seekers.clear()
