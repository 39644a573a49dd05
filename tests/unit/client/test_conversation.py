"""What client and daemon say to each other: with a link that is made of lists, and the clock as an argument."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from plover import serialize
from plover.bundles.collect import Collected
from plover.bundles.format import Bundle, BundleSet
from plover.client.calls import PendingCall
from plover.client.conversation import (
    ACKNOWLEDGE_AT,
    ACKNOWLEDGE_S,
    HANDSHAKE_S,
    LEASE_IS_SAFE_S,
    PING_S,
    RECONNECT_S,
    Conversation,
    Question,
    for_call,
)
from plover.client.futures import Future
from plover.errors import (
    AccessDenied,
    CallCancelled,
    DaemonLost,
    DaemonUnreachable,
    NoCapacity,
    PayloadTooLarge,
    PloverError,
    WireError,
)
from plover.wire import codec
from plover.wire import messages as m
from tests.support.fake_daemon import function

VERSIONS = m.Versions("0.1", "3.11")
WELCOME = m.Welcome(7, "default", VERSIONS, 100, 100, 1)
RECEIPT = m.Receipt(attempt=1)


class FakeLink:
    """Notes what is sent, and has what `late` was given."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.late: list[list[Any]] = []

    def send(self, frames: list[Any]) -> None:
        self.sent += [codec.FROM_CLIENT.read(each).message for each in codec.split(frames, "client")]

    def receive(self) -> list[Any]:
        if not self.late:
            raise zmq.Again
        return self.late.pop(0)

    def take(self) -> list[Any]:
        """What was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent


class Talk:
    """A conversation after its handshake, at the time 0, and short ways to go on with it."""

    def __init__(self, shaken: bool = True) -> None:
        self.link: Any = FakeLink()
        self.talk = Conversation("ipc:///d.sock", m.Hello(b"c", b"secret", VERSIONS), 0.0)
        self.talk.greet(self.link, 0.0)
        assert self.link.take() == [m.Hello(b"c", b"secret", VERSIONS)]
        if shaken:
            self.hear(WELCOME)

    def call(self, number: int, *, enter: bool = True, **options: Any) -> PendingCall:
        """A call that is in the table, and in the outbox."""
        future: Future[Any] = Future(f"c-{number}")
        packed = serialize.pack(number)
        call = PendingCall(number, function(), packed, [], m.CallOptions(**options), future)
        self.talk.calls.add(call)
        if enter:
            self.talk.outbox.append(call)
        return call

    def send(self, now: float = 0.0) -> list[Any]:
        """Send the outbox; returns the messages."""
        while self.talk.outbox:
            self.talk.send(self.link, [self.talk.outbox[0]], now)
            self.talk.outbox.popleft()
        return self.link.take()

    def hear(self, message: m.ToClient, now: float = 0.0, by_io: bool = True, body: codec.Body = codec.EMPTY) -> bool:
        """The daemon says something."""
        return self.talk.take(codec.write(message, 7, body), now, by_io)

    def end(self, number: int, now: float = 0.0, by_io: bool = True) -> bool:
        """The daemon has a result."""
        body = codec.Body()
        return self.hear(m.Outcome(number, "succeeded", RECEIPT, body.pack(serialize.pack(number))), now, by_io, body)

    def reconnect(self, now: float) -> list[Any]:
        """A new link, and the daemon's hand; returns what is said then."""
        self.talk.greet(self.link, now)
        self.hear(WELCOME, now)
        self.link.take()
        self.talk.keep_time(self.link, now)
        return self.link.take()


# -- the handshake -----------------------------------------------------------------------------------------------------


def test_a_welcome_ends_the_handshake() -> None:
    talk = Talk(shaken=False)
    assert (talk.talk.shaken, talk.talk.due()) == (False, HANDSHAKE_S)
    talk.hear(WELCOME)
    assert (talk.talk.shaken, talk.talk.welcome, talk.talk.due()) == (True, WELCOME, None)


def test_nobody_answers() -> None:
    talk = Talk(shaken=False)
    talk.talk.keep_time(talk.link, HANDSHAKE_S - 0.1)
    assert talk.talk.ended is None
    talk.talk.keep_time(talk.link, HANDSHAKE_S)
    assert isinstance(talk.talk.ended, DaemonUnreachable)
    assert str(talk.talk.ended) == (
        "no daemon answered at ipc:///d.sock within 10 s: nobody listens there now. Start one with "
        "`plover start --bind ipc:///d.sock`"
    )


