"""Daemons, scripts and raw peers for tests of the whole system: real processes, real sockets, bounded waits.

Guarantees: whatever is started carries a mark in its environment, which everything below it inherits; `Mark.assert_gone`
finds what is left, however it was orphaned. Nothing sleeps. Assumes: Linux's /proc; user code under test does not clear
its children's environment.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import zmq

from plover import addresses
from plover.cli.main import main as plover_main
from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m

#: What never takes long may take so long on a loaded machine.
PATIENCE_S = 30.0
#: What was killed and everything below it are gone within this time.
GONE_S = 2.0

_MARK = "PLOVER_TEST_MARK"
#: The directories that `plover` and `plover_runtime` come from.
_SOURCES = [str(Path(addresses.__file__).parent.parent), str(Path(addresses.__file__).parent.parent / "runtime")]


class Mark:
    """A word in the environment of everything that a test starts, and a temporary directory of its own."""

    def __init__(self) -> None:
        self.word = secrets.token_hex(8)
        self.directory = Path(tempfile.mkdtemp(prefix="plv-", dir="/tmp"))  # short: a socket's path has 107 bytes
        self.temporary = self.directory / "t"
        self.temporary.mkdir()

    def environment(self, **more: str) -> dict[str, str]:
        """The environment for a process of the test's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PLOVER_")}
        own = {
            _MARK: self.word,
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": str(self.directory),
            "PYTHONPATH": os.pathsep.join(_SOURCES),
            "PYTHONWARNINGS": "error",
        }
        return kept | own | more

    def pids(self) -> list[int]:
        """The processes that carry the mark and are not dead."""
        sign = f"{_MARK}={self.word}".encode()
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):  # gone, or never ours to look at
                if name.isdecimal() and sign in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
        return found

    def left(self, timeout_s: float = GONE_S) -> dict[int, str]:
        """The processes that are still there after the time, and their command lines."""
        deadline = time.monotonic() + timeout_s
        while pids := self.pids():
            if not any(wait_gone(pid, max(0.0, deadline - time.monotonic())) for pid in pids):
                return {pid: command_line(pid) for pid in pids}
        return {}

    def assert_gone(self, timeout_s: float = GONE_S) -> None:
        """Nothing that carries the mark is left; what is, is killed so that it spoils no other test."""
        left = self.left(timeout_s)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}"

    def remove(self) -> None:
        """Take the directory away."""
        shutil.rmtree(self.directory, ignore_errors=True)


def wait_gone(pid: int, timeout_s: float = PATIENCE_S) -> bool:
    """Whether a process is dead, or dies within the time."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def command_line(pid: int) -> str:
    """How a process was started."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "(gone)"


def read_line(stream: Any, timeout_s: float = PATIENCE_S) -> str:
    """A line that a process writes into an unbuffered pipe, within the time."""
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        assert left > 0, f"no line within {timeout_s} s, only {line!r}"
        if select.select([stream], [], [], left)[0]:
            data = os.read(stream.fileno(), 1)
            if not data:
                break
            line += data
    return line.decode()


