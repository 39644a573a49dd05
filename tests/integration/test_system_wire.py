"""Bad input over a raw socket: refused with a reason, counted, and the daemon serves on."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from plover import gpu_function
from plover.bundles.format import Bundle, BundleSet
from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m
from tests.support.daemons import Daemon, RawPeer

pytestmark = pytest.mark.usefixtures("session")


def _prefix(header: bytes, magic: bytes = b"PL", version: int = codec.PROTOCOL, length: int | None = None) -> bytes:
    return struct.pack("<2sBBQI", magic, version, 0, 0, len(header) if length is None else length) + header


def _frame(message: m.AnyMessage, incarnation: int = 0) -> bytes:
    return bytes(codec.write(message, incarnation)[0])


def _submit(arguments: m.Packed, payload: m.Packed | None = ()) -> m.Submit:
    return m.Submit(1, b"d" * 32, "3.11", arguments, m.CallOptions(), payload, (), "f")


_HELLO = m.Hello(b"c" * 16, b"s" * 32, versions())
_FINISHED = m.Finished(1, 1, "succeeded", m.Timings(0, 0, 0, False, True))

#: What a peer that has not said hello sends, the kind it is counted as, the error, and words of the reason.
STRANGERS: dict[str, tuple[list[bytes], str, str, str]] = {
    "garbage": ([b"\x00\xff garbage of some length"], "not a message", "WireError", "not Plover's"),
    "http": ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], "not a message", "WireError", "not Plover's"),
    "empty": ([b""], "not a message", "WireError", "0 bytes"),
    "short": ([b"PL\x01"], "not a message", "WireError", "3 bytes"),
    "cut prefix": ([_frame(_HELLO)[: codec.PREFIX_SIZE - 1]], "not a message", "WireError", "shorter"),
    "truncated": ([_frame(_HELLO)[:-5]], "not a message", "WireError", "truncated"),
    "long header": ([_prefix(b"", length=codec.HEADER_LIMIT + 1)], "not a message", "WireError", "damaged"),
    "huge header": ([_prefix(b"", length=2**32 - 1)], "not a message", "WireError", "limit"),
    "version": ([_prefix(b"\x90", version=99)], "not a message", "WireError", "version 99"),
    "no array": ([_prefix(b"\xc0")], "not a message", "WireError", "none of its messages"),
    "tag": ([_prefix(b"\x91\xa5bogus")], "not a message", "WireError", "none of its messages"),
    "fields": ([_prefix(b"\x92\xa5hello\x01")], "not a message", "WireError", "none of its messages"),
    "deep": ([_prefix(b"\x91" * 100_000)], "not a message", "WireError", "none of its messages"),
    "submit": ([_frame(_submit(()))], "not a message", "WireError", "none of its messages"),
    "status": ([_frame(m.AskStatus())], "not a message", "WireError", "none of its messages"),
    "stop": ([_frame(m.AskToEnd(False))], "not a message", "WireError", "none of its messages"),
    "earlier": ([_frame(m.Ping(), 12345)], "earlier incarnation", "DaemonLost", "replaced"),
    "secret": ([_frame(_HELLO)], "wrong secret", "AccessDenied", "secret"),
    "worker": ([_frame(m.WorkerHello(1, versions(), 0.0))], "not a message", "WireError", "none of its messages"),
    "extra frames": ([_frame(_HELLO), b"more", b"and more"], "not a message", "WireError", "2 frames"),
}

#: What a client that has said hello sends.
CLIENTS: dict[str, tuple[Callable[[int], list[bytes]], str, str, str]] = {
    "garbage": (lambda _: [b"\x00\xff garbage of some length"], "not a message", "WireError", "not Plover's"),
    "a worker's": (lambda i: [_frame(_FINISHED, i)], "not a message", "WireError", "none of its messages"),
    "a worker's hello": (
        lambda i: [_frame(m.WorkerHello(1, versions(), 0.0), i)],
        "not a message",
        "WireError",
        "none of its messages",
    ),
    "the daemon's": (lambda i: [_frame(m.Unknown((1,)), i)], "not a message", "WireError", "none of its messages"),
    "a second hello": (lambda i: [_frame(_HELLO, i)], "out of turn", "WireError", "second hello"),
    "earlier": (lambda i: [_frame(m.Ping(), i ^ 2)], "earlier incarnation", "DaemonLost", "replaced"),
    "none": (lambda _: [_frame(m.Ping(), 0)], "earlier incarnation", "DaemonLost", "replaced"),
    "extra frames": (lambda i: [_frame(m.Ping(), i), b"more"], "not a message", "WireError", "1 frames"),
    "wrong size": (
        lambda i: [_frame(_submit((m.Frame(0, 100),)), i), b"x" * 99],
        "not a message",
        "WireError",
        "a frame of 99 bytes, described as 100",
    ),
    "missing frame": (
        lambda i: [_frame(_submit((m.Frame(0, 100),)), i)],
        "not a message",
        "WireError",
        "a description of frame 0 of 0",
    ),
    "negative frame": (
        lambda i: [_frame(_submit((m.Frame(-1, 4),)), i), b"more"],
        "not a message",
        "WireError",
        "a description of frame -1",
    ),
    "a frame twice": (
        lambda i: [_frame(_submit((m.Frame(0, 4), m.Frame(0, 4))), i), b"more"],
        "not a message",
        "WireError",
        "frame",
    ),
    "beyond the body": (
        lambda i: [_frame(_submit((m.Inline(0, 10),)), i) + b"x" * 9],
        "not a message",
        "WireError",
        "10 bytes at 0",
    ),
    "before the body": (
        lambda i: [_frame(_submit((m.Inline(-4, 2),)), i) + b"x" * 9],
        "not a message",
        "WireError",
        "2 bytes at -4",
    ),
}


def _refused(daemon: Daemon, peer: RawPeer, frames: list[bytes], kind: str, error: str, words: str) -> None:
    before = daemon.status()
    peer.send(frames)
    rejected: Any = peer.hear()
    assert isinstance(rejected, m.Rejected), rejected
    assert rejected.error == error
    assert words in rejected.reason
    after = daemon.status()
    assert after["pid"] == before["pid"]
    counted = dict(before["refused_messages"])
    counted[kind] = counted.get(kind, 0) + 1
    assert after["refused_messages"] == counted
    assert not {"queued", "dispatched"} & after["scheduler"]["calls"].keys()  # nothing was taken for a call
    assert after["scheduler"]["refused"] == before["scheduler"]["refused"]
    assert gpu_function(lambda x: x + 1)(1) == 2


@pytest.mark.parametrize("name", STRANGERS)
def test_a_strangers_bad_message(daemon: Daemon, name: str) -> None:
    frames, kind, error, words = STRANGERS[name]
    with RawPeer(daemon.address) as peer:
        _refused(daemon, peer, frames, kind, error, words)
        peer.hello()  # the same peer may still do it right


@pytest.mark.parametrize("name", CLIENTS)
def test_a_clients_bad_message(daemon: Daemon, name: str) -> None:
    make, kind, error, words = CLIENTS[name]
    with RawPeer(daemon.address) as peer:
        peer.hello()
        _refused(daemon, peer, make(peer.incarnation), kind, error, words)
        peer.say(m.AskStatus())
        assert isinstance(peer.hear(), m.Status)  # and it is still a client


def test_bundles_that_the_daemon_lacks_are_asked_for_by_digest(daemon: Daemon) -> None:
    one, two = Bundle.of("one", {"one.py": b""}), Bundle.of("two", {"two.py": b""})
    wanted = BundleSet.of({"one": one.digest, "two": two.digest})
    with RawPeer(daemon.address) as peer:
        peer.hello()
        body = codec.Body()
        payload = body.pack([b"no pickle"])
        submit = m.Submit(1, b"e" * 32, "3.11", (), m.CallOptions(), payload, (), "f", wanted)
        brought = msgspec.structs.replace(submit, bundles=((one.digest, body.add(one.encode())),))
        peer.send(codec.write(brought, peer.incarnation, body))
        assert peer.hear() == m.PayloadWanted(1, b"", (two.digest,))
        peer.say(msgspec.structs.replace(submit, payload=None))
        assert peer.hear() == m.PayloadWanted(1, b"", (two.digest,))
        peer.say(msgspec.structs.replace(submit, function=b"g" * 32, payload=None))
        assert peer.hear() == m.PayloadWanted(1, b"g" * 32)


def test_bundles_beyond_the_limit_are_refused(daemon: Daemon) -> None:
    large = bytes((80 << 20) + 1)
    with RawPeer(daemon.address) as peer:
        peer.hello()
        body = codec.Body()
        submit = m.Submit(1, b"h" * 32, "3.11", (), m.CallOptions(), (), (), "f", BundleSet.of({"one": b"1" * 32}))
        peer.send(
            codec.write(
                msgspec.structs.replace(submit, bundles=((b"1" * 32, body.add(large)),)), peer.incarnation, body
            )
        )
        rejected = peer.hear()
        assert (rejected.error, rejected.submission) == ("PayloadTooLarge", 1)
        assert rejected.reason == (
            f"the modules of this call of f: {len(large):,} bytes, and the daemon's limit bundles_bytes is {80 << 20:,}; "
            "move data out of the packages, or install them in the worker's environment"
        )


def test_a_client_cannot_reach_anothers_calls(daemon: Daemon) -> None:
    """Numbers are a client's own: cancelling, acknowledging and resuming somebody else's does nothing to it."""
    future = gpu_function(lambda x: x).submit(5)
    with RawPeer(daemon.address) as peer:
        peer.hello()
        for number in range(50):
            peer.say(m.Cancel(number))
        peer.say(m.Acknowledge(tuple(range(50))))
        peer.say(m.Resume((7,)))
        assert peer.hear() == m.Unknown((7,))
    assert future.result(30) == 5


def test_a_storm_of_garbage_from_many_peers_is_survived(daemon: Daemon) -> None:
    before = daemon.status()["refused_messages"].get("not a message", 0)
    for _ in range(20):
        with RawPeer(daemon.address) as peer:
            for number in range(20):
                peer.send([bytes([number]) * number])
            for _ in range(20):
                assert peer.hear().error == "WireError"
    assert daemon.status()["refused_messages"]["not a message"] == before + 400
    assert gpu_function(lambda: 3)() == 3
