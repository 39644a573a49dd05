"""A small faithful model of what lies around the scheduler: clients' books, launcher, nests, workers and their pages.

It carries out commands as the shell would and tells the scheduler of what comes of them, when the test says so. It keeps
what the promises are about: which outcomes were sent, and which attempts ever began.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from plover.bundles.format import BundleSet
from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.config import SchedulerConfig
from plover.daemon.scheduler.invariants import check
from plover.daemon.scheduler.scheduler import Scheduler


@dataclass
class ModelWorker:
    """A worker as it really is: `page` is what its status page says, also after the attempt has ended."""

    nest: int
    ready: bool = False
    killed: bool = False
    queue: deque[tuple[int, int, bytes]] = field(default_factory=deque)
    running: bool = False
    page: tuple[int, int] | None = None
    begun_at: float | None = None
    known: set[bytes] = field(default_factory=set)
    missing: deque[tuple[int, int]] = field(default_factory=deque)
    resent: set[tuple[int, int]] = field(default_factory=set)  # missed here, so they may come with their function
    untold: deque[ev.CallFinished] = field(default_factory=deque)  # ended, but the daemon has not heard of it
    told_at: float = 0.0  # when the daemon last heard of an end
    interrupted: tuple[int, int] | None = None
    meanings: dict[str, bytes] = field(default_factory=dict)  # what it takes each module's name for

    def fits(self, modules: BundleSet) -> bool:
        """Whether it can take these modules beside those that it has."""
        return all(self.meanings.get(name, meant) == meant for name, meant in _meant(modules).items())

    @property
    def holds(self) -> int:
        """How many calls it has, as far as the daemon can know."""
        return len(self.queue) + len(self.missing) + len(self.untold)


@dataclass
class ModelCall:
    """What a client knows of a call that was taken."""

    client: bytes
    tenant: str
    submission: int
    retries: int
    flow: tuple[object, ...]
    modules: BundleSet
    sent_at: float = 0.0
    outcomes: list[cmd.Outcome] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    released: bool = False
    arguments_released: bool = False
    excused: bool = False  # its client was silent or left: nothing need be sent


def _meant(modules: BundleSet) -> dict[str, bytes]:
    return dict(modules.members) | dict.fromkeys(modules.others, b"")


class Model:
    """The scheduler under test and everything around it, at one moment of a clock of its own."""

    def __init__(self, config: SchedulerConfig, *, checked: bool = True) -> None:
        self.config = config
        self.scheduler = Scheduler(config, strict=True)
        self.checked = checked
        self.now = 100.0
        self.nests: dict[int, str] = {}
        self.workers: dict[int, ModelWorker] = {}
        self.calls: dict[int, ModelCall] = {}
        self.seen_at: dict[tuple[str, bytes], float] = {}
        self.last_run_s: dict[tuple[object, ...], float] = {}  # by flow, as the daemon can know it
        self.sent_behind = 0  # calls sent to a worker that had others
        self.exits = 0
        self.log: list[cmd.Command] = []

    # -- events in, commands out ---------------------------------------------------------------------------------------

    def tell(self, event: ev.AnyEvent) -> list[cmd.Command]:
        """Hand one event over and carry out what comes back."""
        commands = self.scheduler.handle(event, self.now)
        if self.checked:
            check(self.scheduler)
        if isinstance(event, ev.CallSubmitted):
            self._note_submission(event)
        reads = []
        for command in commands:
            self._carry_out(command)
            if isinstance(command, cmd.ReadPage):
                reads.append(command.worker)
        self.log = commands
        for number in reads:
            worker = self.workers.get(number)
            if worker is not None:
                page = worker.page if worker.running else None
                self.tell(ev.PageRead(worker=number, begun=page, begun_at=worker.begun_at if page else None))
        return commands

    def _note_submission(self, event: ev.CallSubmitted) -> None:
        number = self.scheduler.find_call(event.client, event.submission, event.tenant)
        if number is not None and number not in self.calls:
            flow = (event.tenant, event.environment, event.gpu, event.require_gpu, event.function)
            self.calls[number] = ModelCall(
                event.client, event.tenant, event.submission, event.retries, flow, event.modules
            )

    def _carry_out(self, command: cmd.Command) -> None:
        match command:
            case cmd.StartNest():
                taken = {
                    d for n in self.scheduler.world.nests.values() if n.number != command.nest for d in n.device_ids
                }
                assert not taken & set(command.devices)
                self.nests[command.nest] = "creating"
            case cmd.StopNest():
                assert command.nest in self.nests
                self.nests[command.nest] = "stopping"
            case cmd.StartWorker():
                assert self.nests[command.nest] == "warm"
                self.workers[command.worker] = ModelWorker(command.nest)
            case cmd.KillWorker():
                self.workers[command.worker].killed = True
            case cmd.SendCall():
                self._send(command)
            case cmd.InterruptCall():
                self.workers[command.worker].interrupted = (command.call, command.attempt)
            case cmd.SendOutcome():
                if command.call is not None:
                    outcomes = self.calls[command.call].outcomes
                    assert not outcomes or outcomes[0] == command.outcome
                    outcomes.append(command.outcome)
            case cmd.ReleaseArguments():
                assert not self.calls[command.call].arguments_released
                self.calls[command.call].arguments_released = True
            case cmd.ReleaseCall():
                assert not self.calls[command.call].released
                assert self.calls[command.call].arguments_released
                self.calls[command.call].released = True
            case cmd.Exit():
                self.exits += 1
            case cmd.LogFault():
                raise AssertionError(command.reason)
            case _:
                pass

    def _send(self, command: cmd.SendCall) -> None:
        worker = self.workers[command.worker]
        call = self.calls[command.call]
        assert worker.ready
        assert not call.outcomes
        assert not call.arguments_released
        assert worker.holds < self.config.limits.dispatched_per_worker
        attempt = (command.call, command.attempt)
        if worker.holds and attempt not in worker.resent:
            self.sent_behind += 1
            assert not command.with_payload, "loading a function may take long"
            assert self.last_run_s[call.flow] <= self.config.limits.prefetch_s, "it is not known to be short"
            demand = self.scheduler.world.calls[command.call].flow.demand
            idle = [self.workers[number] for pool in demand.pools for number in pool.idle]
            assert not any(each.fits(call.modules) for each in idle), "an idle worker could have taken it"
        assert worker.fits(call.modules), "it means something else by a module's name"
        worker.meanings |= _meant(call.modules)
        call.sent_at = self.now
        if command.with_payload:
            worker.known.add(command.function)
        if command.function in worker.known:
            worker.queue.append((*attempt, command.function))
        else:
            worker.missing.append(attempt)

    # -- what clients, workers, launcher and clock do ------------------------------------------------------------------

    def client_says(self, event: ev.AnyEvent, tenant: str, client: bytes) -> list[cmd.Command]:
        """An event of a client, with a note of when it was heard of."""
        self.seen_at[tenant, client] = self.now
        if isinstance(event, ev.ClientGone):
            for call in self.calls.values():
                if (call.tenant, call.client) == (tenant, client):
                    call.excused = True
        return self.tell(event)

    def begin(self, number: int) -> bool:
        """A worker begins the next call that it was sent."""
        worker = self.workers[number]
        if worker.running or not worker.queue:
            return False
        call, attempt, _ = worker.queue[0]
        worker.running, worker.page, worker.begun_at = True, (call, attempt), self.now
        assert attempt not in self.calls[call].begun, f"attempt {attempt} of call {call} ran twice"
        self.calls[call].begun.append(attempt)
        assert len(self.calls[call].begun) <= self.calls[call].retries + 1
        return True

    def finish(self, number: int, status: str = "succeeded", size_bytes: int = 10, *, told: bool = True) -> bool:
        """A worker ends what it runs; the daemon hears of it now, or with `report`."""
        worker = self.workers[number]
        if not worker.running:
            return False
        call, attempt, _ = worker.queue.popleft()
        worker.running = False
        worker.untold.append(
            ev.CallFinished(worker=number, call=call, attempt=attempt, status=status, size_bytes=size_bytes)  # type: ignore[arg-type]
        )
        if told:
            self.report(number)
        return True

    def report(self, number: int) -> bool:
        """What a worker has ended comes to the daemon's ears, in order."""
        worker = self.workers[number]
        any_told = bool(worker.untold)
        while worker.untold:
            event = worker.untold.popleft()
            call = self.calls[event.call]
            self.last_run_s[call.flow] = self.now - max(call.sent_at, worker.told_at)
            worker.told_at = self.now
            self.tell(event)
        return any_told

    def miss(self, number: int) -> bool:
        """A worker says that it lacks a function."""
        worker = self.workers[number]
        if not worker.missing:
            return False
        call, attempt = worker.missing.popleft()
        worker.resent.add((call, attempt))
        self.tell(ev.PayloadMissed(worker=number, call=call, attempt=attempt))
        return True

    def forget(self, number: int) -> None:
        """A worker drops all functions: what it has not begun will be missed."""
        worker = self.workers[number]
        worker.known.clear()
        for call, attempt, _ in list(worker.queue)[worker.running :]:
            worker.queue.pop()
            worker.missing.append((call, attempt))
        self.miss(number)

    def nest_ready(self, number: int) -> None:
        """A nest comes up."""
        if self.nests[number] == "creating":
            self.nests[number] = "warm"
        self.tell(ev.NestReady(nest=number))

    def nest_gone(self, number: int, *, told: bool = True) -> None:
        """A nest ends, its workers with it: told of one by one, or not."""
        for worker in [w for w, each in self.workers.items() if each.nest == number]:
            if told:
                self.worker_gone(worker)
            self.workers.pop(worker, None)
        del self.nests[number]
        self.tell(ev.NestGone(nest=number, reason="it fell"))

    def worker_ready(self, number: int) -> None:
        """A worker opens its device."""
        self.workers[number].ready = True
        self.tell(ev.WorkerReady(worker=number))

    def worker_gone(self, number: int, **how: object) -> None:
        """A worker dies; its page tells what it had begun last, ended or not."""
        worker = self.workers.pop(number)
        self.tell(ev.WorkerGone(worker=number, begun=worker.page, signal=9, **how))  # type: ignore[arg-type]

    def advance(self, seconds: float) -> None:
        """Let time pass, with every deadline on the way."""
        until = self.now + seconds
        for _ in range(10_000):
            deadline = self.scheduler.next_deadline()
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            self._excuse()
            self.tell(ev.DeadlineReached())
        else:
            raise AssertionError("deadlines without end")
        self.now = until

    def _excuse(self) -> None:
        for call in self.calls.values():
            if self.seen_at[call.tenant, call.client] + self.config.limits.client_lease_s <= self.now:
                call.excused = True

    # -- to the end ----------------------------------------------------------------------------------------------------

    def answer(self) -> bool:
        """Do everything that is to be expected of launcher and workers, once. False where there was nothing."""
        busy = False
        for nest, state in list(self.nests.items()):
            if state == "creating":
                self.nest_ready(nest)
                busy = True
            elif state == "stopping":
                self.nest_gone(nest)
                busy = True
        for number in list(self.workers):
            worker = self.workers.get(number)
            if worker is None:
                continue
            busy = True
            if worker.killed:
                self.worker_gone(number)
            elif not worker.ready:
                self.worker_ready(number)
            elif not (self.report(number) or self.miss(number) or self.begin(number) or self.finish(number)):
                busy = False
        return busy

    def quiesce(self) -> None:
        """Answer all commands and let time pass until every call has ended; fail where that does not come about."""
        for _ in range(2_000):
            for key in {(call.tenant, call.client) for call in self.calls.values() if not call.excused}:
                self.client_says(ev.ClientSeen(client=key[1], tenant=key[0]), *key)
            if self.answer():
                continue
            if not self.scheduler.world.unfinished:
                break
            assert self.scheduler.next_deadline() is not None, "calls wait, and nothing will ever happen"
            self.advance(1.0)
        else:
            raise AssertionError(f"never quiet: {self.scheduler.world.calls}")
        for number, call in self.calls.items():
            assert call.arguments_released, f"call {number} never ended"
            assert call.outcomes or call.excused, f"nobody was told how call {number} ended"
