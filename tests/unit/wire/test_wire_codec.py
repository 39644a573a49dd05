"""The codec, case by case: what is written comes back, and every refusal names the side at fault."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m

READERS = {
    "client": codec.FROM_CLIENT,
    "worker": codec.FROM_WORKER,
    "zygote": codec.FROM_ZYGOTE,
    "peer": codec.FROM_STRANGER,
}


def refusal(reader: codec.Reader[Any], frames: list[Any]) -> tuple[str, str | None]:
    """The text and the fault of the refusal that `frames` meet."""
    with pytest.raises(WireError) as caught:
        reader.read(frames)
    return str(caught.value), caught.value.fault


def submit(body: codec.Body, arguments: m.Packed, payload: m.Packed | None = None) -> list[Any]:
    return codec.write(m.Submit(1, b"f", "3.11", arguments, m.CallOptions(), payload), 7, body)


def raw(header: bytes, body: bytes = b"", *, length: int | None = None, version: int = codec.PROTOCOL) -> bytes:
    """A first frame with any header."""
    length = len(header) if length is None else length
    return struct.pack("<2sBBQI", b"PL", version, 0, 0, length) + header + body


class TestWhatComesBack:
    def test_a_message_and_its_incarnation(self) -> None:
        incoming = codec.FROM_CLIENT.read(codec.write(m.Cancel(5), 2**64 - 1))
        assert incoming.message == m.Cancel(5)
        assert incoming.incarnation == 2**64 - 1
        assert (bytes(incoming.body), list(incoming.frames)) == (b"", [])

    def test_small_buffers_in_the_body_and_large_ones_as_frames(self) -> None:
        body = codec.Body()
        buffers = [b"stream", bytes(codec.INLINE_LIMIT), b"x" * (codec.INLINE_LIMIT + 1), b"", b"tail"]
        packed = body.pack(buffers)
        frames = submit(body, packed)
        assert [type(data) for data in packed] == [m.Inline, m.Inline, m.Frame, m.Inline, m.Inline]
        assert len(frames) == 2
        incoming = codec.FROM_CLIENT.read(frames)
        assert [bytes(buffer) for buffer in incoming.take(incoming.message.described())] == buffers

    def test_a_memoryview_of_wide_items_counts_by_bytes(self) -> None:
        body = codec.Body()
        view = memoryview(bytearray(8 * 4)).cast("Q")
        assert body.add(view) == m.Inline(0, 32)
        assert body.add(b"after") == m.Inline(32, 5)

    def test_the_payload_follows_the_arguments(self) -> None:
        body = codec.Body()
        arguments, payload = body.pack([b"arguments"]), body.pack([b"payload"])
        incoming = codec.FROM_CLIENT.read(submit(body, arguments, payload))
        message = incoming.message
        assert isinstance(message, m.Submit)
        assert message.payload is not None
        assert bytes(incoming.take(message.arguments)[0]) == b"arguments"
        assert bytes(incoming.take(message.payload)[0]) == b"payload"

    def test_the_stream_is_a_view_and_the_buffers_after_it_are_writable(self) -> None:
        body = codec.Body()
        incoming = codec.FROM_CLIENT.read(submit(body, body.pack([b"stream", b"small"])))
        stream, small = incoming.take(incoming.message.described())
        assert isinstance(stream, memoryview)
        small[0] = 0  # type: ignore[index]
        assert bytes(incoming.body) == b"streamsmall"

    def test_a_large_frame_is_handed_over_without_a_copy(self) -> None:
        body = codec.Body()
        large = bytearray(codec.INLINE_LIMIT + 1)
        incoming = codec.FROM_CLIENT.read(submit(body, body.pack([b"stream", large])))
        incoming.take(incoming.message.described())[1][0] = 9  # type: ignore[index]
        assert large[0] == 9

    def test_relaying_keeps_body_and_frames(self) -> None:
        body = codec.Body()
        packed = body.pack([b"stream", bytes(codec.INLINE_LIMIT + 1)])
        incoming = codec.FROM_CLIENT.read(submit(body, packed))
        run = m.Run(1, 1, "c-1", "f", b"f", packed)
        frames = codec.relay(run, 3, [incoming.body], incoming.frames)
        assert frames[1] is incoming.frames[0]
        again = codec.TO_WORKER.read(frames)
        assert (again.message, again.incarnation, bytes(again.body)) == (run, 3, b"stream")

    def test_the_size_is_that_of_all_buffers(self) -> None:
        assert codec.size_bytes((m.Inline(0, 3), m.Frame(0, 70_000))) == 70_003
        assert codec.size_bytes(()) == 0


class TestRefusals:
    def test_no_frame(self) -> None:
        assert refusal(codec.FROM_CLIENT, []) == ("the client sent a message without any frame", "client")

    @pytest.mark.parametrize("size", [0, 1, codec.PREFIX_SIZE - 1])
    def test_shorter_than_a_prefix(self, size: int) -> None:
        text, fault = refusal(codec.FROM_WORKER, [b"PL\x01".ljust(20, b"\0")[:size]])
        assert text == f"the worker sent a message of {size} bytes, shorter than the 16 of its prefix"
        assert fault == "worker"

    def test_bytes_of_something_else(self) -> None:
        text, fault = refusal(codec.FROM_STRANGER, [b"GET / HTTP/1.1\r\n"])
        assert text == "the peer sent bytes that are not Plover's (they begin with b'GE')"
        assert fault == "peer"

    def test_another_version_of_the_protocol(self) -> None:
        text, fault = refusal(codec.TO_CLIENT, [raw(b"", version=9)])
        assert text.startswith("the daemon sent version 9 of the protocol, and this side speaks version 1: ")
        assert "install the same version of plover-gpu on both sides" in text
        assert fault == "daemon"

    def test_a_header_past_the_limit(self) -> None:
        length = codec.HEADER_LIMIT + 1
        text, fault = refusal(codec.FROM_ZYGOTE, [raw(bytes(length), length=length)])
        assert text == f"the zygote sent a header of {length} bytes; the limit is {codec.HEADER_LIMIT}"
        assert fault == "zygote"

    def test_a_prefix_that_is_garbage(self) -> None:
        """Nothing too large was sent, and nobody should look for it."""
        text, _ = refusal(codec.FROM_CLIENT, [raw(b"garbage", length=0xDEADBEEF)])
        assert text.startswith(
            "the client sent a damaged message, or none of Plover's: its prefix speaks of a header of 3735928559"
        )
        assert text.endswith(f"beyond the limit of {codec.HEADER_LIMIT}, and 7 follow")

    def test_a_truncated_message(self) -> None:
        whole = codec.write(m.Cancel(5))[0]
        header = len(whole) - codec.PREFIX_SIZE
        text, _ = refusal(codec.FROM_CLIENT, [whole[:-1]])
        assert text == f"the client sent a truncated message: a header of {header} bytes in {header - 1}"

    def test_more_frames_than_the_limit(self) -> None:
        frames = codec.write(m.Ping()) + [b""] * (codec.FRAMES_LIMIT + 1)
        text, _ = refusal(codec.FROM_CLIENT, frames)
        assert (
            text == f"the client sent a message of {codec.FRAMES_LIMIT + 2} frames; the limit is {codec.FRAMES_LIMIT}"
        )

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"\xc1",  # a byte that MessagePack never uses
            b"\x93\xa6submit\x01\xa1f",  # a message with fields missing
            b"\x92\xa6cancel\xa1x",  # a field of another type
            b"\x91\xa7unheard",  # a message that does not exist
            b"\x92\xa6cancel\xa1\xff",  # text that is no UTF-8
            b"\x91" * 5000,  # nested without end
            b"\x92\xa6cancel\x01\x00",  # more after the message
        ],
        ids=["empty", "reserved", "short", "type", "unknown", "text", "nested", "more"],
    )
    def test_a_header_that_is_no_message(self, header: bytes) -> None:
        text, fault = refusal(codec.FROM_CLIENT, [raw(header)])
        assert text.startswith("the client sent a header that is none of its messages: ")
        assert fault == "client"

    @pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, -1), (0, 5), (4, 1), (2**62, 2**62)])
    def test_bytes_outside_the_body(self, offset: int, size: int) -> None:
        body = codec.Body()
        body.add(b"body")
        text, _ = refusal(codec.FROM_CLIENT, submit(body, (m.Inline(offset, size),)))
        assert text == f"the client sent a description of {size} bytes at {offset} of a body of 4"

    @pytest.mark.parametrize("index", [-1, 1, 2**40])
    def test_a_frame_that_is_not_there(self, index: int) -> None:
        frames = [*submit(codec.Body(), (m.Frame(index, 4),)), b"four"]
        text, _ = refusal(codec.FROM_CLIENT, frames)
        assert text == f"the client sent a description of frame {index} of 1"

    def test_a_frame_of_another_size(self) -> None:
        frames = [*submit(codec.Body(), (m.Frame(0, 5),)), b"four"]
        assert refusal(codec.FROM_CLIENT, frames)[0] == "the client sent a frame of 4 bytes, described as 5"

    @pytest.mark.parametrize("segment", [m.Segment(0, 0, 1), m.Segment(1, -1, 1), m.Segment(1, 0, -1)])
    def test_a_piece_of_no_segment(self, segment: m.Segment) -> None:
        text, _ = refusal(codec.FROM_CLIENT, submit(codec.Body(), (segment,)))
        what = f"{segment.size} bytes at {segment.offset} of segment {segment.id}"
        assert text == f"the client sent a description of {what}"

    def test_a_frame_that_nothing_describes(self) -> None:
        frames = [*codec.write(m.Ping()), b"more", b"and more"]
        text, _ = refusal(codec.FROM_CLIENT, frames)
        assert text == "the client sent 2 frames that no part of the message describes"

    def test_a_frame_described_twice_beside_one_described_never(self) -> None:
        frames = [*submit(codec.Body(), (m.Frame(0, 4), m.Frame(0, 4))), b"four", b"more"]
        assert refusal(codec.FROM_CLIENT, frames)[1] == "client"

    @pytest.mark.parametrize("side", READERS)
    def test_a_refusal_names_the_side(self, side: str) -> None:
        text, fault = refusal(READERS[side], [b"??" + bytes(14)])
        assert text.startswith(f"the {side} sent ")
        assert fault == side


class TestSegments:
    def test_what_lies_in_a_segment_is_mentioned_and_found_by_who_knows_it(self) -> None:
        body = codec.Body()
        there = m.Segment(3, 64, 5, 1)
        packed = body.pack([b"stream", there, b"x" * 20_000])
        incoming = codec.FROM_CLIENT.read(submit(body, packed))
        assert [type(each) for each in incoming.message.arguments] == [m.Inline, m.Segment, m.Frame]
        assert codec.size_bytes(packed) == 6 + 5 + 20_000
        assert incoming.pieces(packed)[1] == there
        assert incoming.take(packed, lambda segment: bytes(segment.size))[1] == bytes(5)
        again = codec.Body()
        assert again.pack(incoming.pieces(packed))[1] == there
        with pytest.raises(WireError, match="bytes in segment 3, where none can be"):
            incoming.take(packed)


class TestDirections:
    def test_a_client_cannot_speak_as_a_worker(self) -> None:
        finished = m.Finished(1, 1, "succeeded", m.Timings(0, 0, 0, True, True))
        assert codec.FROM_WORKER.read(codec.write(finished)).message == finished
        assert refusal(codec.FROM_CLIENT, codec.write(finished))[1] == "client"

    def test_a_worker_cannot_speak_as_a_client(self) -> None:
        assert refusal(codec.FROM_WORKER, codec.write(m.AskToEnd(False)))[1] == "worker"

    def test_a_stranger_may_only_say_hello(self) -> None:
        hello = m.Hello(b"c", b"s", m.Versions("0", "3.11"))
        assert codec.FROM_STRANGER.read(codec.write(hello)).message == hello
        assert refusal(codec.FROM_STRANGER, codec.write(m.Cancel(1)))[1] == "peer"
        assert refusal(codec.FROM_STRANGER, codec.write(m.WorkerHello(1, m.Versions("0", "3.11"), 0.1)))[1] == "peer"

    def test_a_zygote_cannot_speak_as_a_worker(self) -> None:
        assert refusal(codec.FROM_ZYGOTE, codec.write(m.Unwell("why")))[1] == "zygote"


class TestIncarnationOfAnything:
    def test_it_is_read_from_the_prefix_alone(self) -> None:
        assert codec.incarnation(codec.write(m.Ping(), 77)) == 77
        assert codec.incarnation([codec.write(m.Ping(), 78)[0][: codec.PREFIX_SIZE]]) == 78

    @pytest.mark.parametrize(
        "frames",
        [[], [b"short"], [b"XX" + bytes(14)], [raw(b"", version=2)]],
        ids=["none", "short", "magic", "version"],
    )
    def test_it_is_zero_for_what_is_no_message(self, frames: list[bytes]) -> None:
        assert codec.incarnation(frames) == 0


def test_a_call_is_named_alike_on_every_side() -> None:
    assert m.call_id(bytes(range(16)), 12) == "000102030405-12"


def test_a_message_without_bytes_describes_none() -> None:
    assert m.Ping().described() == ()
    assert m.Outcome(1, "ended", m.Receipt(), (m.Inline(0, 1),)).described() == (m.Inline(0, 1),)
    assert m.Finished(1, 1, "failed", m.Timings(0, 0, 0, True, True), (m.Inline(0, 2),)).described() == (
        m.Inline(0, 2),
    )
    run = m.Run(1, 1, "", "", b"", (m.Inline(0, 1),))
    assert run.described() == (m.Inline(0, 1),)
    assert m.Run(1, 1, "", "", b"", (m.Inline(0, 1),), (m.Frame(0, 2),)).described() == (m.Inline(0, 1), m.Frame(0, 2))


class TestJoined:
    def messages(self, *sizes: int) -> list[list[Any]]:
        return [[bytes([number % 256]) * size] for number, size in enumerate(sizes)]

    @given(st.lists(st.integers(2, 60), max_size=20))
    def test_what_was_joined_is_split_again(self, sizes: list[int]) -> None:
        messages = [codec.write(m.Output(1, 1, b"x" * size)) for size in sizes]
        joined = codec.join(messages)
        assert len(joined) == min(1, len(messages))
        assert [
            [bytes(each) for each in frames] for part in joined for frames in codec.split(part, "client")
        ] == messages

    def test_large_ones_and_those_with_frames_keep_their_place(self) -> None:
        small, large = self.messages(10, 20, 30), [b"l" * (codec.JOIN_LIMIT + 1)]
        framed = [b"first", b"second"]
        joined = codec.join([small[0], small[1], large, small[2], framed])
        assert joined[1:] == [large, small[2], framed]
        assert [bytes(each[0]) for each in codec.split(joined[0], "client")] == [small[0][0], small[1][0]]

    def test_so_many_are_joined_as_fit(self) -> None:
        joined = codec.join(self.messages(*[codec.JOIN_LIMIT] * 20))
        assert [len(codec.split(frames, "client")) for frames in joined] == [16, 4]

    def test_one_is_left_as_it_is(self) -> None:
        one = codec.write(m.Ping())
        assert codec.join([one]) == [one]
        assert list(codec.split(one, "client")) == [one]
        assert list(codec.split([], "client")) == [[]]

    @pytest.mark.parametrize(
        ("frames", "says"),
        [
            ([b"PM"], "cut off, or with other frames"),
            ([b"PM\x01\x00" + b"\x00" * 4, b"another"], "cut off, or with other frames"),
            ([b"PM\x09\x00" + b"\x00" * 4], "version 9 of the protocol, and this side speaks version 1"),
            ([b"PM\x01\x00" + b"\xff" * 4], "4294967295 joined messages in 8 bytes"),
            ([b"PM\x01\x00\x01\x00\x00\x00\x05\x00\x00\x00abc"], "joined messages of 17 bytes in 15"),
            ([b"PM\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00abc"], "joined messages of 13 bytes in 15"),
        ],
    )
    def test_what_is_no_such_frame_is_refused(self, frames: list[bytes], says: str) -> None:
        with pytest.raises(WireError, match=says) as caught:
            codec.split(frames, "client")
        assert caught.value.fault == "client"

    def test_joined_ones_are_not_joined_again(self) -> None:
        joined = codec.join([codec.write(m.Ping()), codec.write(m.Ping())])
        (again,) = codec.join([*joined, codec.write(m.Ping())])
        first = codec.split(again, "client")[0]
        text, _ = refusal(codec.FROM_CLIENT, list(first))
        assert "not Plover's" in text
