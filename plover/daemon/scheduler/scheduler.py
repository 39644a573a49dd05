"""The scheduler: one event in, a list of commands out. It ties its parts together and decides nothing itself.

    from plover.daemon.scheduler.scheduler import Scheduler
    commands = Scheduler(config).handle(DaemonStarted(), now=0.0)

Guarantees: pure (no clock, socket, thread or randomness inside), deterministic, and O(log n) or O(1) in calls and
workers for every event that a call causes. Events about things that are unknown, stale or done already change nothing
and are counted. An illegal transition raises when `strict`; otherwise the one call (or worker, or nest) at fault is
ended, `LogFault` says so, and the rest goes on. Assumes: `now` never decreases, commands are carried out in order,
and `DeadlineReached` is sent when `next_deadline()` has come.
"""

from __future__ import annotations

from typing import assert_never

from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler import snapshot
from plover.daemon.scheduler.attempts import Attempts
from plover.daemon.scheduler.commands import Command, Exit, LogFault, Refused, Versions
from plover.daemon.scheduler.config import SchedulerConfig
from plover.daemon.scheduler.fleet import Fleet
from plover.daemon.scheduler.placement import Placement
from plover.daemon.scheduler.queues import FairQueues
from plover.daemon.scheduler.results import Results
from plover.daemon.scheduler.state import Call, Client, DeviceRecord, Nest, Timer, Worker, World
from plover.daemon.scheduler.transitions import IllegalTransition, restore_nest, restore_worker


