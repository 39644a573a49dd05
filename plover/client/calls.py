"""The table of pending calls: what this client still waits for, and what each needs to be sent (again).

Pure: no socket, no thread, no clock. The connection asks it what to send and tells it what came.

Guarantees: a submission has one entry from `add` until its outcome was taken; an outcome that nobody waits for is an
ordinary event. Assumes: the caller holds the connection's lock, or is its only thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from plover.serialize import Buffer, digest
from plover.wire import codec
from plover.wire import messages as m

if TYPE_CHECKING:
    from plover.client.futures import Future


class Payload(msgspec.Struct, frozen=True):
    """A serialized function: its bytes, their digest, and the classes that went by value, kept alive."""

    digest: bytes
    buffers: list[Buffer]
    classes: list[type]
    name: str

    @classmethod
    def of(cls, buffers: list[Buffer], classes: list[type], name: str) -> Payload:
        """Name a payload by its content."""
        return cls(digest(buffers), buffers, classes, name)


class PendingCall:
    """One call that has no outcome yet, with all that is needed to send it.

    Attributes:
        arguments: the packed arguments; owned by the call, or by a caller that waits for it.
        classes: classes that went by value in the arguments; a result may refer to them.
    """

    __slots__ = ("arguments", "classes", "future", "options", "payload", "submission")

    def __init__(
        self,
        submission: int,
        payload: Payload,
        arguments: Sequence[Buffer],
        classes: list[type],
        options: m.CallOptions,
        future: Future[Any],
    ) -> None:
        self.submission = submission
        self.payload = payload
        self.arguments = arguments
        self.classes = classes
        self.options = options
        self.future = future

    def frames(
        self, incarnation: int, python: str, with_payload: bool, acknowledged: tuple[int, ...] = ()
    ) -> list[Any]:
        """The call as a message."""
        body = codec.Body()
        arguments = body.pack(self.arguments)
        payload = body.pack(self.payload.buffers) if with_payload else None
        message = m.Submit(
            self.submission,
            self.payload.digest,
            python,
            arguments,
            self.options,
            payload,
            acknowledged,
            self.payload.name,
        )
        return codec.write(message, incarnation, body)


class PendingCalls:
    """The calls of one connection.

    Invariants: `_calls` holds exactly the submissions without an outcome; `_known` the digests that the daemon of this
    incarnation was sent and has not disowned; `_unacknowledged` outcomes that it does not know we have.
    """

    def __init__(self) -> None:
        self._calls: dict[int, PendingCall] = {}
        self._known: set[bytes] = set()
        self._unacknowledged: list[int] = []

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<{len(self._calls)} pending calls, {len(self._unacknowledged)} outcomes to acknowledge>"

    def add(self, call: PendingCall) -> bool:
        """Take a call on; returns whether its payload must go with it."""
        self._calls[call.submission] = call
        return self.must_send(call)

    def must_send(self, call: PendingCall) -> bool:
        """Whether the call's payload must go with it; it is believed to be with the daemon from now on."""
        fresh = call.payload.digest not in self._known
        self._known.add(call.payload.digest)
        return fresh

    def find(self, submission: int) -> PendingCall | None:
        """A pending call by its submission."""
        return self._calls.get(submission)

    def end(self, submission: int) -> PendingCall | None:
        """An outcome was delivered: the call is not pending any more, and the outcome will be acknowledged."""
        self._unacknowledged.append(submission)
        return self._calls.pop(submission, None)

    def refuse(self, submission: int) -> PendingCall | None:
        """The daemon never took the call: its payload may not have been kept either."""
        call = self._calls.pop(submission, None)
        if call is not None:
            self._known.discard(call.payload.digest)
        return call

    def acknowledgements(self) -> tuple[int, ...]:
        """Outcomes that the next message can acknowledge; they count as acknowledged then."""
        if not self._unacknowledged:
            return ()
        done, self._unacknowledged = self._unacknowledged, []
        return tuple(done)

    def disown(self, function: bytes) -> None:
        """The daemon does not hold this function."""
        self._known.discard(function)

    @property
    def unacknowledged(self) -> int:
        """How many outcomes the daemon does not know we have."""
        return len(self._unacknowledged)

    def submissions(self) -> tuple[int, ...]:
        """What is pending."""
        return tuple(self._calls)

    def resume(self) -> tuple[int, ...]:
        """What is pending, after a reconnection: an outcome that was taken half is not to be acknowledged."""
        self._unacknowledged = [each for each in self._unacknowledged if each not in self._calls]
        return self.submissions()

    def forget(self, submission: int) -> PendingCall | None:
        """Nobody wants a call any more that may not even have been sent."""
        return self._calls.pop(submission, None)

    def end_all(self) -> Iterable[PendingCall]:
        """The daemon is lost: nothing is pending any more."""
        calls, self._calls = self._calls, {}
        self._known.clear()
        self._unacknowledged.clear()
        return calls.values()
