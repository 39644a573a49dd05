"""Authors with modules of their own: a directory, what lies in it, and scripts that are run there."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from tests.support.daemons import Mark, Script

_HEAD = "import json, os, sys, traceback\nimport plover\nfrom plover import gpu_function\n"


class Client:
    """A client's directory.

    Args:
        files: contents by path.
        address: of the daemon; None for an embedded one.
    """

    def __init__(self, files: dict[str, str | bytes], address: str | None) -> None:
        self.mark = Mark()
        self.root = self.mark.directory
        self.environment = {} if address is None else {"PLOVER_ADDRESS": address}
        self.script: Script | None = None
        self.put(files)

    def put(self, files: dict[str, str | bytes]) -> None:
        """Write files."""
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())

    def start(self, source: str, **environment: str) -> Script:
        """Start a script; `json`, `os`, `sys`, `traceback`, `plover` and `gpu_function` are there already."""
        source = _HEAD + textwrap.dedent(source)
        self.script = Script(source, mark=self.mark, environment=self.environment | environment)
        return self.script

    def run(self, source: str, **environment: str) -> Any:
        """What a script prints at last, which is JSON."""
        script = self.start(source, **environment)
        status, output = script.wait()
        assert status == 0, script.stderr()
        return json.loads(output.splitlines()[-1])

    def close(self) -> None:
        """End what runs, and take the directory away."""
        if self.script is not None:
            self.script.close()
        self.mark.remove()


@contextlib.contextmanager
def client(files: dict[str, str | bytes], address: str | None = None) -> Iterator[Client]:
    """A client of the test's own."""
    made = Client(files, address)
    try:
        yield made
    finally:
        made.close()
