"""What every launcher promises (`plover.daemon.launchers.base`), with real processes and real workers."""

from __future__ import annotations

import gc
import importlib.util
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plover.daemon.launchers.base import Launcher, NestEnded, NestPrepared, WorkerEnded, WorkerForked
from plover.daemon.launchers.process import ProcessLauncher
from tests.support.launching import Rig, descendants, leave_processes, open_descriptors, state, wait_gone
from tests.support.preconditions import needs

#: A death is told within 100 ms on a quiet machine; tests share theirs.
TOLD_S = 1.0


def _process(directory: Path) -> Launcher:
    return ProcessLauncher(directory)


@pytest.fixture(params=[pytest.param(_process, id="process")])
def make(request: pytest.FixtureRequest) -> Callable[[Path], Launcher]:
    """How the launcher under test is made, for a directory."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def rig(make: Callable[[Path], Launcher], tmp_path: Path) -> Iterator[Rig]:
    """A launcher with a shell; afterwards nothing that it started, no descriptor and no thread may be left."""
    gc.collect()
    descriptors, threads, below = open_descriptors(), threading.active_count(), set(descendants(os.getpid()))
    rig = Rig(make(tmp_path / "launcher"), tmp_path)
    try:
        yield rig
    finally:
        rig.close()
    assert set(descendants(os.getpid())) == below
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


# -- life --------------------------------------------------------------------------------------------------------------


def test_a_nest_gets_ready_and_says_what_it_runs_with(rig: Rig) -> None:
    nest = rig.start_nest()
    assert nest.pid > 0
    assert nest.import_s > 0
    assert "numpy" in nest.versions.packages


def test_several_workers_live_in_a_nest_and_run_calls(rig: Rig) -> None:
    nest = rig.start_nest()
    workers = [rig.start_worker(nest.nest) for _ in range(3)]

    def who(x: int) -> tuple[int, int]:
        import os

        return os.getpid(), x + 1

    assert [rig.run(worker, who, 1) for worker in workers] == [(worker.pid, 2) for worker in workers]
    assert len({worker.pid for worker in workers}) == 3


def test_several_nests_live_beside_each_other(rig: Rig) -> None:
    nests = [rig.start_nest() for _ in range(2)]
    worker = rig.start_worker(nests[1].nest)
    rig.launcher.stop_nest(nests[0].nest)
    rig.expect(NestEnded, nest=nests[0].nest)
    assert rig.run(worker, lambda: 1) == 1
    assert not rig.find(NestEnded, nest=nests[1].nest)


def test_a_worker_has_no_descriptor_of_its_zygote_and_an_empty_stdin(rig: Rig) -> None:
    worker = rig.start_worker(rig.start_nest().nest)

    def look() -> tuple[str, list[int]]:
        import os
        import socket
        import stat
        import sys

        kinds = []
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    with socket.socket(fileno=os.dup(fd)) as found:
                        kinds.append(int(found.type))
            except OSError:
                continue
        return sys.stdin.read(), kinds

    import socket

    stdin, kinds = rig.run(worker, look)
    assert stdin == ""
    assert kinds.count(socket.SOCK_SEQPACKET) == 1  # its own, over which it borrows segments


def test_the_launch_secrets_are_not_in_the_environment(rig: Rig) -> None:
    worker = rig.start_worker(rig.start_nest().nest)

    def names() -> list[str]:
        import os

        return [name for name in os.environ if name.startswith(("PLOVER_ZYGOTE", "PLOVER_DAEMON", "OPENBLAS"))]

    assert rig.run(worker, names) == [name for name in os.environ if name.startswith("OPENBLAS")]


def test_a_worker_dumps_no_core_and_goes_before_its_zygote(rig: Rig) -> None:
    nest = rig.start_nest()
    worker = rig.start_worker(nest.nest)

    def look() -> tuple[int, int]:
        import resource

        return resource.getrlimit(resource.RLIMIT_CORE)

    assert rig.run(worker, look) == (0, 0)
    adjustments = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (worker.pid, nest.pid)]
    assert adjustments[0] > adjustments[1]


def test_forked_workers_draw_different_random_numbers(rig: Rig) -> None:
    nest = rig.start_nest()

    def draw() -> tuple[float, float]:
        import random

        import numpy as np

        return float(np.random.random()), random.random()

    draws = [rig.run(rig.start_worker(nest.nest), draw) for _ in range(4)]
    assert len({a for a, _ in draws}) == len({b for _, b in draws}) == 4


def test_output_comes_line_by_line_and_survives_a_kill(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    worker = rig.start_worker(rig.start_nest().nest)

    def write() -> None:
        import ctypes
        import os
        import signal
        import sys

        print("löne \udc80")
        print("err", file=sys.stderr)
        ctypes.CDLL(None).puts(b"from C")
        os.kill(os.getpid(), signal.SIGKILL)

    rig.send(worker, write)
    rig.expect(WorkerEnded, worker=worker.number)
    rig.until(lambda: True if worker.output.count(b"\n") >= 3 else None)
    assert set(worker.output.split(b"\n")) == {"löne \\udc80".encode(), b"err", b"from C", b""}


def test_the_zygote_has_one_thread_and_touched_no_driver(rig: Rig) -> None:
    needs(
        importlib.util.find_spec("cupy") and importlib.util.find_spec("numba"), "CuPy and Numba, which could touch one"
    )
    nest = rig.start_nest(device_kind="cuda", devices=("0",))
    maps = Path(f"/proc/{nest.pid}/maps").read_text()
    assert "numpy" in maps
    assert "libcuda.so" not in maps
    assert len(os.listdir(f"/proc/{nest.pid}/task")) == 1


# -- death -------------------------------------------------------------------------------------------------------------


def _die(number: int) -> Callable[[], None]:
    def die() -> None:
        import os

        os.kill(os.getpid(), number)

    return die


def _deaths() -> list[Any]:
    def exit_by_os() -> None:
        import os

        os._exit(7)

    def abort() -> None:
        import os

        os.abort()

    def read_null() -> None:
        import ctypes

        ctypes.string_at(0)

    return [
        pytest.param(exit_by_os, 7, None, id="os._exit"),
        pytest.param(abort, None, signal.SIGABRT, id="abort"),
        pytest.param(read_null, None, signal.SIGSEGV, id="segfault"),
        pytest.param(_die(signal.SIGKILL), None, signal.SIGKILL, id="SIGKILL"),
        pytest.param(_die(signal.SIGTERM), None, signal.SIGTERM, id="SIGTERM"),
    ]


@pytest.mark.parametrize(("way", "code", "number"), _deaths())
def test_a_death_is_told_once_with_its_cause(rig: Rig, way: Callable[[], None], code: int | None, number: int) -> None:
    nest = rig.start_nest()
    other = rig.start_worker(nest.nest)
    worker = rig.start_worker(nest.nest)
    call = rig.send(worker, way)
    ended = rig.expect(WorkerEnded, worker=worker.number)
    told = time.monotonic()
    running, began = worker.page.running()
    assert (ended.exit_code, ended.signal, ended.out_of_memory) == (code, number, False)
    assert running == (call, 1)
    assert began is not None
    assert told - began < TOLD_S
    assert rig.run(other, lambda: "alive") == "alive"
    assert state(worker.pid) == ""  # reaped, not a zombie


def test_a_worker_is_killed(rig: Rig) -> None:
    worker = rig.start_worker(rig.start_nest().nest)
    started = time.monotonic()
    rig.launcher.kill_worker(worker.number)
    assert rig.expect(WorkerEnded, worker=worker.number).signal == signal.SIGKILL
    assert time.monotonic() - started < TOLD_S
    rig.launcher.kill_worker(worker.number)  # a command to somebody who is gone is no error
    rig.launcher.interrupt_worker(worker.number)


def test_a_worker_is_killed_before_it_is_known_to_be_forked(rig: Rig) -> None:
    worker = rig.ask_worker(rig.start_nest().nest)
    rig.launcher.kill_worker(worker.number)
    assert rig.expect(WorkerEnded, worker=worker.number).signal == signal.SIGKILL
    kinds = [type(item) for item in rig.news if getattr(item, "worker", None) == worker.number]
    assert kinds == [WorkerForked, WorkerEnded]


def test_an_interrupt_reaches_user_code(rig: Rig) -> None:
    worker = rig.start_worker(rig.start_nest().nest)

    def wait() -> None:
        import signal

        print("begun")
        signal.pause()

    call = rig.send(worker, wait)
    rig.until(lambda: True if b"begun" in worker.output else None)
    worker.page.cancel(call, 1)
    rig.launcher.interrupt_worker(worker.number)
    assert rig.until(lambda: worker.results or None) == [("interrupted", None)]
    assert rig.run(worker, lambda: "warm") == "warm"


def test_what_a_dead_worker_started_is_killed(rig: Rig) -> None:
    nest = rig.start_nest()
    other = rig.start_worker(nest.nest)
    spared = rig.run(other, leave_processes(), True)
    worker = rig.start_worker(nest.nest)
    pids = rig.run(worker, leave_processes(), True)
    assert all(map(state, pids))
    rig.launcher.kill_worker(worker.number)
    rig.expect(WorkerEnded, worker=worker.number)
    assert all(map(wait_gone, pids))
    assert all(map(state, spared))


def test_a_nest_is_stopped_with_all_that_is_in_it(rig: Rig) -> None:
    nest = rig.start_nest()
    workers = [rig.start_worker(nest.nest) for _ in range(2)]
    pids = [pid for worker in workers for pid in rig.run(worker, leave_processes(), True)]
    rig.launcher.stop_nest(nest.nest)
    rig.launcher.stop_nest(nest.nest)
    assert "stopped" in rig.expect(NestEnded, nest=nest.nest).reason
    ends = [item for item in rig.news if isinstance(item, WorkerEnded | NestEnded)]
    assert [type(item) for item in ends] == [WorkerEnded, WorkerEnded, NestEnded]
    assert not any(map(state, pids))  # the end is told when all is gone, not before
    rig.launcher.stop_nest(nest.nest)


def test_a_nest_is_stopped_while_it_starts(rig: Rig) -> None:
    spec = rig.spec()
    rig.launcher.start_nest(spec)
    rig.launcher.stop_nest(spec.nest)
    assert "stopped" in rig.expect(NestEnded, nest=spec.nest).reason
    assert not rig.find(NestPrepared)


def test_a_killed_zygote_ends_the_nest(rig: Rig) -> None:
    nest = rig.start_nest()
    workers = [rig.start_worker(nest.nest) for _ in range(2)]
    pids = rig.run(workers[0], leave_processes(), True)
    started = time.monotonic()
    os.kill(nest.pid, signal.SIGKILL)
    ended = rig.expect(NestEnded, nest=nest.nest)
    assert time.monotonic() - started < TOLD_S
    assert "SIGKILL" in ended.reason
    assert {item.worker for item in rig.news if isinstance(item, WorkerEnded)} == {w.number for w in workers}
    assert isinstance(rig.news[-1], NestEnded)
    assert not any(map(state, [*pids, nest.pid, *(worker.pid for worker in workers)]))


def test_a_fork_without_a_nest_fails_with_a_reason(rig: Rig) -> None:
    worker = rig.ask_worker(99)
    assert select.select([rig.launcher], [], [], 0)[0]  # what a command alone has caused is told of, too
    ended = rig.expect(WorkerEnded, worker=worker.number)
    assert (ended.exit_code, ended.signal) == (None, None)
    assert "99" in ended.reason


def test_two_hundred_forks_and_kills_leave_nothing(rig: Rig) -> None:
    nest = rig.start_nest()

    def cycle() -> None:
        worker = rig.ask_worker(nest.nest)
        rig.expect(WorkerForked, worker=worker.number)
        rig.launcher.kill_worker(worker.number)
        rig.expect(WorkerEnded, worker=worker.number)
        rig.forget(worker)

    cycle()
    threads = threading.active_count()
    ours, theirs = open_descriptors(), os.listdir(f"/proc/{nest.pid}/fd")
    for _ in range(200):
        cycle()
    assert open_descriptors() == ours
    assert os.listdir(f"/proc/{nest.pid}/fd") == theirs
    assert descendants(nest.pid) == []
    assert threading.active_count() == threads


def test_closing_with_a_full_house_leaves_nothing(make: Callable[[Path], Launcher], tmp_path: Path) -> None:
    rig = Rig(make(tmp_path / "launcher"), tmp_path)
    nest = rig.start_nest()
    worker = rig.start_worker(nest.nest)
    pids = [nest.pid, worker.pid, *rig.run(worker, leave_processes(), True)]
    rig.launcher.start_nest(rig.spec())
    rig.ask_worker(nest.nest)
    rig.close()
    assert not any(map(state, pids))
    rig.launcher.close()  # once more is no error
