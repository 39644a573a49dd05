"""Installs the simulator before anything else, and writes a line for each test that ran."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

if os.environ.get("PLOVER_TEST_INSIDE_SIMULATOR"):
    from plover_runtime import simulator

    simulator.install(memory_bytes=256 * 2**20)
else:
    collect_ignore_glob = ["test_*.py"]


def _write(nodeid: str, outcome: str, text: str) -> None:
    target = os.environ.get("PLOVER_TEST_REPORT")
    if target:
        name = pathlib.Path(nodeid.split("::")[0]).name
        line = json.dumps({"file": name, "test": nodeid, "outcome": outcome, "text": text})
        with open(target, "a", encoding="utf-8") as report:
            report.write(line + "\n")


def pytest_runtest_logreport(report):
    if report.when == "call" or report.failed or report.skipped:
        _write(report.nodeid, report.outcome, str(report.longrepr) if report.failed else "")


def pytest_collectreport(report):
    if report.failed:
        _write(report.nodeid, "failed", str(report.longrepr))


@pytest.fixture(autouse=True)
def _full_device():
    """Every test starts with an unlimited pool and leaves no launch running."""
    from plover_runtime.simulator.memory import DEVICE

    before = DEVICE.total_bytes
    yield
    DEVICE.total_bytes, DEVICE.pool_limit_bytes = before, 0
    DEVICE.release()
    if "numba.cuda" in __import__("sys").modules:
        from plover_runtime.simulator.kernels.state import LAUNCH_LOCK, inside

        assert not inside()
        assert not LAUNCH_LOCK.locked()
