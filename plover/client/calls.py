"""The table of pending calls: what this client still waits for, and what each needs to be sent (again).

Pure: no socket, no thread, no clock. The conversation asks it what to send and tells it what came.

Guarantees: a submission has one entry from when it is entered until its outcome was taken; an outcome that nobody waits for
is an ordinary event. An interrupt between any two steps of a method loses no call and no acknowledgement.

Assumes: whoever has the turn is the only one to use it, but for entering a call, which is one step.
"""

from __future__ import annotations

import collections
import contextvars
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from plover.bundles.references import NO_NAMES, Names
from plover.client.output import CallOutput
from plover.serialize import Buffer, digest
from plover.wire import codec
from plover.wire import messages as m

if TYPE_CHECKING:
    from plover.bundles.collect import Collected
    from plover.client.futures import Future
    from plover.client.segments import Loan

#: How far a call is known to be: it may have reached the daemon; it has written something, so a run of it has begun.
Stage = Literal["unsent", "sent", "begun"]

#: So many acknowledgements are remembered, because the last ones before a connection broke may not have arrived.
_REMEMBERED = 4096


class Payload(msgspec.Struct, frozen=True):
    """A serialized function: its bytes, their digest, the classes that went by value, kept alive, and the modules that
    it mentions.
    """

    digest: bytes
    buffers: list[Buffer]
    classes: list[type]
    name: str
    size_bytes: int = 0
    names: Names = NO_NAMES

    @classmethod
    def of(cls, buffers: list[Buffer], classes: list[type], name: str, names: Names = NO_NAMES) -> Payload:
        """Name a payload by its content."""
        return cls(digest(buffers), buffers, classes, name, _size_bytes(buffers), names)


def _size_bytes(buffers: Sequence[Buffer]) -> int:
    return sum(buffer.nbytes if isinstance(buffer, memoryview) else len(buffer) for buffer in buffers)


class PendingCall(msgspec.Struct, eq=False):
    """One call that has no outcome yet, with all that is needed to send it.

    Attributes:
        arguments: the packed arguments; owned by the call, or by a caller that waits for it.
        classes: classes that went by value in the arguments; a result may refer to them.
        sent: it may have reached the daemon.
        context: of who made the call; output is shown in it.
        output: made when there is any, which most calls have not.
        modules: what the call needs of the author's own; None for a call that mentions no module.
        loan: keeps the arguments that lie in segments as long as the call may be sent, or read; None if none do.
    """

    submission: int
    payload: Payload
    arguments: Sequence[codec.Piece]
    classes: list[type]
    options: m.CallOptions
    future: Future[Any]
    sent: bool = False
    context: contextvars.Context = msgspec.field(default_factory=contextvars.copy_context)
    output: CallOutput | None = None
    modules: Collected | None = None
    loan: Loan | None = None

    @property
    def stage(self) -> Stage:
        """How far it is known to be."""
        return "begun" if self.output is not None else "sent" if self.sent else "unsent"

    def written(self) -> CallOutput:
        """What the call writes."""
        if self.output is None:
            self.output = CallOutput(self.options.output == "capture", self.context)
        return self.output

    def receipt(self, receipt: m.Receipt) -> m.Receipt:
        """The call has ended: its receipt, with its output where that was captured."""
        if self.output is None and self.options.output == "show":
            return receipt
        return self.written().end(receipt)

    def frames(
        self,
        incarnation: int,
        python: str,
        with_payload: bool,
        acknowledged: tuple[int, ...] = (),
        with_bundles: Sequence[bytes] = (),
    ) -> list[Any]:
        """The call as a message; `with_bundles` are the digests of those that go along."""
        body = codec.Body()
        arguments = body.pack(self.arguments)
        payload = body.pack(self.payload.buffers) if with_payload else None
        modules = self.modules
        bundles: m.Bundles = ()
        if modules is not None and with_bundles:
            bundles = tuple([(each, body.add(modules.bundles[each].encode())) for each in with_bundles])
        message = m.Submit(
            self.submission,
            self.payload.digest,
            python,
            arguments,
            self.options,
            payload,
            acknowledged,
            self.payload.name,
            None if modules is None else modules.wanted,
            bundles,
        )
        return codec.write(message, incarnation, body)


class PendingCalls:
    """The calls of one connection.

    Invariants: `pending` holds exactly the submissions without an outcome; `_known` the digests (of functions and
    bundles) that the daemon of this incarnation was sent and has not disowned; `unacknowledged` outcomes that it does not
    know we have.
    """

    def __init__(self) -> None:
        self.pending: dict[int, PendingCall] = {}
        self.unacknowledged: list[int] = []
        self._acknowledged: collections.deque[int] = collections.deque(maxlen=_REMEMBERED)
        self._known: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.pending)

    def __repr__(self) -> str:
        return f"<{len(self.pending)} pending calls, {len(self.unacknowledged)} outcomes to acknowledge>"

    def add(self, call: PendingCall) -> None:
        """Take a call on."""
        self.pending[call.submission] = call

    def find(self, submission: int) -> PendingCall | None:
        """A pending call by its submission."""
        return self.pending.get(submission)

    def unwinding(self) -> bool:
        """Whether any was cancelled that may still run, and write."""
        return any(call.sent and call.future.cancelled() for call in list(self.pending.values()))

    def must_send(self, call: PendingCall) -> bool:
        """Whether the call's payload must go with it; it is believed to be with the daemon from now on."""
        known, function = self._known, call.payload.digest
        if function in known:
            return False
        known.add(function)
        return True

    def knows(self, function: bytes) -> bool:
        """Whether the daemon is believed to hold the function."""
        return function in self._known

    def bundles_to_send(self, call: PendingCall) -> Sequence[bytes]:
        """Digests of the bundles that must go with a call; they are believed to be with the daemon from now on."""
        if call.modules is None:
            return ()
        unknown = [digest for digest in call.modules.bundles if digest not in self._known]
        self._known.update(unknown)
        return unknown

    def disown(self, *digests: bytes) -> None:
        """The daemon does not hold this function, or these bundles."""
        self._known.difference_update(digests)

    def end(self, submission: int) -> PendingCall | None:
        """An outcome was delivered: the call is not pending any more, and the outcome will be acknowledged."""
        self.unacknowledged.append(submission)
        return self.pending.pop(submission, None)

    def refuse(self, submission: int) -> PendingCall | None:
        """The daemon never took the call: its payload may not have been kept either."""
        call = self.pending.pop(submission, None)
        if call is not None:
            self.disown(call.payload.digest, *(call.modules.bundles if call.modules is not None else ()))
        return call

    def drop(self, submission: int) -> None:
        """Nobody wants the call any more, and the daemon does not have it."""
        self.pending.pop(submission, None)

    def acknowledgements(self) -> tuple[int, ...]:
        """Outcomes that the next message can acknowledge; they count as acknowledged then."""
        if not self.unacknowledged:
            return ()
        done, self.unacknowledged = self.unacknowledged, []
        self._acknowledged.extend(done)
        return tuple(done)

    def acknowledge_again(self) -> None:
        """The last acknowledgements may not have arrived."""
        again, self.unacknowledged = self.unacknowledged, []
        self.unacknowledged.extend(dict.fromkeys([*self._acknowledged, *again]))
        self._acknowledged.clear()

    def resume(self) -> list[PendingCall]:
        """After a reconnection: what may be with the daemon. An outcome that was taken half is not to be acknowledged."""
        self.acknowledge_again()
        self.unacknowledged = [each for each in self.unacknowledged if each not in self.pending]
        return [call for call in list(self.pending.values()) if call.sent]
