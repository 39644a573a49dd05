"""Segments in and out: the daemon's sockets to borrowers, and the segments that its messages mention.

Borrowers are workers, whose end of a socket pair goes along at their fork, and clients of this host, who connect to a socket
beside the daemon's and say hello with the same secret. Who has which segment is decided in `segments`; here it is told, and
descriptors are handed over.

Guarantees: nothing blocks; where something is in the way of a segment (a borrower takes no packet, or is gone) its bytes
travel as frames. A message that mentions a segment which its sender was not lent is refused. Assumes: one thread; a
worker's segments are its own until its death is told.
"""

from __future__ import annotations

import functools
import hmac
import itertools
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from plover import addresses
from plover.daemon.launchers import processes
from plover.daemon.launchers.strangers import Strangers
from plover.daemon.lines import Watcher
from plover.daemon.memory import Maker, free
from plover.daemon.segments import Pool, Refused, Segment
from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Lending"]

log = logging.getLogger("plover.daemon")


class _Borrower:
    """Somebody at the other end. Invariant: `socket` is watched while it is not None."""

    def __init__(self, number: int, tenant: str, end: socket.socket) -> None:
        self.number = number
        self.tenant = tenant
        self.socket: socket.socket | None = end
        self.client: bytes | None = None  # None for a worker
        self.unsaid: list[int] = []  # segments that it was not told to forget yet
        self.attempts: set[Hashable] = set()  # of a worker: those that use segments
        self.requests: dict[int, int] = {}  # segment that is being made → its request

    def __repr__(self) -> str:
        return f"<borrower {self.number} of {self.tenant}>"


