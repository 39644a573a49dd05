"""A real Jupyter kernel for tests: cells are run in it, and what comes out is kept under the cell that it came for.

Guarantees: waits are bounded; a closed kernel has left nothing behind. Assumes: ipykernel and jupyter_client are installed.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from tests.support.daemons import PATIENCE_S, Mark

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


class Cell:
    """A cell that was sent to the kernel, and what came for it so far.

    Attributes:
        stdout: what was written there, as it is shown under the cell.
        stderr: the same.
        shown: the MIME bundles of what was displayed, the value of its last expression among them.
        error: name, text, and traceback (without colours) of what it raised.
        done: the kernel has told its end.
    """

    def __init__(self) -> None:
        self.stdout = ""
        self.stderr = ""
        self.shown: list[dict[str, Any]] = []
        self.error: tuple[str, str, str] | None = None
        self.done = False

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """A message came for it."""
        match kind:
            case "stream" if content["name"] == "stdout":
                self.stdout += content["text"]
            case "stream":
                self.stderr += content["text"]
            case "display_data" | "execute_result":
                self.shown.append(content["data"])
            case "error":
                trace = _COLOUR.sub("", "\n".join(content["traceback"]))
                self.error = content["ename"], content["evalue"], trace
            case "status" if content["execution_state"] == "idle":
                self.done = True


class Kernel:
    """A kernel in a process of its own.

    Args:
        environment: added to it.
    """

    def __init__(self, **environment: str) -> None:
        self.mark = Mark()
        self._cells: dict[str, Cell] = collections.defaultdict(Cell)
        self._manager = KernelManager()
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self._manager._kernel_spec = KernelSpec(argv=command, display_name="Python", language="python")
        env = self.mark.environment(IPYTHONDIR=str(self.mark.directory / "ipython"), **environment)
        del env["PYTHONWARNINGS"]  # Jupyter's own are not ours to mend
        self._manager.start_kernel(env=env, cwd=str(self.mark.directory))
        client = self._manager.client()
        assert isinstance(client, BlockingKernelClient)
        self._client = client
        try:
            client.start_channels()
            client.wait_for_ready(timeout=PATIENCE_S)
        except BaseException:
            self.close()
            raise

    def send(self, source: str) -> Cell:
        """Have a cell run, after those that were sent before."""
        return self._cells[self._client.execute(source)]

    def wait(self, cell: Cell, until: Callable[[Cell], object] = lambda cell: cell.done) -> Cell:
        """Until a cell is done, or something has come for it."""
        deadline = time.monotonic() + PATIENCE_S
        while not until(cell):
            try:
                message = self._client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"still waiting after {PATIENCE_S} s for {vars(cell)}") from None
            self._cells[message["parent_header"].get("msg_id", "")].take(message["msg_type"], message["content"])
        return cell

    def run(self, source: str) -> Cell:
        """Run a cell to its end."""
        return self.wait(self.send(source))

    def interrupt(self) -> None:
        """What the notebook's stop button does."""
        self._manager.interrupt_kernel()

    def close(self) -> None:
        """End it in order; nothing of it may be left."""
        try:
            self._client.stop_channels()
            self._manager.shutdown_kernel()
            self._manager.context.destroy(linger=0)
            self.mark.assert_gone()
        finally:
            self.mark.remove()


@contextlib.contextmanager
def kernel(**environment: str) -> Iterator[Kernel]:
    """A kernel of the test's own."""
    running = Kernel(**environment)
    try:
        yield running
    finally:
        running.close()
