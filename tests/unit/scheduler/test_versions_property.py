"""Versions of one module on one device, with calls that wait together: few forks, and nobody waits for long."""

from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
from hypothesis import given, settings
from scheduler_support import Desk

from plover.bundles.format import BundleSet
from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.placement import OVER_RUN_S
from plover.daemon.scheduler.queues import UNKNOWN_RUN_S

FORK_S = 0.01


class Device:
    """A desk with one device, whose worker runs each call for its version's time and is forked anew when it is renewed."""

    def __init__(self) -> None:
        self.desk = Desk("sim", client_lease_s=1e9)
        self.sent: deque[cmd.SendCall] = deque()
        self.forks = 0
        self.served: list[tuple[int, float, float]] = []  # version, beginning and end of each run

    def submit(self, version: int) -> None:
        modules = BundleSet.of({"own": bytes([version])})
        self.desk.submit(bytes([version]), modules=modules)
        self.take(self.desk.last)

    def take(self, commands: list[cmd.Command]) -> None:
        for command in commands:
            if isinstance(command, cmd.SendCall):
                self.sent.append(command)
            elif isinstance(command, cmd.KillWorker):
                self.forks += 1
                self.desk.now += FORK_S
                self.take(self.desk.tell(ev.WorkerGone(worker=command.worker, begun=None, signal=9)))
            elif isinstance(command, cmd.StartWorker):
                self.take(self.desk.tell(ev.WorkerReady(worker=command.worker)))

    def run(self, runs_s: list[float]) -> None:
        while self.sent:
            call = self.sent.popleft()
            began, version = self.desk.now, call.function[0]
            self.desk.now += runs_s[version]
            self.served.append((version, began, self.desk.now))
            self.take(self.desk.finish(call))


@settings(max_examples=60, deadline=None)
@given(
    versions=st.lists(st.integers(0, 2), min_size=2, max_size=80),
    runs_s=st.lists(st.floats(1e-4, 3.0), min_size=3, max_size=3),
)
def test_calls_that_wait_together_run_version_by_version(versions: list[int], runs_s: list[float]) -> None:
    device = Device()
    for version in versions:
        device.submit(version)
    device.run(runs_s)
    assert sorted(version for version, _, _ in device.served) == sorted(versions)
    worked_s = sum(ended - began for _, began, ended in device.served)
    kinds = len(set(versions))
    assert device.forks <= kinds - 1 + worked_s / OVER_RUN_S
    # Fair: until its last call a version's device is never with the others for longer than they may run ahead, each.
    longest_s = (kinds - 1) * (OVER_RUN_S + 2 * max(UNKNOWN_RUN_S, *runs_s)) + kinds * FORK_S
    for version in set(versions):
        mine = [(began, ended) for each, began, ended in device.served if each == version]
        ends = [0.0, *(ended for _, ended in mine)]
        assert all(began - before <= longest_s for before, (began, _) in zip(ends, mine, strict=False))


def test_alternate_calls_that_wait_together_cost_one_fork_and_each_awaited_one_costs_one() -> None:
    together, apart = Device(), Device()
    for number in range(40):
        together.submit(number % 2)
    together.run([0.01, 0.01])
    assert together.forks == 1
    for number in range(40):
        apart.submit(number % 2)
        apart.run([0.01, 0.01])
    assert apart.forks == 39