class Fifo:
    """A named pipe as an event between processes: one side writes a word, the other waits for it with a bound."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # both ends, so that neither side blocks in open()

    def say(self, word: str = "go") -> None:
        """Let a waiting process go on."""
        os.write(self._fd, word.encode() + b"\n")

    def wait(self, timeout_s: float = PATIENCE_S) -> str:
        """The line that the other side writes."""
        deadline = time.monotonic() + timeout_s
        line = b""
        while not line.endswith(b"\n"):
            ready = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"nothing came through {self.path} within {timeout_s} s"
            line += os.read(self._fd, 1)
        return line.decode().strip()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class Script:
    """A Python script in a process of its own, with a directory of its own.

    Args:
        source: the script.
        mark: shared with others, or one of its own.
        environment: added to it.
        arguments: of the script.
    """

    def __init__(
        self,
        source: str,
        *arguments: str,
        mark: Mark | None = None,
        environment: dict[str, str] | None = None,
        name: str = "script.py",
    ) -> None:
        self.mark = mark or Mark()
        self.path = self.mark.directory / name
        self.path.write_text(source)
        self.errors = self.mark.directory / f"{name}.stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(self.path), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                env=self.mark.environment(**(environment or {})),
                cwd=self.mark.directory,
            )

    def line(self, timeout_s: float = PATIENCE_S) -> str:
        """The next line that it prints."""
        line = read_line(self.process.stdout, timeout_s).rstrip("\n")
        assert line, f"no line came; stderr: {self.stderr()}"
        return line

    def wait(self, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
        """Its exit status, and what it printed (after what `line` took)."""
        out, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out.decode()

    def stderr(self) -> str:
        """What it wrote on stderr so far."""
        return self.errors.read_text(errors="replace")

    def close(self) -> None:
        """Kill what a failed test left, and give everything back."""
        self.process.kill()
        self.process.communicate()
        for pid in self.mark.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.mark.remove()


@contextlib.contextmanager
def script(source: str, *arguments: str, **options: Any) -> Iterator[Script]:
    """A running script, ended and cleaned up behind the test."""
    running = Script(source, *arguments, **options)
    try:
        yield running
    finally:
        running.close()


def run_script(source: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
    """Run a script to its end: exit status, stdout, stderr. Nothing may be left of it, nor in its temporary directory."""
    with script(source, *arguments, **options) as running:
        status, out = running.wait()
        running.mark.assert_gone()
        assert list(running.mark.temporary.iterdir()) == []
        return status, out, running.stderr()


class Daemon:
    """A daemon that `plover start` started, and that serves.

    Args:
        devices: for ``--devices``.
        directory_of: another daemon's mark, to start on the same address.
        program: a script that starts it in another way; it gets the address and the state directory, and prints a line.
    """

    def __init__(self, devices: str = "simulated:1", mark: Mark | None = None, program: str | None = None) -> None:
        self.mark = mark or Mark()
        self.socket = self.mark.directory / "s" / "d.sock"
        self.address = f"ipc://{self.socket}"
        self.state = self.mark.directory / "state"
        if program is None:
            where = ["--bind", self.address, "--state-dir", str(self.state)]
            command = ["-m", "plover.cli.main", "start", "--devices", devices, *where]
        else:
            command = ["-c", program, self.address, str(self.state)]
        self._log = self.mark.directory / "daemon.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=self.mark.environment(),
                cwd=self.mark.directory,
            )
        self.pid = self.process.pid
        try:
            self.ready_line = read_line(self.process.stdout)
            assert self.ready_line, f"the daemon ended: {self.log()}"
        except BaseException:
            self.kill()
            raise

    def log(self) -> str:
        """What it logged so far."""
        return self._log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """What ``plover status --json`` says."""
        return status(self.address)

    def kill(self) -> None:
        """SIGKILL it, and reap it."""
        self.process.kill()
        self._reap()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit status."""
        self.process.wait(timeout_s)
        self._reap()
        return self.process.returncode

    def close(self) -> None:
        """End it if it runs, and see that nothing of it is left: no process, no socket, no fault of its own in the log."""
        try:
            in_order = self.process.poll() in (None, 0)
            if self.process.poll() is None:
                self.process.terminate()
                assert self.wait() == 0, self.log()
            self._reap()
            self.mark.assert_gone()
            assert "Traceback" not in self.log(), self.log()
            assert "a fault of the scheduler's" not in self.log(), self.log()
            if in_order:
                left = [str(path) for path in self.mark.directory.rglob("*") if path.is_socket()]
                assert not left, left
        finally:
            self.kill()
            self.mark.remove()

    def _reap(self) -> None:
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def daemon(devices: str = "simulated:1", **options: Any) -> Iterator[Daemon]:
    """A daemon of the test's own."""
    running = Daemon(devices, **options)
    try:
        yield running
    finally:
        running.close()


def daemon_with(
    before: str = "", devices: str = "simulated:3", shell: dict[str, float] | None = None, **limits: float
) -> str:
    """A program that starts a daemon whose scheduler, or shell, has other limits."""
    return f"""
import sys
from pathlib import Path
{before}
from plover.daemon.config import DaemonConfig, DaemonLimits
from plover.daemon.run import serve
from plover.daemon.scheduler.config import Limits
config = DaemonConfig(
    addresses=(sys.argv[1],), state_dir=Path(sys.argv[2]), devices={devices!r}, scheduler_limits=Limits(**{limits!r}),
    limits=DaemonLimits(**{shell or {}!r}),
)
serve(config, on_ready=lambda: print("ready", flush=True))
"""


def plover(*arguments: str) -> tuple[int, str, str]:
    """A command of the command line, in this process: exit status, stdout, stderr."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = plover_main(arguments)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return code, out.getvalue(), errors.getvalue()


def status(address: str) -> dict[str, Any]:
    """What ``plover status --json`` says about a daemon."""
    code, out, errors = plover("status", "--json", "--address", address)
    assert code == 0, errors
    document: dict[str, Any] = json.loads(out)
    return document


class RawPeer:
    """A peer that speaks to a daemon in frames of its own making."""

    _heard: Sequence[Sequence[Any]] = ()  # what came joined with what was heard

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        self.socket.connect(address)
        self.address = address
        self.incarnation = 0
        self.client = secrets.token_bytes(16)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def send(self, frames: Sequence[Any]) -> None:
        """Send these frames as one message."""
        self.socket.send_multipart(list(frames))

    def say(self, message: m.AnyMessage, incarnation: int | None = None) -> None:
        """Send a message without a body."""
        self.send(codec.write(message, self.incarnation if incarnation is None else incarnation))

    def hear(self) -> Any:
        """The next message that the daemon sends."""
        if not self._heard:
            self._heard = codec.split(self.socket.recv_multipart(), "daemon")
        first, *self._heard = self._heard
        return codec.TO_CLIENT.read(first).message

    def hello(self, pid: int = 0, started: int = 0) -> m.Welcome:
        """Shake hands as a client, of a process that may be another."""
        secret = addresses.read_secret(addresses.socket_path(self.address))
        self.say(m.Hello(self.client, secret, versions(), pid, started), 0)
        welcome = self.hear()
        assert isinstance(welcome, m.Welcome), welcome
        self.incarnation = welcome.incarnation
        return welcome
