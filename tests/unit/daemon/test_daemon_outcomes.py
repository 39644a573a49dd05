"""Every outcome that the daemon decides, in words."""

from __future__ import annotations

from typing import Any

import pytest

from plover import errors
from plover.daemon.outcomes import death, describe
from plover.daemon.scheduler import commands as c

CALL = "saxpy (c-1)"


def told(outcome: Any, worker: str = "worker 3 (pid 99)", output: str = "") -> tuple[str, str, dict[str, Any]]:
    error, text, facts = describe(outcome, CALL, worker, output)
    made = getattr(errors, error)(text, **facts)  # as the client makes it
    assert isinstance(made, errors.PloverError)
    assert all(hasattr(type(made), name) for name in facts)
    return error, text, dict(facts)


ADVICE = "If it may run twice, let it be tried again with .options(retries=…)"


@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        (
            c.Lost("died", None, 9, True),
            "the kernel killed it for memory: work on less at a time, or give the host more",
        ),
        (c.Lost("died", None, 11), "it was killed by signal 11 (SIGSEGV)"),
        (c.Lost("died", None, 40), "it was killed by signal 40 (a real-time signal)"),
        (c.Lost("died", 3), "it exited with code 3"),
        (c.Lost("died", 0), "it exited with code 0"),
        (c.Lost("its nest ended"), "its nest ended"),
    ],
)
def test_a_lost_call(outcome: c.Lost, how: str) -> None:
    error, text, facts = told(outcome)
    assert error == "WorkerLost"
    assert text == f"{CALL} was lost with worker 3 (pid 99), which died while it ran it: {how}. {ADVICE}"
    assert facts == {
        "worker": "worker 3 (pid 99)",
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "out_of_memory": outcome.out_of_memory,
        "output": "",
    }


def test_a_lost_call_that_was_tried_as_often_as_it_may_be() -> None:
    _, text, _ = describe(c.Lost("died", 3), CALL, "worker 3", "", attempts=3)
    assert text.endswith(
        "it exited with code 3. It was tried 3 times and its worker died each time: see what it does to it"
    )
    assert "retries" not in text


def test_how_a_process_ended_in_a_log() -> None:
    assert death(3, None, "") == "exit code 3"
    assert death(0, None, "told to") == "exit code 0, told to"
    assert death(None, 9, "") == "killed by signal 9 (SIGKILL)"
    assert death(None, 9, "", out_of_memory=True) == "killed by signal 9 (SIGKILL) for memory"
    assert death(None, None, "its nest ended") == "its nest ended"
    assert death(None, None, "") == "nobody knows how"


def test_a_call_that_was_cancelled_because_the_daemon_was_stopped() -> None:
    _, text, facts = told(c.Cancelled("queue", stopped=True))
    assert text == (
        f"{CALL} was cancelled before it ran: the daemon was stopped by its operator. Start it again with `plover start`, "
        "or use another one"
    )
    assert facts == {"tier": "queue"}


def test_a_lost_call_of_no_known_worker() -> None:
    assert "was lost with its worker, which died" in told(c.Lost("x"), worker="")[1]


def test_a_lost_call_shows_its_last_lines() -> None:
    output = "\n".join(f"line {number}" for number in range(15))
    _, text, facts = told(c.Lost("died", 1), output=output)
    assert "Its last lines were:\n    line 5\n" in text
    assert "line 4" not in text
    assert text.endswith("    line 14\n" + ADVICE)
    assert facts["output"] == output


def test_a_call_that_waited_too_long() -> None:
    error, text, facts = told(c.TimedOut("queue", 2.5))
    assert error == "CallTimeout"
    assert text.startswith(f"{CALL} waited longer than its queue_timeout of 2.5 s: ")
    assert facts == {"phase": "queue", "limit_s": 2.5}


def test_what_a_call_that_waited_too_long_waited_for() -> None:
    assert "s: all workers were busy. Give it" in told(c.TimedOut("queue", 2.5))[1]
    assert "s: the worker was still starting. Give it" in told(c.TimedOut("queue", 2.5, "starting"))[1]
    text = told(c.TimedOut("queue", 2.5, "silent", "worker 3 was ended by signal 9"))[1]
    assert "which ended without beginning it (worker 3 was ended by signal 9). Another worker takes its place" in text
    text = told(c.TimedOut("queue", 2.5, "failing", "nest 3 did not start: no cupy\nTraceback"))[1]
    assert "s: no worker could be started (nest 3 did not start: no cupy). It is tried again" in text


def test_a_call_that_ran_too_long() -> None:
    error, text, facts = told(c.TimedOut("run", 30.0))
    assert error == "CallTimeout"
    assert text.startswith(f"{CALL} ran longer than its timeout of 30 s, and was stopped on worker 3 (pid 99). ")
    assert "give it more time with .options(timeout=…)" in text
    assert facts == {"phase": "run", "limit_s": 30.0}


@pytest.mark.parametrize(
    ("tier", "how"), [("queue", "before it ran"), ("interrupt", "while it ran"), ("kill", "by killing its worker")]
)
def test_a_cancelled_call(tier: Any, how: str) -> None:
    assert told(c.Cancelled(tier)) == ("CallCancelled", f"{CALL} was cancelled {how}", {"tier": tier})


@pytest.mark.parametrize("error", ["NoCapacity", "VersionMismatch", "DeviceError"])
def test_a_refused_call(error: Any) -> None:
    assert told(c.Refused(error, "no room")) == (error, f"{CALL} was refused: no room", {})


def test_a_refusal_for_its_version_names_both_sides() -> None:
    refused = c.Refused("VersionMismatch", "no such Python", c.Versions(client="3.9", daemon="3.11"))
    error, text, facts = told(refused)
    assert (error, text) == ("VersionMismatch", f"{CALL} was refused: no such Python")
    assert facts == {"client": "3.9", "daemon": "3.11"}
    made = errors.VersionMismatch(text, **facts)
    assert (made.client, made.daemon) == ("3.9", "3.11")