def test_the_daemon_refuses() -> None:
    talk = Talk(shaken=False)
    talk.hear(m.Rejected("AccessDenied", "you do not know the secret", None, 0))
    assert isinstance(talk.talk.ended, AccessDenied)
    talk.talk.end(PloverError("a second reason"))
    assert isinstance(talk.talk.ended, AccessDenied)


def test_an_error_that_this_version_does_not_know_is_one_of_plovers() -> None:
    talk = Talk(shaken=False)
    talk.hear(m.Rejected("BaseException", "some reason", None, 0))
    assert type(talk.talk.ended) is PloverError


# -- out ---------------------------------------------------------------------------------------------------------------


def test_a_function_goes_along_once_and_acknowledgements_with_the_next_call() -> None:
    talk = Talk()
    calls = [talk.call(1), talk.call(2)]
    first, second = talk.send()
    assert (first.submission, first.payload is not None, first.acknowledged) == (1, True, ())
    assert (second.submission, second.payload, second.acknowledged) == (2, None, ())
    assert [call.sent for call in calls] == [True, True]
    talk.end(1)
    talk.call(3)
    assert talk.send()[0].acknowledged == (1,)


def test_what_has_ended_meanwhile_is_not_sent() -> None:
    talk = Talk()
    talk.call(1)
    talk.talk.calls.end(1)
    talk.talk.outbox.append(m.Cancel(1))
    assert talk.send() == []


def test_a_call_that_was_cancelled_before_it_was_sent_is_forgotten() -> None:
    talk = Talk()
    call = talk.call(1)
    call.future.cancel()
    talk.talk.outbox.append(m.Cancel(1))
    assert talk.send() == []
    assert len(talk.talk.calls) == 0


def test_a_cancelled_call_that_may_have_been_sent_is_cancelled_and_asked_for() -> None:
    """It may not be there: then nothing else would be heard of it."""
    talk = Talk()
    call = talk.call(1)
    call.sent = True
    call.future.cancel()
    assert talk.send() == [m.Cancel(1), m.Resume((1,))]
    talk.hear(m.Unknown((1,)))
    assert (len(talk.talk.calls), talk.send()) == (0, [])


def test_a_call_that_cannot_be_written_fails_alone() -> None:
    talk = Talk()
    call = talk.call(1, environment="\ud800")
    other = talk.call(2)
    assert [each.submission for each in talk.send()] == [2]
    with pytest.raises(UnicodeEncodeError):
        call.future.result(0)
    assert not other.future.done()
    assert list(talk.talk.calls.pending) == [2]


# -- in ----------------------------------------------------------------------------------------------------------------


