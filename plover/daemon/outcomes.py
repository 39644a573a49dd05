"""What the scheduler decided about a call, in words: its outcomes as the client's messages.

Guarantees: every text says what happened, to which call or worker, and what to do now. Pure.
"""

from __future__ import annotations

import signal
from typing import assert_never

from plover.daemon.scheduler import commands as c

__all__ = ["death", "describe"]

Facts = dict[str, str | int | float | bool | None]


def describe(
    outcome: c.Lost | c.TimedOut | c.Cancelled | c.Refused, call: str, worker: str, output: str, attempts: int = 1
) -> tuple[str, str, Facts]:
    """An outcome that the daemon itself decided: the exception's name, its text, and its attributes.

    Args:
        outcome: the scheduler's.
        call: the call as people know it: its function's name and its id.
        worker: which worker ran it last, "" for none.
        output: the last lines that the worker wrote.
        attempts: how often it was tried.
    """
    match outcome:
        case c.Lost():
            return (
                "WorkerLost",
                _lost(outcome, call, worker, output, attempts),
                {
                    "worker": worker,
                    "exit_code": outcome.exit_code,
                    "signal": outcome.signal,
                    "out_of_memory": outcome.out_of_memory,
                    "output": output,
                },
            )
        case c.TimedOut(phase="queue", limit_s=limit):
            text = f"{call} waited longer than its queue_timeout of {limit:g} s: {_obstacle(outcome, worker)}"
            return "CallTimeout", text, {"phase": "queue", "limit_s": limit}
        case c.TimedOut(phase=phase, limit_s=limit):
            return (
                "CallTimeout",
                (
                    f"{call} ran longer than its timeout of {limit:g} s, and was stopped on {worker}. "
                    "Loading and compiling count; give it more time with .options(timeout=…)"
                ),
                {"phase": phase, "limit_s": limit},
            )
        case c.Cancelled(tier=tier, stopped=stopped):
            how = {"queue": "before it ran", "interrupt": "while it ran", "kill": "by killing its worker"}[tier]
            text = f"{call} was cancelled {how}"
            if stopped:
                text += (
                    ": the daemon was stopped by its operator. Start it again with `plover start`, or use another one"
                )
            return "CallCancelled", text, {"tier": tier}
        case c.Refused(error=error, reason=reason, versions=versions):
            facts: Facts = {} if versions is None else {"client": versions.client, "daemon": versions.daemon}
            return error, f"{call} was refused: {reason}", facts
        case _:
            assert_never(outcome)


def _obstacle(outcome: c.TimedOut, worker: str) -> str:
    match outcome.workers:
        case "busy":
            return "all workers were busy. Give it more time, a higher priority, or the host more devices"
        case "starting":
            return (
                "the worker was still starting. Give it more time; if that does not help, see `plover status` and the "
                "daemon's log"
            )
        case "failing":
            return (
                f"no worker could be started ({outcome.failure.partition(chr(10))[0]}). It is tried again; see the "
                "daemon's log, and mend what it says"
            )
        case "silent":
            return (
                f"it was sent to {worker}, which ended without beginning it ({outcome.failure}). Another worker takes its "
                "place; make the call again"
            )
        case _:
            assert_never(outcome.workers)


def _lost(outcome: c.Lost, call: str, worker: str, output: str, attempts: int) -> str:
    if outcome.unwell:
        how = outcome.unwell
    elif outcome.out_of_memory:
        how = "the kernel killed it for memory: work on less at a time, or give the host more"
    elif outcome.signal is not None:
        how = f"it was killed by signal {outcome.signal} ({_signal_name(outcome.signal)})"
    elif outcome.exit_code is not None:
        how = f"it exited with code {outcome.exit_code}"
    else:
        how = outcome.reason
    fate = "was given up" if outcome.unwell else "died"
    text = f"{call} was lost with {worker or 'its worker'}, which {fate} while it ran it: {how}."
    if output:
        text += "\nIts last lines were:\n" + "\n".join(f"    {line}" for line in output.splitlines()[-10:]) + "\n"
    if attempts > 1:
        advice = f"It was tried {attempts} times and its worker died each time: see what it does to it"
    else:
        advice = "If it may run twice, let it be tried again with .options(retries=…)"
    return text + ("" if text.endswith("\n") else " ") + advice


def death(exit_code: int | None, signal_number: int | None, reason: str, out_of_memory: bool = False) -> str:
    """How a process ended, for a log."""
    if signal_number is not None:
        how = f"killed by signal {signal_number} ({_signal_name(signal_number)})" + (
            " for memory" if out_of_memory else ""
        )
    else:
        how = f"exit code {exit_code}" if exit_code is not None else ""
    return ", ".join(filter(None, (how, reason))) or "nobody knows how"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"
