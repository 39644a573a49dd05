"""Events: everything that can happen to the scheduler, as frozen records in the past tense.

The shell makes them out of messages, launcher news and the clock. Guarantees: nothing in here is payload bytes, a
socket, a clock or a thread. Assumes: `tenant` was settled at the peer's handshake, so a client cannot claim another's.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from plover.bundles.format import BundleSet

DeviceKind = Literal["cuda", "simulated"]


class GpuRequest(msgspec.Struct, frozen=True):
    """What ``gpu="H100:2"`` asks for: `count` devices whose model contains `model` (any model: ``""``)."""

    model: str = ""
    count: int = 1


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every event carries. `tenant` and `environment` are `default` until there are others."""

    tenant: str = "default"
    environment: str = "default"


# -- from clients ------------------------------------------------------------------------------------------------------


class ClientConnected(Event, frozen=True, kw_only=True):
    """A client shook hands, for the first time or again after its connection broke."""

    client: bytes


class ClientSeen(Event, frozen=True, kw_only=True):
    """A client showed that it lives (a ping); every other event of a client says so too."""

    client: bytes


class ClientGone(Event, frozen=True, kw_only=True):
    """A client said goodbye: its calls are of no use to anybody any more."""

    client: bytes


class CallSubmitted(Event, frozen=True, kw_only=True):
    """A client wants a function run. `(client, submission)` is the call's idempotent name: the same again is no new call.

    `function` names payload and `modules` together, so that the same function always has the same modules; `python` is
    the minor version that its bytecode needs, `size_bytes` what its arguments weigh. `timeout_s` limits each run,
    `queue_timeout_s` the whole wait.
    """

    client: bytes
    submission: int
    function: bytes
    python: str
    gpu: GpuRequest | None = None
    require_gpu: bool = False
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    retries: int = 0
    priority: int = 0
    size_bytes: int = 0
    modules: BundleSet = BundleSet()


class CallCancelled(Event, frozen=True, kw_only=True):
    """A client does not want a call any more."""

    client: bytes
    submission: int


class ResultsAcknowledged(Event, frozen=True, kw_only=True):
    """A client has these outcomes: they need not be held any longer."""

    client: bytes
    submissions: tuple[int, ...]


class ResultsWanted(Event, frozen=True, kw_only=True):
    """A client that connected again asks for what it still waits for."""

    client: bytes
    submissions: tuple[int, ...]


# -- from workers ------------------------------------------------------------------------------------------------------


class WorkerReady(Event, frozen=True, kw_only=True):
    """A worker has its device open and proved itself with its launch token."""

    worker: int


class CallFinished(Event, frozen=True, kw_only=True):
    """A worker ended an attempt. `interrupted`: it ended because it was told to stop; the rest is an outcome of the
    user's function (a value or an exception, which the scheduler does not tell apart but for the books). `run_s` is how long
    the worker says that it ran.
    """

    worker: int
    call: int
    attempt: int
    status: Literal["succeeded", "failed", "interrupted"]
    size_bytes: int = 0
    run_s: float | None = None


class PayloadMissed(Event, frozen=True, kw_only=True):
    """A worker was sent a call of a function, or of modules, that it does not hold (any more)."""

    worker: int
    call: int
    attempt: int


class WorkerUnwell(Event, frozen=True, kw_only=True):
    """A worker's device is broken for this process (a sticky error), or a call's modules cannot be imported beside what
    it has imported; it will exit and must be replaced.
    """

    worker: int
    reason: str


# -- from launchers and the shell --------------------------------------------------------------------------------------


class NestReady(Event, frozen=True, kw_only=True):
    """A nest's zygote has its imports done and can fork workers."""

    nest: int


class NestGone(Event, frozen=True, kw_only=True):
    """A nest ended, or never came to life. Every worker in it is gone too, whether told of or not."""

    nest: int
    reason: str


class WorkerGone(Event, frozen=True, kw_only=True):
    """A worker died. `begun` is the (call, attempt) that its status page said was running, if any; `reason` what the
    launcher knows beside the wait status.
    """

    worker: int
    begun: tuple[int, int] | None
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    reason: str = ""


class PageRead(Event, frozen=True, kw_only=True):
    """The answer to `ReadPage`: what a worker has begun, and when, on the clock of `now`; `moved_at` is when a part of a
    message that is too large to go at once last moved on its line, if one is under way.
    """

    worker: int
    begun: tuple[int, int] | None
    begun_at: float | None
    moved_at: float = 0.0


class DeadlineReached(Event, frozen=True, kw_only=True):
    """The clock reached `Scheduler.next_deadline()`."""


class DaemonStarted(Event, frozen=True, kw_only=True):
    """The daemon is up: workers may be warmed before anybody asks."""


class DrainRequested(Event, frozen=True, kw_only=True):
    """The operator wants the daemon to finish what it accepted, take nothing new, and exit."""


class StopRequested(Event, frozen=True, kw_only=True):
    """The operator wants the daemon to cancel everything and exit."""


AnyEvent = (
    ClientConnected
    | ClientSeen
    | ClientGone
    | CallSubmitted
    | CallCancelled
    | ResultsAcknowledged
    | ResultsWanted
    | WorkerReady
    | CallFinished
    | PayloadMissed
    | WorkerUnwell
    | NestReady
    | NestGone
    | WorkerGone
    | PageRead
    | DeadlineReached
    | DaemonStarted
    | DrainRequested
    | StopRequested
)
