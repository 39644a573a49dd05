"""What cannot be written: the file is named, and what to do. A limit on files' sizes stands for a disk that is full."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import plover
from tests.support.authors import client
from tests.support.daemons import PATIENCE_S, Mark, daemon

WHAT_TO_DO = "make room or mend that there, or choose another directory with --bind and --state-dir"


@pytest.fixture
def mark() -> Iterator[Mark]:
    made = Mark()
    yield made
    made.assert_gone()
    made.remove()


def start(mark: Mark, *arguments: str, before: str = "ulimit -f 0") -> str:
    """What a start that must fail says."""
    where = ["--bind", f"ipc://{mark.directory}/s/d.sock", "--state-dir", str(mark.directory / "state")]
    done = subprocess.run(
        ["/bin/sh", "-c", f'{before}; exec "$0" "$@"', sys.executable, "-m", "plover.cli.main", "start"]
        + ["--devices", "simulated:1", *where, *arguments],
        env=mark.environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_state_directory_without_room(mark: Mark) -> None:
    said = start(mark)
    assert said == f"plover: {mark.directory}/state/lock cannot be written (File too large): {WHAT_TO_DO}\n"


def test_a_socket_directory_without_room_keeps_no_half_secret(mark: Mark) -> None:
    (mark.directory / "state").mkdir(mode=0o700)
    (mark.directory / "state" / "lock").write_bytes(b"")
    (mark.directory / "s").mkdir(mode=0o700)
    program = """
import resource, sys
from pathlib import Path
from plover import addresses
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    addresses.secret_for([Path(sys.argv[1])])
except addresses.PloverError as error:
    print(error)
"""
    told = subprocess.run(
        [sys.executable, "-c", program, str(mark.directory / "s")],
        env=mark.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert told.stdout.endswith(f"cannot be written (File too large): {WHAT_TO_DO}\n"), told.stderr
    assert str(mark.directory / "s") in told.stdout
    assert list((mark.directory / "s").iterdir()) == []


def test_a_log_without_room(mark: Mark) -> None:
    said = start(mark, "--detach")
    assert said == f"plover: {mark.directory}/state/daemon.log cannot be written (File too large): {WHAT_TO_DO}\n"


def test_a_log_that_is_something_else(mark: Mark) -> None:
    (mark.directory / "state" / "daemon.log").mkdir(parents=True, mode=0o700)
    (mark.directory / "state").chmod(0o700)
    said = start(mark, "--detach", before=":")
    assert said == f"plover: {mark.directory}/state/daemon.log cannot be written (Is a directory): {WHAT_TO_DO}\n"


def test_a_worker_without_room_for_an_authors_modules(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"own.py": "def f(x):\n    return x + 1\n"}
    source = """
        import own
        try:
            print(json.dumps(gpu_function(own.f)(1)))
        except plover.PloverError as error:
            print(json.dumps(str(error)))
    """
    with daemon() as running, plover.connect(running.address) as session:
        assert session.submit(echo, 1).result(PATIENCE_S) == 1
        (worker,) = running.status()["pids"].values()
        hard = resource.prlimit(worker, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, hard))
        with client(files, running.address) as author:
            said = author.run(source)
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (hard, hard))
        cache = running.state / "caches" / "tenant-default" / "bundles"
        assert said.startswith(f"the worker cannot keep your modules in {cache} (File too large): have")
        with client(files, running.address) as author:
            assert author.run(source) == 2


def echo(x: int) -> int:
    return x
