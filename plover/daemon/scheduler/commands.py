"""Commands: what the scheduler wants done, as frozen records in the imperative. The shell carries them out in order.

Guarantees: a command names calls, workers and nests by the scheduler's own numbers and clients by their ids; it never
holds payload bytes. Outcomes that a worker produced are referred to (`FromWorker`), those that the scheduler itself
decides are spelled out.
"""

from __future__ import annotations

from typing import Literal

import msgspec

# -- outcomes ----------------------------------------------------------------------------------------------------------


class FromWorker(msgspec.Struct, frozen=True):
    """The outcome that the worker sent for this attempt; the shell holds its bytes."""

    attempt: int


class Lost(msgspec.Struct, frozen=True):
    """The last allowed attempt died with its worker; `unwell` is why that had been given up before, if it had."""

    reason: str
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    unwell: str = ""


Workers = Literal["busy", "starting", "failing", "silent"]


class TimedOut(msgspec.Struct, frozen=True):
    """The call waited (`queue`) or ran (`run`) longer than it was allowed to. What it waited for: workers that were `busy`
    with others, one that was still `starting`, one that had been `failing` to start, or one that was `silent`: it had the
    call, and ended without beginning it. `failure` says of the last two how.
    """

    phase: Literal["queue", "run"]
    limit_s: float
    workers: Workers = "busy"
    failure: str = ""


class Cancelled(msgspec.Struct, frozen=True):
    """The call was cancelled: before it ran, by an interrupt of its code, or by killing its worker. `stopped`: because the
    daemon is being stopped.
    """

    tier: Literal["queue", "interrupt", "kill"]
    stopped: bool = False


class Versions(msgspec.Struct, frozen=True):
    """The two sides of a `VersionMismatch`: what the client has, and what this host has in its place."""

    client: str
    daemon: str


class Refused(msgspec.Struct, frozen=True):
    """The call was not taken, or can never run; `error` is the exception's name in `plover.errors`."""

    error: Literal["NoCapacity", "VersionMismatch", "DeviceError"]
    reason: str
    versions: Versions | None = None  # of a `VersionMismatch`


Outcome = FromWorker | Lost | TimedOut | Cancelled | Refused

# -- to clients --------------------------------------------------------------------------------------------------------


class SendOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Tell a client how its call ended, or tell it again. `call` is None for one that was never taken.

    `queue_s` is the time from submission to the last dispatch, `warm` whether that worker already held the function.
    """

    client: bytes
    submission: int
    call: int | None
    outcome: Outcome
    attempt: int = 0
    worker: int | None = None
    devices: tuple[str, ...] = ()
    queue_s: float = 0.0
    warm: bool = False


class TellUnknown(msgspec.Struct, frozen=True, kw_only=True):
    """Tell a client that the daemon knows nothing of this submission: it never arrived, or its result is forgotten."""

    client: bytes
    submission: int


# -- to workers --------------------------------------------------------------------------------------------------------


class SendCall(msgspec.Struct, frozen=True, kw_only=True):
    """Hand an attempt to a worker, with the function's payload if the worker lacks it."""

    worker: int
    call: int
    attempt: int
    function: bytes
    with_payload: bool


class InterruptCall(msgspec.Struct, frozen=True, kw_only=True):
    """Stop an attempt softly: mark it in the worker's status page, then signal the worker."""

    worker: int
    call: int
    attempt: int


class ReadPage(msgspec.Struct, frozen=True, kw_only=True):
    """Look into a worker's status page and answer at once with `PageRead`."""

    worker: int


# -- to launchers ------------------------------------------------------------------------------------------------------


class StartNest(msgspec.Struct, frozen=True, kw_only=True):
    """Bring a nest to life. `NestReady` or `NestGone` follows."""

    nest: int
    tenant: str
    environment: str
    devices: tuple[str, ...]


class StopNest(msgspec.Struct, frozen=True, kw_only=True):
    """End a nest and all that runs in it. `NestGone` follows."""

    nest: int


class StartWorker(msgspec.Struct, frozen=True, kw_only=True):
    """Fork a worker in a warm nest. `WorkerReady` or `WorkerGone` follows."""

    worker: int
    nest: int


class KillWorker(msgspec.Struct, frozen=True, kw_only=True):
    """Kill a worker at once. `WorkerGone` follows."""

    worker: int
    reason: str


# -- to the shell ------------------------------------------------------------------------------------------------------


class ReleaseArguments(msgspec.Struct, frozen=True, kw_only=True):
    """No further attempt of this call will be sent: its argument bytes may go."""

    call: int


class ReleaseCall(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler has forgotten the call: its result bytes may go, and the submission's name is free."""

    call: int


class LogFault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that must not happen did (an illegal transition, in production): one call failed for it; log it."""

    reason: str


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """All is done that draining or stopping asked for: the daemon ends."""


Command = (
    SendOutcome
    | TellUnknown
    | SendCall
    | InterruptCall
    | ReadPage
    | StartNest
    | StopNest
    | StartWorker
    | KillWorker
    | ReleaseArguments
    | ReleaseCall
    | LogFault
    | Exit
)
