"""What a call writes, by whatever way, is at its caller before its result, and nowhere else."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

import plover
from plover import gpu_function
from tests.support.daemons import PATIENCE_S, Daemon, Fifo, Mark, daemon, script

pytestmark = pytest.mark.usefixtures("session")


def test_every_way_to_write_arrives_before_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    @gpu_function
    def write(what: str) -> str:
        print("print", what)
        print("no newline", end="")
        sys.stdout.flush()
        sys.stderr.write(f"stderr {what}\n")
        os.write(1, f"\nraw {what}\n".encode())
        libc = ctypes.CDLL(None)
        libc.printf(b"printf %s\n", what.encode())
        subprocess.run(["/bin/sh", "-c", f"echo child {what}; echo child error {what} >&2"], check=True)
        os.write(2, b"\xff raw error\n")
        return what

    assert write("ü") == "ü"
    out, err = capsys.readouterr()  # at once: whatever comes later is not seen
    assert sorted(out.split("\n")) == sorted(["print ü", "no newline", "raw ü", "printf ü", "child ü", ""])
    assert out.index("print ü") < out.index("raw ü") < out.index("child ü")
    assert sorted(err.split("\n")) == sorted(["stderr ü", "child error ü", "\\xff raw error", ""])


def test_every_one_of_many_short_calls_has_its_output_before_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    @gpu_function
    def say(number: int) -> None:
        print(number)
        print(-number, file=sys.stderr)

    for number in range(1, 200):
        say(number)
        assert capsys.readouterr() == (f"{number}\n", f"{-number}\n")


def test_output_comes_while_the_call_runs(daemon: Daemon) -> None:
    program = """
import sys, plover
plover.connect(sys.argv[1])
@plover.gpu_function
def talk(path):
    print("early")
    with open(path) as fifo:
        return fifo.readline()
import os
os.mkfifo("gate")
print(talk(os.path.abspath("gate")), end="", flush=True)
"""
    with script(program, daemon.address) as running:
        assert running.line() == "early"
        with open(running.mark.directory / "gate", "w") as gate:
            gate.write("late\n")
        assert running.wait() == (0, "late\n")


def test_output_of_a_failed_call_arrives_too(capsys: pytest.CaptureFixture[str]) -> None:
    @gpu_function
    def fail() -> None:
        print("before it failed")
        raise ValueError("now")

    with pytest.raises(ValueError, match="now"):
        fail()
    assert capsys.readouterr().out == "before it failed\n"


@pytest.mark.parametrize("how", ["close", "replace", "dup2", "close descriptor"])
def test_what_a_call_does_to_its_streams_harms_no_later_call(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    @gpu_function
    def spoil() -> None:
        if how == "close":
            sys.stdout.close()
        elif how == "replace":
            sys.stdout = io.StringIO()
        elif how == "dup2":
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        else:
            os.close(1)

    @gpu_function
    def say() -> int:
        print("heard")
        return os.getpid()

    with daemon() as own, plover.connect(own.address):
        before = say()
        spoil()
        capsys.readouterr()
        assert say() == before  # the same worker
        assert capsys.readouterr().out == "heard\n"


def test_much_output_is_cut_with_a_line_that_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    @gpu_function
    def flood() -> int:
        line = "x" * 999
        for _ in range(12_000):
            print(line)
        return 1

    assert flood() == 1
    out, _ = capfd.readouterr()
    assert len(out) < (10 << 20) + 200
    assert "wrote more than 10485760 bytes; the rest is not shown" in out[-200:]

    @gpu_function
    def say() -> None:
        print("next")

    say()
    assert capfd.readouterr().out == "next\n"


_TALKER = """
import sys, plover
plover.connect(sys.argv[1])
name = sys.argv[2]
@plover.gpu_function
def say(number):
    import os, sys
    print(name, number)
    os.write(2, f"{name} {number}\\n".encode())
print("ready", flush=True)
with open(sys.argv[3]) as gate:
    gate.readline()
for _ in say.map(range(150)):
    pass
"""


_UNWINDS = """
import sys, plover
plover.connect(sys.argv[1])
@plover.gpu_function
def unwinds():
    import sys
    print("begun", flush=True)
    try:
        while True:
            pass
    finally:
        print("unwound")
        print("unwound too", file=sys.stderr)
if sys.argv[2] == "cancel":
    future = unwinds.submit()
    sys.stdin.readline()
    future.cancel()
elif sys.argv[2] == "session":
    with plover.connect(sys.argv[1]):
        future = unwinds.submit()
        sys.stdin.readline()
        future.cancel()
    print("left", flush=True)
else:
    unwinds()
"""


@pytest.mark.parametrize("how", ["cancel", "session", "interrupt"])
def test_what_a_cancelled_call_writes_while_it_unwinds_is_shown_although_its_script_ends(
    how: str, daemon: Daemon
) -> None:
    path = daemon.mark.directory / f"unwinds-{how}.py"
    path.write_text(_UNWINDS)
    running = subprocess.Popen(
        [sys.executable, str(path), daemon.address, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=daemon.mark.environment(),
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    if how == "interrupt":
        running.send_signal(signal.SIGINT)
    out, errors = running.communicate("go\n", timeout=PATIENCE_S)
    assert out == ("unwound\nleft\n" if how == "session" else "unwound\n")
    assert "unwound too\n" in errors


def test_a_script_does_not_wait_for_a_cancelled_call_that_does_not_end(daemon: Daemon, fifos: list[Fifo]) -> None:
    source = """
import sys, plover
plover.connect(sys.argv[1])
@plover.gpu_function
def stays(path):
    open(path, "w").write("begun\\n")
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
future = stays.submit(sys.argv[2])
open(sys.argv[2]).readline()
future.cancel()
"""
    with script(source, daemon.address, fifos[0].path) as running:
        assert running.wait()[0] == 0, running.stderr()


@pytest.mark.parametrize("devices", ["simulated:1", "simulated:2"])
def test_two_clients_see_only_what_is_theirs(devices: str) -> None:
    with daemon(devices) as own:
        gates = [own.mark.directory / name for name in ("ann", "bob")]
        for gate in gates:
            os.mkfifo(gate)
        with (
            script(_TALKER, own.address, "ann", str(gates[0]), mark=Mark()) as ann,
            script(_TALKER, own.address, "bob", str(gates[1]), mark=Mark()) as bob,
        ):
            for client in (ann, bob):
                assert client.line() == "ready"
            for gate in gates:
                gate.write_text("go\n")
            for client, name in ((ann, "ann"), (bob, "bob")):
                status, out = client.wait()
                assert status == 0, client.stderr()
                expected = sorted(f"{name} {number}" for number in range(150))
                assert sorted(out.splitlines()) == expected
                told = [line for line in client.stderr().splitlines() if not line.startswith("plover:")]
                assert sorted(told) == expected


def test_output_of_a_call_is_not_the_next_ones(capsys: pytest.CaptureFixture[str]) -> None:
    @gpu_function
    def late() -> Any:
        os.write(1, b"unflushed line without an end")

    @gpu_function
    def quiet() -> int:
        return 1

    late()
    assert capsys.readouterr().out == "unflushed line without an end"
    quiet()
    assert capsys.readouterr().out == ""
