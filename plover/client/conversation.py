"""What client and daemon say to each other, whoever has the turn: the handshake, calls, outcomes, pings.

A caller in its turn sends what waits in the outbox, and takes outcomes and output. Everything out of the ordinary (every
other message, and an outcome that others than its caller wait for) it leaves in the inbox to the I/O thread, which no signal
ever interrupts.

Guarantees: a call is in the outbox, or may have been sent, as long as it is in the table, and is sent only while it is there;
an outcome is delivered before its call is taken off. So a caller's part may be interrupted anywhere: after a reconnection
the daemon is asked for what may have been sent, and delivering twice does no harm. What the daemon does not know then is
sent again if it cannot have been forgotten (a client that was never silent for as long as its lease), or may run twice;
otherwise it ends as `DaemonLost`. Cancellations, acknowledgements and questions are made again, too; only output may be
lost.

Assumes: every method is called by whoever has the turn, but for `end`.
"""

from __future__ import annotations

import collections
import contextlib
import queue
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from plover import errors
from plover.client import attention
from plover.client.attention import Attention
from plover.client.calls import PendingCall, PendingCalls
from plover.client.link import Link
from plover.errors import DaemonLost, DaemonUnreachable, PloverError, WireError
from plover.wire import codec
from plover.wire import messages as m

if TYPE_CHECKING:
    from plover.client.futures import Future
    from plover.client.segments import ClientSegments

__all__ = ["Conversation", "Question"]

_Reason = TypeVar("_Reason", bound=PloverError)

#: How long a daemon may take to shake hands, at first and again after the connection broke.
HANDSHAKE_S = 10.0
RECONNECT_S = 5.0
#: The daemon's lease is 30 s: three pings fit into it.
PING_S = 10.0
#: A client that sent something within this time still has its lease: the daemon has forgotten nothing of it.
LEASE_IS_SAFE_S = 25.0
#: Outcomes are acknowledged with the next call, or at the latest when so many have gathered or so long has passed.
ACKNOWLEDGE_AT = 256
ACKNOWLEDGE_S = 0.1
#: Calls that were gathered are sent when the next comes, or somebody waits; or after so long, by the I/O thread.
GATHERED_FOR_S = 0.002


class Question:
    """One of the operator's, and where its answer goes: the daemon's, or why there is none."""

    def __init__(self, message: m.AskStatus | m.AskToEnd) -> None:
        self.message = message
        self.answer: queue.SimpleQueue[m.Status | m.Ending | PloverError] = queue.SimpleQueue()


