"""Thousands of workers and tens of thousands of calls through the very object that the daemon runs."""

from __future__ import annotations

import heapq
import random
import time
from typing import Any

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.config import Device, Environment, Limits, SchedulerConfig
from plover.daemon.scheduler.invariants import check
from plover.daemon.scheduler.scheduler import Scheduler

WORKERS = 2_000
CALLS = 20_000


class Simulation:
    """A host whose nests start in 0.6 s, workers in 10 ms, and whose calls take what `mean_s` says, on the average.

    `way_s` is how long a message takes between daemon and worker.
    """

    def __init__(self, devices: int, seed: int, way_s: float = 0.0, **limits: Any) -> None:
        config = SchedulerConfig(
            devices=tuple(Device(f"simulated:{n}", "simulated", "Simulated", 1 << 30) for n in range(devices)),
            environments=(Environment("default", "3.11"),),
            limits=Limits(queued_calls_per_tenant=CALLS, client_lease_s=1e9, **limits),
        )
        self.scheduler = Scheduler(config, strict=True)
        self.random = random.Random(seed)
        self.mean_s: dict[bytes, float] = {}
        self.way_s = way_s
        self.busy_until: dict[int, float] = {}
        self.behind = 0
        self.queue: list[tuple[float, int, ev.AnyEvent]] = []
        self.events = 0
        self.run_s: dict[int, float] = {}
        self.of: dict[int, tuple[str, bytes]] = {}
        self.served_s: dict[tuple[str, bytes], float] = {}
        self.ended: dict[str, int] = {}
        self.cold = 0
        self.nests = 0

    def at(self, when: float, event: ev.AnyEvent) -> None:
        self.events += 1
        heapq.heappush(self.queue, (when, self.events, event))

    def submit(self, when: float, tenant: str, submission: int, function: bytes) -> None:
        self.at(
            when,
            ev.CallSubmitted(
                tenant=tenant, client=tenant.encode(), submission=submission, function=function, python="3.11"
            ),
        )

    def run(self, until: float = float("inf")) -> float:
        """Play all events up to `until`; returns the time of the last one."""
        now = 0.0
        while self.queue and self.queue[0][0] <= until:
            now, _, event = heapq.heappop(self.queue)
            for command in self.scheduler.handle(event, now):
                self.carry_out(command, now)
            if isinstance(event, ev.CallSubmitted):
                number = self.scheduler.find_call(event.client, event.submission, event.tenant)
                assert number is not None
                self.of[number] = (event.tenant, event.function)
        return now

    def carry_out(self, command: cmd.Command, now: float) -> None:
        match command:
            case cmd.StartNest():
                self.nests += 1
                self.at(now + 0.6, ev.NestReady(nest=command.nest))
            case cmd.StopNest():
                self.at(now + 0.1, ev.NestGone(nest=command.nest, reason="stopped"))
            case cmd.StartWorker():
                self.at(now + 0.01, ev.WorkerReady(worker=command.worker))
            case cmd.SendCall():
                run_s = self.random.expovariate(1 / self.mean_s[command.function])
                self.run_s[command.call] = run_s
                self.cold += command.with_payload
                begins_at = max(now + self.way_s, self.busy_until.get(command.worker, 0.0))
                self.behind += begins_at > now + self.way_s
                self.busy_until[command.worker] = ends_at = begins_at + run_s
                self.at(
                    ends_at + self.way_s,
                    ev.CallFinished(
                        worker=command.worker, call=command.call, attempt=command.attempt, status="succeeded"
                    ),
                )
            case cmd.SendOutcome():
                assert command.call is not None
                assert command.outcome == cmd.FromWorker(1)
                tenant, function = self.of[command.call]
                key = (tenant, function)
                self.served_s[key] = self.served_s.get(key, 0.0) + self.run_s[command.call]
                self.ended[tenant] = self.ended.get(tenant, 0) + 1
                self.at(
                    now,
                    ev.ResultsAcknowledged(tenant=tenant, client=tenant.encode(), submissions=(command.submission,)),
                )
            case _:
                pass


