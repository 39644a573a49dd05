"""Remote daemons over a network that is not there, or breaks: what is said, and that nothing is lost or done twice."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
from zmq.utils import z85

import plover
from plover import gpu_function, keys, ways
from plover.errors import AccessDenied, DaemonUnreachable
from plover.wire import curve
from plover.wire import messages as m
from tests.support.daemons import PATIENCE_S, Fifo
from tests.support.remote import Host, User, proxy, run


def _blocker() -> plover.GpuFunction:
    def block(begun: str, gate: str) -> str:
        with open(begun, "w") as fifo:
            fifo.write("begun\n")
        with open(gate) as fifo:
            return fifo.readline()

    made = gpu_function(block)
    assert isinstance(made, plover.GpuFunction)
    return made


# -- a host that is not there ------------------------------------------------------------------------------------------


def _known(me: User, address: str) -> str:
    """A profile of a daemon at an address."""
    run("keys", "trust", str(keys.DaemonLine("far", address, keys.client_key().public)))
    return "far"


def test_no_such_host(me: User) -> None:
    with pytest.raises(DaemonUnreachable, match="there is no host 'nowhere.invalid'") as caught:
        plover.connect(_known(me, "tcp://nowhere.invalid:7707"))
    assert caught.value.address == "tcp://nowhere.invalid:7707"


def test_nobody_listens(me: User) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen, so that nobody else takes the port
        port = bound.getsockname()[1]
        with pytest.raises(DaemonUnreachable, match=f"nobody listens at port {port}: .*plover start --bind tcp://"):
            plover.connect(_known(me, f"tcp://127.0.0.1:{port}"))


def test_a_host_that_says_nothing(me: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog: the kernel drops what asks for a connection, as a firewall does."""
    monkeypatch.setattr(ways, "_ANSWER_S", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.socket() as first,
        socket.socket() as second,
    ):
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        with pytest.raises(DaemonUnreachable, match="nothing answered within 0.3 s: .* a firewall"):
            plover.connect(_known(me, f"tcp://127.0.0.1:{server.getsockname()[1]}"))


def test_a_network_that_cannot_be_reached(me: User) -> None:
    with pytest.raises(DaemonUnreachable, match=r"tcp://255.255.255.255:7707 cannot be reached: "):
        plover.connect(_known(me, "tcp://255.255.255.255:7707"))