def test_a_caller_takes_outcomes_and_output(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk()
    call = talk.call(1)
    talk.send()
    assert talk.hear(m.Output(1, 1, b"said\n"), by_io=False)
    assert talk.hear(m.Output(9, 1, b"of a call that has ended\n"), by_io=False)
    assert talk.end(1, by_io=False)
    assert talk.end(9, by_io=False)
    assert (call.future.result(0), capsys.readouterr().out) == (1, "said\n")
    assert talk.talk.calls.acknowledgements() == (1, 9)


def test_a_caller_leaves_what_others_wait_for_to_the_io_thread() -> None:
    talk = Talk()
    call = talk.call(1)
    seen: list[Any] = []
    call.future.add_done_callback(seen.append)
    assert not talk.end(1, by_io=False)
    assert (seen, len(talk.talk.calls), talk.talk.calls.unacknowledged) == ([], 1, [])
    assert talk.end(1)
    assert (seen, len(talk.talk.calls)) == ([call.future], 0)


@pytest.mark.parametrize(
    "message",
    [WELCOME, m.Rejected("X", "x"), m.PayloadWanted(1, b"f"), m.Unknown((1,)), m.Status(b"{}"), m.Ending(0)],
    ids=lambda message: type(message).__name__,
)
def test_a_caller_leaves_everything_else_to_the_io_thread(message: Any) -> None:
    talk = Talk()
    call = talk.call(1)
    assert not talk.hear(message, by_io=False)
    assert (talk.talk.ended, talk.talk.broken, call.future.done()) == (None, False, False)
    assert talk.hear(message)


def test_what_is_no_message_ends_the_conversation() -> None:
    talk = Talk()
    assert not talk.talk.take([b"nonsense"], 0.0, by_io=False)
    assert talk.talk.ended is None
    assert talk.talk.take([b"nonsense"], 0.0, by_io=True)
    assert isinstance(talk.talk.ended, WireError)
    assert "the daemon sent" in str(talk.talk.ended)


def test_a_decision_of_the_daemons_is_the_calls_exception() -> None:
    talk = Talk()
    call = talk.call(1)
    talk.hear(m.Outcome(1, "ended", RECEIPT, (), "NoCapacity", "full", {"limit": 3}))
    error = call.future.exception(0)
    assert isinstance(error, NoCapacity)
    assert (str(error), error.call_id, error.limit) == ("full", "c-1", 3)  # type: ignore[attr-defined]
    assert call.future.receipt is not None


def test_a_function_that_the_daemon_does_not_hold_is_sent_with_the_call() -> None:
    talk = Talk()
    talk.call(1)
    talk.send()
    talk.hear(m.PayloadWanted(1, function().digest))
    talk.hear(m.PayloadWanted(9, function().digest))
    (again,) = talk.send()
    assert (again.submission, again.payload is not None) == (1, True)


def test_bundles_that_the_daemon_does_not_hold_are_sent_with_the_call_again() -> None:
    talk, bundle = Talk(), Bundle.of("one", {"one.py": b""})
    call = talk.call(1)
    wanted = BundleSet.of({"one": bundle.digest})
    call.modules = Collected(wanted, {bundle.digest: bundle}, wanted.digest())
    (first,) = talk.send()
    assert (first.modules, len(first.bundles)) == (wanted, 1)
    talk.hear(m.PayloadWanted(1, b"", (bundle.digest,)))
    (again,) = talk.send()
    assert (again.submission, again.payload, len(again.bundles)) == (1, None, 1)


def test_a_message_that_was_refused_ends_its_call() -> None:
    talk = Talk()
    call = talk.call(1)
    talk.hear(m.Rejected("PayloadTooLarge", "too large", 1, 7, {"limit_bytes": 5}))
    talk.hear(m.Rejected("PayloadTooLarge", "too large", 9, 7))
    error = call.future.exception(0)
    assert isinstance(error, PayloadTooLarge)
    assert (error.limit_bytes, error.call_id, len(talk.talk.calls)) == (5, "c-1", 0)  # type: ignore[attr-defined]
    assert talk.talk.ended is None


def test_a_daemon_that_does_not_know_us_is_greeted_again() -> None:
    talk = Talk()
    talk.hear(m.Rejected("WireError", "who are you", None, 0))
    assert (talk.talk.broken, talk.talk.ended) == (True, None)


def test_any_other_refusal_ends_the_conversation() -> None:
    talk = Talk()
    talk.hear(m.Rejected("WireError", "out of turn", None, 7))
    assert isinstance(talk.talk.ended, WireError)


def test_answers_to_questions_in_order() -> None:
    talk = Talk()
    talk.hear(m.Status(b"nobody asked"))
    asked = [Question(m.AskStatus()), Question(m.AskToEnd(drain=True)), Question(m.AskStatus())]
    talk.talk.questions.extend(asked)
    for answer in (m.Ending(2), m.Status(b"1"), m.Status(b"3"), m.Ending(4)):
        talk.hear(answer)
    assert [each.answer.get_nowait() for each in asked] == [m.Status(b"1"), m.Ending(2), m.Status(b"3")]
    assert all(each.answer.empty() for each in asked)


def test_a_question_is_asked_again_after_a_reconnection_once() -> None:
    """It, or its answer, may have been lost with the connection: with a daemon that had forgotten the client, it was."""
    talk = Talk()
    sent, waiting = m.AskStatus(), m.AskToEnd(True)
    talk.talk.questions.extend([Question(sent), Question(waiting)])
    talk.talk.outbox.append(sent)
    assert talk.send() == [sent]
    talk.talk.outbox.append(waiting)  # when the connection broke it had not been sent
    talk.hear(m.Rejected("WireError", "who are you", None, 0))
    talk.reconnect(1.0)
    assert talk.send(1.0) == [waiting, sent]


# -- time --------------------------------------------------------------------------------------------------------------


def test_outcomes_are_acknowledged_soon_even_if_no_call_follows() -> None:
    talk = Talk()
    talk.call(1)
    talk.send()
    talk.end(1, now=1.0)
    assert talk.talk.due() == 1.0 + ACKNOWLEDGE_S
    talk.talk.keep_time(talk.link, 1.0)
    assert talk.link.take() == []
    talk.talk.keep_time(talk.link, 1.0 + ACKNOWLEDGE_S)
    assert talk.link.take() == [m.Acknowledge((1,))]
    assert talk.talk.due() is None


def test_many_outcomes_are_acknowledged_at_once() -> None:
    talk = Talk()
    for number in range(ACKNOWLEDGE_AT):
        talk.end(number, now=1.0)
    talk.talk.keep_time(talk.link, 1.0)
    assert talk.link.take() == [m.Acknowledge(tuple(range(ACKNOWLEDGE_AT)))]


def test_pings_while_calls_are_pending() -> None:
    talk = Talk()
    talk.talk.keep_time(talk.link, PING_S)
    assert talk.link.take() == []
    talk.call(1)
    talk.send(PING_S)
    assert talk.talk.due() == 2 * PING_S
    talk.talk.keep_time(talk.link, 2 * PING_S)
    assert talk.link.take() == [m.Ping()]


def test_a_cancellation_that_an_interrupt_cut_short_is_told_with_the_next_ping() -> None:
    talk = Talk()
    call = talk.call(1)
    talk.send()
    call.future.cancel()
    talk.talk.keep_time(talk.link, PING_S)
    assert talk.link.take() == [m.Ping(), m.Cancel(1)]


def test_after_a_long_silence_the_daemon_is_asked_whoever_speaks_first() -> None:
    talk = Talk()
    talk.call(1)
    talk.send()
    talk.call(2)
    late = LEASE_IS_SAFE_S + 1
    talk.send(late)
    assert talk.talk.due() == late
    talk.talk.keep_time(talk.link, late)
    assert talk.link.take()[0] == m.Resume((1, 2))
    talk.talk.keep_time(talk.link, late)
    assert talk.link.take() == []


def test_who_waited_for_nothing_was_not_silent() -> None:
    talk = Talk()
    talk.call(1)
    talk.send(LEASE_IS_SAFE_S + 1)
    talk.talk.keep_time(talk.link, LEASE_IS_SAFE_S + 1)
    assert not any(isinstance(each, m.Resume) for each in talk.link.take())


# -- reconnections -----------------------------------------------------------------------------------------------------


def test_after_a_reconnection_what_was_sent_is_asked_for_and_the_rest_is_made_again() -> None:
    talk = Talk()
    sent, cancelled, doubtful = talk.call(1), talk.call(2), talk.call(3)
    talk.send()
    talk.end(9, now=1.0)
    talk.talk.calls.acknowledgements()
    cancelled.future.cancel()
    talk.talk.outbox.append(doubtful)  # an interrupt came before it was taken off
    waiting = talk.call(4)
    assert talk.reconnect(1.0) == [m.Resume((1, 2)), m.Cancel(2), m.Acknowledge((9,))]
    assert [each.submission for each in talk.send()] == [3, 4]
    assert not any(call.future.done() for call in (sent, doubtful, waiting))


@pytest.mark.parametrize("retries", [0, 1])
def test_what_never_arrived_is_sent_again(retries: int) -> None:
    talk = Talk()
    talk.call(1, retries=retries)
    talk.send()
    talk.reconnect(LEASE_IS_SAFE_S)
    talk.hear(m.Unknown((1, 9)))
    assert [each.submission for each in talk.send()] == [1]


def test_what_may_have_been_forgotten_is_lost() -> None:
    talk = Talk()
    call = talk.call(1)
    talk.send()
    talk.reconnect(LEASE_IS_SAFE_S + 1)
    talk.hear(m.Unknown((1,)))
    error = call.future.exception(0)
    assert isinstance(error, DaemonLost)
    assert str(error) == (
        "the call (c-1) has no outcome: the daemon at ipc:///d.sock knows nothing of it (any more): it never arrived, or its "
        "result was held as long as results are held. If it may run twice, let it be tried again with .options(retries=…)"
    )
    assert (error.call_id, len(talk.talk.calls), talk.send()) == ("c-1", 0, [])


def test_what_may_have_been_forgotten_is_sent_again_where_it_may_run_twice() -> None:
    talk = Talk()
    talk.call(1, retries=1)
    talk.send()
    talk.reconnect(LEASE_IS_SAFE_S + 1)
    talk.hear(m.Unknown((1,)))
    assert [each.submission for each in talk.send()] == [1]


def test_what_was_told_half_is_not_sent_again() -> None:
    """It was acknowledged, so the daemon has forgotten it; and the interrupt came before it was off the table."""
    talk = Talk()
    call = talk.call(1)
    talk.send()
    call.future.deliver(False, serialize.pack(5), RECEIPT)
    talk.reconnect(1.0)
    talk.hear(m.Unknown((1,)))
    assert (call.future.result(0), len(talk.talk.calls), talk.send()) == (5, 0, [])


def test_the_daemon_does_not_come_back() -> None:
    talk = Talk()
    talk.talk.greet(talk.link, 5.0)
    assert talk.talk.due() == 5.0 + RECONNECT_S
    talk.talk.keep_time(talk.link, 5.0 + RECONNECT_S)
    assert isinstance(talk.talk.ended, DaemonLost)
    assert str(talk.talk.ended) == "the daemon at ipc:///d.sock went away; whether its pending calls ran is not known"


@pytest.mark.parametrize(
    "answer",
    [m.Rejected("AccessDenied", "another secret", None, 0), m.Welcome(8, "default", VERSIONS, 100, 100, 1)],
    ids=["another secret", "another incarnation"],
)
def test_another_daemon_answers(answer: Any) -> None:
    talk = Talk()
    talk.talk.greet(talk.link, 5.0)
    talk.hear(answer, 5.0)
    assert isinstance(talk.talk.ended, DaemonLost)
    assert str(talk.talk.ended) == (
        "the daemon at ipc:///d.sock was replaced by another one while calls were pending; whether they ran is not known. "
        "Make them again if that does no harm"
    )


@pytest.mark.parametrize(
    "answer",
    [m.Rejected("AccessDenied", "another secret", None, 0), m.Welcome(8, "default", VERSIONS, 100, 100, 1)],
    ids=["another secret", "another incarnation"],
)
def test_another_daemon_is_not_sent_what_waits_and_that_is_not_lost(answer: Any) -> None:
    talk = Talk()
    sent = talk.call(1)
    talk.send()
    talk.talk.greet(talk.link, 5.0)
    unsent = talk.call(2)
    talk.hear(answer, 5.0)
    assert not talk.talk.shaken
    talk.talk.end_calls()
    assert isinstance(sent.future.exception(0), DaemonLost)
    error = unsent.future.exception(0)
    assert isinstance(error, DaemonUnreachable)
    assert str(error).startswith(
        "the call (c-2) was not sent, as the daemon at ipc:///d.sock had gone away: see whether"
    )


def test_what_came_over_an_old_link_is_taken_unless_it_is_half_there(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk()
    call = talk.call(1)
    talk.send()
    body = codec.Body()
    outcome = m.Outcome(1, "succeeded", RECEIPT, body.pack(serialize.pack("x")))
    talk.link.late = [
        [b"the second frame of a message"],
        codec.write(m.Output(1, 1, b"late\n"), 7),
        codec.write(m.Rejected("WireError", "a stranger", None, 0), 7),
        codec.write(outcome, 7, body),
    ]
    talk.talk.take_late(talk.link, 1.0)
    assert (call.future.result(0), capsys.readouterr().out) == ("x", "late\n")
    assert (talk.talk.ended, talk.talk.broken) == (None, False)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_each_call_has_an_exception_of_its_own() -> None:
    talk = Talk()
    calls = [talk.call(1), talk.call(2)]
    cancelled = talk.call(3)
    cancelled.future.cancel()
    asked = Question(m.AskStatus())
    talk.talk.questions.append(asked)
    talk.talk.end(reason := DaemonLost("gone", address="a"))
    talk.talk.end_calls()
    errors: list[Any] = [call.future.exception(0) for call in calls]
    assert [(type(error), str(error), error.call_id, error.address) for error in errors] == [
        (DaemonLost, "the call (c-1) has no outcome: gone", "c-1", "a"),
        (DaemonLost, "the call (c-2) has no outcome: gone", "c-2", "a"),
    ]
    with pytest.raises(CallCancelled):
        cancelled.future.result(0)
    assert (len(talk.talk.calls), asked.answer.get_nowait()) == (0, reason)


def test_a_reason_without_a_call() -> None:
    reason = DaemonLost("gone", address="a")
    reason.add_note("seen here")
    error = for_call(reason, None)
    assert error is not reason
    assert (type(error), str(error), error.call_id, error.address) == (DaemonLost, "gone", None, "a")