def test_two_tenants_share_two_thousand_workers() -> None:
    """Both have more to do than their half; one has short calls, the other long ones. They get the same time."""
    began = time.perf_counter()
    simulation = Simulation(WORKERS, seed=7)
    simulation.mean_s = {b"short": 0.5, b"long": 2.0}
    simulation.at(0.0, ev.DaemonStarted())
    for number in range(CALLS // 2):
        simulation.submit(1.0, "short", number, b"short")
        simulation.submit(1.0, "long", number, b"long")
    simulation.run(until=4.5)
    short, long = (simulation.served_s[name, name.encode()] for name in ("short", "long"))
    # What is under way is not in these sums, and that is more for the long ones.
    assert 0.4 < long / (short + long) < 0.6, f"{short=} {long=}"
    check(simulation.scheduler)
    simulation.run()
    assert simulation.ended == {"short": CALLS // 2, "long": CALLS // 2}
    check(simulation.scheduler)
    snapshot = simulation.scheduler.snapshot()
    assert snapshot.calls == {}
    assert snapshot.ended == {"succeeded": CALLS}
    assert time.perf_counter() - began < 60, "what should take seconds took a minute"


def test_flows_of_one_tenant_share_and_stay_where_they_are_warm() -> None:
    simulation = Simulation(50, seed=11)
    functions = [b"a", b"b", b"c", b"d"]
    simulation.mean_s = {b"a": 0.05, b"b": 0.1, b"c": 0.2, b"d": 0.4}
    simulation.at(0.0, ev.DaemonStarted())
    for number in range(8_000):
        simulation.submit(1.0, "default", number, functions[number % 4])
    simulation.run(until=8.0)
    shares = [simulation.served_s["default", function] for function in functions]
    assert min(shares) > 0.8 * max(shares), shares
    simulation.run()
    assert simulation.ended == {"default": 8_000}
    assert simulation.nests == 50
    assert simulation.cold <= 50 * len(functions)
    check(simulation.scheduler)


def test_workers_have_their_next_short_calls_before_they_ask() -> None:
    """Runs as long as the way: without prefetch a worker is idle for two thirds of the time."""
    took_s = {}
    for depth in (1, 16):
        simulation = Simulation(2, seed=5, way_s=0.0001, dispatched_per_worker=depth)
        simulation.mean_s = {b"f": 0.0001}
        simulation.at(0.0, ev.DaemonStarted())
        for number in range(4_000):
            simulation.submit(1.0, "default", number, b"f")
        took_s[depth] = simulation.run() - 1.0
        check(simulation.scheduler)
        assert simulation.ended == {"default": 4_000}
        assert bool(simulation.behind) == (depth > 1)
    assert took_s[16] < 0.4 * took_s[1], took_s
    assert took_s[16] < 1.1 * 4_000 * 0.0001 / 2


def test_prefetch_is_as_fair_as_sending_one_by_one() -> None:
    """Short and long calls on the same workers get the same time, and a long one has no short ones behind it."""
    simulation = Simulation(4, seed=9, way_s=0.0001)
    simulation.mean_s = {b"short": 0.0002, b"long": 0.02}
    simulation.at(0.0, ev.DaemonStarted())
    for number in range(10_000):
        simulation.submit(1.0, "default", 2 * number, b"short")
        if number < 1_000:
            simulation.submit(1.0, "default", 2 * number + 1, b"long")
    simulation.run(until=1.8)
    short, long = (simulation.served_s["default", function] for function in (b"short", b"long"))
    assert 0.4 < long / (short + long) < 0.6, f"{short=} {long=}"
    assert simulation.behind > 0.5 * short / 0.0002
    simulation.run()
    assert simulation.ended == {"default": 11_000}
    check(simulation.scheduler)


def test_the_same_events_give_the_same_commands() -> None:
    ends = []
    for _ in range(2):
        simulation = Simulation(20, seed=3)
        simulation.mean_s = {b"f": 0.1, b"g": 0.3}
        for number in range(400):
            simulation.submit(number * 0.01, ("default", "lab")[number % 2], number, (b"f", b"g")[number % 3 % 2])
        ends.append((simulation.run(), simulation.nests, simulation.cold, list(simulation.served_s.items())))
    assert ends[0] == ends[1]
