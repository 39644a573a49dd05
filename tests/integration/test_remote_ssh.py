"""Daemons over ssh, against a real sshd: the tunnel, its end, and every reason for which there is none."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import plover
from plover import gpu_function, tunnel
from plover.errors import AccessDenied, DaemonUnreachable
from tests.support.daemons import PATIENCE_S, Daemon, Mark, command_line, read_line, wait_gone
from tests.support.daemons import plover as command
from tests.support.sshd import Sshd, needs_sshd, sshd

needs_sshd()


@pytest.fixture(scope="module")
def host(daemon: Daemon) -> Iterator[Sshd]:
    """The daemon's host, where one can log in."""
    with sshd(daemon.mark) as running:
        yield running


@pytest.fixture(autouse=True)
def _client(host: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This process logs in with the key that the host knows."""
    monkeypatch.setenv("PLOVER_SSH", host.ssh)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture
def address(host: Sshd, daemon: Daemon) -> str:
    return f"{host.address}{daemon.socket}"


def _profile(directory: Path, text: str) -> None:
    (directory / "plover").mkdir()
    (directory / "plover" / "config.toml").write_text(text)


# -- the way there -----------------------------------------------------------------------------------------------------


def test_a_tunnel_leads_to_the_daemon_and_ends_with_its_session(address: str, daemon: Daemon) -> None:
    before = set(daemon.mark.pids())
    with plover.connect(address) as session:
        assert gpu_function(lambda x: x + 1)(1) == 2
        welcome = session.connection().welcome
        assert (welcome.tenant, welcome.pid) == ("default", daemon.pid)
        directory = _tunnel(session)._directory
        assert {each.name for each in directory.iterdir()} == {"c", "d", "e"}
        assert directory.stat().st_mode & 0o077 == 0
        started = {pid for pid in set(daemon.mark.pids()) - before if "whereabouts" in command_line(pid)}
        assert started
    assert not directory.exists()
    for pid in started:
        assert wait_gone(pid)


def test_the_default_socket_is_found_without_a_path(tmp_path: Path) -> None:
    mark = Mark()
    try:
        with sshd(mark) as host:
            os.environ["PLOVER_SSH"] = host.ssh
            start = [sys.executable, "-m", "plover.cli.main", "start", "--devices", "simulated:1", "--detach"]
            subprocess.run(start, check=True, capture_output=True, env=mark.environment(), timeout=PATIENCE_S)
            with plover.connect(host.address) as session:
                assert session.submit(lambda: 6).result(PATIENCE_S) == 6
            code, out, errors = command("stop", "--address", host.address)
            assert (code, errors) == (0, "")
            assert "is stopping" in out
            assert "has ended" not in out  # its number means another process here
            with pytest.raises(DaemonUnreachable, match="no daemon runs there at .*plover start --detach"):
                plover.connect(host.address)
            mark.assert_gone(PATIENCE_S)
    finally:
        mark.remove()


def test_login_scripts_may_talk_and_a_profile_says_where_plover_is(host: Sshd, daemon: Daemon, tmp_path: Path) -> None:
    address = f"{host.address}{daemon.socket}"
    _profile(
        tmp_path,
        f'[profiles.lab]\naddress = "{address}"\n'
        f'command = "echo Welcome to the lab; env MOOD=good {sys.executable} -m plover.cli.main"\n',
    )
    with plover.connect("lab"):
        assert gpu_function(lambda: 3)() == 3
    code, out, _ = command("doctor", "--address", "lab")
    assert code == 0
    assert f"{address} (profile lab in {tmp_path}/plover/config.toml)" in out
    assert "which knows you as tenant default" in out
    code, out, _ = command("status", "--address", "lab")
    assert (code, "you: tenant default, " in out) == (0, True)


# -- the tunnel's end --------------------------------------------------------------------------------------------------

_SCRIPT = """
import os, signal, sys, time
import plover
plover.connect(sys.argv[1])
double = plover.gpu_function(lambda x: 2 * x)
print(double(21), flush=True)
def sleep():
    import time
    print("begun", flush=True)
    time.sleep(3)
if sys.argv[2] == "call":
    plover.gpu_function(sleep)()
if sys.argv[2] == "interrupt":
    try:
        plover.gpu_function(sleep)()
    except KeyboardInterrupt:
        print(double(4), flush=True)
if sys.argv[2] == "fork":
    if os.fork() == 0:
        print("forked", flush=True)
        signal.pause()
    signal.pause()
"""


@contextlib.contextmanager
def _client_process(host: Sshd, address: str, what: str) -> Iterator[tuple[subprocess.Popen[bytes], Mark]]:
    """A client in a session of its own, as a terminal would have it, with a mark of its own."""
    mark = Mark()
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, address, what],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=mark.environment(PLOVER_SSH=host.ssh),
        start_new_session=True,
    )
    try:
        assert read_line(process.stdout) == "42\n"
        yield process, mark
        process.wait(PATIENCE_S)
        mark.assert_gone(PATIENCE_S)
        assert list(mark.temporary.iterdir()) == []
    finally:
        process.kill()
        process.communicate()
        mark.remove()


def test_a_client_that_just_ends_leaves_nothing(host: Sshd, address: str) -> None:
    with _client_process(host, address, "nothing"):
        pass


def test_a_killed_client_leaves_nothing(host: Sshd, address: str) -> None:
    with _client_process(host, address, "call") as (process, mark):
        assert read_line(process.stdout) == "begun\n"
        assert len(mark.pids()) >= 3  # itself, ssh, and what waits for its end
        process.kill()


def test_a_killed_client_takes_ssh_along_though_its_forks_live(host: Sshd, address: str) -> None:
    with _client_process(host, address, "fork") as (process, mark):
        assert read_line(process.stdout) == "forked\n"
        process.kill()
        process.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while len(left := mark.pids()) > 1:  # the fork itself
            assert time.monotonic() < deadline, left
        os.kill(left[0], signal.SIGKILL)


def test_the_terminals_interrupt_ends_the_call_and_not_the_tunnel(host: Sshd, address: str) -> None:
    with _client_process(host, address, "interrupt") as (process, _):
        assert read_line(process.stdout) == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        assert read_line(process.stdout) == "8\n"


def test_a_tunnel_that_broke_is_made_anew_by_the_next_call(address: str) -> None:
    with plover.connect(address) as session:
        assert session.submit(lambda: 1).result(PATIENCE_S) == 1
        first = session._way
        assert first is not None
        os.kill(_tunnel(session)._ssh.pid, signal.SIGKILL)  # type: ignore[union-attr]
        deadline = time.monotonic() + PATIENCE_S
        while session.connection().usable and session._way is first:
            assert time.monotonic() < deadline
        assert session.submit(lambda: 2).result(PATIENCE_S) == 2
        assert not first.close.__self__._directory.exists()  # type: ignore[attr-defined]


def _tunnel(session: plover.Session) -> tunnel.Tunnel:
    way = session._way
    assert way is not None
    found = way.close.__self__  # type: ignore[attr-defined]
    assert isinstance(found, tunnel.Tunnel)
    return found


# -- why there is no tunnel --------------------------------------------------------------------------------------------


def test_an_unknown_host_key(host: Sshd, address: str) -> None:
    (host.directory / "known").write_text("")
    try:
        with pytest.raises(
            AccessDenied, match=f"ssh does not know this host's key: run `ssh {host.user}@127.0.0.1` once"
        ):
            plover.connect(address)
        host.trust_host("stranger")
        with pytest.raises(AccessDenied, match="the host shows another key than before"):
            plover.connect(address)
    finally:
        host.trust_host()


def test_no_key_that_the_host_takes_and_no_terminal(host: Sshd, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLOVER_SSH", host.ssh_with("stranger"))
    with pytest.raises(AccessDenied, match=r"did not let us in \(.*Permission denied.*Without a terminal"):
        plover.connect(address)


def test_no_such_host(host: Sshd) -> None:
    with pytest.raises(DaemonUnreachable, match="there is no such host .*nowhere.invalid") as caught:
        plover.connect("ssh://nowhere.invalid")
    assert caught.value.address == "ssh://nowhere.invalid"


def test_nobody_listens_there(host: Sshd) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(DaemonUnreachable, match="no sshd listens at its port"):
            plover.connect(f"ssh://127.0.0.1:{bound.getsockname()[1]}")


def test_another_program_listens_there(host: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = subprocess.Popen(
            [sys.executable, "-c", _TRY, f"ssh://127.0.0.1:{server.getsockname()[1]}"],
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        accepted, _ = server.accept()
        accepted.close()
        said, _ = client.communicate(timeout=PATIENCE_S)
    assert b"DaemonUnreachable" in said
    assert b"See what `ssh 127.0.0.1` says" in said


_TRY = """
import sys, plover
try:
    plover.connect(sys.argv[1])
except plover.PloverError as error:
    print(type(error).__name__, error)
"""


def test_a_host_that_says_nothing(host: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "_ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = f"ssh://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(DaemonUnreachable, match="nothing came within 0.3 s"):
            plover.connect(silent)


def test_there_is_no_ssh(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLOVER_SSH", "/nowhere/ssh")
    with pytest.raises(DaemonUnreachable, match="there is no ssh on this machine .*install OpenSSH's client"):
        plover.connect(address)


def test_plover_is_not_installed_there(host: Sshd, daemon: Daemon, tmp_path: Path) -> None:
    _profile(tmp_path, f'[profiles.lab]\naddress = "{host.address}"\ncommand = "/opt/nowhere/plover"\n')
    with pytest.raises(DaemonUnreachable, match='plover is not to be found there .*command = "/path/of/plover"'):
        plover.connect("lab")


def test_plover_fails_there(host: Sshd, tmp_path: Path) -> None:
    _profile(tmp_path, f'[profiles.lab]\naddress = "{host.address}"\ncommand = "echo broken >&2; exit 3;"\n')
    with pytest.raises(DaemonUnreachable, match="`plover whereabouts` failed there with exit status 3: broken"):
        plover.connect("lab")


def test_no_daemon_runs_there(host: Sshd, daemon: Daemon) -> None:
    with pytest.raises(DaemonUnreachable, match="no daemon runs there at /tmp/none/d.sock: log in and start one"):
        plover.connect(f"{host.address}/tmp/none/d.sock")


def test_the_host_forbids_forwarding(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Mark()
    try:
        with sshd(mark, "AllowStreamLocalForwarding no") as strict:
            monkeypatch.setenv("PLOVER_SSH", strict.ssh)
            with pytest.raises(DaemonUnreachable, match="its sshd must have AllowStreamLocalForwarding yes"):
                plover.connect(f"{strict.address}{daemon.socket}")
    finally:
        mark.remove()


def test_what_is_no_ssh_address() -> None:
    for address in ("ssh://-oProxyCommand=touch", "ssh://user@", "ssh://a b"):
        with pytest.raises(ValueError, match="is not an ssh address"):
            plover.connect(address)


# -- a terminal --------------------------------------------------------------------------------------------------------


def test_with_a_terminal_ssh_asks_once(host: Sshd, address: str) -> None:
    key = host.make_key("locked", passphrase="open sesame")
    (host.directory / "authorized").write_text(
        (host.directory / "user.pub").read_text() + (host.directory / "locked.pub").read_text()
    )
    mark = Mark()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-c", _SCRIPT, address, "nothing"],
            mark.environment(PLOVER_SSH=host.ssh_with("locked")),
        )
    said = b""
    asked = 0
    try:
        while True:
            assert select.select([terminal], [], [], PATIENCE_S)[0], said
            try:
                data = os.read(terminal, 1024)
            except OSError:  # Linux tells a terminal's end in this way
                break
            said += data
            if said.count(f"Enter passphrase for key '{key}':".encode()) > asked:
                asked += 1
                os.write(terminal, b"open sesame\n")
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
        mark.assert_gone(PATIENCE_S)
        mark.remove()
    assert (asked, status) == (1, 0), said
    assert b"42" in said
