"""The table of pending calls."""

from __future__ import annotations

from typing import Any

from plover.bundles.collect import Collected
from plover.bundles.format import Bundle, BundleSet, decode
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
    several = [call(1, function), call(2, function), call(3, payload(b"other"))]
    for each in several:
        calls.add(each)
    assert [calls.must_send(each) for each in several] == [True, False, True]
    assert list(calls.pending) == [1, 2, 3]
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
    assert calls.must_send(call(2, function)) is True


def test_a_call_that_nobody_wants_is_dropped_and_its_function_stays_known() -> None:
    calls, function = PendingCalls(), payload()
    calls.add(one := call(1, function))
    assert calls.must_send(one) is True
    calls.drop(1)
    calls.drop(9)
    assert (len(calls), calls.must_send(call(2, function))) == (0, False)


def test_after_a_reconnection_what_was_sent_is_asked_for_and_acknowledgements_are_made_again() -> None:
    calls, function = PendingCalls(), payload()
    several = [call(number, function) for number in range(1, 5)]
    for each in several:
        calls.add(each)
    several[0].sent = several[1].sent = several[2].sent = True
    calls.end(1)
    assert calls.acknowledgements() == (1,)
    calls.end(2)
    calls.unacknowledged.append(3)  # and here came the interrupt: it was taken half
    assert calls.resume() == [several[2]]
    assert calls.acknowledgements() == (1, 2)
    calls.acknowledge_again()
    assert calls.acknowledgements() == (1, 2)


def test_the_acknowledgements_that_are_made_again_are_bounded() -> None:
    calls = PendingCalls()
    for number in range(10_000):
        calls.end(number)
        calls.acknowledgements()
    calls.acknowledge_again()
    assert 0 < len(calls.acknowledgements()) < 10_000


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


class TestBundles:
    ONE, TWO = Bundle.of("one", {"one.py": b"1"}), Bundle.of("two", {"two.py": b"2"})

    def with_modules(self, submission: int, *bundles: Bundle) -> PendingCall:
        wanted = BundleSet.of({bundle.name: bundle.digest for bundle in bundles})
        collected = Collected(wanted, {bundle.digest: bundle for bundle in bundles}, wanted.digest())
        return PendingCall(submission, payload(), [b"args"], [], m.CallOptions(), Future("c"), modules=collected)

    def test_each_goes_along_with_the_first_call_that_needs_it(self) -> None:
        calls = PendingCalls()
        assert calls.bundles_to_send(call(1, payload())) == ()
        assert calls.bundles_to_send(self.with_modules(2, self.ONE)) == [self.ONE.digest]
        assert calls.bundles_to_send(self.with_modules(3, self.ONE, self.TWO)) == [self.TWO.digest]
        assert calls.bundles_to_send(self.with_modules(4, self.ONE, self.TWO)) == []

    def test_those_that_were_disowned_or_refused_go_along_again(self) -> None:
        calls, one = PendingCalls(), self.with_modules(1, self.ONE, self.TWO)
        calls.add(one)
        calls.bundles_to_send(one)
        calls.disown(b"", self.TWO.digest)
        assert calls.bundles_to_send(one) == [self.TWO.digest]
        calls.refuse(1)
        assert calls.bundles_to_send(one) == [self.ONE.digest, self.TWO.digest]

    def test_a_call_as_a_message_with_its_bundles(self) -> None:
        one = self.with_modules(1, self.ONE, self.TWO)
        incoming = codec.FROM_CLIENT.read(one.frames(77, "3.11", True, (), [self.TWO.digest]))
        message = incoming.message
        assert isinstance(message, m.Submit)
        assert one.modules is not None
        assert message.modules == one.modules.wanted
        ((digest, data),) = message.bundles
        assert digest == self.TWO.digest
        assert decode(incoming.take((data,))[0]) == self.TWO

    def test_a_call_as_a_message_without_them(self) -> None:
        message = codec.FROM_CLIENT.read(self.with_modules(1, self.ONE).frames(77, "3.11", False)).message
        assert isinstance(message, m.Submit)
        assert (message.modules is not None, message.bundles) == (True, ())
        message = codec.FROM_CLIENT.read(call(1, payload()).frames(77, "3.11", False)).message
        assert isinstance(message, m.Submit)
        assert (message.modules, message.bundles) == (None, ())
