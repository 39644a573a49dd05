"""The embedded daemon: a private one, as a child of the process that made the first call with nothing configured.

Guarantees: it ends with its parent, however that ends (it holds a pidfd of it), and takes everything it started along. It
runs in the parent's directory but without its `sys.path`, so what works here works remotely. Signals of the terminal do
not reach it: Ctrl-C is the parent's, which cancels its calls and says goodbye.

Assumes: Linux; elsewhere a client needs the address of a daemon.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

from plover.addresses import SOCKET_NAME
from plover.errors import DaemonUnreachable

__all__ = ["EmbeddedDaemon"]

_START_S = 60.0
_STOP_S = 5.0

_BOOTSTRAP = (
    "import sys; paths = sys.argv.pop(1).split('|'); sys.path += [p for p in paths if p not in sys.path]; "
    "from plover.daemon.run import embedded; embedded(*sys.argv[1:])"
)

#: Python reaps it in its own time.
_NO_MORE_THAN_A_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT if hasattr(os, "waitid") else 0


class EmbeddedDaemon:
    """A running embedded daemon.

    Raises:
        DaemonUnreachable: it did not start; the message has what it said.
    """

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise DaemonUnreachable(
                "a daemon runs on Linux only: set $PLOVER_ADDRESS, or call plover.connect(…), "
                "with the address of a daemon on a Linux host"
            )
        self.directory = Path(tempfile.mkdtemp(prefix="plover-"))
        self.address = f"ipc://{self.directory / SOCKET_NAME}"
        ready_read, ready_write = os.pipe()
        parent = os.pidfd_open(os.getpid())
        log = self.directory / "daemon.log"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-c",
                        _BOOTSTRAP,
                        "|".join(import_paths()),
                        str(self.directory),
                        str(parent),
                        str(ready_write),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    pass_fds=(parent, ready_write),
                    start_new_session=True,
                )
        finally:
            os.close(parent)
            os.close(ready_write)
        self._pidfd = os.pidfd_open(self._process.pid)
        weakref.finalize(self, os.close, self._pidfd)
        try:
            self._wait_until_ready(ready_read, log)
        except BaseException:
            self.stop(kill=True)
            raise
        finally:
            os.close(ready_read)

    def __repr__(self) -> str:
        return f"<embedded daemon {self._process.pid} at {self.address}>"

    def is_alive(self) -> bool:
        """Whether its process runs. Asked before each call: a tenth of what reaping it would cost."""
        try:
            return os.waitid(os.P_PIDFD, self._pidfd, _NO_MORE_THAN_A_LOOK) is None
        except ChildProcessError:  # it was reaped
            return False

    def stop(self, kill: bool = False) -> None:
        """Wait until it has ended, which it was asked to or will be by SIGTERM, and take its directory away."""
        if self._process.poll() is None:
            self._process.kill() if kill else self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _wait_until_ready(self, ready: int, log: Path) -> None:
        """Read the one line that the daemon writes when it listens, or when it cannot."""
        os.set_blocking(ready, False)
        deadline = time.monotonic() + _START_S
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([ready], [], [], left)[0]:
                raise DaemonUnreachable(f"the embedded daemon did not start within {_START_S:g} s. {_last_lines(log)}")
            data = os.read(ready, 65536)
            if not data:
                raise DaemonUnreachable(f"the embedded daemon ended while it started. {_last_lines(log)}")
            line += data
        said = json.loads(line)
        if said.get("error"):
            raise DaemonUnreachable(f"the embedded daemon cannot run here: {said['error']}")


def _last_lines(log: Path) -> str:
    with contextlib.suppress(OSError):
        text = log.read_text(errors="replace").strip()
        if text:
            return "It said: " + "\n".join(text.splitlines()[-20:])
    return "It said nothing."


def import_paths() -> list[str]:
    """Where Plover's packages lie, for a child that does not share `sys.path`."""
    paths: list[str] = []
    for name in ("plover", "plover_runtime"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise DaemonUnreachable(f"the package {name} is not installed: pip install plover-gpu")
        paths.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(paths))
