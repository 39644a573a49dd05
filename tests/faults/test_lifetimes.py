"""Who dies with whom: each layer of daemon, keeper, zygote, worker is killed, and nothing below it may be left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import plover
from plover.daemon.launchers.base import NestEnded, WorkerEnded
from plover.daemon.launchers.process import ProcessLauncher
from tests.support.daemons import PATIENCE_S, daemon, daemon_with
from tests.support.launching import Rig, descendants, leave_processes, parent, state, wait_gone
from tests.support.memory_groups import memory_group
from tests.support.preconditions import needs_host

#: Milliseconds on a quiet machine; what a test waits for is that it happens at all, and soon.
GONE_S = 3.0


class House:
    """A process that owns a launcher with a nest, and everything below it."""

    def __init__(self, folder: Path, *python: str) -> None:
        command = [sys.executable, "-m", "tests.support.launching", str(folder), *python]
        self.daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.daemon.stdout is not None
        try:
            told = json.loads(self.daemon.stdout.readline())
        except BaseException:
            self.close()
            raise
        self.zygote: int = told["zygote"]
        self.keeper = parent(self.zygote)
        self.workers: list[int] = told["workers"]
        self.started: list[int] = told["started"]
        self.held: list[int] = told["held"]
        self.all = descendants(self.daemon.pid)
        assert {self.zygote, self.keeper, *self.workers, *self.started} <= set(self.all)

    def close(self) -> None:
        """End what a failed test left."""
        for pid in getattr(self, "all", []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemon.kill()
        self.daemon.wait()
        assert self.daemon.stdout is not None
        self.daemon.stdout.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house of its own for each test."""
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A launcher in this process, with a shell."""
    before = set(descendants(os.getpid()))  # such as the resource tracker of multiprocessing
    rig = Rig(ProcessLauncher(tmp_path / "launcher"), tmp_path)
    yield rig
    rig.close()
    assert set(descendants(os.getpid())) <= before


def _all_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_S
    left = [pid for pid in pids if not wait_gone(pid, max(0.0, deadline - time.monotonic()))]
    assert not left, {pid: state(pid) for pid in left}


def test_nothing_outlives_a_killed_daemon(house: House) -> None:
    os.kill(house.daemon.pid, signal.SIGKILL)
    _all_gone(house.all)


def test_nothing_outlives_daemon_and_zygote_killed_together(house: House) -> None:
    os.kill(house.daemon.pid, signal.SIGKILL)
    os.kill(house.zygote, signal.SIGKILL)
    _all_gone(house.all)


def test_a_zygote_that_is_stopped_dies_with_its_daemon(house: House) -> None:
    os.kill(house.zygote, signal.SIGSTOP)
    os.kill(house.daemon.pid, signal.SIGKILL)
    _all_gone(house.all)


def test_a_keeper_that_is_stopped_keeps_nobody_alive_but_itself(house: House) -> None:
    os.kill(house.keeper, signal.SIGSTOP)
    os.kill(house.daemon.pid, signal.SIGKILL)
    _all_gone([pid for pid in house.all if pid != house.keeper])
    os.kill(house.keeper, signal.SIGCONT)
    _all_gone([house.keeper])


def test_a_descriptor_that_outlives_the_daemon_keeps_no_nest_alive(tmp_path: Path) -> None:
    """A fork of the daemon's holds its end of the zygote's socket, and the keeper cannot see the daemon."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec env -u PLOVER_DAEMON_PID "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    house = House(tmp_path, str(python))
    try:
        os.kill(house.daemon.pid, signal.SIGKILL)
        _all_gone([pid for pid in house.all if pid not in house.held])
    finally:
        house.close()


def test_workers_die_with_their_zygote_by_themselves(house: House) -> None:
    os.kill(house.daemon.pid, signal.SIGSTOP)
    os.kill(house.keeper, signal.SIGSTOP)
    os.kill(house.zygote, signal.SIGKILL)
    _all_gone(house.workers)


def test_nothing_outlives_daemon_and_keeper_killed_together(house: House) -> None:
    os.kill(house.keeper, signal.SIGKILL)
    os.kill(house.daemon.pid, signal.SIGKILL)
    _all_gone(house.all)


def test_a_killed_keeper_takes_its_nest_along(rig: Rig) -> None:
    nest = rig.start_nest()
    worker = rig.start_worker(nest.nest)
    pids = [nest.pid, worker.pid, *rig.run(worker, leave_processes(), True)]
    started = time.monotonic()
    os.kill(parent(nest.pid), signal.SIGKILL)
    ended = rig.expect(NestEnded, nest=nest.nest)
    assert time.monotonic() - started < GONE_S
    assert "signal 9" in ended.reason or "hung up" in ended.reason
    assert rig.find(WorkerEnded, worker=worker.number)
    assert not any(map(state, pids))