class Lending:
    """All borrowers and their segments.

    Args:
        watcher: the loop.
        pool: fresh.
        secret: lets clients in.
        clock: monotonic seconds.
    """

    def __init__(
        self, watcher: Watcher, pool: Pool, secret: bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.pool = pool
        self.fallbacks: Counter[str] = Counter()  # how often bytes went as frames, or a segment was refused, by why
        self._watcher = watcher
        self._secret = secret
        self._clock = clock
        self._numbers = itertools.count(1)
        self._borrowers: dict[int, _Borrower] = {}
        self._workers: dict[int, _Borrower] = {}
        self._clients: dict[bytes, _Borrower] = {}
        self._fds: dict[int, int] = {}  # of the segments that are made
        self._strangers: list[Strangers] = []
        self._maker = Maker()
        watcher.watch(self._maker.fd, lambda: self._maker.take(self._made))

    # -- borrowers ------------------------------------------------------------------------------------------------------

    def listen(self, sockets: Sequence[Path]) -> None:
        """Let clients borrow beside these sockets of the daemon's."""
        for path in sockets:
            beside = addresses.borrowing_path(path)
            if beside is not None:  # else that name is too long for a socket
                self._strangers.append(Strangers(beside, self._watcher, self._admit))

    def open(self, worker: int, tenant: str) -> socket.socket:
        """A worker is about to be launched: returns its end of a socket, which is the caller's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._workers[worker] = self._join(ours, tenant)
        return theirs

    def worker_ended(self, worker: int, now: float) -> None:
        """A worker is dead: nothing of its is in use any more."""
        borrower = self._workers.pop(worker, None)
        if borrower is not None:
            for attempt in borrower.attempts:
                self.pool.release(attempt, now)
            self._leave(borrower, now)

    def serves(self, client: bytes) -> bool:
        """Whether a client can take segments."""
        return client in self._clients

    def due(self) -> float | None:
        """When `keep_time` has something to do."""
        due = self.pool.due()
        for strangers in self._strangers:
            other = strangers.next_deadline()
            if other is not None and (due is None or other < due):
                due = other
        return due

    def keep_time(self, now: float) -> None:
        """Close what nobody used for long, and drop who did not say hello."""
        self.pool.expire(now)
        for strangers in self._strangers:
            strangers.look_at_the_clock(now)
        self._settle()

    def close(self) -> None:
        """Take the sockets away and give everything back."""
        for strangers in self._strangers:
            strangers.close()
        for borrower in list(self._borrowers.values()):
            self._hang_up(borrower)
        self._watcher.unwatch(self._maker.fd)
        self._maker.close()
        for fd in self._fds.values():
            os.close(fd)

    # -- calls ----------------------------------------------------------------------------------------------------------

    def claim(self, client: bytes, packed: m.Packed, user: Hashable) -> bool:
        """A client mentions these in a call, which uses them from now on; whether there are any.

        Raises:
            WireError: it was not lent one of them.
        """
        mentioned = _segments(packed)
        if mentioned:
            self._use(self._clients.get(client), mentioned, user)
        return bool(mentioned)

    def accept(self, worker: int, packed: m.Packed, user: Hashable | None, now: float) -> bool:
        """A worker mentions these in a result, and has them no more; they are the call's, if it wants them; whether there are
        any.

        Raises:
            WireError: it was not lent one of them.
        """
        mentioned = _segments(packed)
        if mentioned:
            for segment in self._use(self._workers.get(worker), mentioned, user):
                self.pool.take(segment, now)
            self._settle()
        return bool(mentioned)

    def release(self, user: Hashable, now: float) -> None:
        """A call does not use its arguments' segments, or its result's, any more."""
        self.pool.release(user, now)
        self._settle()

    def attempt_ended(self, worker: int, call: int, attempt: int, now: float) -> None:
        """A worker has done with an attempt."""
        borrower = self._workers.get(worker)
        if borrower is not None and borrower.attempts:
            user = (worker, call, attempt)
            if user in borrower.attempts:
                borrower.attempts.discard(user)
                self.release(user, now)

    def to_worker(self, worker: int, call: int, attempt: int, pieces: Sequence[codec.Piece]) -> Sequence[codec.Piece]:
        """What to send to a worker for these pieces: segments that it knows now, or bytes instead."""
        borrower, user = self._workers.get(worker), (worker, call, attempt)

        def hand(segment: Segment) -> bool:
            if borrower is None or not self._introduce(borrower, segment, m.Handed(segment.id, segment.size_bytes)):
                return False
            borrower.attempts.add(user)
            self.pool.use(segment, user)
            return True

        return self._convert(pieces, hand)

    def to_client(self, client: bytes, submission: int, pieces: Sequence[codec.Piece]) -> Sequence[codec.Piece]:
        """What to send to a client for these pieces of a result: segments that are its own now, or bytes instead."""
        borrower = self._clients.get(client)

        def hand(segment: Segment) -> bool:
            if borrower is None:
                return False
            if segment.holder == borrower.number:
                return True  # sent once more
            if segment.holder is not None or not self.pool.pass_on(segment, borrower.number):
                return False
            if self._introduce(borrower, segment, m.Handed(segment.id, segment.size_bytes, submission), always=True):
                return True
            self.pool.take(segment, self._clock())
            return False

        return self._convert(pieces, hand)

    def _convert(self, pieces: Sequence[codec.Piece], hand: Callable[[Segment], bool]) -> Sequence[codec.Piece]:
        found: list[codec.Piece] = []
        handed: dict[int, bool] = {}
        for piece in pieces:
            if isinstance(piece, m.Segment):
                if piece.id not in handed:
                    segment = self.pool.find(piece.id)
                    assert segment is not None, "a call uses it"
                    handed[piece.id] = hand(segment)
                if not handed[piece.id]:
                    self.fallbacks["not handed over"] += 1
                    piece = bytearray(piece.size) if not piece.size else self._read(piece)
            found.append(piece)
        self._settle()
        return found

    def _read(self, piece: m.Segment) -> bytearray:
        data = bytearray(piece.size)
        view, done = memoryview(data), 0
        while done < piece.size:  # one read moves 2 GiB at most
            done += os.preadv(self._fds[piece.id], [view[done:]], piece.offset + done)
        return data

    def _use(self, borrower: _Borrower | None, mentioned: Sequence[m.Segment], user: Hashable | None) -> list[Segment]:
        number = borrower.number if borrower is not None else 0
        segments = [self.pool.held(number, data.id, data.offset + data.size) for data in mentioned]
        if user is not None:
            for segment in segments:
                self.pool.use(segment, user)
        return segments

    # -- what is said ---------------------------------------------------------------------------------------------------

    def _admit(self, stranger: socket.socket, packet: bytes) -> bool:
        try:
            hello = codec.FROM_BORROWER.read([packet]).message
        except WireError:
            return False
        if not isinstance(hello, m.BorrowerHello) or not hmac.compare_digest(hello.secret, self._secret):
            return False
        if hello.client in self._clients:
            return False
        borrower = self._join(stranger, "default")  # whom the secret lets in
        borrower.client = hello.client
        self._clients[hello.client] = borrower
        return True

    def _join(self, end: socket.socket, tenant: str) -> _Borrower:
        end.setblocking(False)
        borrower = _Borrower(next(self._numbers), tenant, end)
        self._borrowers[borrower.number] = borrower
        self.pool.join(borrower.number, tenant)
        self._watcher.watch(end.fileno(), functools.partial(self._listen, borrower))
        return borrower

    def _listen(self, borrower: _Borrower) -> None:
        if borrower.socket is None:
            return
        packet, descriptors = processes.receive(borrower.socket)
        processes.close(descriptors)
        if packet is None:
            return
        try:
            if not packet:
                self._ended(borrower)
                return
            match codec.FROM_BORROWER.read([packet]).message:
                case m.Borrow(request=request, size_bytes=size):
                    self._lend(borrower, request, size)
                case m.Return(segments=segments, spoiled=spoiled):
                    self.pool.give_back(borrower.number, segments, spoiled, self._clock())
                    self._settle()
                case m.BorrowerHello():
                    raise WireError("a second hello on one connection", fault="borrower")
        except WireError as error:
            log.warning("%r: %s", borrower, error)
            self._ended(borrower)

    def _ended(self, borrower: _Borrower) -> None:
        """Its end is closed. A client has given up everything then; a worker's death is told by others."""
        self._hang_up(borrower)
        if borrower.client is not None:
            del self._clients[borrower.client]
            self._leave(borrower, self._clock())

    def _hang_up(self, borrower: _Borrower) -> None:
        if borrower.socket is not None:
            self._watcher.unwatch(borrower.socket.fileno())
            borrower.socket.close()
            borrower.socket = None

    def _leave(self, borrower: _Borrower, now: float) -> None:
        self._hang_up(borrower)
        del self._borrowers[borrower.number]
        self.pool.leave(borrower.number, now)
        self._settle()

    # -- lending --------------------------------------------------------------------------------------------------------

    def _lend(self, borrower: _Borrower, request: int, size_bytes: int) -> None:
        segment = self.pool.borrow(borrower.number, size_bytes, self._clock())
        if isinstance(segment, Refused):
            self._refuse(borrower, request, segment.reason)
        elif segment.made:
            self._tell_lent(borrower, request, segment)
        else:
            borrower.requests[segment.id] = request
            self._maker.make(segment.id, segment.size_bytes)
        self._settle()

    def _made(self, number: int, fd: int, reason: str) -> None:
        segment = self.pool.find(number)
        holder = self._borrowers.get(segment.holder or 0) if segment is not None else None
        request = holder.requests.pop(number, 0) if holder is not None else 0
        if fd < 0:
            log.warning("%s", reason)
            self.pool.failed(number)
            if holder is not None:
                self._refuse(holder, request, reason)
            return
        self._fds[number] = fd
        waited_for = self.pool.made(number, self._clock())
        if waited_for is not None and holder is not None:
            self._tell_lent(holder, request, waited_for)
        self._settle()

    def _tell_lent(self, borrower: _Borrower, request: int, segment: Segment) -> None:
        if not self._introduce(borrower, segment, m.Lent(request, segment.id, segment.size_bytes), always=True):
            self.pool.give_back(borrower.number, (segment.id,), False, self._clock())

    def _refuse(self, borrower: _Borrower, request: int, reason: str) -> None:
        self.fallbacks["not lent"] += 1
        self._say(borrower, m.NotLent(request, reason))

    def _introduce(self, borrower: _Borrower, segment: Segment, message: m.ToBorrower, always: bool = False) -> bool:
        """See that a borrower knows a segment; `always` says it in any case. False if it cannot be told."""
        if borrower.socket is None:
            return False
        is_new = self.pool.introduce(segment, borrower.number)
        self._settle()  # what it forgets for this one, it forgets before
        if not is_new and not always:
            return True
        if is_new and segment.id in borrower.unsaid:
            borrower.unsaid.remove(segment.id)
        if self._say(borrower, message, (self._fds[segment.id],) if is_new else ()):
            return True
        if is_new:
            self.pool.unknow(segment, borrower.number)
        return False

    def _say(self, borrower: _Borrower, message: m.ToBorrower, descriptors: tuple[int, ...] = ()) -> bool:
        """Send a packet; False if it is gone, or so far behind that its socket is full."""
        if borrower.socket is None:
            return False
        (packet,) = codec.write(message)
        try:
            socket.send_fds(borrower.socket, [packet], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def _settle(self) -> None:
        """Free what the pool has closed, and tell who knew it."""
        pool = self.pool
        while pool.closed:
            segment = pool.closed.pop()
            fd = self._fds.pop(segment.id)
            if segment.spoiled:
                os.close(fd)
            else:
                free(fd, segment.size_bytes)
        if not pool.forgotten:
            return
        told = set()
        while pool.forgotten:
            number, segment_id = pool.forgotten.pop()
            borrower = self._borrowers.get(number)
            if borrower is not None:
                borrower.unsaid.append(segment_id)
                told.add(number)
        for number in told:
            borrower = self._borrowers[number]
            if self._say(borrower, m.Forgotten(tuple(borrower.unsaid))):
                borrower.unsaid.clear()

    # -- for people -----------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, object]:
        """What `plover status` shows."""
        return {**self.pool.counts(), "fallbacks": dict(self.fallbacks)}


def _segments(packed: m.Packed) -> Sequence[m.Segment]:
    """Those that are mentioned; most values are one small buffer, and mention none."""
    if len(packed) == 1 and type(packed[0]) is m.Inline:
        return ()
    return [data for data in packed if type(data) is m.Segment]
