"""Random lives of a daemon: whatever comes in whatever order, the books stay right and every call ends."""

from __future__ import annotations

import os

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from scheduler_model import Model

from plover.bundles.format import BundleSet
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.config import Device, Environment, Limits, SchedulerConfig

CLIENTS = [("default", b"ann"), ("default", b"bob"), ("lab", b"cid")]
FUNCTIONS = [b"f", b"g", b"h"]
#: What calls mean by the names of modules: nothing, two versions of one module, it and another, the environment's.
MODULES = [
    BundleSet(),
    BundleSet.of({"own": b"1"}),
    BundleSet.of({"own": b"2"}),
    BundleSet.of({"own": b"1", "more": b"1"}, ["torch"]),
    BundleSet.of({}, ["own"]),
]
HOSTS = [
    ("simulated",),
    ("cuda",),
    ("cuda", "cuda"),
    ("cuda", "simulated", "cuda"),
    ("simulated", "simulated"),
]
GPUS = [None, None, None, ev.GpuRequest("h100"), ev.GpuRequest("", 2), ev.GpuRequest("H100", 2)]
EXAMPLES = int(os.environ.get("PLOVER_SCHEDULER_EXAMPLES", "120"))


class DaemonLife(RuleBasedStateMachine):
    """One daemon, three clients of two tenants, a launcher and workers of every temper."""

    @initialize(
        host=st.sampled_from(HOSTS),
        depth=st.sampled_from([1, 2, 3, 16, 16]),
        prefetch_s=st.sampled_from([0.002, 0.002, 0.002, 0.0, 1.5]),
        known=st.sampled_from([1, 8]),
        start=st.booleans(),
    )
    def boot(self, host: tuple[str, ...], depth: int, prefetch_s: float, known: int, start: bool) -> None:
        devices = tuple(
            Device(f"{kind}:{i}", kind, "NVIDIA H100" if kind == "cuda" else "Simulated", 1 << 30)  # type: ignore[arg-type]
            for i, kind in enumerate(host)
        )
        limits = Limits(
            queued_calls_per_tenant=12,
            dispatched_per_worker=depth,
            prefetch_s=prefetch_s,
            functions_known_per_worker=known,
            held_result_bytes=50,
            held_result_s=40.0,
        )
        environments = (Environment("default", "3.11"), Environment("other", "3.12"))
        self.model = Model(SchedulerConfig(devices=devices, environments=environments, limits=limits))
        self.submissions = dict.fromkeys(CLIENTS, 0)
        if start:
            self.model.tell(ev.DaemonStarted())

    # -- clients -------------------------------------------------------------------------------------------------------

    @rule(
        who=st.sampled_from(CLIENTS),
        function=st.sampled_from(FUNCTIONS),
        modules=st.sampled_from([0, 0, 0, *range(len(MODULES))]),
        gpu=st.sampled_from(GPUS),
        timeout_s=st.sampled_from([None, None, 1.0, 5.0]),
        queue_timeout_s=st.sampled_from([None, None, 3.0]),
        retries=st.integers(0, 2),
        priority=st.integers(0, 2),
        environment=st.sampled_from(["default", "default", "default", "other", "none"]),
        count=st.sampled_from([1, 2, 3, 4, 14]),
    )
    def submit(
        self, who, function, modules, gpu, timeout_s, queue_timeout_s, retries, priority, environment, count
    ) -> None:  # type: ignore[no-untyped-def]
        for _ in range(count):
            self.submissions[who] += 1
            event = ev.CallSubmitted(
                tenant=who[0],
                client=who[1],
                submission=self.submissions[who],
                function=function + bytes([modules]),
                modules=MODULES[modules],
                python="3.12" if environment == "other" else "3.11",
                environment=environment,
                gpu=gpu,
                timeout_s=timeout_s,
                queue_timeout_s=queue_timeout_s,
                retries=retries,
                priority=priority,
            )
            self.model.client_says(event, *who)

    @rule(
        who=st.sampled_from(CLIENTS),
        function=st.sampled_from(FUNCTIONS),
        modules=st.sampled_from([0, 1, 2]),
        count=st.sampled_from([3, 8]),
    )
    def short_calls(self, who: tuple[str, bytes], function: bytes, modules: int, count: int) -> None:
        """One after another, until they are known to be short, and then some at once."""
        for number in range(2 + count):
            self.submissions[who] += 1
            event = ev.CallSubmitted(
                tenant=who[0],
                client=who[1],
                submission=self.submissions[who],
                function=function + bytes([modules]),
                modules=MODULES[modules],
                python="3.11",
            )
            self.model.client_says(event, *who)
            for _ in range(6 if number < 2 else 0):
                self.model.answer()

    @rule(who=st.sampled_from(CLIENTS), back=st.integers(0, 6), again=st.booleans())
    def repeat(self, who: tuple[str, bytes], back: int, again: bool) -> None:
        submission = max(1, self.submissions[who] - back)
        names = {"tenant": who[0], "client": who[1]}
        if again:
            event = ev.CallSubmitted(submission=submission, function=b"f", python="3.11", **names)  # type: ignore[arg-type]
            self.submissions[who] = max(1, self.submissions[who])
            self.model.client_says(event, *who)
        else:
            self.model.client_says(ev.ResultsWanted(submissions=(submission, submission + 1), **names), *who)  # type: ignore[arg-type]

    @rule(who=st.sampled_from(CLIENTS), back=st.integers(0, 6))
    def cancel(self, who: tuple[str, bytes], back: int) -> None:
        submission = max(1, self.submissions[who] - back)
        self.model.client_says(ev.CallCancelled(tenant=who[0], client=who[1], submission=submission), *who)

    @rule(who=st.sampled_from(CLIENTS), back=st.integers(0, 9))
    def acknowledge(self, who: tuple[str, bytes], back: int) -> None:
        first = max(1, self.submissions[who] - back)
        event = ev.ResultsAcknowledged(tenant=who[0], client=who[1], submissions=tuple(range(first, first + 4)))
        self.model.client_says(event, *who)

    @rule(who=st.sampled_from(CLIENTS), what=st.sampled_from(["seen", "seen", "seen", "connected", "gone"]))
    def client(self, who: tuple[str, bytes], what: str) -> None:
        tenant, client = who
        events: dict[str, ev.AnyEvent] = {
            "seen": ev.ClientSeen(tenant=tenant, client=client),
            "connected": ev.ClientConnected(tenant=tenant, client=client),
            "gone": ev.ClientGone(tenant=tenant, client=client),
        }
        self.model.client_says(events[what], tenant, client)

    # -- launcher and workers ------------------------------------------------------------------------------------------

    @rule(rounds=st.integers(1, 4))
    def all_goes_well(self, rounds: int) -> None:
        for _ in range(rounds):
            self.model.answer()

    @precondition(lambda self: self.model.nests)
    @rule(data=st.data(), ready=st.booleans(), told=st.booleans())
    def nest(self, data: st.DataObject, ready: bool, told: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.model.nests)))
        if ready:
            self.model.nest_ready(number)
        else:
            self.model.nest_gone(number, told=told)

    @precondition(lambda self: self.model.workers)
    @rule(
        data=st.data(),
        what=st.sampled_from(
            ["ready", "begin", "begin", "finish", "finish", "end", "end", "report", "die", "unwell", "forget", "page"]
        ),
        status=st.sampled_from(["succeeded", "failed", "interrupted"]),
        size_bytes=st.sampled_from([0, 20, 60]),
        oom=st.booleans(),
    )
    def worker(self, data: st.DataObject, what: str, status: str, size_bytes: int, oom: bool) -> None:
        model = self.model
        number = data.draw(st.sampled_from(sorted(model.workers)))
        if what == "ready":
            model.worker_ready(number)
        elif what == "begin":
            model.begin(number)
        elif what == "finish":
            model.finish(number, status, size_bytes)
        elif what == "end":
            model.finish(number, status, size_bytes, told=False)
        elif what == "report":
            model.report(number)
        elif what == "die":
            model.worker_gone(number, out_of_memory=oom)
        elif what == "unwell":
            model.tell(ev.WorkerUnwell(worker=number, reason="sticky"))
        elif what == "forget":
            model.forget(number)
        else:
            worker = model.workers[number]
            model.tell(ev.PageRead(worker=number, begun=worker.page, begun_at=worker.begun_at))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.6, 1.0, 2.0, 5.0, 20.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.model.advance(seconds)

    # -- what nobody meant ---------------------------------------------------------------------------------------------

    @rule(
        number=st.integers(0, 6),
        call=st.integers(0, 6),
        attempt=st.integers(0, 3),
        what=st.sampled_from(
            ["finished", "missed", "gone", "ready", "unwell", "page", "nest ready", "nest gone", "clock"]
        ),
    )
    def stray(self, number: int, call: int, attempt: int, what: str) -> None:
        model = self.model
        at_worker = model.scheduler.world.calls.get(call)
        real = at_worker is not None and at_worker.worker is not None and at_worker.attempt == attempt
        if real or number in model.workers or number in model.nests:
            number += 1000  # somebody who is not (any more)
        strays: dict[str, ev.AnyEvent] = {
            "finished": ev.CallFinished(worker=number, call=call, attempt=attempt, status="succeeded"),
            "missed": ev.PayloadMissed(worker=number, call=call, attempt=attempt),
            "gone": ev.WorkerGone(worker=number, begun=(call, attempt)),
            "ready": ev.WorkerReady(worker=number),
            "unwell": ev.WorkerUnwell(worker=number, reason="stray"),
            "page": ev.PageRead(worker=number, begun=(call, attempt), begun_at=0.0),
            "nest ready": ev.NestReady(nest=number),
            "nest gone": ev.NestGone(nest=number, reason="stray"),
            "clock": ev.DeadlineReached(),
        }
        before = model.scheduler.snapshot()
        commands = model.tell(strays[what])
        if what != "clock":
            assert not commands
            after = model.scheduler.snapshot()
            assert after.ignored == before.ignored + 1
            assert (after.calls, after.workers, after.nests) == (before.calls, before.workers, before.nests)

    @rule(stop=st.booleans(), dice=st.integers(0, 9))
    def end(self, stop: bool, dice: int) -> None:
        if dice == 0:
            self.model.tell(ev.StopRequested() if stop else ev.DrainRequested())

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.quiesce()
            assert self.model.exits <= 1
            self.ends()

    def ends(self) -> None:
        """A daemon that is told to stop exits, at once or within its grace."""
        model = self.model
        model.tell(ev.StopRequested())
        model.advance(model.config.limits.stop_grace_s)
        assert model.exits == 1
        assert not model.scheduler.world.nests
        assert not model.scheduler.world.workers


TestDaemonLife = DaemonLife.TestCase
TestDaemonLife.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    derandomize="CI" in os.environ or "PLOVER_SCHEDULER_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