class Conversation:
    """One client's side of it.

    Args:
        address: of the daemon, for errors.
        hello: what to begin with.
        now: monotonic seconds.

    Attributes:
        calls: what is pending.
        outbox: calls and other messages that wait for whoever has the turn, in order.
        gathered_at: when a call was last left in the outbox without anybody's being about to send it.
        inbox: messages that a caller left to the I/O thread, in order.
        questions: of the operator's, until each is answered or given up, in order. They are asked again after a reconnection.
        welcome: the daemon's first answer; kept up to date over reconnections.
        shaken: whether hands are shaken, so that anything else may be said.
        broken: a new link must be made, and hands be shaken again.
        ended: why the conversation is over; set once.
        segments: where results may lie; None with a daemon elsewhere.
    """

    def __init__(self, address: str, hello: m.Hello, now: float) -> None:
        self.calls = PendingCalls()
        self.outbox: collections.deque[PendingCall | m.FromClient] = collections.deque()
        self.inbox: collections.deque[Sequence[Any]] = collections.deque()
        self.gathered_at = 0.0
        self.questions: list[Question] = []
        self.welcome: m.Welcome | None = None
        self.shaken = False
        self.broken = False
        self.ended: PloverError | None = None
        self._has_gone = False  # it ended because the daemon has
        self.segments: ClientSegments | None = None
        self._address = address
        self._hello = hello
        self._attention = Attention(address, hello)
        self._incarnation = 0  # the daemon's; 0 before the handshake
        self._shaking_until = now + HANDSHAKE_S
        self._next_ping = now + PING_S
        self._acknowledge_by = 0.0  # means something while there are outcomes to acknowledge
        self._spoke_at = now
        self._must_ask = False  # for what is pending
        self._was_silent = False  # for so long that the daemon may have forgotten, and was not asked yet
        self._may_be_forgotten = False  # what it does not know now

    # -- out ------------------------------------------------------------------------------------------------------------

    def greet(self, link: Link, now: float) -> None:
        """On a fresh link: hold the hand out."""
        self._shaking_until = now + (HANDSHAKE_S if self.welcome is None else RECONNECT_S)
        self.broken = self.shaken = False
        link.send(codec.write(self._hello))

    def send(self, link: Link, items: Sequence[PendingCall | m.FromClient], now: float) -> None:
        """Send what waits in the outbox, but for what means nothing any more."""
        messages: list[list[Any]] = []
        self._note_silence(now)
        for item in items:
            if isinstance(item, PendingCall):
                messages += self._submit(item)
            elif type(item) is not m.Cancel or item.submission in self.calls.pending:
                messages.append(codec.write(item, self._incarnation))
        if messages:
            self._send(link, messages, now)

    def _submit(self, call: PendingCall) -> Sequence[list[Any]]:
        calls = self.calls
        if calls.pending.get(call.submission) is not call:
            return ()  # it was sent before, and has ended
        if call.future.cancelled():
            if not call.sent:
                calls.drop(call.submission)
                return ()
            # It may not be there, and then nothing else is heard of it.
            asked = m.Cancel(call.submission), m.Resume((call.submission,))
            return [codec.write(message, self._incarnation) for message in asked]
        python = self._hello.versions.python
        try:
            with_payload, with_bundles = calls.must_send(call), calls.bundles_to_send(call)
            frames = call.frames(self._incarnation, python, with_payload, calls.acknowledgements(), with_bundles)
        except Exception as error:  # what cannot be written is this call's failure, not that of whoever sends it
            calls.refuse(call.submission)
            call.future.fail(error)
            return ()
        call.sent = True
        return (frames,)

    def _note_silence(self, now: float) -> None:
        """Before something is said: whether nothing was for so long that what is pending may have been forgotten."""
        if now - self._spoke_at > LEASE_IS_SAFE_S and any(call.sent for call in self.calls.pending.values()):
            self._was_silent = True

    def _say(self, link: Link, message: m.FromClient, now: float) -> None:
        self._note_silence(now)
        self._send(link, [codec.write(message, self._incarnation)], now)

    def _send(self, link: Link, messages: list[list[Any]], now: float) -> None:
        for frames in codec.join(messages) if len(messages) > 1 else messages:
            link.send(frames)
        self._spoke_at = now

    # -- in -------------------------------------------------------------------------------------------------------------

    def take(self, frames: Sequence[Any], now: float, by_io: bool) -> bool:
        """One message of the daemon's; answers go into the outbox.

        Returns:
            False where a caller must leave the message to the I/O thread.
        """
        try:
            incoming = codec.TO_CLIENT.read(frames)
        except WireError as error:
            if by_io:
                self.end(error)
            return by_io
        self._attention.heard()
        message = incoming.message
        if type(message) is m.Outcome:
            return self._outcome(message, incoming, now, by_io)
        if type(message) is m.Output:
            self._output(message)
            return True
        if type(message) is m.Pong:
            return True
        if by_io:
            self._out_of_the_ordinary(message, now)
        return by_io

    def _output(self, message: m.Output) -> None:
        call = self.calls.find(message.submission)
        if call is not None:
            call.written().take(message)

    def _outcome(self, message: m.Outcome, incoming: codec.Incoming[m.ToClient], now: float, by_io: bool) -> bool:
        calls, submission = self.calls, message.submission
        call = calls.pending.get(submission)
        if call is not None:
            if call.loan is not None and message.status != "ended":
                call.loan.clean = True  # a worker has said so: it reads no argument any more
            if not self._deliver(call, message, incoming, by_io):
                return False
        if not calls.unacknowledged:
            self._acknowledge_by = now + ACKNOWLEDGE_S
        calls.end(submission)
        return True

    def _deliver(
        self, call: PendingCall, message: m.Outcome, incoming: codec.Incoming[m.ToClient], by_io: bool
    ) -> bool:
        future, receipt = call.future, call.receipt(message.receipt)
        if message.status == "ended":
            error = _error(message.error, message.reason, message.facts, future.call_id)
            return future.fail(error, receipt, by_io)
        try:
            buffers = incoming.take(message.packed, None if self.segments is None else self.segments.resolve)
        except (WireError, OSError) as error:
            return future.fail(for_call(_cannot_be_taken(error), future), receipt, by_io)
        return future.deliver(message.status == "failed", buffers, receipt, by_io)

    # -- only the I/O thread --------------------------------------------------------------------------------------------

    def take_late(self, link: Link, now: float) -> None:
        """What came over a link that is not used any more. Its last message may be half there; what is not a call's news
        was an answer to something that is said again.
        """
        while True:
            try:
                messages = codec.split(link.receive(), "daemon")
            except zmq.Again:
                return
            except WireError:
                continue
            for frames in messages:
                self._take_late(frames, now)

    def _take_late(self, frames: Sequence[Any], now: float) -> None:
        try:
            incoming = codec.TO_CLIENT.read(frames)
        except WireError:
            return
        message = incoming.message
        if type(message) is m.Outcome:
            self._outcome(message, incoming, now, by_io=True)
        elif type(message) is m.Output:
            self._output(message)

    def due(self) -> float | None:
        """When `keep_time` has something to do by itself."""
        if not self.shaken:
            return self._shaking_until
        if self._must_ask or self._was_silent:
            return self._spoke_at
        due = self._next_ping if self.calls.pending else None
        if self.calls.unacknowledged:
            due = min(self._acknowledge_by, self._next_ping)
        judged = self._attention.due()
        if judged is not None:
            due = judged if due is None else min(due, judged)
        if self.outbox:
            gathered_until = self.gathered_at + GATHERED_FOR_S
            return gathered_until if due is None else min(due, gathered_until)
        return due

    def keep_time(self, link: Link, now: float) -> None:
        """Acknowledge, ping, or give up."""
        if not self.shaken:
            if now >= self._shaking_until:
                self._lose(self._no_handshake())
            return
        if self._must_ask or self._was_silent:
            # After a reconnection; or a stopped process, a sleeping laptop: the lease may have run out.
            self._resume(link, now)
        gathered = len(self.calls.unacknowledged)
        if gathered and (now >= self._acknowledge_by or gathered >= ACKNOWLEDGE_AT):
            self._say(link, m.Acknowledge(self.calls.acknowledgements()), now)
        if now >= self._next_ping:
            late = now - self._next_ping > PING_S
            self._next_ping = now + PING_S
            if self.calls.pending:
                self._say(link, m.Ping(), now)
                self._attention.asked(now, late)
                self._cancel_again(link, list(self.calls.pending.values()), now)

        if self._attention.is_lost(now) and self.calls.pending:
            self._lose(self._silent())

    def _resume(self, link: Link, now: float) -> None:
        """Ask for everything that was sent, but for what is sent again anyway."""
        self._may_be_forgotten, self._was_silent, self._must_ask = self._was_silent, False, False
        waiting = {item.submission for item in self.outbox if type(item) is PendingCall}
        calls = [call for call in self.calls.resume() if call.submission not in waiting]
        self._acknowledge_by = now
        self._say(link, m.Resume(tuple([call.submission for call in calls])), now)
        self._cancel_again(link, calls, now)

    def _cancel_again(self, link: Link, calls: list[PendingCall], now: float) -> None:
        """An interrupt in the middle of `cancel` may have kept the daemon from being told."""
        for call in calls:
            if call.future.cancelled():
                self._say(link, m.Cancel(call.submission), now)

    def _out_of_the_ordinary(self, message: m.ToClient, now: float) -> None:
        match message:
            case m.Welcome():
                self._welcomed(message, now)
            case m.Rejected():
                self._rejected(message)
            case m.PayloadWanted():
                self.calls.disown(message.function, *message.bundles)
                call = self.calls.find(message.submission)
                if call is not None:
                    self.outbox.append(call)
            case m.Unknown():
                for submission in message.submissions:
                    self._unknown(submission)
            case m.Status() | m.Ending():
                self._answered(message)

    def _answered(self, answer: m.Status | m.Ending) -> None:
        """To the first who asked for such a thing: a question that was asked twice may have another answer."""
        kind = m.AskStatus if type(answer) is m.Status else m.AskToEnd
        for question in list(self.questions):
            if type(question.message) is kind:
                question.answer.put(answer)
                self.forget(question)
                return

    def _ask_again(self) -> None:
        """The questions, or their answers, may have been lost with the connection; but not those that were not sent yet."""
        waiting = list(self.outbox)
        for question in list(self.questions):
            if not any(item is question.message for item in waiting):
                self.outbox.append(question.message)

    def forget(self, question: Question) -> None:
        """Nobody waits for its answer any more."""
        with contextlib.suppress(ValueError):
            self.questions.remove(question)

    def _unknown(self, submission: int) -> None:
        call = self.calls.find(submission)
        if call is None:
            return
        if call.future.has_ended():  # cancelled, or told half when an interrupt came
            self.calls.drop(submission)
            call.future.announce()
        elif call.options.retries > 0 or not self._may_be_forgotten:
            self.outbox.append(call)
        else:
            self.calls.refuse(submission)
            call.future.fail(self._forgotten(call.future))

    def _welcomed(self, welcome: m.Welcome, now: float) -> None:
        before, self.welcome = self.welcome, welcome
        self._incarnation = welcome.incarnation
        self._next_ping = now + PING_S
        if before is not None and before.incarnation != welcome.incarnation:
            self._lose(self._replaced())
            return  # with `shaken` what was meant for the earlier one would be sent
        if before is not None:
            self._was_silent = self._was_silent or now - self._spoke_at > LEASE_IS_SAFE_S
            self._must_ask = True
            self._ask_again()
        self.shaken = True

    def _rejected(self, message: m.Rejected) -> None:
        if message.submission is not None:
            call = self.calls.refuse(message.submission)
            if call is not None:
                call.future.fail(_error(message.error, message.reason, message.facts, call.future.call_id))
        elif self.welcome is not None and not self.shaken:
            # It took our hand before: each daemon makes a secret of its own, so this is another one.
            self._lose(self._replaced())
        elif self.welcome is not None and message.incarnation != self._incarnation:
            self.broken = True  # a daemon that does not know us: shake hands, and learn whether it is a new one
        else:
            self.end(_error(message.error, message.reason, message.facts, None))

    # -- the end --------------------------------------------------------------------------------------------------------

    def end(self, reason: PloverError) -> None:
        """Nothing can be said any more. Anybody may say so; the I/O thread then calls `end_calls`."""
        if self.ended is None:
            self.ended = reason

    def _lose(self, reason: PloverError) -> None:
        """The daemon has gone."""
        self._has_gone = True
        self.end(reason)

    def end_calls(self) -> None:
        """Whatever is pending ends for the reason that the conversation ended for."""
        assert self.ended is not None
        pending = self.calls.pending
        while pending:
            submission, call = next(iter(pending.items()))
            reason = for_call(self.ended, call.future)
            call.future.fail(self._unsent(call.future) if self._has_gone and not call.sent else reason)
            del pending[submission]
        while self.questions:
            self.questions.pop().answer.put(self.ended)
        if self.segments is not None:
            self.segments.leave()

    def unreachable(self, waited_s: float) -> DaemonUnreachable:
        """Nobody answered."""
        from plover.client import silence

        return DaemonUnreachable(silence.explain(self._address, waited_s), address=self._address)

    def _no_handshake(self) -> PloverError:
        if self.welcome is None:
            return self.unreachable(HANDSHAKE_S)
        return DaemonLost(
            f"the daemon at {self._address} went away; whether its pending calls ran is not known",
            address=self._address,
        )

    def _silent(self) -> DaemonLost:
        from plover.client import silence

        why = silence.explain(self._address, attention.SILENCE_S + attention.PROBE_S)
        return DaemonLost(f"{why}. Whether its pending calls ran is not known", address=self._address)

    def _unsent(self, future: Future[Any]) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"{future.title} was not sent, as the daemon at {self._address} had gone away: see whether one runs there with "
            "`plover status`, and make the call again",
            address=self._address,
            call_id=future.call_id,
        )

    def _replaced(self) -> DaemonLost:
        return DaemonLost(
            f"the daemon at {self._address} was replaced by another one while calls were pending; "
            "whether they ran is not known. Make them again if that does no harm",
            address=self._address,
        )

    def _forgotten(self, future: Future[Any]) -> DaemonLost:
        reason = DaemonLost(
            f"the daemon at {self._address} knows nothing of it (any more): it never arrived, or its result was held as "
            "long as results are held. If it may run twice, let it be tried again with .options(retries=…)",
            address=self._address,
        )
        return for_call(reason, future)


def _error(name: str, reason: str, facts: dict[str, Any], call_id: str | None) -> PloverError:
    """An error that the daemon named, as the exception of that name."""
    cls = getattr(errors, name, PloverError)
    if not (isinstance(cls, type) and issubclass(cls, PloverError)):
        cls = PloverError
    return cls(reason, **({"call_id": call_id} if call_id is not None else {}), **facts)


def _cannot_be_taken(error: Exception) -> PloverError:
    return PloverError(
        f"its result lies in shared memory, and could not be taken from there: {error}. It ran; make it again if that does "
        "no harm, with fewer large results alive, or a smaller one"
    )


def for_call(reason: _Reason, future: Future[Any] | None) -> _Reason:
    """The conversation's end as one call's error (None: as anything else's): each raises an exception of its own."""
    facts = {name: value for name, value in vars(reason).items() if name != "__notes__"}
    if future is None:
        return type(reason)(str(reason), **facts)
    return type(reason)(f"{future.title} has no outcome: {reason}", **{**facts, "call_id": future.call_id})