class Scheduler:
    """All calls, workers, nests, devices and clients of one daemon."""

    def __init__(self, config: SchedulerConfig, *, strict: bool = False) -> None:
        self._strict = strict
        self.world = World(config)
        self.queues = FairQueues(self.world)
        self._results = Results(self.world, self.queues)
        self._attempts = Attempts(self.world, self.queues, self._results)
        self._fleet = Fleet(self.world, self.queues, self._attempts)
        self.placement = Placement(self.world, self.queues, self._results, self._attempts, self._fleet)

    def __repr__(self) -> str:
        world = self.world
        return (
            f"<Scheduler {world.phase}: {world.unfinished} calls unfinished, {len(world.workers)} workers, "
            f"{len(world.nests)} nests, {len(world.clients)} clients>"
        )

    # -- what the shell uses -------------------------------------------------------------------------------------------

    def handle(self, event: ev.AnyEvent, now: float) -> list[Command]:
        """Take in what happened at `now` (monotonic seconds); returns what is to be done, in order."""
        world = self.world
        commands: list[Command] = []
        world.commands = commands
        try:
            if not self._take_in(event, now):
                world.ignored += 1
            self._settle(now)
        except IllegalTransition as fault:
            if self._strict:
                raise
            self._contain(fault, now)
        return commands

    def next_deadline(self) -> float | None:
        """When `DeadlineReached` is due next, on the clock of `now`; None for never."""
        first = self.world.timers.first()
        return None if first is None else first.when

    def find_call(self, client: bytes, submission: int, tenant: str = "default") -> int | None:
        """The number of a client's call, once it was accepted and until it is released (`ReleaseCall`)."""
        known = self.world.clients.get((tenant, client))
        call = None if known is None else known.calls.get(submission)
        return None if call is None else call.number

    def snapshot(self) -> snapshot.Snapshot:
        """A copy of what there is, for people. Linear: not for every call."""
        return snapshot.take(self.world, self.queues.queued)

    # -- events --------------------------------------------------------------------------------------------------------

    def _take_in(self, event: ev.AnyEvent, now: float) -> bool:
        """Carry one event into the books. False where it changed nothing."""
        world = self.world
        match event:
            case ev.CallFinished():
                return self._attempts.finished(event, now)
            case ev.CallSubmitted():
                return self._submitted(event, now)
            case ev.ResultsAcknowledged():
                return self._results.acknowledged(event, now)
            case ev.ClientSeen():
                return self._results.seen(event.tenant, event.client, now) is not None
            case ev.ClientConnected():
                self._results.greet(event.tenant, event.client, now)
                return True
            case ev.ResultsWanted():
                self._results.wanted(event, now)
                return True
            case ev.CallCancelled():
                return self._cancelled(event, now)
            case ev.ClientGone():
                client = world.clients.get((event.tenant, event.client))
                if client is not None:
                    self._attempts.client_gone(client, now)
                return client is not None
            case ev.PayloadMissed():
                return self._missed(event, now)
            case ev.DeadlineReached():
                return self._deadlines(now)
            case ev.DaemonStarted():
                return self._started(now)
            case ev.DrainRequested():
                if world.phase == "running":
                    world.phase = "draining"
                return True
            case ev.StopRequested():
                return self._stop(now)
            case ev.NestReady() | ev.NestGone():
                nest = world.nests.get(event.nest)
                return nest is not None and self._nest_news(nest, event, now)
            case ev.WorkerReady() | ev.WorkerUnwell() | ev.WorkerGone() | ev.PageRead():
                worker = world.workers.get(event.worker)
                return worker is not None and self._worker_news(worker, event, now)
            case _:
                assert_never(event)

    def _nest_news(self, nest: Nest, event: ev.NestReady | ev.NestGone, now: float) -> bool:
        match event:
            case ev.NestReady():
                return self._fleet.nest_ready(nest, now)
            case ev.NestGone():
                self._fleet.nest_gone(nest, event, now)
                return True
            case _:
                assert_never(event)

    def _worker_news(
        self, worker: Worker, event: ev.WorkerReady | ev.WorkerUnwell | ev.WorkerGone | ev.PageRead, now: float
    ) -> bool:
        match event:
            case ev.WorkerReady():
                return self._fleet.worker_ready(worker)
            case ev.WorkerUnwell():
                return self._fleet.unwell(worker, event.reason, now)
            case ev.WorkerGone():
                self._fleet.worker_gone(worker, event, now)
                return True
            case ev.PageRead():
                of_call = self._attempts.page_read(worker, event, now)
                return self._fleet.page_read(worker, event, now) or of_call
            case _:
                assert_never(event)

    def _submitted(self, event: ev.CallSubmitted, now: float) -> bool:
        client = self._results.greet(event.tenant, event.client, now)
        known = client.calls.get(event.submission)
        if known is not None:
            return self._results.tell_again(known)
        key = ((event.tenant, event.environment, event.gpu, event.require_gpu), event.function)
        flow = self.queues.flows.get(key)
        demand = self.placement.demand(key[0]) if flow is None else flow.demand
        refused = self._refusal(event, demand.refusal)
        if refused is not None:
            self._results.refuse(event, refused)
            return True
        if flow is None:
            flow = self.queues.open_flow(demand, key, event.modules)
        call = self._attempts.accept(event, client, flow, now)
        if not self.placement.send_at_once(call, now):
            self._attempts.wait(call, now)
        return True

    def _refusal(self, event: ev.CallSubmitted, impossible: str | None) -> Refused | None:
        """Why this submission is not taken, if so."""
        world = self.world
        if world.phase != "running":
            how = "draining" if world.phase == "draining" else "stopping"
            return Refused(
                "NoCapacity", f"this daemon is {how} and takes no new calls: use another one, or start it again"
            )
        environment = world.environments.get(event.environment)
        if environment is None:
            names = ", ".join(repr(name) for name in world.environments) or "none"
            return Refused("NoCapacity", f"this host has no environment {event.environment!r}; it has: {names}")
        if environment.python != event.python:
            return Refused(
                "VersionMismatch",
                f"the function was serialized by Python {event.python}, but this host's environment {environment.name!r} "
                f"runs Python {environment.python}: run the client under Python {environment.python}, "
                f"or name an environment with Python {event.python}",
                Versions(client=event.python, daemon=environment.python),
            )
        if impossible is not None:
            return Refused("NoCapacity", f"this call {impossible}")
        limit = world.limits.queued_calls_per_tenant
        if self.queues.queued.get(event.tenant, 0) >= limit:
            return Refused(
                "NoCapacity",
                f"{limit} calls of tenant {event.tenant!r} wait already, which is the limit (queued_calls_per_tenant): "
                "wait for results before you submit more (map() does), or have the operator raise the limit",
            )
        return None

    def _cancelled(self, event: ev.CallCancelled, now: float) -> bool:
        client = self._results.seen(event.tenant, event.client, now)
        call = None if client is None else client.calls.get(event.submission)
        if call is None or call.outcome is not None or call.ending is not None:
            return False
        self._attempts.cancel(call, now)
        return True

    def _missed(self, event: ev.PayloadMissed, now: float) -> bool:
        call = self._attempts.of_worker(event.worker, event.call, event.attempt)
        if call is None or call.worker is None or call.worker.state != "busy":
            return False  # a draining worker's calls are judged when it is gone
        self._attempts.missed(call, call.worker, now)
        return True

    # -- the clock -----------------------------------------------------------------------------------------------------

    def _deadlines(self, now: float) -> bool:
        timers = self.world.timers
        any_rang = False
        while (first := timers.first()) is not None and first.when <= now:
            self._rang(timers.pop(), now)
            any_rang = True
        return any_rang

    def _rang(self, timer: Timer, now: float) -> None:
        target = timer.target
        match target:
            case Call():
                worker = self._attempts.rang(target, now)
                if worker is not None:
                    self._fleet.kill(worker, f"call {target.number} did not heed its interrupt", now)
            case Worker():
                self._fleet.worker_rang(target, now)
            case Nest():
                self._fleet.nest_rang(target, now)
            case DeviceRecord():
                self._fleet.device_rang(target, now)
            case Client():
                self._attempts.lease_rang(target, now)
            case "held":
                self._results.held_rang(now)
            case "exit":
                self._give_up_waiting(now)
            case _:
                assert_never(target)

    # -- the daemon's own life -----------------------------------------------------------------------------------------

    def _started(self, now: float) -> bool:
        world = self.world
        if world.phase != "running" or not world.environments:
            return False
        for device in world.devices.values():
            if device.is_free:
                self.placement.prewarm(device, now)
        return True

    def _stop(self, now: float) -> bool:
        world = self.world
        if world.phase in ("stopping", "exited"):
            return False
        self._stop_nests(now)
        for call in list(world.calls.values()):
            if call.outcome is None:
                self._attempts.cancel(call, now)
        return True

    def _stop_nests(self, now: float) -> None:
        world = self.world
        world.phase = "stopping"
        world.exit_timer = world.arm(now + world.limits.stop_grace_s, "exit")
        for nest in list(world.nests.values()):
            self._fleet.stop_nest(nest, "the daemon ends", now)

    def _give_up_waiting(self, now: float) -> None:
        """Stopping takes too long: end what is left, so that everybody is told before the daemon ends."""
        world = self.world
        world.exit_timer = None
        for nest in list(world.nests.values()):
            self._fleet.write_off(nest, "the daemon ends and cannot wait for it any longer", now)

    def _settle(self, now: float) -> None:
        world = self.world
        if world.phase == "running":
            self.placement.settle(now)
            return
        if world.phase == "draining":
            self.placement.settle(now)
            if not world.unfinished and not world.owed:
                self._stop_nests(now)
        if world.phase in ("stopping", "exited"):
            world.drop_news()  # nothing is placed any more
            if world.phase == "stopping" and not world.nests:
                world.phase = "exited"
                if world.exit_timer is not None:
                    world.exit_timer.rank = 0
                    world.exit_timer = None
                world.commands.append(Exit())

    # -- what must not happen ------------------------------------------------------------------------------------------

    def _contain(self, fault: IllegalTransition, now: float) -> None:
        """An illegal transition in production: say so, end what it is about, go on."""
        self.world.commands.append(LogFault(reason=str(fault)))
        try:
            self._end_faulty(fault, now)
            self._settle(now)
        except IllegalTransition as another:
            self.world.commands.append(LogFault(reason=str(another)))

    def _end_faulty(self, fault: IllegalTransition, now: float) -> None:
        world, record = self.world, fault.record
        reason = f"Plover's own fault: {fault}"
        match record:
            case Call():
                self._attempts.fail(record, reason, now)
                worker = world.workers.get(record.worker_number or 0)
                if worker is not None and worker.state == "busy":
                    self._fleet.kill(worker, reason, now)  # it may still be running the call
            case Worker():
                restore_worker(record, "draining")
                self._end_nest(record.nest, reason, now)
            case Nest():
                restore_nest(record, "warm")
                self._end_nest(record, reason, now)
            case DeviceRecord() | Client():
                pass  # no call hangs on these states
            case _:
                assert_never(record)

    def _end_nest(self, nest: Nest, reason: str, now: float) -> None:
        if nest.number in self.world.nests:
            self._fleet.stop_nest(nest, reason, now)
