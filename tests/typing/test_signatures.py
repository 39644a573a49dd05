"""The decorator keeps signatures, and kernels take launches: mypy and pyright agree about every line of the files here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = [str(HERE / name) for name in ("signatures.py", "launches.py")]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT, timeout=110
    )


def test_mypy() -> None:
    done = run("mypy", "--strict", "--no-error-summary", *FILES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_pyright() -> None:
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, *FILES)
    report = json.loads(done.stdout)
    told = [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in report["generalDiagnostics"]]
    assert (done.returncode, told) == (0, [])
    assert report["summary"]["filesAnalyzed"] == len(FILES)


def test_the_types_come_with_the_packages() -> None:
    assert (ROOT / "plover/py.typed").exists()
    assert (ROOT / "runtime/plover_runtime/py.typed").exists()
