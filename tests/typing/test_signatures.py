"""The decorator keeps signatures: mypy and pyright agree about every line of signatures.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT, timeout=110
    )


def test_mypy() -> None:
    done = run("mypy", "--strict", "--no-error-summary", str(HERE / "signatures.py"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_pyright() -> None:
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, str(HERE / "signatures.py"))
    report = json.loads(done.stdout)
    told = [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in report["generalDiagnostics"]]
    assert (done.returncode, told) == (0, [])
    assert report["summary"]["filesAnalyzed"] == 1


def test_the_types_come_with_the_packages() -> None:
    assert (ROOT / "plover/py.typed").exists()
    assert (ROOT / "runtime/plover_runtime/py.typed").exists()
