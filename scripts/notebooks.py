"""Runs the notebooks of examples/ in a Jupyter kernel, and saves them with their output: `scripts/notebooks [NAME…]`.

Guarantees: an error ends it, but for cells that are tagged ``raises-exception``; what is saved names no directory, process or
address of this machine. A digest of all cells' sources is saved, too, so that a test sees output of other sources.

Assumes: nbclient and ipykernel are installed (the extra `dev`).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

#: What is different on every machine or in every run, and what stands for it in a saved notebook.
_STRIPPED = [
    (re.compile(re.escape(f"{ROOT}/")), ""),
    (re.compile(r"(?:/[^\s/'\"<>:]+)+/site-packages/"), ""),
    (re.compile(r"ipc:///[^\s'\"<>:,]+"), "ipc:///…/daemon.sock"),
    (re.compile(re.escape(tempfile.gettempdir()) + r"/[^\s'\"<>:,]*/"), "…/"),
    (re.compile(re.escape(str(Path.home()))), "~"),
    (re.compile(r"\b[0-9a-f]{12}-(\d+)\b"), r"0123456789ab-\1"),
    (re.compile(r"\b0x[0-9a-f]{8,}\b"), "0x…"),
    (re.compile(r"\bpid \d+"), "pid 4242"),
]


def digest(notebook: Any) -> str:
    """Names the sources of all cells."""
    sources = "\0".join(f"{cell.cell_type}\0{cell.source}" for cell in notebook.cells)
    return hashlib.sha256(sources.encode()).hexdigest()


def strip(text: str) -> str:
    """Without what is of this machine; what a progress bar overwrote is taken out, too."""
    for pattern, instead in _STRIPPED:
        text = pattern.sub(instead, text)
    return "\n".join(line.rpartition("\r")[2] for line in text.split("\n"))


def run(path: Path) -> Any:
    """The notebook with fresh output, as it is saved."""
    notebook: Any = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as directory:  # nothing that lies beside the notebook is imported by accident
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=300,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": directory}},
        )
        client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            _strip(output)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "plover": {"digest": digest(notebook)},
    }
    return notebook


def _strip(output: Any) -> None:
    if output.output_type == "stream":
        output.text = strip(output.text)
    elif output.output_type == "error":
        output.evalue = strip(output.evalue)
        output.traceback = [strip(line) for line in output.traceback]
    else:
        output.metadata = {}
        output.data = {
            kind: strip(content) if kind.startswith("text/") else content for kind, content in output.data.items()
        }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run the notebooks of examples/ and save them with their output.")
    parser.add_argument("names", nargs="*", help="which, without .ipynb; all unless told")
    parser.add_argument("--into", type=Path, default=EXAMPLES, help="where to save them; where they are unless told")
    asked = parser.parse_args()
    paths = [EXAMPLES / f"{name}.ipynb" for name in asked.names] or sorted(EXAMPLES.glob("*.ipynb"))
    for path in paths:
        notebook = run(path)
        nbformat.write(notebook, asked.into / path.name)
        print(path.name, file=sys.stderr)


if __name__ == "__main__":
    main()
