"""What is the `process` launcher's own: how its nests begin, what they find around them, why they could not start."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plover.daemon.launchers.base import NestEnded, WorkerEnded
from plover.daemon.launchers.process import ProcessLauncher
from tests.support.launching import Rig, descendants, leave_processes, parent, wait_gone
from tests.support.preconditions import needs, needs_host


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes launchers with options of the test's own."""
    rigs = []
    before = set(descendants(os.getpid()))

    def begin(**options: object) -> Rig:
        rigs.append(Rig(ProcessLauncher(tmp_path / "launcher", **options), tmp_path))  # type: ignore[arg-type]
        return rigs[-1]

    yield begin
    for rig in rigs:
        rig.close()
    assert set(descendants(os.getpid())) <= before


def _script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def _why_not(rig: Rig, **changes: object) -> str:
    spec = rig.spec(**changes)
    rig.launcher.start_nest(spec)
    return rig.expect(NestEnded, nest=spec.nest).reason


def test_a_python_that_is_not_there_is_a_reason(begin: Callable[..., Rig]) -> None:
    assert "/nowhere/python" in _why_not(begin(python="/nowhere/python"))


def test_a_working_directory_that_is_not_there_is_a_reason(begin: Callable[..., Rig]) -> None:
    assert "/nowhere" in _why_not(begin(cwd="/nowhere"))


def test_no_descriptors_for_it_are_a_reason(begin: Callable[..., Rig]) -> None:
    rig = begin()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        spec = rig.spec()
        rig.launcher.start_nest(spec)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "Too many open files" in rig.expect(NestEnded, nest=spec.nest).reason


def test_a_folder_for_caches_that_cannot_be_made_is_a_reason(begin: Callable[..., Rig], tmp_path: Path) -> None:
    rig = begin()
    (tmp_path / "launcher" / "caches").write_text("in the way")
    assert str(tmp_path / "launcher" / "caches") in _why_not(rig)


def test_what_a_zygote_wrote_before_it_failed_is_in_the_reason(begin: Callable[..., Rig], tmp_path: Path) -> None:
    text = "for i in $(seq 5000); do echo line $i; done; echo 'no such wheel' >&2; exit 3"
    python = _script(tmp_path / "python", text)
    reason = _why_not(begin(python=python))
    assert "exit code 3" in reason
    assert reason.endswith("no such wheel")
    assert len(reason) < 10_000


