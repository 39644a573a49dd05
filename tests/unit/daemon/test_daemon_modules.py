"""The author's own modules in the daemon: kept by digest, held by calls, and part of what a function is."""

from __future__ import annotations

from plover.bundles.format import BundleSet
from plover.daemon import modules
from plover.daemon.calls import CallRecord, CallRecords
from plover.daemon.payloads import FunctionStore
from plover.wire import codec
from plover.wire import messages as m

ONE, TWO = b"1" * 32, b"2" * 32
SET = BundleSet.of({"a": ONE, "b": TWO}, ["torch"])


def record(wanted: BundleSet | None = SET) -> CallRecord:
    return CallRecord("t", b"c", m.Submit(1, b"f", "3.11", (), m.CallOptions(), modules=wanted), [])


def test_the_same_function_is_another_with_another_set() -> None:
    sets = [modules.EMPTY, SET, BundleSet.of({"a": ONE, "b": TWO}), BundleSet.of({"a": TWO, "b": TWO}, ["torch"])]
    keys = [modules.function_key(b"f", each) for each in sets]
    assert keys[0] == b"f"
    assert len(set(keys)) == 4
    assert modules.function_key(b"f", BundleSet.of({"b": TWO, "a": ONE}, ["torch"])) == keys[1]


def test_bundles_are_kept_missed_and_packed_by_digest() -> None:
    store, body = FunctionStore(1000), codec.Body()
    sent = ((ONE, body.add(b"first")),)
    submit = m.Submit(1, b"f", "3.11", (), m.CallOptions(), modules=SET, bundles=sent)
    incoming = codec.FROM_CLIENT.read(codec.write(submit, 1, body))
    modules.keep(store, "t", incoming, sent)
    assert modules.size_bytes(sent) == 5
    assert modules.missing(store, "t", SET) == (TWO,)
    assert modules.missing(store, "other", SET) == (ONE, TWO)
    store.put("t", TWO, [b"second"], 6)
    body = codec.Body()
    packed = modules.pack(store, "t", SET, body)
    assert [digest for digest, _ in packed] == [ONE, TWO]
    assert [bytes(each) for each in body.inline] == [b"first", b"second"]


def test_a_call_holds_its_bundles_until_no_attempt_can_follow() -> None:
    store = FunctionStore(0)
    calls = CallRecords(store)
    call = record()
    calls.submit(call)
    for digest in (b"f", ONE, TWO):
        store.put("t", digest, [b"x"], 1)
    calls.adopt(1)
    assert len(store) == 3
    calls.release_arguments(call)
    assert len(store) == 0


def test_what_came_with_a_submission_that_was_not_taken_goes_with_the_next_one() -> None:
    store = FunctionStore(0)
    calls = CallRecords(store)
    calls.submit(record())
    store.put("t", ONE, [b"x"], 1)
    calls.adopt(None)
    assert len(store) == 1
    calls.submit(record(None))
    assert len(store) == 0


def test_a_call_without_modules_needs_its_function_alone() -> None:
    assert record(None).digests == (b"f",)
    assert record(None).modules is modules.EMPTY