def test_a_daemon_that_hangs_in_the_middle_of_the_handshake(me: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_PROVE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # its kernel takes the connection, and nobody speaks
        known = _known(me, f"tcp://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(DaemonUnreachable, match="was reached, and did not answer within 0.3 s"):
            plover.connect(known)


def test_another_program_listens_there(me: User) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            for _ in range(2):  # the look whether the port answers, and the one for the key
                client, _ = server.accept()
                client.send(b"220 mail.example.org ESMTP Postfix\r\n")
                client.close()

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(AccessDenied, match="did not prove .* It is another program, or a daemon with another key"):
            plover.connect(_known(me, f"tcp://127.0.0.1:{server.getsockname()[1]}"))
        thread.join(PATIENCE_S)


# -- a network that breaks ---------------------------------------------------------------------------------------------


def _note() -> plover.GpuFunction:
    """A call that leaves a line each time that it runs."""

    def note(path: str, what: str) -> str:
        with open(path, "a") as file:
            file.write(what + "\n")
        return what

    made = gpu_function(note)
    assert isinstance(made, plover.GpuFunction)
    return made


def test_a_cut_line_loses_nothing_and_runs_nothing_twice(
    gpu1: Host, alice: User, fifos: list[Fifo], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    note = _note()
    with proxy(gpu1.port) as line:
        alice.enrol(gpu1, "alice", name="cut", address=line.address)
        with plover.connect("cut"):
            running = _blocker().submit(fifos[0].path, fifos[1].path)
            fifos[0].wait()
            before = [note.submit(str(log), f"before {number}") for number in range(20)]
            line.cut()
            between = [note.submit(str(log), f"between {number}") for number in range(20)]
            line.cut()
            fifos[1].say()
            assert running.result(PATIENCE_S) == "go\n"
            results = [future.result(PATIENCE_S) for future in before + between]
            assert results == [f"{when} {number}" for when in ("before", "between") for number in range(20)]
    assert sorted(log.read_text().splitlines()) == sorted(results)


@pytest.mark.parametrize("after", [0, 1000, 300_000, 900_000])
def test_a_line_that_is_cut_within_a_message(gpu1: Host, alice: User, tmp_path: Path, after: int) -> None:
    """Wherever it breaks: the message that was on its way comes once."""
    log = tmp_path / "log"

    @gpu_function
    def total(array: np.ndarray, path: str) -> int:
        with open(path, "a") as file:
            file.write("ran\n")
        return int(array.sum())

    array = np.ones(1 << 20, np.uint8)
    with proxy(gpu1.port) as line:
        alice.enrol(gpu1, "alice", name="cut", address=line.address)
        with plover.connect("cut"):
            gpu_function(lambda: 0)()
            line.cut_after(after)
            assert total(array, str(log)) == 1 << 20
        assert line.connections >= 3  # the look's two, and more than one for the calls
    assert log.read_text() == "ran\n"


def test_a_result_that_came_while_the_line_was_cut_is_fetched(
    gpu1: Host, alice: User, fifos: list[Fifo], tmp_path: Path
) -> None:
    with proxy(gpu1.port) as line:
        alice.enrol(gpu1, "alice", name="cut", address=line.address)
        with plover.connect("cut") as remote, plover.connect(gpu1.address) as local:
            running = remote.submit(_blocker(), fifos[0].path, fifos[1].path)
            fifos[0].wait()
            line.close_the_line()
            fifos[1].say()
            assert local.submit(lambda: 1).result(PATIENCE_S) == 1  # runs behind it, so that one has ended
            line.open_the_line()
            assert running.result(PATIENCE_S) == "go\n"


def test_a_question_that_is_lost_with_the_line_is_asked_again(gpu1: Host, alice: User) -> None:
    with proxy(gpu1.port) as line:
        alice.enrol(gpu1, "alice", name="cut", address=line.address)
        with plover.connect("cut") as session:
            connection = session.connection()
            answers: queue.SimpleQueue[object] = queue.SimpleQueue()
            os.kill(gpu1.pid, signal.SIGSTOP)
            try:
                sent = len(line.from_client)
                asking = threading.Thread(target=lambda: answers.put(connection.ask(m.AskStatus(), PATIENCE_S)))
                asking.start()
                line.wait_for_bytes(sent + 1)
                line.cut()  # the question is on its way; whoever reads it has nobody to answer
            finally:
                os.kill(gpu1.pid, signal.SIGCONT)
            assert isinstance(answers.get(timeout=PATIENCE_S), m.Status)
            asking.join(PATIENCE_S)


def test_a_line_that_stays_cut_is_told(gpu1: Host, alice: User, fifos: list[Fifo]) -> None:
    with proxy(gpu1.port) as line:
        alice.enrol(gpu1, "alice", name="cut", address=line.address)
        with plover.connect("cut") as session:
            running = session.submit(_blocker(), fifos[0].path, fifos[1].path)
            fifos[0].wait()
            line.close_the_line()
            with pytest.raises(plover.DaemonLost, match=f"the daemon at {line.address} went away"):
                running.result(PATIENCE_S)
            fifos[1].say()
            line.open_the_line()
            assert session.submit(lambda: 7).result(PATIENCE_S) == 7


def test_who_takes_the_line_over_is_sent_nothing(gpu1: Host, alice: User, fifos: list[Fifo], tmp_path: Path) -> None:
    """Everybody is let in there, and everything would be taken; but it has another key."""
    received = []
    public, secret = zmq.curve_keypair()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    impostor = curve.bind(router, "tcp://127.0.0.1:*", z85.decode(secret))
    asked = context.socket(zmq.REP)
    asked.bind(curve.ZAP_ADDRESS)
    with proxy(gpu1.port) as line:
        alice.enrol(gpu1, "alice", name="cut", address=line.address)
        with plover.connect("cut") as session:
            running = session.submit(_blocker(), fifos[0].path, fifos[1].path)
            fifos[0].wait()
            line.leads_to = int(impostor.rpartition(":")[2])
            line.cut()
            with pytest.raises(plover.DaemonLost, match="went away"):
                running.result(PATIENCE_S)
            with pytest.raises(AccessDenied, match="did not prove"):
                session.submit(lambda: "a secret")
            fifos[1].say()
        while zmq.select([router, asked], [], [], 0)[0]:
            received.append((router if router.poll(0) else asked).recv_multipart())
    context.destroy(linger=0)
    assert received == []


def test_a_slow_line_is_not_taken_for_a_dead_one(gpu1: Host, alice: User) -> None:
    """The kernel watches each connection on both sides, instead of ZMTP: see docs/adr/0013."""
    with plover.connect("gpu1"):
        assert gpu_function(lambda: 1)() == 1
        deadline = time.monotonic() + PATIENCE_S
        timers = _timers(gpu1.port)
        while {kind for kind, _ in timers} != {2}:  # proc(5): a keepalive timer
            assert time.monotonic() < deadline, timers  # what was sent last is still to be confirmed
            timers = _timers(gpu1.port)
        assert len(timers) == 2
        assert max(jiffies for _, jiffies in timers) <= 10 * os.sysconf("SC_CLK_TCK")


def _timers(port: int) -> list[tuple[int, int]]:
    """What the kernel waits for on a port's connections, on both sides, and for how many ticks."""
    timers = []
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, _, timer, *_ = row.split()
        if state == "01" and port in (int(end.rpartition(":")[2], 16) for end in (local, remote)):
            kind, _, when = timer.partition(":")
            timers.append((int(kind), int(when, 16)))
    return timers
