"""Which process says hello."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from plover.wire import identity


def test_a_process_is_its_number_and_when_it_began() -> None:
    pid, started = identity.of_this_process()
    assert (pid, started) == (os.getpid(), identity.started(pid))
    assert 0 < identity.started(os.getppid()) <= started


def test_a_name_with_spaces_and_parentheses_is_no_trouble(tmp_path: Path) -> None:
    script = tmp_path / "a ) 1 (b"
    script.symlink_to(sys.executable)
    with subprocess.Popen([str(script), "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert identity.started(process.pid) >= identity.of_this_process()[1]
        process.kill()


def test_nothing_is_claimed_of_who_is_not_there() -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    assert identity.started(process.pid) == 0
