"""Daemons that were bound to tcp alone: their operator talks to them by a socket that they add, without keys."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import plover
from plover import gpu_function, keys
from tests.support.daemons import Daemon, Mark
from tests.support.daemons import plover as command

_PROGRAM = """
import os, sys
os.environ["XDG_RUNTIME_DIR"] = {runtime!r}
os.environ["XDG_CONFIG_HOME"] = {config!r}
from plover.cli.main import main
sys.exit(main(["start", "--devices", "simulated:1", "--state-dir", sys.argv[2], "--bind", "{bind}"]))
"""

Start = Callable[[str], Daemon]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory for default sockets, and another one for keys."""
    mark = Mark()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(mark.directory))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(mark.directory / "config"))
    yield mark.directory
    mark.remove()


@pytest.fixture
def start(runtime: Path) -> Iterator[Start]:
    """Starts a daemon at an address."""
    running = []

    def make(bind: str) -> Daemon:
        program = _PROGRAM.format(runtime=str(runtime), config=os.environ["XDG_CONFIG_HOME"], bind=bind)
        running.append(Daemon(program=program))
        return running[-1]

    yield make
    for each in running:
        each.close()
    assert not [path for path in runtime.rglob("*") if path.is_socket()]


def _served(daemon: Daemon) -> list[str]:
    return daemon.ready_line.strip().partition(" serves ")[2].split(", ")


def test_a_daemon_bound_to_tcp_alone_is_operated_on_its_host(start: Start, runtime: Path) -> None:
    running = start("tcp://0.0.0.0:0")
    tcp, ipc = _served(running)
    assert ipc == f"ipc://{runtime}/plover/daemon.sock"
    port = tcp.rpartition(":")[2]
    code, out, errors = command("status")
    assert (code, f"daemon {running.pid} at {tcp}, {ipc}" in out) == (0, True), errors
    code, line, said = command("keys", "show", "--daemon")
    assert (code, said, f":tcp://{keys.host_name()}:{port}:" in line) == (0, "", True)
    with plover.connect() as session:
        assert session.submit(gpu_function(lambda: 7)).result() == 7
    code, out, errors = command("stop")
    assert (code, f"daemon {running.pid} has ended" in out) == (0, True), errors


@pytest.mark.parametrize("how", ["option", "environment"])
def test_it_is_ended_by_its_tcp_address_too(start: Start, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    running = start("tcp://127.0.0.1:0")
    address = _served(running)[0].replace("127.0.0.1", "localhost")
    if how == "environment":
        monkeypatch.setenv("PLOVER_ADDRESS", address)
    code, out, errors = command("drain", *(["--address", address] if how == "option" else []))
    assert (code, f"daemon {running.pid} has ended" in out) == (0, True), errors


def test_a_port_that_no_daemon_of_this_user_has_is_elsewhere(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start("tcp://127.0.0.1:0")
    port = int(_served(running)[0].rpartition(":")[2])
    for address in (f"tcp://192.0.2.1:{port}", f"tcp://127.0.0.1:{port % 60000 + 1}"):
        monkeypatch.setenv("PLOVER_ADDRESS", address)
        code, _, errors = command("stop")
        assert code == 1
        assert f"{address} ($PLOVER_ADDRESS): no daemon of yours on this machine listens there" in errors
    assert running.process.poll() is None


def test_where_another_has_the_default_socket_its_own_lies_beside_it(start: Start, runtime: Path) -> None:
    first = start("tcp://127.0.0.1:0")
    left = runtime / "plover" / "daemon-1.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))
    second = start("tcp://0.0.0.0:0")
    tcp, ipc = _served(second)
    assert ipc == f"ipc://{runtime}/plover/daemon-{second.pid}.sock"
    assert not left.exists()
    code, out, _ = command("status", "--address", ipc)
    assert (code, f"daemon {second.pid} at " in out) == (0, True)
    code, out, errors = command("stop")
    assert (code, f"daemon {first.pid} has ended" in out) == (0, True), errors
    for name in ("status", "stop"):
        code, out, errors = command(name)
        default = f"ipc://{runtime}/plover/daemon.sock"
        assert (code, out) == (1, "")
        assert errors == f"plover: no daemon runs at {default}, but at {ipc}: name it with --address\n"
    code, out, errors = command("stop", "--address", tcp.replace("0.0.0.0", "127.0.0.1"))
    assert (code, f"daemon {second.pid} has ended" in out) == (0, True), errors


def test_a_line_that_leads_to_this_machine_alone_says_so(start: Start) -> None:
    port = _served(start("tcp://127.0.0.1:0"))[0].rpartition(":")[2]
    code, line, said = command("keys", "show", "--daemon")
    assert (code, f":tcp://127.0.0.1:{port}:" in line) == (0, True)
    assert "listens at 127.0.0.1 alone, where nobody on another machine reaches it: for them `plover start" in said


def test_the_daemon_that_the_environment_names_is_this_machines(
    daemon: Daemon, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = _served(start("tcp://*:0"))[0].rpartition(":")[2]
    monkeypatch.setenv("PLOVER_ADDRESS", daemon.address)
    code, line, said = command("keys", "show", "--daemon")
    assert (code, said, f":{port}:" in line) == (0, "", True)
