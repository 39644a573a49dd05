"""Segments in a client: arguments that are copied into them, results that lie in them, arrays born in them.

What is in use is never counted, but looked at: a segment is in use while the call lives whose arguments it holds, while an
array lies over it, and while the call is pending that it was handed for. So an interrupt anywhere loses no segment for longer
than until the next look, and nothing is given back that is needed.

Guarantees: any thread may call anything here, also in a signal handler or a destructor in the middle of something here; then,
and wherever else a segment cannot be had, there is none, and frames are the way. After a fork an array is each process's own,
with what it held.

Assumes: Linux, and the daemon's socket on this host. The socket is closed only when nothing lies in a segment any more, which
is what its end tells the daemon.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plover import addresses, segments
from plover.borrowing import Borrower, Entry, aligned
from plover.errors import WireError
from plover.serialize import Buffer
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["ClientSegments", "Loan", "connect"]

Anchor = np.ndarray[Any, Any]

#: So much is kept for the next arguments; beyond it, asking again costs little beside the copy.
_KEPT_BYTES = 64 << 20


class Loan:
    """A call's arguments in segments. The call keeps it as long as they may be read.

    Attributes:
        clean: its worker has said that it is done with them, so that they may be written to at once.
    """

    def __init__(self) -> None:
        self.entry: _Used | None = None
        self.born: list[Anchor] = []

    @property
    def clean(self) -> bool:
        """See above."""
        return self.entry is None or self.entry.clean

    @clean.setter
    def clean(self, clean: bool) -> None:
        if self.entry is not None:
            self.entry.clean = clean


class _Used(Entry):
    """A segment, and what may use it."""

    loan: weakref.ref[Loan] | None = None
    anchor: weakref.ref[Anchor] | None = None  # what all arrays over it lead to
    born: bool = False  # the array over it was born here
    clean: bool = True

    def array_over_it(self) -> Anchor | None:
        """The array that is left over it, if any is."""
        return self.anchor() if self.anchor is not None else None


class ClientSegments(Borrower):
    """The segments of one connection.

    Args:
        end: the borrowing socket, after its hello.
        is_pending: whether a call is.
    """

    def __init__(self, end: socket.socket, is_pending: Callable[[int], bool]) -> None:
        super().__init__(end)
        self.entries: dict[int, _Used]  # type: ignore[assignment]
        self._is_pending = is_pending
        self._lock: Any = threading.RLock()
        self._untidy = False
        self._closing = False
        #: What used a segment and was collected. Its `put` is C, so no interrupt gets lost in a collection.
        self._stale: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._is_looked_after = False
        self._pid = os.getpid()
        _living.add(self)

    def make_entry(self, number: int, fd: int, size_bytes: int) -> Entry:
        """One that knows what uses it."""
        if not self._is_looked_after:
            with contextlib.suppress(RuntimeError):  # the process ends, and with it all of this
                _thread.start_new_thread(self._look_after, ())
            self._is_looked_after = True
        return _Used(number, fd, size_bytes)

    # -- arguments ------------------------------------------------------------------------------------------------------

    def place(self, buffers: Sequence[Buffer], out: Anchor | None = None) -> tuple[Sequence[codec.Piece], Loan | None]:
        """A call's buffers, the large ones in segments where there are any to be had, and what keeps them there.

        Args:
            buffers: packed arguments; what is in a segment afterwards may change.
            out: the array that is to be written in place.
        """
        pieces: list[codec.Piece] = list(buffers)
        loan, rest = Loan(), []
        for index in range(1, len(buffers)):
            buffer = buffers[index]
            size = segments.size_of(buffer)
            if size > codec.INLINE_LIMIT:
                found = self._find(buffer, size, out, loan)
                if found is None:
                    rest.append((index, size))
                else:
                    pieces[index] = found
        offsets, total = aligned([size for _, size in rest])
        if total >= segments.THRESHOLD_BYTES:
            entry = self._take_for(total, loan)
            if entry is not None:
                entry.fill(buffers, rest, offsets, pieces)
        return pieces, loan if loan.entry is not None or loan.born else None

    def find_born(self, array: Anchor) -> bool:
        """Whether an array lies, whole and in one piece, in one that was born in a segment."""
        if not (array.flags.c_contiguous or array.flags.f_contiguous):
            return False
        begin = array.__array_interface__["data"][0]
        return self._born_at(begin, begin + array.nbytes) is not None

    def _born_at(self, begin: int, end: int) -> tuple[_Used, Anchor] | None:
        for entry in list(self.entries.values()):
            if entry.born and entry.held:
                anchor, address = entry.array_over_it(), entry.mapping.address
                if anchor is not None and address <= begin and end <= address + entry.size_bytes:
                    return entry, anchor
        return None

    def _find(self, buffer: Buffer, size: int, out: Anchor | None, loan: Loan) -> m.Segment | None:
        """Where a buffer lies, if that is in a segment already."""
        begin = segments.address_of(buffer)
        found = self._born_at(begin, begin + size)
        if found is None:
            return None
        entry, anchor = found
        loan.born.append(anchor)
        is_out = out is not None and out.nbytes == size and out.__array_interface__["data"][0] == begin
        return m.Segment(entry.id, begin - entry.mapping.address, size, 2 if is_out else 1)

    def _take_for(self, size_bytes: int, loan: Loan) -> _Used | None:
        if self._lock._is_owned():
            return None
        with self._lock:
            entry = self._take_one(size_bytes)
            if entry is not None:
                entry.clean = False
                entry.loan = weakref.ref(loan, self._stale.put)
                loan.entry = entry
        self._finish()
        return entry

    def _take_one(self, size_bytes: int) -> _Used | None:
        """A segment that nobody uses: one that was kept, or another."""
        fitting = [
            each
            for each in self.entries.values()
            if each.held and size_bytes <= each.size_bytes <= 2 * size_bytes and not self._is_used(each)
        ]
        entry = min(fitting, key=lambda each: each.size_bytes, default=None)
        if entry is None and not self._closing:
            borrowed = self.borrow(size_bytes)
            assert borrowed is None or isinstance(borrowed, _Used)
            entry = borrowed
        if entry is not None:
            entry.loan = entry.anchor = None
            entry.born, entry.submission = False, 0
            try:
                entry.mapping  # noqa: B018  (mapped here, where a failure is an answer)
            except OSError:
                self.give_back((entry,))
                return None
        return entry

    # -- results --------------------------------------------------------------------------------------------------------

    def resolve(self, segment: m.Segment) -> memoryview:
        """The bytes of a result.

        Raises:
            WireError: they were never handed over.
            OSError: there is no room for another mapping.
        """
        with self._lock:
            entry = self.entries.get(segment.id)
            if entry is None or not entry.held:
                self.drain()
                entry = self.entries.get(segment.id)
            if entry is None or not entry.held or segment.offset + segment.size > entry.size_bytes:
                raise WireError(
                    f"the daemon mentions bytes of segment {segment.id} that it never handed over", fault="daemon"
                )
            anchor = entry.array_over_it()  # the result was taken before, and not to the end
            if anchor is None:
                anchor = entry.mapping.array()
                entry.anchor = weakref.ref(anchor, self._stale.put)
        self._finish()
        return memoryview(anchor[segment.offset : segment.offset + segment.size])  # type: ignore[arg-type]

    # -- arrays that are born here --------------------------------------------------------------------------------------

    def allocate(self, size_bytes: int) -> Anchor | None:
        """Memory in a segment for an array; None if there is none to be had."""
        if self._lock._is_owned() or self._pid != os.getpid():
            return None
        with self._lock:
            entry = self._take_one(size_bytes)
            if entry is None:
                return None
            anchor = entry.mapping.array()
            entry.anchor = weakref.ref(anchor, self._stale.put)
            entry.born = True
        self._finish()
        return anchor

    # -- looking after what is not used ---------------------------------------------------------------------------------

    def _is_used(self, entry: _Used) -> bool:
        return (
            (entry.loan is not None and entry.loan() is not None)
            or entry.array_over_it() is not None
            or bool(entry.submission and self._is_pending(entry.submission))
        )

    def _look_after(self) -> None:
        """A thread's work: give back what is not used any more, as soon as it is not."""
        while self._stale.get() is not None:
            self.tidy()

    def tidy(self) -> None:
        """Give back what is not used, now or as soon as whoever is at it is done."""
        self._untidy = True
        self._finish()

    def _finish(self) -> None:
        while self._untidy and not self._lock._is_owned() and self._lock.acquire(blocking=False):
            try:
                self._untidy = False
                self._sweep()
            finally:
                self._lock.release()

    def _sweep(self) -> None:
        kept = 0
        unused = [each for each in self.entries.values() if each.held and not self._is_used(each)]
        back = []
        for entry in unused:
            was_arguments = entry.loan is not None
            if was_arguments and entry.clean and kept + entry.size_bytes <= _KEPT_BYTES and not self._closing:
                kept += entry.size_bytes
            else:
                back.append(entry)
        self.give_back(back)
        if self._closing and not any(each.held for each in self.entries.values()):
            _living.discard(self)
            self.close()

    def leave(self) -> None:
        """The connection has ended: when nothing lies in a segment any more, the socket is closed."""
        with self._lock:
            self._closing = True
            self.hear_no_more()
        self.tidy()

    # -- forks ----------------------------------------------------------------------------------------------------------

    def part(self) -> None:
        """Before a fork: arrays become each process's own. At once, so that no thread's work on them is lost, and without a
        copy: pages are copied as they are written to. Their segments must not be used again, as the child looks at them.
        """
        if self._lock._is_owned():
            return
        with self._lock:
            for entry in list(self.entries.values()):
                if entry.array_over_it() is None:
                    continue
                entry.mapping.keep_private(entry.fd)
                self.give_back((entry,), spoiled=True)
                del self.entries[entry.id]
                entry.close()

    def close(self) -> None:
        """Give everything back."""
        super().close()
        self._stale.put(None)  # its thread ends

    def forget(self) -> None:
        """In a fork's child: all this is the parent's."""
        self._lock = threading.RLock()
        self._stale = queue.SimpleQueue()
        self.close()


def connect(address: str, client: bytes, secret: bytes, is_pending: Callable[[int], bool]) -> ClientSegments | None:
    """The segments of the daemon at this address; None if it lends none here."""
    path = addresses.borrowing_path(addresses.socket_path(address))
    if path is None:
        return None
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        end.setblocking(False)
        end.connect(str(path))
        end.send(codec.write(m.BorrowerHello(client, secret))[0], socket.MSG_NOSIGNAL)
    except OSError:
        end.close()
        return None
    return ClientSegments(end, is_pending)


#: Those that may hold something. Where one was collected before the arrays in its segments, the daemon would lend these anew.
_living: set[ClientSegments] = set()


def _before_fork() -> None:
    for each in list(_living):
        each.part()


def _after_fork() -> None:
    for each in list(_living):
        each.forget()
    _living.clear()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
