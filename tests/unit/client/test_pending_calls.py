"""The table of pending calls."""

from __future__ import annotations

from typing import Any

from plover.client.calls import Payload, PendingCall, PendingCalls
from plover.client.futures import Future
from plover.wire import codec
from plover.wire import messages as m


def payload(content: bytes = b"function") -> Payload:
    return Payload.of([content], [], "saxpy")


def call(submission: int, function: Payload, arguments: list[Any] | None = None) -> PendingCall:
    return PendingCall(submission, function, arguments or [b"args"], [], m.CallOptions(retries=1), Future("c"))


def test_a_payload_is_named_by_its_content() -> None:
    assert payload().digest == payload().digest
    assert payload().digest != payload(b"other").digest


def test_a_function_goes_along_with_its_first_call_only() -> None:
    calls, function = PendingCalls(), payload()
    assert calls.add(call(1, function)) is True
    assert calls.add(call(2, function)) is False
    assert calls.add(call(3, payload(b"other"))) is True
    assert calls.submissions() == (1, 2, 3)
    assert len(calls) == 3


def test_a_disowned_function_goes_along_again() -> None:
    calls, function = PendingCalls(), payload()
    first = call(1, function)
    calls.add(first)
    calls.disown(function.digest)
    calls.disown(b"never heard of")
    assert calls.must_send(first) is True
    assert calls.must_send(first) is False


def test_an_outcome_ends_a_call_once_and_is_acknowledged_once() -> None:
    calls = PendingCalls()
    one = call(1, payload())
    calls.add(one)
    assert calls.find(1) is one
    assert calls.end(1) is one
    assert calls.find(1) is None
    assert calls.end(1) is None  # told again: to be acknowledged again
    assert calls.acknowledgements() == (1, 1)
    assert calls.acknowledgements() == ()


def test_an_outcome_that_nobody_waits_for_is_acknowledged_too() -> None:
    calls = PendingCalls()
    assert calls.end(9) is None
    assert repr(calls) == "<0 pending calls, 1 outcomes to acknowledge>"
    assert calls.acknowledgements() == (9,)


def test_a_refused_call_is_not_acknowledged_and_its_function_not_known() -> None:
    calls, function = PendingCalls(), payload()
    one = call(1, function)
    calls.add(one)
    assert calls.refuse(1) is one
    assert calls.refuse(1) is None
    assert calls.acknowledgements() == ()
    assert calls.add(call(2, function)) is True


def test_a_lost_daemon_leaves_nothing() -> None:
    calls, function = PendingCalls(), payload()
    both = [call(1, function), call(2, function)]
    for each in both:
        calls.add(each)
    calls.end(7)
    assert list(calls.end_all()) == both
    assert (len(calls), calls.acknowledgements(), calls.submissions()) == (0, (), ())
    assert calls.add(call(3, function)) is True


def test_a_call_as_a_message_with_its_payload() -> None:
    large = bytes(codec.INLINE_LIMIT + 1)
    one = call(5, payload(), [b"stream", large])
    incoming = codec.FROM_CLIENT.read(one.frames(77, "3.11", True, (1, 2)))
    message = incoming.message
    assert isinstance(message, m.Submit)
    assert (message.submission, message.python, message.acknowledged, message.name) == (5, "3.11", (1, 2), "saxpy")
    assert (message.function, message.options, incoming.incarnation) == (
        one.payload.digest,
        m.CallOptions(retries=1),
        77,
    )
    assert message.payload is not None
    assert [bytes(each) for each in incoming.take(message.payload)] == [b"function"]
    assert [bytes(each) for each in incoming.take(message.arguments)] == [b"stream", large]


def test_a_call_as_a_message_without_its_payload() -> None:
    message = codec.FROM_CLIENT.read(call(5, payload()).frames(77, "3.11", False)).message
    assert isinstance(message, m.Submit)
    assert message.payload is None
    assert message.acknowledged == ()
