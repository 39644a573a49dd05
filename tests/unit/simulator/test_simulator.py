"""Runs the tests in ``inside/`` in a process of their own with the simulator installed, and reports each file here.

The simulator changes what ``import cupy`` and ``import numba.cuda`` give for the rest of a process, so its tests
cannot share one with tests that use the real ones. To run them directly: ``PLOVER_TEST_INSIDE_SIMULATOR=1 pytest
tests/unit/simulator/inside``.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

INSIDE = pathlib.Path(__file__).parent / "inside"
FILES = sorted(path.name for path in INSIDE.glob("test_*.py"))


@pytest.fixture(scope="session")
def outcome(tmp_path_factory):
    """What the one inner run said: a list of reports, its exit status and its text."""
    report = tmp_path_factory.mktemp("simulator") / "report.jsonl"
    environment = dict(
        os.environ,
        PLOVER_TEST_INSIDE_SIMULATOR="1",
        PLOVER_TEST_REPORT=str(report),
        PYTHONPATH=os.pathsep.join(entry for entry in sys.path if entry),
        OPENBLAS_NUM_THREADS="1",
    )
    environment.pop("NUMBA_ENABLE_CUDASIM", None)
    environment.pop("PYTEST_ADDOPTS", None)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov", str(INSIDE)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    lines = report.read_text().splitlines() if report.exists() else []
    return [json.loads(line) for line in lines], run.returncode, run.stdout + run.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("file", FILES)
def test_inside(outcome, file):
    reports, _, text = outcome
    mine = [report for report in reports if report["file"] == file]
    if not mine:
        pytest.fail(f"no test of {file} ran:\n{text[-4000:]}", pytrace=False)
    failed = [report for report in mine if report["outcome"] == "failed"]
    if failed:
        pytest.fail("\n\n".join(f"{one['test']}\n{one['text']}" for one in failed), pytrace=False)


@pytest.mark.timeout(300)
def test_the_inner_run_ended_well(outcome):
    reports, status, text = outcome
    assert status == 0, text[-4000:]
    assert any(report["outcome"] == "passed" for report in reports)
