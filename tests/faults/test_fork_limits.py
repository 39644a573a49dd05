"""A fork at the limit of processes: it fails by name, everything else goes on, and it works again when there is room."""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plover.daemon.launchers.base import NestEnded, NestPrepared, WorkerEnded, WorkerForked
from plover.daemon.launchers.process import ProcessLauncher
from tests.support.launching import Rig, descendants, leave_processes, wait_gone
from tests.support.preconditions import needs, needs_host

#: A user that runs nothing else. Root's processes are not limited, whatever their limit says (setrlimit(2)).
_NOBODY = 54321

Limit = Callable[[int, int | None], None]


@pytest.fixture
def unprivileged() -> list[str]:
    """What to put before a command so that limits hold for it: for root, to be another user who may read root's files."""
    needs(shutil.which("prlimit"), "prlimit(1)")
    if os.geteuid():
        return []
    needs(shutil.which("setpriv"), "setpriv(1), as this is root")
    capabilities = "-all,+dac_override"
    user = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    user += [f"--bounding-set={capabilities}", f"--inh-caps={capabilities}", "--ambient-caps=-all,+dac_override"]
    tried = subprocess.run([*user, "true"], capture_output=True, text=True)
    needs_host(tried.returncode == 0, f"to become another user, as this is root ({tried.stderr.strip()})")
    return user


@pytest.fixture
def limit(unprivileged: list[str]) -> Limit:
    """Sets how many processes the user of a process may have for it to fork one; None for as many as this one may."""

    def limit(pid: int, processes: int | None) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0] if processes is None else processes
        text = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
        subprocess.run([*unprivileged, "prlimit", f"--pid={pid}", f"--nproc={text}:"], check=True)

    return limit


@pytest.fixture
def rig(tmp_path: Path, unprivileged: list[str]) -> Iterator[Rig]:
    """A launcher whose nests are subject to limits."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join([*unprivileged, sys.executable])} "$@"\n')
    python.chmod(0o700)
    before = set(descendants(os.getpid()))
    rig = Rig(ProcessLauncher(tmp_path / "launcher", python=str(python)), tmp_path)
    yield rig
    rig.close()
    assert set(descendants(os.getpid())) <= before


def _descriptors(rig: Rig, nest: NestPrepared) -> list[str]:
    """What the zygote has open when it has done with all that it was asked: it tells of a death behind all that."""
    worker = rig.start_worker(nest.nest)
    rig.launcher.kill_worker(worker.number)
    rig.expect(WorkerEnded, worker=worker.number)
    found = []
    for fd in Path(f"/proc/{nest.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(fd))
    return sorted(link for link in found if not link.startswith("/proc/"))  # it may just be looking for its children


def test_a_fork_at_the_limit_of_processes_fails_by_name_and_works_again(rig: Rig, limit: Limit) -> None:
    nest = rig.start_nest()
    first = rig.start_worker(nest.nest)
    before = _descriptors(rig, nest)
    limit(nest.pid, 1)  # the user has more processes than that: keeper, zygote and worker
    for _ in range(3):
        refused = rig.ask_worker(nest.nest)
        ended = rig.expect(WorkerEnded, worker=refused.number)
        assert (ended.exit_code, ended.signal, ended.out_of_memory) == (None, None, False)
        assert ended.reason == "fork failed: Resource temporarily unavailable"
        assert not rig.find(WorkerForked, worker=refused.number)
    assert rig.run(first, lambda: "goes on") == "goes on"
    limit(nest.pid, None)
    assert rig.run(rig.start_worker(nest.nest), lambda: "works again") == "works again"
    assert _descriptors(rig, nest) == before
    assert not rig.find(NestEnded)


def test_what_a_dead_worker_left_is_swept_at_the_limit(rig: Rig, limit: Limit) -> None:
    nest = rig.start_nest()
    worker = rig.start_worker(nest.nest)
    left = rig.run(worker, leave_processes(), True)
    limit(nest.pid, 1)
    rig.launcher.kill_worker(worker.number)
    rig.expect(WorkerEnded, worker=worker.number)
    refused = rig.ask_worker(nest.nest)
    assert "fork failed" in rig.expect(WorkerEnded, worker=refused.number).reason
    assert all(map(wait_gone, left))
    limit(nest.pid, None)
    assert rig.run(rig.start_worker(nest.nest), lambda: "room") == "room"


def test_user_code_at_the_limit_of_processes_sees_its_own_error(rig: Rig, limit: Limit) -> None:
    worker = rig.start_worker(rig.start_nest().nest)
    limit(worker.pid, 1)

    def fork() -> str:
        import subprocess

        try:
            subprocess.run(["/bin/true"])
        except OSError as error:
            return type(error).__name__
        return "no error"

    assert rig.run(worker, fork) == "BlockingIOError"
    assert rig.run(worker, lambda: "goes on") == "goes on"
