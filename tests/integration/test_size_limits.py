"""What is beyond a limit on sizes: told with the limit's name, how large it is, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import plover
from plover import PayloadTooLarge, gpu_function
from plover.wire import codec
from plover.wire import messages as m
from tests.support.daemons import Daemon, RawPeer, daemon_with

_LIMITS = {"payload_bytes": 200_000, "function_bytes": 100_000}


@pytest.fixture(scope="module")
def small() -> Iterator[Daemon]:
    """A daemon with small limits."""
    running = Daemon(program=daemon_with(devices="simulated:1", shell=_LIMITS))
    with plover.connect(running.address):
        yield running
    running.close()


@pytest.mark.usefixtures("small")
class TestWhatACallIsTold:
    def test_of_its_arguments(self) -> None:
        @gpu_function
        def total(x: Any) -> Any:
            return x.sum()

        with pytest.raises(PayloadTooLarge) as caught:
            total(np.zeros(300_000, "u1"))
        text, size = str(caught.value), caught.value.size_bytes
        assert size is not None
        assert size > 300_000
        assert caught.value.limit_bytes == 200_000
        assert text.endswith(
            f"total: {size:,} bytes, and the daemon's limit payload_bytes is 200,000; send it in pieces, a call each, or "
            "let the function read it from a file that the worker sees"
        )
        assert text.startswith("the arguments of this call of ")

    def test_of_its_function(self) -> None:
        table = np.zeros(150_000, "u1")

        @gpu_function
        def look_up(i: int) -> Any:
            return table[i]

        with pytest.raises(
            PayloadTooLarge,
            match=r"look_up with what it captures: 15\d,\d{3} bytes, and the daemon's limit function_bytes is 100,000; pass",
        ):
            look_up(1)

    def test_of_its_result(self) -> None:
        @gpu_function
        def zeros(n: int) -> Any:
            return np.zeros(n, "u1")

        with pytest.raises(
            PayloadTooLarge,
            match=r"the result of .*zeros \(.*\): 30\d,\d{3} bytes, and the daemon's limit payload_bytes is 200,000; return "
            "less, or in pieces",
        ):
            zeros(300_000)


@pytest.mark.parametrize(
    ("arguments", "function", "reason"),
    [
        (
            300_000,
            1,
            "the arguments of this call of f: 300,000 bytes, and the daemon's limit payload_bytes is 200,000; send",
        ),
        (
            1,
            150_000,
            "the function of this call of f: 150,000 bytes, and the daemon's limit function_bytes is 100,000; pass",
        ),
    ],
)
def test_the_daemon_refuses_what_a_client_sends_all_the_same(
    small: Daemon, arguments: int, function: int, reason: str
) -> None:
    with RawPeer(small.address) as peer:
        peer.hello()
        body = codec.Body()
        submit = m.Submit(
            1, b"h" * 32, "3.11", (body.add(bytes(arguments)),), m.CallOptions(), (body.add(bytes(function)),), (), "f"
        )
        peer.send(codec.write(submit, peer.incarnation, body))
        rejected = peer.hear()
        assert (rejected.error, rejected.submission) == ("PayloadTooLarge", 1)
        assert rejected.reason.startswith(reason)


def test_a_message_beyond_all_limits_is_refused_before_it_is_read(small: Daemon) -> None:
    with RawPeer(small.address) as peer:
        peer.hello()
        half = bytes(_LIMITS["payload_bytes"] // 2 + codec.HEADER_LIMIT // 2)
        peer.send([half, half, half])
        rejected = peer.hear()
        assert rejected.error == "PayloadTooLarge"
        assert "is more than this daemon takes at once, " in rejected.reason
        assert rejected.reason.endswith("frames: send less in a call")