def test_the_daemon_sweeps_what_keeper_and_zygote_left(rig: Rig) -> None:
    nest = rig.start_nest()
    worker = rig.start_worker(nest.nest)
    pids = [nest.pid, worker.pid, *rig.run(worker, leave_processes(), False)]
    mine = subprocess.Popen(["/bin/sleep", "1000"])  # this process's own business
    try:
        os.kill(nest.pid, signal.SIGSTOP)  # so that it cannot sweep
        os.kill(parent(nest.pid), signal.SIGKILL)
        os.kill(nest.pid, signal.SIGKILL)
        rig.expect(NestEnded, nest=nest.nest)
        assert rig.find(WorkerEnded, worker=worker.number)
        assert not any(map(state, pids))
        assert state(mine.pid) == "S"
    finally:
        mine.kill()
        mine.wait()


def test_a_zygote_that_hangs_is_killed_when_it_is_stopped(rig: Rig) -> None:
    nest = rig.start_nest()
    worker = rig.start_worker(nest.nest)
    os.kill(nest.pid, signal.SIGSTOP)
    rig.launcher.stop_nest(nest.nest)
    rig.expect(NestEnded, nest=nest.nest)
    assert rig.find(WorkerEnded, worker=worker.number)
    assert not state(nest.pid)


def test_a_worker_that_dies_under_a_hanging_zygote_is_told_without_a_status(rig: Rig) -> None:
    nest = rig.start_nest()
    worker = rig.start_worker(nest.nest)
    os.kill(nest.pid, signal.SIGSTOP)
    rig.launcher.kill_worker(worker.number)
    ended = rig.expect(WorkerEnded, worker=worker.number)
    assert (ended.exit_code, ended.signal) == (None, None)
    os.kill(nest.pid, signal.SIGCONT)  # its word comes late, and is not told a second time
    assert rig.run(rig.start_worker(nest.nest), lambda: 1) == 1


def test_sigterm_ends_a_zygote_with_all_below_it(rig: Rig) -> None:
    nest = rig.start_nest()
    worker = rig.start_worker(nest.nest)
    pids = [nest.pid, worker.pid, *rig.run(worker, leave_processes(), True)]
    os.kill(nest.pid, signal.SIGTERM)
    rig.expect(NestEnded, nest=nest.nest)
    assert rig.expect(WorkerEnded, worker=worker.number).signal == signal.SIGKILL
    assert not any(map(state, pids))


def test_a_forked_child_of_user_code_is_no_second_worker(rig: Rig) -> None:
    worker = rig.start_worker(rig.start_nest().nest)

    def fork() -> int:
        import os

        return os.fork()  # and the child returns as well

    child = rig.run(worker, fork)
    assert wait_gone(child)
    assert rig.run(worker, lambda: "one") == "one"
    assert len(worker.results) == 2


def _python_in(group: Path, tmp_path: Path) -> str:
    """An interpreter that goes into a cgroup."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho $$ > "{group}/cgroup.procs" || exit 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    return str(python)


def _eater() -> Callable[[], None]:
    """A function that goes by value, and takes all memory."""

    def eat() -> None:
        hoard = []
        while True:
            hoard.append(bytearray(b"x") * (16 << 20))

    return eat


def test_a_child_of_user_code_that_is_killed_for_memory_is_told(tmp_path: Path) -> None:
    group = memory_group(tmp_path.name)
    needs_host(group, "a memory cgroup that this process may divide")
    rig = Rig(ProcessLauncher(tmp_path / "launcher", python=_python_in(group, tmp_path)), tmp_path)
    try:
        nest = rig.start_nest()
        other = rig.start_worker(nest.nest)
        worker = rig.start_worker(nest.nest)

        rig.send(worker, _eater())
        ended = rig.expect(WorkerEnded, worker=worker.number)
        assert (ended.signal, ended.out_of_memory) == (signal.SIGKILL, True)
        assert rig.run(other, lambda: "spared") == "spared"
    finally:
        rig.close()
        os.rmdir(group)


def test_the_log_says_that_a_worker_was_killed_for_memory(tmp_path: Path) -> None:
    group = memory_group(tmp_path.name)
    needs_host(group, "a memory cgroup that this process may divide")
    before = f"""
import functools, logging
from plover.daemon import run
logging.basicConfig(level=logging.INFO)
run.ProcessLauncher = functools.partial(run.ProcessLauncher, python={_python_in(group, tmp_path)!r})
"""
    try:
        with daemon(program=daemon_with(before, devices="simulated:1")) as running:
            with (
                plover.connect(running.address) as session,
                pytest.raises(plover.WorkerLost, match="killed it for memory"),
            ):
                session.submit(_eater()).result(PATIENCE_S)
            assert "ended: killed by signal 9 (SIGKILL) for memory" in running.log()
    finally:
        os.rmdir(group)
