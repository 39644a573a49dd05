"""Where contestants run: environments of their own, processes of their own, each command under a time limit.

Guarantees: whatever a contestant started is found by a mark in its environment, which everything below it inherits, and is
killed when the contestant leaves, however it leaves. Assumes: Linux's /proc.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contestant import ENTRIES, Entry

__all__ = ["DIRECTORY", "Absent", "Failed", "Player", "busy", "fresh_client_s", "player", "python_for", "versions"]

ROOT = Path(__file__).resolve().parent.parent
#: Environments, logs and results.
DIRECTORY = ROOT / ".peers"
_MARK = "BENCHMARK_MARK"
_INSTALL_S = 900.0
_START_S = 120.0


class Absent(Exception):
    """A contestant that cannot be had here, and why."""


class Failed(Exception):
    """A contestant that did not do what it was asked, and what it said."""


# -- environments ------------------------------------------------------------------------------------------------------


def python_for(entry: Entry) -> str:
    """The interpreter that has what a contestant needs; made and installed if it is not there.

    Raises:
        Absent: it cannot be.
    """
    if entry.program:
        _have_program(*entry.program)
    if not entry.environment:
        return sys.executable
    directory = DIRECTORY / entry.environment
    python = directory / "bin" / "python"
    stamp = directory / ("installed " + " ".join(entry.packages))
    if not stamp.exists():
        print(f"installing {', '.join(entry.packages)}", file=sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)
        _install([sys.executable, "-m", "venv", str(directory)])
        _install([str(python), "-m", "pip", "install", "--quiet", *entry.packages, "numpy"])
        stamp.touch()
    return str(python)


def _install(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        raise Absent(f"not installed within {_INSTALL_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Absent(f"cannot be installed: {last or 'no reason was given'}") from None


def _have_program(program: str, package: str) -> None:
    if shutil.which(program):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            with contextlib.suppress(Absent):
                _install(["apt-get", "-qq", *command])
    if not shutil.which(program):
        raise Absent(f"{program} is missing (Debian's package {package})")


def versions(entry: Entry) -> dict[str, str]:
    """What its environment has of what it needs, and of what all need."""
    names = [package.partition("[")[0] for package in entry.packages] + ["numpy", "pyzmq"]
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {'python': sys.version.split()[0]}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    run = subprocess.run([python_for(entry), "-c", code, *names], check=True, capture_output=True, timeout=60)
    found: dict[str, str] = json.loads(run.stdout)
    return found


# -- processes ---------------------------------------------------------------------------------------------------------


class Player:
    """A contestant's client in its process, started.

    Args:
        name: whose.
        workers: how many it is to have.
        limit_s: for each command.

    Raises:
        Absent, Failed: it could not be started.
    """

    def __init__(self, name: str, workers: int, limit_s: float = 60.0) -> None:
        self.name = name
        self._limit_s = limit_s
        self._is_lost = False
        self._mark = secrets.token_hex(8)
        self._home = tempfile.mkdtemp(prefix="b-", dir="/tmp")
        self._log = DIRECTORY / "logs" / f"{name}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._python = python_for(ENTRIES[name])
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", "benchmarks.driver", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=_environment(self._mark, self._home, self._python),
                cwd=ROOT,
            )
        try:
            self.address: str = self._ask(_START_S, command="start", workers=workers)
        except BaseException:
            self.close()
            raise

    def do(self, command: str, **arguments: Any) -> dict[str, float]:
        """One command of `benchmarks.measure`.

        Raises:
            Failed: an error, the end, or no answer within the time.
        """
        answer: dict[str, float] = self._ask(self._limit_s, command=command, **arguments)
        return answer

    def _ask(self, limit_s: float, /, **command: Any) -> Any:
        what = command["command"]
        if self._is_lost:
            raise Failed(f"{self.name}: {what}: it has failed to answer before")
        self._is_lost = True  # until it answers: what comes late would be taken for the answer to something else
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            raise Failed(f"{self.name}: {what}: its process has ended, see {self._log}") from None
        answer = json.loads(_line(self._process, limit_s, f"{self.name}: {what}"))
        self._is_lost = False
        if "error" in answer:
            raise Failed(f"{self.name}: {what}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """Let it end what it started; what is left is killed."""
        with contextlib.suppress(Failed, OSError, ValueError):
            self._ask(20.0, command="stop")
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        _kill(self._mark)
        shutil.rmtree(self._home, ignore_errors=True)


@contextlib.contextmanager
def player(name: str, workers: int, limit_s: float = 60.0) -> Iterator[Player]:
    """A contestant's client, which is ended with all that it started."""
    running = Player(name, workers, limit_s)
    try:
        yield running
    finally:
        running.close()


def fresh_client_s(name: str, address: str, environment_of: str, limit_s: float = 60.0) -> float:
    """How long a process lives until its first call is done: Python's start, the imports, the connection, the call.

    Args:
        name: whose client; "nobody" for one that imports NumPy and calls nothing.
        address: of the running service; empty if the client has to start its own.
        environment_of: the contestant in whose environment it is.
        limit_s: how long it may take.
    """
    mark, home = secrets.token_hex(8), tempfile.mkdtemp(prefix="b-", dir="/tmp")
    python = python_for(ENTRIES[environment_of])
    command = [python, "-m", "benchmarks.driver", name, "--first", address]
    environment = _environment(mark, home, python)
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=environment,
        cwd=ROOT,
    )
    try:
        line = _line(process, limit_s, f"{name}: a fresh client")
        if line != b"done\n":
            raise Failed(f"{name}: a fresh client said {line!r}")
        return time.perf_counter() - began
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10.0)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        _kill(mark)
        shutil.rmtree(home, ignore_errors=True)


def _environment(mark: str, home: str, python: str) -> dict[str, str]:
    """No settings of the user's; the programs of the contestant's environment first; what it leaves behind lies in `home`,
    whose path is short, since a socket's has 107 bytes.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PLOVER_", "PYTHON"))}
    path = os.pathsep.join([str(Path(python).parent), kept.get("PATH", os.defpath)])
    return kept | {
        _MARK: mark,
        "HOME": home,
        "TMPDIR": home,
        "XDG_CONFIG_HOME": home,
        "PYTHONPATH": str(ROOT),
        "PATH": path,
    }


def _line(process: subprocess.Popen[bytes], limit_s: float, what: str) -> bytes:
    deadline = time.monotonic() + limit_s
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise Failed(f"{what}: no answer within {limit_s:.0f} s")
        data = os.read(process.stdout.fileno(), 65536)  # type: ignore[union-attr]
        if not data:
            raise Failed(f"{what}: its process has ended")
        line += data
    return line


def _kill(mark: str) -> None:
    """Kill everything that carries the mark, until nothing does."""
    sign = f"{_MARK}={mark}".encode()
    for _ in range(50):
        found = False
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdecimal() and sign in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    os.kill(int(name), signal.SIGKILL)
                    found = True
        if not found:
            return
        time.sleep(0.05)


# -- the machine -------------------------------------------------------------------------------------------------------


def busy(seconds: float = 2.0) -> float:
    """What share of the machine's cores is in use, by whoever, over so long a look."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    idle, total = after[0] - before[0], after[1] - before[1]
    return 1.0 - idle / total if total else 0.0


def _ticks() -> tuple[int, int]:
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)
