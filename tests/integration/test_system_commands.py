"""The command line: start, detach, status, drain, stop, doctor, and what `start` refuses."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import plover
from plover import gpu_function
from plover.client import conversation
from tests.support.daemons import PATIENCE_S, Daemon, Fifo, Mark, daemon, read_line, script
from tests.support.daemons import plover as command


@pytest.fixture
def mark() -> Iterator[Mark]:
    """A directory, and a mark on what is started."""
    mark = Mark()
    yield mark
    mark.assert_gone()
    mark.remove()


def _blocker() -> plover.GpuFunction:
    def block(begun: str, gate: str) -> str:
        with open(begun, "w") as fifo:
            fifo.write("begun\n")
        with open(gate) as fifo:
            return fifo.readline()

    made = gpu_function(block)
    assert isinstance(made, plover.GpuFunction)
    return made


def test_start_says_when_it_is_ready_and_status_what_runs(daemon: Daemon, session: plover.Session) -> None:
    assert daemon.ready_line == f"plover: daemon {daemon.pid} serves {daemon.address}\n"
    assert gpu_function(lambda: 1)() == 1
    code, out, _ = command("status", "--address", daemon.address)
    assert code == 0
    assert f"daemon {daemon.pid} at {daemon.address}" in out
    assert "launcher process" in out
    assert re.search(r"simulated:0 .* healthy .*worker \d+ \(pid \d+\) \w+, \d+ calls done", out)
    assert re.search(r"calls: 0 queued, 0 running; ended: \d+ succeeded", out)
    document = daemon.status()
    assert document["pid"] == daemon.pid
    assert document["addresses"] == [daemon.address]
    assert document["limits"]["queued_calls_per_tenant"] == 10_000
    (pid,) = document["pids"].values()
    assert pid in daemon.mark.pids()
    secret = (daemon.socket.parent / "secret").read_bytes()
    assert secret.hex() not in str(document)


def test_who_asks_is_not_counted_among_the_clients(mark: Mark) -> None:
    with daemon(mark=mark) as own:
        assert "  clients: 0 present, 0 absent" in command("status", "--address", own.address)[1]
        with plover.connect(own.address):
            assert "  clients: 1 present, 0 absent" in command("status", "--address", own.address)[1]


def test_a_status_that_nobody_reads_is_no_error(daemon: Daemon) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "plover.cli.main", "status", "--address", daemon.address],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=daemon.mark.environment(),
        timeout=PATIENCE_S,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_every_socket_is_its_owners_alone(daemon: Daemon, session: plover.Session) -> None:
    assert gpu_function(lambda: 1)() == 1
    sockets = {path.name: path.stat().st_mode & 0o777 for path in daemon.mark.directory.rglob("*") if path.is_socket()}
    assert len(sockets) >= 3, sockets
    assert set(sockets.values()) == {0o600}, sockets


def test_status_by_the_environments_address(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLOVER_ADDRESS", daemon.address)
    code, out, _ = command("status")
    assert (code, f"daemon {daemon.pid} " in out) == (0, True)


@pytest.mark.parametrize("name", ["status", "stop", "drain"])
def test_without_a_daemon_the_others_say_how_to_start_one(name: str, mark: Mark) -> None:
    code, out, errors = command(name, "--address", f"ipc://{mark.directory}/none.sock")
    assert (code, out) == (1, ""), errors
    assert errors.startswith("plover: no daemon")
    assert "plover start" in errors
    assert errors.count("\n") == 1


def test_doctor() -> None:
    code, out, _ = command("doctor")
    assert code == 0
    for words in ("Python 3.", "packages", "numpy ", "devices", "no GPU: ", "simulated device", "limits", "open files"):
        assert words in out, words
    assert "queued_calls_per_tenant = 10000" in out
    assert "the first call starts an embedded one" in out


def test_a_wrong_command_is_a_wrong_use() -> None:
    assert command()[0] == 2
    code, out, errors = command("nonsense")
    assert (code, out) == (2, "")
    assert errors == (
        "plover: there is no command 'nonsense': there are start, stop, drain, status, doctor, keys. "
        "`plover --help` says what each does\n"
    )
    assert command("--version")[0] == 0


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["strat"], "plover start"), (["Status"], "plover status"), (["keys", "trsut"], "plover keys trust")],
)
def test_a_command_with_a_typo_is_one_line_that_names_the_one_that_is_meant(typed: list[str], meant: str) -> None:
    code, _, errors = command(*typed)
    assert code == 2
    assert f"there is no command {typed[-1]!r}: did you mean `{meant}`?" in errors
    assert errors.count("\n") == 1
    assert "whereabouts" not in errors


# -- what start refuses ------------------------------------------------------------------------------------------------


def _refused(mark: Mark, *arguments: str) -> str:
    """`plover start` in a process of its own, for one that were to serve would never end; its one line of reason."""
    state = ["--state-dir", str(mark.directory / "state2")]
    done = subprocess.run(
        [sys.executable, "-m", "plover.cli.main", "start", "--devices", "simulated:1", *state, *arguments],
        capture_output=True,
        text=True,
        env=mark.environment(),
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_second_start_on_the_same_address_is_refused(daemon: Daemon, mark: Mark, detach: list[str]) -> None:
    reason = _refused(mark, "--bind", daemon.address, *detach)
    assert "serves" in reason
    assert daemon.address in reason
    with plover.connect(daemon.address):  # the first one's secret is still good
        assert gpu_function(lambda: 1)() == 1


def test_a_second_daemon_with_the_same_state_directory_is_refused(daemon: Daemon, mark: Mark) -> None:
    address = f"ipc://{mark.directory}/other/d.sock"
    reason = _refused(mark, "--bind", address, "--state-dir", str(daemon.state))
    assert f"is used by the daemon with pid {daemon.pid}" in reason
    assert "--state-dir" in reason
    with plover.connect(daemon.address):
        assert gpu_function(lambda: 1)() == 1


def test_what_is_no_socket_and_no_secret_is_not_overwritten(mark: Mark) -> None:
    directory = mark.directory / "mine"
    directory.mkdir(mode=0o700)
    (directory / "d.sock").write_text("precious")
    assert "exists and is no socket" in _refused(mark, "--bind", f"ipc://{directory}/d.sock")
    (directory / "secret").write_text("precious")
    assert "is no secret of Plover's" in _refused(mark, "--bind", f"ipc://{directory}/e.sock")
    assert {path.name: path.read_text() for path in directory.iterdir()} == {"d.sock": "precious", "secret": "precious"}


def test_a_daemon_takes_the_descriptors_that_it_may_have(daemon: Daemon) -> None:
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    soft, hard = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits).groups()  # type: ignore[union-attr]
    assert soft == hard


def test_a_bind_in_a_directory_that_others_can_enter_is_refused(mark: Mark) -> None:
    open_directory = mark.directory / "open"
    open_directory.mkdir()
    open_directory.chmod(0o755)
    reason = _refused(mark, "--bind", f"ipc://{open_directory}/d.sock")
    assert "can be entered by others (mode 755)" in reason
    assert "in a directory that is made for it" in reason
    assert list(open_directory.iterdir()) == []


def test_docker_is_refused_as_not_built(mark: Mark) -> None:
    reason = _refused(mark, "--bind", f"ipc://{mark.directory}/s/d.sock", "--launcher", "docker")
    assert "'docker' is not built yet" in reason
    assert "--launcher process" in reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bind", "nonsense"], "is not an address"),
        (["--bind", "ipc://relative.sock"], "begins with a slash"),
        (["--bind", "ipc:///tmp/" + "x" * 120], "at most 107 bytes"),
        (["--bind", "udp://x"], "no such kind of address"),
        (["--bind", "tcp://somewhere"], "is not a tcp address: tcp://host:7707 is one"),
        (["--bind", "tcp://*:99999"], "a port is at most 65535"),
        (["--bind", "ssh://user@host"], "nothing listens at an ssh address. Bind ipc://"),
        (["--devices", "simulated:0"], "simulated:N"),
        (["--devices", "7"], "there is no GPU '7' here"),
    ],
)
def test_other_nonsense_is_refused_in_a_line(mark: Mark, arguments: list[str], words: str) -> None:
    assert words in _refused(mark, *arguments)


def _state_refused(mark: Mark, state: str, *arguments: str) -> str:
    return _refused(mark, "--bind", f"ipc://{mark.directory}/s/d.sock", "--state-dir", state, *arguments)


@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["", "detached"])
def test_a_state_directory_that_cannot_be_one_is_refused_in_a_line(mark: Mark, detach: list[str]) -> None:
    file = mark.directory / "file"
    file.touch(0o600)
    assert _state_refused(mark, str(file), *detach) == (
        f"plover: {file} is a file, and a daemon needs a directory there: choose another path"
    )
    reason = _state_refused(mark, str(file / "below"), *detach)
    assert reason.startswith(f"plover: the directory {file}/below cannot be made (Not a directory at ")
    reason = _state_refused(mark, "/proc/plover/state", *detach)
    assert reason.startswith("plover: the directory /proc/plover/state cannot be made (")


# -- ending ------------------------------------------------------------------------------------------------------------


def test_drain_finishes_what_was_accepted_and_takes_nothing_new(fifos: list[Fifo]) -> None:
    with daemon() as own, plover.connect(own.address):
        running = _blocker().submit(fifos[0].path, fifos[1].path)
        fifos[0].wait()
        waiting = [gpu_function(lambda x: x).submit(number) for number in range(3)]
        draining = subprocess.Popen(
            [sys.executable, "-m", "plover.cli.main", "drain", "--address", own.address],
            stdout=subprocess.PIPE,
            bufsize=0,
            env=own.mark.environment(),
        )
        assert read_line(draining.stdout) == f"plover: daemon {own.pid} is draining; 4 calls are unfinished\n"
        late = gpu_function(lambda: 1).submit()
        error = late.exception(PATIENCE_S)
        assert isinstance(error, plover.NoCapacity)
        assert "draining" in str(error)
        fifos[1].say()
        assert running.result(PATIENCE_S) == "go\n"
        assert [future.result(PATIENCE_S) for future in waiting] == [0, 1, 2]
        out, _ = draining.communicate(timeout=PATIENCE_S)
        assert (draining.returncode, out.decode()) == (0, f"plover: daemon {own.pid} has ended\n")
        assert own.wait() == 0


def test_stop_cancels_and_ends(fifos: list[Fifo]) -> None:
    with daemon() as own, plover.connect(own.address):
        running = _blocker().submit(fifos[0].path, fifos[1].path)
        fifos[0].wait()
        waiting = gpu_function(lambda: 1).submit()
        code, out, errors = command("stop", "--address", own.address)
        assert (code, errors) == (0, "")
        assert "is stopping; 2 calls are unfinished" in out
        assert f"daemon {own.pid} has ended" in out
        assert own.wait() == 0
        for future in (running, waiting):
            error = None
            try:
                future.result(PATIENCE_S)
            except (plover.CallCancelled, plover.DaemonLost) as caught:
                error = caught
            assert isinstance(error, plover.CallCancelled), error
            assert ": the daemon was stopped by its operator. Start it again with `plover start`" in str(error)


def test_sigint_drains(fifos: list[Fifo]) -> None:
    with daemon() as own, plover.connect(own.address):
        running = _blocker().submit(fifos[0].path, fifos[1].path)
        fifos[0].wait()
        os.kill(own.pid, signal.SIGINT)
        fifos[1].say()
        assert running.result(PATIENCE_S) == "go\n"
        assert own.wait() == 0


_SILENT = """
import os, sys
from pathlib import Path
import zmq
from plover import addresses
from plover.versions import versions
from plover.wire import codec, messages as m
path = addresses.socket_path(sys.argv[1])
addresses.make_directory(path.parent)
addresses.secret_for([path.parent])
router = zmq.Context().socket(zmq.ROUTER)
router.bind(sys.argv[1])
print("ready", flush=True)
routing_id, _ = router.recv_multipart()
welcome = m.Welcome(1, "default", versions(), 1, 1, os.getpid())
router.send_multipart([routing_id, *codec.write(welcome, 1)])
router.recv_multipart()  # it is asked to end, and ends
os._exit(0)
"""


def test_a_daemon_that_ends_faster_than_it_answers_has_ended(mark: Mark) -> None:
    with script(_SILENT, f"ipc://{mark.directory}/s/d.sock", mark=mark) as silent:
        assert silent.line() == "ready"
        code, out, errors = command("stop", "--address", f"ipc://{mark.directory}/s/d.sock")
        assert (code, out, errors) == (0, f"plover: daemon {silent.process.pid} has ended\n", "")


def test_detach_returns_when_clients_can_connect(mark: Mark) -> None:
    address = f"ipc://{mark.directory}/s/d.sock"
    state = mark.directory / "state"
    start = [sys.executable, "-m", "plover.cli.main", "start", "--bind", address, "--devices", "simulated:1"]
    done = subprocess.run(
        [*start, "--state-dir", str(state), "--detach"],
        capture_output=True,  # returns only when nobody holds the pipes any more
        text=True,
        env=mark.environment(),
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert address in done.stdout
    assert str(state / "daemon.log") in done.stdout
    pids = mark.pids()
    try:
        with plover.connect(address) as session:
            assert gpu_function(lambda: 4)() == 4
            welcome = session.connection().welcome
            assert welcome is not None
            assert os.getsid(welcome.pid) == welcome.pid
        assert "serves" in (state / "daemon.log").read_text()
    finally:
        code, _out, errors = command("stop", "--address", address)
    assert code == 0, errors
    assert pids
    assert not (mark.directory / "s" / "d.sock").exists()


def test_a_socket_that_a_killed_daemon_left_is_noticed_at_once(mark: Mark) -> None:
    dead = Daemon(mark=mark)
    dead.kill()
    assert dead.socket.exists()
    begun = time.monotonic()
    for attempt in (plover.connect, lambda address: plover.Session(address).submit(lambda: 1)):
        with pytest.raises(plover.DaemonUnreachable) as caught:
            attempt(dead.address)
        assert str(caught.value) == (
            f"no daemon runs at {dead.address} (its socket is still there: it was killed, or its machine went down): "
            f"start one with `plover start --bind {dead.address}`"
        )
    assert time.monotonic() - begun < 2
    assert command("status", "--address", dead.address)[2] == f"plover: {caught.value}\n"


def test_a_daemon_that_is_stopped_is_named_with_what_lets_it_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "HANDSHAKE_S", 0.5)
    with daemon() as own:
        os.kill(own.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, own.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            with pytest.raises(plover.DaemonUnreachable) as caught:
                plover.connect(own.address)
            code, _, errors = command("status", "--address", own.address)
        finally:
            os.kill(own.pid, signal.SIGCONT)
    for text in (str(caught.value), errors):
        assert f"no daemon answered at {own.address} within 0.5 s. Process {own.pid}, '" in text
        assert f"is stopped (SIGSTOP, Ctrl-Z or a debugger): `kill -CONT {own.pid}` lets it go on" in text
    assert code == 1


def test_a_socket_that_a_dead_daemon_left_is_taken_over(mark: Mark) -> None:
    path = mark.directory / "s" / "d.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with daemon(mark=mark) as own, plover.connect(own.address):
        assert Path(own.socket) == path
        assert gpu_function(lambda: 5)() == 5


def test_the_default_address_is_found(monkeypatch: pytest.MonkeyPatch, mark: Mark) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(mark.directory))
    start = [sys.executable, "-m", "plover.cli.main", "start", "--devices", "simulated:2", "--detach"]
    subprocess.run(start, check=True, capture_output=True, env=mark.environment(), timeout=PATIENCE_S)
    try:
        code, out, _ = command("doctor")
        assert f"a daemon serves ipc://{mark.directory}/plover/daemon.sock" in out
        with plover.connect() as session:
            assert session.submit(lambda: 6).result(PATIENCE_S) == 6
            welcome = session.connection().welcome
            assert welcome is not None
            assert welcome.pid in mark.pids()
    finally:
        code, _, errors = command("stop")
    assert code == 0, errors
