"""The daemon's side of segments, over real sockets and real memory."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plover.borrowing import Borrower, Entry
from plover.daemon.lending import Lending
from plover.daemon.memory import Maker, create, free
from plover.daemon.segments import Pool
from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m

SECRET = b"s" * 32
CLIENT = b"c" * 16
SIZE = 1 << 20


class Loop:
    """The daemon's loop, turned by the test."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._watched[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def watch_writing(self, fd: int, wanted: bool) -> None:
        raise AssertionError("nothing waits to be written")

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self, timeout_s: float = 5.0) -> None:
        """Wait for something, and do it."""
        ready = self._epoll.poll(timeout_s)
        assert ready, "nothing happened"
        for fd, _ in ready:
            if fd in self._watched:
                self._watched[fd]()

    def settle(self) -> None:
        """Do all that there is to be done."""
        while ready := self._epoll.poll(0):
            for fd, _ in ready:
                if fd in self._watched:
                    self._watched[fd]()

    def close(self) -> None:
        self._epoll.close()
        assert not self._watched


class Rig:
    def __init__(self, directory: Path, **limits: Any) -> None:
        self.now = 100.0
        self.loop = Loop()
        self.pool = Pool(limits.get("total", 1 << 30), limits.get("tenant", 1 << 30), limits.get("each", 128))
        self.lending = Lending(self.loop, self.pool, SECRET, lambda: self.now)
        self.socket = directory / "d.sock"
        self.lending.listen([self.socket])
        self.path = str(self.socket) + ".segments"
        self.borrowers: list[Borrower] = []

    def client(self, name: bytes = CLIENT, secret: bytes = SECRET) -> Borrower:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect(self.path)
        end.send(codec.write(m.BorrowerHello(name, secret))[0])
        self.loop.turn()
        self.loop.settle()
        self.borrowers.append(Borrower(end))
        return self.borrowers[-1]

    def worker(self, number: int, tenant: str = "default") -> Borrower:
        self.borrowers.append(Borrower(self.lending.open(number, tenant)))
        return self.borrowers[-1]

    def borrow(self, borrower: Borrower, size: int = SIZE) -> Entry | None:
        """Borrow, while the loop turns."""
        request = borrower._waiting = next(borrower._requests)
        borrower._answer = None
        assert borrower.say(m.Borrow(request, size))
        while borrower._answer is None:
            self.loop.turn()
            borrower.drain()
        borrower._waiting = 0
        return borrower._answer if isinstance(borrower._answer, Entry) else None

    def close(self) -> None:
        for borrower in self.borrowers:
            borrower.close()
        self.loop.settle()
        for number in list(self.lending._workers):
            self.lending.worker_ended(number, self.now)
        counts = self.pool.counts()
        assert counts["lent"] == 0
        self.lending.close()
        self.loop.close()
        assert not os.path.exists(self.path)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_a_client_borrows_and_sees_zeros_that_nobody_else_sees(rig: Rig) -> None:
    client = rig.client()
    entry = rig.borrow(client)
    assert entry is not None
    array = entry.mapping.array()
    assert array.nbytes == SIZE
    assert not array.any()
    with pytest.raises(PermissionError):  # sealed: no borrower can take pages away from another
        os.ftruncate(entry.fd, 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(entry.fd, SIZE * 2)
    assert fcntl.fcntl(entry.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL


@pytest.mark.parametrize(
    "hello",
    [
        codec.write(m.BorrowerHello(CLIENT, b"x" * 32))[0],
        codec.write(m.Borrow(1, SIZE))[0],
        b"garbage",
    ],
    ids=["wrong secret", "no hello", "garbage"],
)
def test_who_does_not_know_the_secret_is_hung_up_on(rig: Rig, hello: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.connect(rig.path)
        end.send(hello)
        rig.loop.turn()
        rig.loop.settle()
        end.settimeout(5)
        assert end.recv(10) == b""
    assert not rig.lending.serves(CLIENT)


def test_nobody_takes_the_place_of_a_client_that_is_here(rig: Rig) -> None:
    rig.client()
    other = rig.client()
    other.drain()
    assert other.ended
    assert rig.lending.serves(CLIENT)


@pytest.mark.parametrize("packet", [b"garbage", codec.write(m.BorrowerHello(CLIENT, SECRET))[0]])
def test_who_says_what_cannot_be_said_has_given_up_everything(rig: Rig, packet: bytes) -> None:
    client = rig.client()
    rig.borrow(client)
    client._socket.send(packet, 0)
    rig.loop.settle()
    assert rig.pool.counts()["lent"] == 0
    client.drain()
    assert client.ended


def test_a_silent_stranger_is_dropped_in_time(rig: Rig) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.connect(rig.path)
        rig.loop.turn()
        due = rig.lending.due()
        assert due is not None
        rig.lending.keep_time(due)
        end.settimeout(5)
        assert end.recv(10) == b""


def test_arguments_go_to_a_worker_with_one_descriptor_for_all_time(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(1)
    entry = rig.borrow(client)
    assert entry is not None
    entry.mapping.array()[:3] = 7
    packed = (m.Segment(entry.id, 0, 3),)
    assert rig.lending.claim(CLIENT, packed, "call 1")
    assert rig.lending.to_worker(1, 1, 1, packed) == list(packed)
    worker.drain()
    assert worker.entries[entry.id].mapping.array()[:4].tolist() == [7, 7, 7, 0]
    first_fd = worker.entries[entry.id].fd
    assert rig.lending.to_worker(1, 1, 2, packed) == list(packed)
    assert not worker.drain()
    assert worker.entries[entry.id].fd == first_fd
    # Given back while the worker is at it, it is nobody's until that has ended.
    client.give_back((entry,))
    rig.loop.settle()
    rig.lending.release("call 1", rig.now)
    rig.lending.attempt_ended(1, 1, 1, rig.now)
    assert rig.pool.counts()["free"] == 0
    rig.lending.attempt_ended(1, 1, 2, rig.now)
    assert rig.pool.counts()["free"] == 1


@pytest.mark.parametrize("segment", [m.Segment(1, 0, SIZE + 1), m.Segment(99, 0, 1), m.Segment(1, SIZE, 1)])
def test_a_client_mentions_only_what_it_was_lent(rig: Rig, segment: m.Segment) -> None:
    assert rig.borrow(rig.client()) is not None
    with pytest.raises(WireError, match=r"was not lent it|which has 1048576"):
        rig.lending.claim(CLIENT, (segment,), "call")
    other = b"o" * 16
    rig.client(other)
    for name in (other, b"nobody".ljust(16)):
        with pytest.raises(WireError, match="segment 1 is mentioned by who was not lent it"):
            rig.lending.claim(name, (m.Segment(1, 0, 1),), "call")


def test_a_worker_mentions_only_what_it_was_lent_and_never_another_tenants(rig: Rig) -> None:
    mine, theirs = rig.worker(1, "a"), rig.worker(2, "b")
    entry = rig.borrow(mine)
    assert entry is not None
    with pytest.raises(WireError, match="segment 1 is mentioned by who was not lent it"):
        rig.lending.accept(2, (m.Segment(entry.id, 0, 1),), "call", rig.now)
    mine.give_back((entry,))
    rig.loop.settle()
    other = rig.borrow(theirs)
    assert other is not None
    assert other.id != entry.id
    again = rig.borrow(mine)
    assert again is not None
    assert again.id == entry.id
    assert rig.lending.accept(2, (m.Segment(other.id, 0, 1),), "result", rig.now)
    rig.client()  # of tenant default
    assert rig.lending.to_client(CLIENT, 1, (m.Segment(other.id, 0, 3),)) == [bytearray(3)]


def test_a_result_passes_to_its_client_and_may_be_sent_again(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(1)
    entry = rig.borrow(worker)
    assert entry is not None
    entry.mapping.array()[:] = 9
    packed = (m.Segment(entry.id, 0, 5), m.Segment(entry.id, 64, 5))
    assert rig.lending.accept(1, packed, "result", rig.now)
    for _ in range(2):
        assert rig.lending.to_client(CLIENT, 12, packed) == list(packed)
    client.drain()
    assert (client.entries[entry.id].held, client.entries[entry.id].submission) == (True, 12)
    assert client.entries[entry.id].mapping.array()[4] == 9
    rig.lending.release("result", rig.now)
    assert rig.pool.counts()["lent"] == 1
    client.give_back(list(client.entries.values()))
    rig.loop.settle()
    assert rig.pool.counts()["free"] == 1


def test_a_result_that_nobody_wants_is_free_at_once(rig: Rig) -> None:
    worker = rig.worker(1)
    entry = rig.borrow(worker)
    assert entry is not None
    assert rig.lending.accept(1, (m.Segment(entry.id, 0, 5),), None, rig.now)
    assert rig.pool.counts()["free"] == 1
    assert not rig.lending.accept(1, (m.Inline(0, 0),), None, rig.now)


def test_bytes_go_where_a_segment_cannot(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(1)
    entry = rig.borrow(client)
    assert entry is not None
    entry.mapping.array()[:6] = np.frombuffer(b"abcdef", np.uint8)
    packed = (m.Segment(entry.id, 1, 3), m.Segment(entry.id, 5, 0))
    rig.lending.claim(CLIENT, packed, "call")
    assert rig.lending.to_worker(77, 1, 1, packed) == [b"bcd", b""]  # there is none
    worker.close()
    rig.loop.settle()
    assert rig.lending.to_worker(1, 1, 1, packed) == [b"bcd", b""]  # its end is closed
    assert rig.lending.fallbacks["not handed over"] == 4
    rig.lending.release("call", rig.now)


def test_a_worker_that_takes_no_packets_gets_bytes(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(1)
    end = rig.lending._workers[1].socket
    assert end is not None
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    found: list[Any] = []
    for number in range(60):
        entry = rig.borrow(client, 16384)
        assert entry is not None
        packed = (m.Segment(entry.id, 0, 4),)
        rig.lending.claim(CLIENT, packed, number)
        found += rig.lending.to_worker(1, number, 1, packed)
    assert isinstance(found[0], m.Segment)
    assert found[-1] == bytearray(4)
    told = {each.id for each in found if isinstance(each, m.Segment)}
    worker.drain()
    assert set(worker.entries) == told
    for number in range(60):
        rig.lending.release(number, rig.now)


def test_a_dead_workers_segments_are_free_when_its_death_is_told_and_not_before(rig: Rig) -> None:
    worker, client = rig.worker(1), rig.client()
    rig.borrow(worker)
    entry = rig.borrow(client)
    assert entry is not None
    packed = (m.Segment(entry.id, 0, 4),)
    rig.lending.claim(CLIENT, packed, "call")
    rig.lending.to_worker(1, 5, 1, packed)
    rig.lending.release("call", rig.now)
    client.give_back((entry,))
    worker.close()  # its code may have closed it, and go on writing
    rig.loop.settle()
    assert rig.pool.counts()["free"] == 0
    rig.lending.worker_ended(1, rig.now)
    assert rig.pool.counts()["free"] == 2
    rig.lending.worker_ended(1, rig.now)


def test_a_client_that_ends_while_its_segment_is_made_leaves_it_free(rig: Rig) -> None:
    client = rig.client()
    client.say(m.Borrow(1, SIZE))
    client.close()
    while rig.pool.counts()["free"] == 0:
        rig.loop.turn()
    assert rig.pool.counts()["lent"] == 0


def test_an_answer_that_nobody_waits_for_any_more_is_given_back(rig: Rig) -> None:
    client = rig.client()
    client.say(m.Borrow(1, SIZE))
    while not client.entries:
        rig.loop.turn()
        client.drain()
    rig.loop.settle()
    assert rig.pool.counts() == {"bytes": SIZE, "segments": 1, "free": 1, "lent": 0}


def test_a_borrower_that_knows_many_is_told_to_forget_some_and_may_know_them_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, each=3)
    client, worker = rig.client(), rig.worker(1)
    numbers = []
    for number in range(6):
        entry = rig.borrow(client, SIZE << number)
        assert entry is not None
        numbers.append(entry.id)
        packed = (m.Segment(entry.id, 0, 4),)
        rig.lending.claim(CLIENT, packed, number)
        assert rig.lending.to_worker(1, number, 1, packed) == list(packed)
        rig.lending.attempt_ended(1, number, 1, rig.now)
        rig.lending.release(number, rig.now)
        client.give_back((entry,))
        rig.loop.settle()
        worker.drain()
        assert len(worker.entries) <= 3
    entry = rig.borrow(client, SIZE)
    assert entry is not None
    assert entry.id == numbers[0]
    packed = (m.Segment(entry.id, 0, 4),)
    rig.lending.claim(CLIENT, packed, "again")
    assert rig.lending.to_worker(1, 99, 1, packed) == list(packed)
    worker.drain()
    assert entry.id in worker.entries
    rig.lending.release("again", rig.now)
    rig.close()


def test_idle_memory_goes_back_to_the_host_though_it_is_still_mapped(rig: Rig) -> None:
    client = rig.client()
    entry = rig.borrow(client)
    assert entry is not None
    array = entry.mapping.array()
    array[:] = 1
    client.give_back((entry,))
    rig.loop.settle()
    assert os.fstat(entry.fd).st_blocks * 512 == SIZE
    due = rig.lending.due()
    assert due == rig.now + 60
    rig.now = due
    rig.lending.keep_time(due)
    assert os.fstat(entry.fd).st_blocks == 0
    assert rig.pool.counts()["segments"] == 0
    client.drain()
    assert not client.entries
    del array


def test_what_a_forks_child_sees_is_kept_for_it(rig: Rig) -> None:
    client = rig.client()
    entry = rig.borrow(client)
    assert entry is not None
    array = entry.mapping.array()
    array[:] = 5
    client.give_back((entry,), spoiled=True)
    rig.loop.settle()
    assert rig.pool.counts()["segments"] == 0
    assert array.min() == 5


def test_beyond_the_limits_there_is_none_and_the_reason_is_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path, total=4 << 20, tenant=3 << 20, each=2)
    client = rig.client()
    assert rig.borrow(client, 8 << 20) is None
    assert "more than segments may take together" in str(client._answer)
    assert rig.borrow(client, 2 << 20) is not None
    assert rig.borrow(client, 2 << 20) is None
    assert "segments of tenant default take 2097152 bytes of 3145728" in str(client._answer)
    assert rig.borrow(client) is not None
    assert rig.borrow(client) is None
    assert "which is the limit" in str(client._answer)
    other = rig.worker(1, "b")
    assert rig.borrow(other, 2 << 20) is None
    assert "segments take 3145728 bytes of 4194304" in str(other._answer)
    assert rig.lending.document()["fallbacks"] == {"not lent": 4}
    rig.close()


def test_memory_that_cannot_be_had_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError):
        create(1 << 60)
    monkeypatch.setattr("plover.daemon.host_memory.available_bytes", lambda: 1 << 20)
    with pytest.raises(OSError, match="1048576 bytes of memory are left on this host"):
        create(SIZE)
    maker = Maker()
    maker.make(3, SIZE)
    made: list[Any] = []
    while not made:
        assert select.select([maker.fd], [], [], 5)[0]
        maker.take(lambda *what: made.append(what))
    reason = "1048576 bytes of memory are left on this host, or to the daemon's control group"
    assert made == [(3, -1, f"no shared memory of 1048576 bytes can be had: {reason}")]
    monkeypatch.undo()
    maker.make(4, SIZE)
    maker.close()  # what was made for nobody is closed
    assert os.listdir("/proc/self/fd") == before


def test_freed_memory_is_gone_at_once() -> None:
    fd = create(SIZE)
    other = os.dup(fd)
    free(fd, SIZE)
    assert os.fstat(other).st_blocks == 0
    os.close(other)


def test_a_socket_whose_name_would_be_too_long_lends_nothing(rig: Rig, tmp_path: Path) -> None:
    rig.lending.listen([tmp_path / ("x" * 95)])
    assert len(rig.lending._strangers) == 1
