"""What the daemon holds of each call beside the scheduler's books: whose it is, its bytes, and where it was sent.

Guarantees: a submission's bytes are its call's as soon as the scheduler has taken it, and go when it says so. Assumes: one
thread; the scheduler names each call by one number from its acceptance to its release.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from plover.daemon import modules
from plover.daemon.payloads import FunctionStore
from plover.daemon.scheduler import commands as c
from plover.wire import messages as m
from plover.wire.codec import Piece

if TYPE_CHECKING:
    from plover.daemon.workers import WorkerRecord

__all__ = ["CallRecord", "CallRecords"]


class CallRecord:
    """One call's bytes.

    Attributes:
        arguments: None once no attempt can follow.
        worker: the last one that it was sent to.
        dispatched: when that was; monotonic seconds.
        result: what came back, until the client has it.
        arrived: when that was.
        in_segments: whether arguments lie in segments.
        result_in_segments: whether the result does.
        repeatable: another attempt may follow one that has begun.
        modules: what it means by each module that it mentions.
        wants_bundles: the number of a worker that was sent it, and lacks some of its bundles; 0 while none said so.
    """

    __slots__ = (
        "arguments",
        "arrived",
        "client",
        "dispatched",
        "function",
        "in_segments",
        "log_level",
        "modules",
        "name",
        "repeatable",
        "result",
        "result_in_segments",
        "submission",
        "tenant",
        "wants_bundles",
        "worker",
    )

    def __init__(self, tenant: str, client: bytes, submit: m.Submit, arguments: Sequence[Piece]) -> None:
        self.tenant = tenant
        self.client = client
        self.submission = submit.submission
        self.function = submit.function
        self.name = submit.name
        self.log_level = submit.options.log_level
        self.modules = submit.modules or modules.EMPTY
        self.wants_bundles = 0
        self.arguments: Sequence[Piece] | None = arguments
        self.in_segments = self.result_in_segments = False
        self.repeatable = submit.options.retries > 0
        self.dispatched = 0.0
        self.arrived = 0.0
        self.worker: WorkerRecord | None = None
        self.result: tuple[m.Finished, Sequence[Piece]] | None = None

    @property
    def digests(self) -> tuple[bytes, ...]:
        """What it needs of the function store: its function and its bundles."""
        if self.modules is modules.EMPTY:
            return (self.function,)
        return (self.function, *modules.digests(self.modules))

    @property
    def call_id(self) -> str:
        """The call as its client names it."""
        return m.call_id(self.client, self.submission)

    def __str__(self) -> str:
        return f"{self.name or 'the call'} ({self.call_id})"

    def receipt(self, command: c.SendOutcome) -> m.Receipt:
        """What the call cost; times only where an attempt's result came."""
        worker = self.worker.name if self.worker is not None else None
        result = self.result
        if result is None:
            return m.Receipt(
                queue_s=command.queue_s if command.call is not None else None,
                worker=worker,
                devices=command.devices,
                attempt=command.attempt,
                simulated=command.devices[0].startswith("simulated:") if command.devices else None,
            )
        timings = result[0].timings
        return m.Receipt(
            queue_s=command.queue_s,
            transfer_s=max(0.0, timings.begun - self.dispatched) + max(0.0, self.arrived - timings.ended),
            load_s=timings.loaded - timings.begun,
            run_s=timings.ended - timings.loaded,
            worker=worker,
            devices=command.devices,
            attempt=command.attempt,
            warm=timings.warm,
            simulated=timings.simulated,
        )


class CallRecords:
    """All calls that the scheduler has not released, and the submission that it looks at, or looked at last.

    Args:
        functions: where payloads are kept; a call that may still be sent holds its function's, and its bundles.
        release_segments: takes a call whose arguments are not needed any more, or (the call, "result") likewise.
    """

    def __init__(self, functions: FunctionStore, release_segments: Callable[[object], None] = lambda _: None) -> None:
        self._functions = functions
        self._release_segments = release_segments
        self._by_number: dict[int, CallRecord] = {}
        self._submitted: CallRecord | None = None
        self._is_adopted = True  # what was submitted last; if not, its hold is still to be released

    def submit(self, call: CallRecord) -> None:
        """A submission came: what it needs stays, while what came along with it is stored and the scheduler looks at it."""
        before, was_adopted = self._submitted, self._is_adopted
        self._submitted, self._is_adopted = call, False
        self._functions.hold(call.tenant, *call.digests)
        if before is not None and not was_adopted:
            self.release_arguments(before)

    @property
    def submitted(self) -> CallRecord:
        """The submission that the scheduler looks at, or has refused."""
        assert self._submitted is not None
        return self._submitted

    def adopt(self, number: int | None) -> None:
        """The scheduler has looked at the submission, and has taken it as this call, or has not (None)."""
        call = self._submitted
        if call is not None and number is not None and number not in self._by_number:
            self._by_number[number] = call
            self._is_adopted = True

    def find(self, number: int) -> CallRecord | None:
        """A call by the scheduler's number."""
        return self._by_number.get(number)

    def __getitem__(self, number: int) -> CallRecord:
        return self._by_number[number]

    def release_arguments(self, call: CallRecord) -> None:
        """No attempt can follow any more."""
        if call.arguments is not None:
            call.arguments = None
            self._functions.release(call.tenant, *call.digests)
            if call.in_segments:
                self._release_segments(call)

    def release(self, number: int) -> None:
        """The client has the call's outcome, or never will."""
        call = self._by_number.pop(number)
        self.release_arguments(call)
        if call.result_in_segments:
            self._release_segments((call, "result"))
