"""Messages over a stream socket: whole, in order, bounded."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plover.errors import WireError
from plover.wire import stream
from plover.wire.stream import HungUp, Stream

LIMIT = 64 * 1024 * 1024


class Pair:
    """A stream that does not block, and one that does."""

    def __init__(self, limit_bytes: int = LIMIT, limit_frames: int = 1000, eager_s: float = 0.0) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.near = Stream(ours, "worker", limit_bytes, limit_frames)
        self.raw = theirs
        self.far = Stream(theirs, "daemon", limit_bytes, limit_frames, eager_s)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def plain(frames: list[Any] | None) -> list[bytes]:
    assert frames is not None
    return [bytes(frame) for frame in frames]


def received(pair: Pair, count: int) -> list[list[bytes]]:
    """What comes at the end that does not block, as a loop would take it."""
    found: list[list[bytes]] = []
    while len(found) < count:
        frames = pair.near.receive()
        if frames is not None:
            found.append(plain(frames))
    return found


class TestMessages:
    def test_one_frame(self, pair: Pair) -> None:
        assert pair.near.send([b"hello"])
        assert plain(pair.far.receive()) == [b"hello"]

    def test_several_in_one_go(self, pair: Pair) -> None:
        for text in (b"one", b"", b"three"):
            pair.far.send([text])
        assert received(pair, 3) == [[b"one"], [b""], [b"three"]]
        assert pair.near.receive() is None

    def test_what_was_put_goes_in_order_with_the_next_flush(self, pair: Pair) -> None:
        wanted = [[b"one"], [b"two", b"x" * 100_000], [b""], [b"four"]]
        for frames in wanted:
            pair.near.put(frames)
        assert pair.near.is_behind
        pair.near.flush()
        got = []
        while len(got) < len(wanted):
            got.append(plain(pair.far.receive()))
            pair.near.flush()
        assert got == wanted
        assert not pair.near.is_behind

    def test_frames_after_the_first_are_writable(self, pair: Pair) -> None:
        pair.near.send([b"header", b"abc"])
        frames = pair.far.receive()
        assert frames is not None
        frames[1][0] = 0
        assert plain(frames) == [b"header", b"\0bc"]

    def test_what_was_sent_may_change(self, pair: Pair) -> None:
        """By the end that blocks: a function may go on changing an array that it returned and also kept."""
        large = bytearray(100_000)
        pair.far.send([b"header", large])
        large[:] = b"\xff" * len(large)
        assert received(pair, 1) == [[b"header", bytes(100_000)]]

    def test_nothing_is_none_and_costs_no_look_after_a_short_read(self, pair: Pair) -> None:
        assert pair.near.receive() is None
        pair.far.send([b"x"])
        assert plain(pair.near.receive()) == [b"x"]
        assert pair.near.receive() is None
        pair.far.send([b"y"])
        assert plain(pair.near.receive()) == [b"y"]

    @pytest.mark.parametrize("eager_s", [0.0, 0.02, 60.0])
    @pytest.mark.parametrize("crowded_s", [-1.0, 60.0])
    def test_who_waits_is_woken(self, eager_s: float, crowded_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "_CROWDED_S", crowded_s)
        pair = Pair(eager_s=eager_s)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(pair.far.receive()))
        thread.start()
        pair.near.send([b"at last"])
        thread.join(60)
        assert plain(found[0]) == [b"at last"]
        pair.close()

    @pytest.mark.parametrize(
        ("eager_s", "crowded_s", "looks"),
        [
            (0.0, 60.0, [0, None]),  # asleep at once
            (60.0, 60.0, [0, 0, 0, 0]),  # awake until there is something
            (60.0, -1.0, [0, 0, None]),  # asleep when others took the core
        ],
    )
    def test_who_waits_is_awake_for_a_while(
        self, eager_s: float, crowded_s: float, looks: list[int | None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Poll:
            def __init__(self) -> None:
                self.asked: list[int | None] = []

            def poll(self, timeout_ms: int | None = None) -> list[tuple[int, int]]:
                self.asked.append(timeout_ms)
                return [(0, 1)] if timeout_ms is None or len(self.asked) == 4 else []

        monkeypatch.setattr(stream, "_CROWDED_S", crowded_s)
        pair, poll = Pair(eager_s=eager_s), Poll()
        pair.far._wait(poll)  # type: ignore[arg-type]
        assert poll.asked == looks
        pair.close()

    @given(
        st.lists(
            st.lists(st.sampled_from([0, 1, 7, 8, 8192, 65527, 65528, 65529, 65536, 300_000]), min_size=1, max_size=4),
            min_size=1,
            max_size=5,
        )
    )
    def test_any_sizes_both_ways(self, messages: list[list[int]]) -> None:
        pair = Pair()
        sent = [[bytes([17 * number % 256]) * size for number, size in enumerate(sizes)] for sizes in messages]

        def far_side() -> None:
            for _ in sent:
                pair.far.send(pair.far.receive() or [])

        thread = threading.Thread(target=far_side)
        thread.start()
        for frames in sent:
            pair.near.send(frames)
        found: list[list[bytes]] = []
        while len(found) < len(sent):
            pair.near.flush()
            came = pair.near.receive()
            if came is not None:
                found.append(plain(came))
        thread.join(60)
        assert not pair.near.is_behind
        assert found == sent
        pair.close()

    def test_byte_by_byte(self, pair: Pair) -> None:
        other = Pair()
        other.near.send([b"head", b"x" * 20, b""])
        data = other.raw.recv(1000)
        for number in range(len(data) - 1):
            pair.raw.send(data[number : number + 1])
            assert pair.near.receive() is None
        pair.raw.send(data[-1:])
        assert received(pair, 1) == [[b"head", b"x" * 20, b""]]
        other.close()


class TestLargeOnes:
    def test_what_does_not_go_at_once_is_kept_in_order(self, pair: Pair) -> None:
        large = bytes(range(256)) * 8192
        assert not pair.near.send([b"first", large])
        assert not pair.near.send([b"second"])
        assert pair.near.is_behind
        assert "unsent" in repr(pair.near)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend([pair.far.receive(), pair.far.receive()]))
        thread.start()
        while not pair.near.flush():
            pass
        thread.join(60)
        assert [plain(each) for each in found] == [[b"first", large], [b"second"]]

    def test_a_small_one_that_is_cut_off(self, pair: Pair) -> None:
        filled = 0
        while pair.near.send([b"x" * 1000]):
            filled += 1
        found = []
        thread = threading.Thread(target=lambda: found.extend(plain(pair.far.receive()) for _ in range(filled + 1)))
        thread.start()
        while not pair.near.flush():
            pass
        thread.join(60)
        assert found == [[b"x" * 1000]] * (filled + 1)

    def test_others_have_their_turn_meanwhile(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "_BUDGET_BYTES", 1)
        data = b"y" * 1_000_000
        thread = threading.Thread(target=pair.far.send, args=([b"", data],))
        thread.start()
        looks, frames = 0, None
        while frames is None:
            frames, looks = pair.near.receive(), looks + 1
        thread.join(60)
        assert plain(frames) == [b"", data]
        assert looks > 2

    def test_a_patient_one_takes_all_there_is(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "_BUDGET_BYTES", 1)
        data = b"z" * 100_000  # fits what the kernel keeps
        pair.far.send([b"", data])
        assert plain(pair.near.receive(patient=True)) == [b"", data]


class TestEnds:
    def test_hung_up(self, pair: Pair) -> None:
        pair.far.send([b"last words"])
        pair.far.close()
        assert plain(pair.near.receive()) == [b"last words"]
        assert pair.near.receive() is None
        with pytest.raises(HungUp):
            pair.near.receive()
        with pytest.raises(HungUp):
            pair.near.send([b"anybody?"])
        with pytest.raises(HungUp):
            pair.near.send([b"anybody?", b"there?"])
        assert pair.near.fileno() >= 0
        pair.near.close()
        assert pair.near.fileno() == -1

    def test_a_reset_is_an_end(self, pair: Pair) -> None:
        pair.near.send([b"never read"])
        pair.far.close()
        with pytest.raises(HungUp):
            pair.near.receive()

    def test_sending_after_a_reset_is_an_end_too(self, pair: Pair) -> None:
        class Broken:
            def sendmsg(self, *_: object) -> int:
                raise OSError(errno.ECONNRESET, "reset")

        pair.near._socket, kept = Broken(), pair.near._socket  # type: ignore[assignment]
        with pytest.raises(HungUp):
            pair.near.send([b"a", b"b"])
        pair.near._socket = kept


class TestLimits:
    def test_too_many_bytes(self) -> None:
        pair = Pair(limit_bytes=100)
        pair.raw.send(struct.pack("<Q", 101 * 2))
        with pytest.raises(WireError, match=r"the worker sent 101 bytes or more.*limits are 100 and 1000"):
            pair.near.receive()
            pair.raw.send(b"x" * 101)
            pair.near.receive()
        pair.close()

    def test_too_many_bytes_before_memory_is_taken(self) -> None:
        pair = Pair(limit_bytes=1 << 20)
        pair.raw.send(struct.pack("<Q", (1 << 62) * 2))
        with pytest.raises(WireError, match="the worker sent 4611686018427387904 bytes"):
            pair.near.receive()
        pair.close()

    def test_too_many_bytes_in_all(self) -> None:
        pair = Pair(limit_bytes=100)
        pair.far.send([b"x" * 60, b"x" * 60])
        with pytest.raises(WireError, match="120 bytes or more in 2 frames"):
            pair.near.receive()
        pair.close()

    def test_too_many_frames(self) -> None:
        pair = Pair(limit_frames=2)
        pair.far.send([b"", b"", b""])
        with pytest.raises(WireError, match="3 frames or more"):
            pair.near.receive()
        pair.close()

    def test_each_message_counts_alone(self) -> None:
        pair = Pair(limit_bytes=100, limit_frames=1)
        for _ in range(3):
            pair.far.send([b"x" * 100])
        assert received(pair, 3) == [[b"x" * 100]] * 3
        pair.close()