def test_an_exception_while_importing_is_in_the_reason(begin: Callable[..., Rig], tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise RuntimeError('a broken CuPy')")
    python = _script(tmp_path / "python", f'PYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"')
    reason = _why_not(begin(python=python), device_kind="cuda")
    assert "RuntimeError: a broken CuPy" in reason
    assert "exit code 1" in reason


def test_a_launcher_starts_nests_again_after_a_failure(begin: Callable[..., Rig], tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    python = _script(tmp_path / "python", f'test -e "{flag}" || exit 9; exec "{sys.executable}" "$@"')
    rig = begin(python=python)
    assert "exit code 9" in _why_not(rig)
    flag.touch()
    assert rig.run(rig.start_worker(rig.start_nest().nest), lambda: "up") == "up"


def test_a_worker_stands_in_the_directory_but_not_on_the_path_of_its_daemon(
    begin: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(tmp_path))
    rig = begin(cwd=tmp_path)

    def look() -> tuple[str, list[str], str | None]:
        import os
        import sys

        import plover

        return os.getcwd(), sys.path, plover.__file__

    cwd, path, plover = rig.run(rig.start_worker(rig.start_nest().nest), look)
    assert cwd == str(tmp_path)
    assert str(tmp_path) not in path
    assert "" not in path
    assert plover == sys.modules["plover"].__file__


def test_a_nest_sees_its_devices_and_no_others(begin: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUPY_CACHE_DIR", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_CACHE_PATH", "/the/user's/own")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    def look() -> dict[str, str]:
        import os

        return dict(os.environ)

    rig = begin()
    environment = rig.run(rig.start_worker(rig.start_nest(tenant="a/../b").nest), look)
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["CUDA_CACHE_PATH"] == "/the/user's/own"
    assert environment["CUPY_CACHE_DIR"].endswith("/launcher/caches/tenant-a%2F..%2Fb/cupy")
    assert os.path.isdir(environment["NUMBA_CACHE_DIR"])


def test_the_environment_of_a_cuda_nest_names_its_devices(begin: Callable[..., Rig], tmp_path: Path) -> None:
    python = _script(tmp_path / "python", 'echo "devices: $CUDA_VISIBLE_DEVICES; simulated: $NUMBA_ENABLE_CUDASIM."')
    reason = _why_not(begin(python=python), device_kind="cuda", devices=("GPU-1", "MIG-2"))
    assert "devices: GPU-1,MIG-2; simulated: ." in reason


# -- as in a container: the keeper is PID 1 of a namespace and cannot see the daemon -----------------------------------


@pytest.fixture
def contained(begin: Callable[..., Rig], tmp_path: Path) -> Rig:
    """A launcher whose nests are namespaces of their own; who may not make one may as root of a user namespace."""
    for user in ("", " --user --map-root-user"):
        enter = f"exec unshare{user} --pid --fork --mount-proc --kill-child env -u PLOVER_DAEMON_PID"
        python = _script(tmp_path / "python", f'{enter} "{sys.executable}" "$@"')
        if not subprocess.run([python, "-c", ""], capture_output=True).returncode:
            break
    else:
        needs_host(False, "unshare(1), and a user who may make a PID namespace with it")
    return begin(python=python)


def test_workers_in_a_namespace_are_known_by_their_own_pidfds(contained: Rig) -> None:
    nest = contained.start_nest()
    worker = contained.start_worker(nest.nest)
    inside = contained.run(worker, leave_processes(), True)
    below = descendants(worker.pid)  # as this side numbers them
    assert len(below) == len(inside) == 3
    assert parent(worker.pid) == nest.pid
    contained.launcher.kill_worker(worker.number)
    assert contained.expect(WorkerEnded, worker=worker.number).signal == signal.SIGKILL
    assert all(map(wait_gone, below))
    assert contained.run(contained.start_worker(nest.nest), lambda: "on") == "on"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("who", ["keeper", "zygote"])
def test_a_namespace_ends_with_its_keeper_and_its_zygote(contained: Rig, who: str, number: signal.Signals) -> None:
    nest = contained.start_nest()
    worker = contained.start_worker(nest.nest)
    contained.run(worker, leave_processes(), True)
    everything = [nest.pid, parent(nest.pid), *descendants(nest.pid)]
    os.kill(nest.pid if who == "zygote" else parent(nest.pid), number)
    contained.expect(NestEnded, nest=nest.nest)
    assert contained.find(WorkerEnded, worker=worker.number)
    assert all(map(wait_gone, everything))


# -- what a worker computes with ---------------------------------------------------------------------------------------


def test_blas_has_its_threads_back_in_a_worker(begin: Callable[..., Rig]) -> None:
    def count() -> int | None:
        import ctypes

        import numpy as np

        np.ones(2) @ np.ones(2)
        with open("/proc/self/maps") as file:
            paths = {line.split(maxsplit=5)[5].strip() for line in file if "scipy_openblas64" in line}
        for path in paths:
            return int(ctypes.CDLL(path).scipy_openblas_get_num_threads64_())
        return None

    rig = begin()
    threads = rig.run(rig.start_worker(rig.start_nest().nest), count)
    needs(threads is not None, "a NumPy with its wheels' OpenBLAS")
    assert threads == int(os.environ.get("OPENBLAS_NUM_THREADS") or len(os.sched_getaffinity(0)))
