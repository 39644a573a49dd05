"""Remote daemons on the command line: what `start` refuses, `keys`, and `doctor` and `status` from the client's side."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import plover
from plover import gpu_function, keys
from plover.errors import AccessDenied
from tests.support.daemons import PATIENCE_S, Mark, status
from tests.support.daemons import plover as command
from tests.support.preconditions import needs_host
from tests.support.remote import Host, User, configuration, host, run


@pytest.fixture
def mark() -> Iterator[Mark]:
    mark = Mark()
    yield mark
    mark.remove()


# -- what start refuses ------------------------------------------------------------------------------------------------


def _refused(mark: Mark, bind: str, *, configuration: Path) -> str:
    """The one line with which `plover start` refuses."""
    where = ["--state-dir", str(mark.directory / "state"), "--bind", f"ipc://{mark.directory}/s/d.sock", "--bind", bind]
    done = subprocess.run(
        [sys.executable, "-m", "plover.cli.main", "start", "--devices", "simulated:1", *where],
        capture_output=True,
        text=True,
        env=mark.environment(XDG_CONFIG_HOME=str(configuration)),
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (1, "")
    mark.assert_gone()
    assert not (mark.directory / "s" / "d.sock").exists()  # nothing of a start that was refused stays
    return done.stderr.splitlines()[-1]


def test_a_port_that_is_taken(gpu1: Host, mark: Mark, tmp_path: Path) -> None:
    assert f"{gpu1.tcp}: this port is taken" in _refused(mark, gpu1.tcp, configuration=tmp_path)


def test_a_host_that_is_not_this_machine(mark: Mark, tmp_path: Path) -> None:
    reason = _refused(mark, "tcp://192.0.2.1:7707", configuration=tmp_path)
    assert "tcp://192.0.2.1:7707 cannot be bound" in reason
    assert "HOST is an address or an interface of this machine" in reason


@pytest.mark.parametrize("name", ["daemon.key", "trusted-clients"])
def test_a_file_that_others_can_read(mark: Mark, tmp_path: Path, name: str) -> None:
    with configuration(tmp_path):
        keys.daemon_key()
        run("keys", "trust", User(tmp_path / "somebody").line(), "--tenant", "somebody")
    (tmp_path / "plover" / name).chmod(0o640)
    reason = _refused(mark, "tcp://127.0.0.1:0", configuration=tmp_path)
    assert f"{tmp_path}/plover/{name} is open to others (mode 640): close it with `chmod 600 " in reason


def test_a_directory_in_which_others_can_write(mark: Mark, tmp_path: Path) -> None:
    (tmp_path / "plover").mkdir()
    (tmp_path / "plover").chmod(0o777)
    reason = _refused(mark, "tcp://127.0.0.1:0", configuration=tmp_path)
    assert f"others can write into {tmp_path}/plover, where Plover's keys lie: close it with `chmod go-w " in reason


def test_a_list_of_keys_with_a_line_that_was_cut(mark: Mark, tmp_path: Path) -> None:
    (tmp_path / "plover").mkdir()
    file = tmp_path / "plover" / "trusted-clients"
    file.write_text(f"# mine\nalice {User(tmp_path / 'alice').line()[:-1]}\n")
    file.chmod(0o600)
    reason = _refused(mark, "tcp://127.0.0.1:0", configuration=tmp_path)
    assert f"{file}, line 2, trusts nobody: this line is not whole" in reason


def test_a_detached_daemon_says_the_port_that_it_got(mark: Mark, tmp_path: Path) -> None:
    address = f"ipc://{mark.directory}/s/d.sock"
    where = ["--state-dir", str(mark.directory / "state"), "--bind", "tcp://127.0.0.1:*", "--bind", address]
    done = subprocess.run(
        [sys.executable, "-m", "plover.cli.main", "start", "--devices", "simulated:1", "--detach", *where],
        capture_output=True,
        text=True,
        env=mark.environment(XDG_CONFIG_HOME=str(tmp_path)),
        timeout=PATIENCE_S,
    )
    try:
        assert done.returncode == 0, done.stderr
        port = re.search(r"a daemon serves tcp://127.0.0.1:(\d+), ipc://", done.stdout)
        assert port, done.stdout
        with socket.create_connection(("127.0.0.1", int(port[1])), PATIENCE_S):
            pass
        assert status(address)["addresses"] == [f"tcp://127.0.0.1:{port[1]}", address]
    finally:
        command("stop", "--address", address)
    mark.assert_gone(PATIENCE_S)


def test_ipv6(me: User) -> None:
    needs_host(socket.has_ipv6 and Path("/proc/net/if_inet6").exists(), "IPv6")
    with host(listen="[::1]") as far:
        assert far.tcp == f"tcp://[::1]:{far.port}"
        me.enrol(far, "alice")
        with plover.connect("gpu1"):
            assert gpu_function(lambda: 6)() == 6


# -- how far, and what may be used -------------------------------------------------------------------------------------


def test_doctor_and_status_from_the_clients_side(gpu1: Host, alice: User) -> None:
    for given in ("gpu1", gpu1.tcp):
        code, out, errors = command("doctor", "--address", given)
        assert (code, errors) == (0, "")
        for words in (
            f"{gpu1.tcp} (profile gpu1 in {alice.configuration}/plover/config.toml)",
            f"this user's key: {keys.client_key().public}",
            "both keys proved in ",
            "a question and its answer take ",
            "which knows you as tenant alice",
            "simulated:0  ",
            "environment default: Python 3.",
            "payload_bytes = 4294967296",
        ):
            assert words in out, words
    code, out, _ = command("status", "--address", "gpu1")
    assert code == 0
    assert re.search(r"you: tenant alice, [\d.]+ ms away", out)


def test_a_look_at_a_daemon_elsewhere_leaves_no_key_behind(gpu1: Host, me: User) -> None:
    code, _, errors = command("status", "--address", gpu1.tcp)
    assert code == 1
    assert errors == (
        f"plover: you have no key yet, and {gpu1.tcp} lets only known keys in: `plover keys show` makes one, and says "
        "what to give to the daemon's operator\n"
    )
    code, out, _ = command("doctor", "--address", gpu1.tcp)
    assert (code, "you have no key yet" in out) == (1, True)
    assert not (me.configuration / "plover").exists()


def test_doctor_says_why_not(gpu1: Host, me: User) -> None:
    me.line()  # which makes a key
    code, out, _ = command("doctor", "--address", gpu1.tcp)
    assert code == 1
    assert "not to be used: the key of the daemon at" in out
    code, out, _ = command("doctor", "--address", "nowhere")
    assert code == 1
    assert "not to be used: there is no profile 'nowhere' in " in out


def test_doctor_names_a_broken_configuration(me: User) -> None:
    (me.configuration / "plover").mkdir(parents=True)
    file = me.configuration / "plover" / "config.toml"
    file.write_text('[profiles.gpu1]\nadress = "tcp://gpu1:7707"\n')
    code, out, _ = command("doctor")
    assert f"problem: {file}, line 2: profiles.gpu1.adress means nothing here: did you mean address?" in out


def test_a_clients_own_key_that_others_can_read(gpu1: Host, alice: User) -> None:
    file = alice.configuration / "plover" / "client.key"
    file.chmod(0o644)
    with pytest.raises(AccessDenied, match="client.key is open to others .mode 644.: close it with `chmod 600 "):
        plover.connect("gpu1")
    file.chmod(0o600)


# -- keys --------------------------------------------------------------------------------------------------------------


def _said(*arguments: str) -> tuple[int, str]:
    code, _, errors = command("keys", *arguments)
    return code, errors


def test_show_makes_the_first_key_and_new_another_one(me: User) -> None:
    code, out, _ = command("keys", "list")
    assert code == 0
    assert out.startswith("you have no key yet: `plover keys show` makes it\n")
    first = run("keys", "show")
    assert run("keys", "show") == first
    code, said = _said("new")
    assert (code, "there is a key in " in said, "--replace" in said) == (1, True, True)
    second = run("keys", "new", "--replace")
    assert second == run("keys", "show") != first
    assert f"you are {keys.client_key().public}" in run("keys", "list")
    code, said = _said("new", "--daemon")
    assert (code, "from its next start on" in said) == (0, True)


def test_a_daemons_line_names_where_it_is_reached(me: User) -> None:
    code, out, said = command("keys", "show", "--daemon")
    assert code == 0
    assert f":tcp://{keys.host_name()}:7707:" in out
    assert "no daemon serves tcp here yet: `plover start --bind tcp://*:7707`" in said
    assert ":tcp://gpu9.example.org:1:" in run("keys", "show", "--daemon", "--address", "tcp://gpu9.example.org:1")


def test_a_daemon_that_serves_says_where(gpu1: Host, me: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plover.addresses.default_directory", lambda: gpu1.socket.parent)
    monkeypatch.setattr("plover.addresses.SOCKET_NAME", gpu1.socket.name)
    with configuration(gpu1.configuration):
        code, out, said = command("keys", "show", "--daemon")
    assert (code, "listens at 127.0.0.1 alone" in said) == (0, True)
    assert f":{gpu1.tcp}:{gpu1.key}:" in out


def test_list_and_revoke(me: User) -> None:
    line = User(me.configuration.parent / "alice").line("alice@laptop")
    back = run("keys", "trust", line, "--address", "tcp://gpu9:7707")
    run("keys", "trust", back, "--name", "gpu9")
    out = run("keys", "list")
    assert f"  {keys.parse_line(line).key}  tenant alice  alice@laptop" in out
    assert f"  {keys.parse_line(back).key}  gpu9  tcp://gpu9:7707" in out
    assert _said("revoke", "alice") == (0, _SAID_REVOKED)
    code, said = _said("revoke", "gpu9")
    assert (code, "profile 'gpu9' is gone from " in said) == (0, True)
    out = run("keys", "list")
    assert "alice" not in out.partition("users who")[2].partition("\n")[2]
    code, said = _said("revoke", "gpu9")
    assert code == 1
    assert "'gpu9' is no tenant, name or key that is trusted here, and no profile: see `plover keys list`" in said


_SAID_REVOKED = "plover: alice@laptop (tenant alice) is not trusted any more; a running daemon forgets them at once\n"


def test_list_shows_a_line_that_was_cut(me: User) -> None:
    (me.configuration / "plover").mkdir(parents=True)
    file = me.configuration / "plover" / "trusted-clients"
    file.write_text("alice plover-client:alice\n")
    file.chmod(0o600)
    code, out, _ = command("keys", "list")
    assert code == 1
    assert f"problem: {file}, line 1, trusts nobody: this line is not whole" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trust", "nonsense"], "is not a line of Plover's keys"),
        (["trust", "plover-client:alice@x:abc"], "this line is not whole: it was cut or changed"),
        (["trust", "CLIENT", "--name", "x"], "--name and --replace go with a daemon's line, and this is a user's"),
        (["trust", "DAEMON", "--tenant", "x"], "--tenant goes with a user's line, and this is a daemon's"),
        (["trust", "CLIENT", "--tenant", "a b"], "'a b' is not a tenant's name"),
        (["trust", "CLIENT", "--address", "ssh://gpu1"], "users reach a daemon by its key over tcp"),
        (["trust", "DAEMON", "--name", "a b"], "is not a profile's name"),
        (["trust", "DAEMON", "--address", "gpu1"], "is not an address"),
        (["show", "--address", "tcp://gpu1:7707"], "--address goes with --daemon"),
    ],
)
def test_a_wrong_use_is_told(me: User, arguments: list[str], words: str) -> None:
    client = User(me.configuration.parent / "somebody").line()
    daemon = str(keys.DaemonLine("gpu1", "tcp://gpu1:7707", "a" * 51 + "q"))
    given = [{"CLIENT": client, "DAEMON": daemon}.get(each, each) for each in arguments]
    code, said = _said(*given)
    assert code == 1
    assert words in said
    assert said.count("\n") == 1
    assert not (me.configuration / "plover" / "trusted-clients").exists()
    assert not (me.configuration / "plover" / "config.toml").exists()


def test_a_second_daemon_does_not_take_a_profiles_place_silently(me: User) -> None:
    for letter, code_expected in (("a", 0), ("b", 1)):
        line = str(keys.DaemonLine("gpu1", "tcp://gpu1:7707", letter * 51 + "q"))
        code, said = _said("trust", line)
        assert code == code_expected
    assert "is tcp://gpu1:7707 with another key: if this is to be in its place, say --replace" in said
    assert _said("trust", line, "--replace")[0] == 0


def test_keys_without_an_action_is_a_wrong_use() -> None:
    assert command("keys")[0] == 2


def test_a_default_profile_is_looked_at_and_never_ended(gpu1: Host, alice: User) -> None:
    file = alice.configuration / "plover" / "config.toml"
    file.write_text('default = "gpu1"\n' + file.read_text())
    code, out, _ = command("status")
    assert (code, f"daemon {gpu1.pid} at " in out) == (0, True)
    for verb in ("stop", "drain"):
        code, _, said = command(verb)
        assert code == 1
        assert "no daemon" in said  # on this machine's default socket
    assert gpu1.process.poll() is None
