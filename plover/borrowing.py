"""A borrower's side of the conversation about segments: what it asks the daemon for, and what it was handed.

The same for clients and workers; what each does with segments stands in `plover.client.segments` and
`plover_runtime.segments`.

Guarantees: an answer that nobody waits for any more is given back; a packet that was received counts, whoever was to wait
for it. The end of the socket is an answer, not an exception. Assumes: Linux; one thread at a time.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

from plover import segments
from plover.errors import WireError
from plover.mappings import Mapping
from plover.serialize import Buffer
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Borrower", "Entry", "aligned"]

_PACKET_LIMIT = 64 * 1024
#: The arguments of `recvmsg` for one packet, with a descriptor at most.
_ONE_PACKET = ((_PACKET_LIMIT,), (socket.CMSG_SPACE(4),), (socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,))
#: The daemon answers within milliseconds, or has to make a segment first (0.1 s for 128 MB); later than this it is stopped,
#: and frames will wait with the rest.
_ANSWER_S = 2.0
#: Large buffers begin at multiples of this.
_ALIGNMENT = 64


class Entry:
    """A segment that this borrower knows.

    Attributes:
        fd: its descriptor.
        held: it is this borrower's, to write to and to mention.
        submission: the call whose result it was handed with; 0 for none.
    """

    def __init__(self, number: int, fd: int, size_bytes: int) -> None:
        self.id = number
        self.fd = fd
        self.size_bytes = size_bytes
        self.held = False
        self.submission = 0
        self._mapping: Mapping | None = None

    def __repr__(self) -> str:
        return f"<segment {self.id}, {self.size_bytes} bytes, held={self.held}>"

    @property
    def mapping(self) -> Mapping:
        """Its memory, mapped at the first look."""
        if self._mapping is None:
            self._mapping = self._map()
        return self._mapping

    def _map(self) -> Mapping:
        return Mapping(self.fd, self.size_bytes)

    def fill(
        self,
        buffers: Sequence[Buffer],
        chosen: Sequence[tuple[int, int]],
        offsets: Sequence[int],
        pieces: list[codec.Piece],
    ) -> None:
        """Copy the chosen ones of a message's buffers (index, size) to these offsets, and say so in its pieces."""
        array = self.mapping.array()
        for (index, size), offset in zip(chosen, offsets, strict=True):
            segments.copy(buffers[index], array[offset : offset + size])
            pieces[index] = m.Segment(self.id, offset, size)

    @property
    def is_mapped(self) -> bool:
        """Whether it is mapped now."""
        return self._mapping is not None

    def unmap(self) -> None:
        """Give up the mapping; its memory stays where arrays still look at it."""
        self._mapping = None

    def close(self) -> None:
        """Give up all that is kept of it."""
        self.unmap()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # closed by somebody's code
                os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """What came beside a packet."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found += memoryview(data).cast("i").tolist()
    return found


class _Left:
    """A socket that is only spoken to, and that the process's end may close: one of Python's would warn of that."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, packet: bytes, flags: int) -> int:
        """As a socket's."""
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        end = socket.socket(fileno=self._fd)
        try:
            return end.send(packet, flags)
        finally:
            end.detach()

    def close(self) -> None:
        """As a socket's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Borrower:
    """One end of a socket of packets to the daemon.

    Args:
        end: the socket; it is the borrower's own from now on.

    Attributes:
        entries: what it knows, by number.
        ended: the daemon is not there any more.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.entries: dict[int, Entry] = {}
        self.ended = False
        self._socket: socket.socket | _Left = end
        self._requests = itertools.count(1)
        self._waiting = 0  # the request that somebody waits for
        self._answer: Entry | str | None = None  # to it
        self._packets: collections.deque[Any] = collections.deque()  # received, and not taken off
        self._taken: object = (
            None  # the packet that has had its effect, as an interrupt may come before it is taken off
        )
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.entries)} segments, ended={self.ended}>"

    def borrow(self, size_bytes: int) -> Entry | None:
        """A segment of at least so many bytes; None if there is none to be had."""
        request = self._waiting = next(self._requests)
        self._answer = None
        until = time.monotonic() + _ANSWER_S
        try:
            if not self.say(m.Borrow(request, size_bytes)):
                return None
            while self._answer is None and not self.ended:
                if not self.drain():
                    left = until - time.monotonic()
                    if left <= 0:
                        return None
                    self._poll.poll(left * 1000)
        finally:
            self._waiting = 0
        return self._answer if isinstance(self._answer, Entry) else None

    def give_back(self, entries: Iterable[Entry], spoiled: bool = False) -> bool:
        """These are not needed any more; False if that could not be said now.

        It is said once at most: the segment may be lent here again by the time it was said twice. So an interrupt in here may
        leave one lent to nobody, until the socket's end.
        """
        given = [each for each in entries if each.held]
        for each in given:
            each.held = False
        if given and not self.say(m.Return(tuple([each.id for each in given]), spoiled)) and not self.ended:
            for each in given:
                each.held = True
            return False
        for each in given:
            each.submission = 0
        return True

    def say(self, message: m.FromBorrower) -> bool:
        """Send a packet; False if it does not go now, or the daemon is gone."""
        (packet,) = codec.write(message)
        try:
            self._socket.send(packet, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            self.ended = True
            return False
        return True

    def drain(self) -> bool:
        """Take what the daemon has said; whether it was anything."""
        came = False
        while not self.ended and isinstance(self._socket, socket.socket):
            if not self._packets:
                try:
                    # From the kernel into the list in one instruction: no interrupt comes between, and no packet is lost.
                    self._packets.extend(map(self._socket.recvmsg, *_ONE_PACKET))
                except BlockingIOError:
                    break
                except OSError:
                    self.ended = True
                    break
            packet = self._packets[0]
            data, descriptors = packet[0], _descriptors(packet[1])
            if data:
                if self._taken is not packet:
                    self._take(codec.TO_BORROWER.read([data]).message, descriptors, packet)
                came = True
            else:
                self.ended = True
            if self._packets and self._packets[0] is packet:  # and not taken by a signal handler meanwhile
                self._packets.popleft()
        return came

    def hear_no_more(self) -> None:
        """Nothing will be asked for or handed over any more. What is held may stay so until the process ends."""
        if isinstance(self._socket, socket.socket):
            self._socket = _Left(self._socket.detach())

    def close(self) -> None:
        """Give everything back."""
        self.ended = True
        end, self._socket = self._socket, _Left(-1)
        end.close()
        for entry in self.entries.values():
            entry.close()
        self.entries.clear()

    def _take(self, message: m.ToBorrower, descriptors: list[int], packet: object) -> None:
        """What a packet says has its effect once, whatever comes between: what is held is held from one call to the next."""
        match message:
            case m.Lent(request=request):
                entry = self._meet(message.segment, message.size_bytes, descriptors)
                if self._taken is packet:  # by a signal handler; and no call from here on until it is held
                    return
                self._taken = packet
                entry.held = True
                if request == self._waiting:
                    self._answer = entry
                else:
                    self.give_back((entry,))
            case m.NotLent(request=request, reason=reason):
                if request == self._waiting:
                    self._answer = reason
            case m.Handed():
                entry, submission = self._meet(message.segment, message.size_bytes, descriptors), message.submission
                if self._taken is packet:
                    return
                self._taken = packet
                entry.submission = submission
                if submission:
                    entry.held = True
            case m.Forgotten(segments=segments):
                for number in segments:
                    known = self.entries.pop(number, None)
                    if known is not None:
                        known.close()

    def _meet(self, number: int, size_bytes: int, descriptors: list[int]) -> Entry:
        """The entry of a segment that is mentioned; a descriptor comes with it the first time."""
        entry = self.entries.get(number)
        if descriptors and (
            entry is None or entry.fd != descriptors[0]
        ):  # else an interrupt came, and it is taken again
            if entry is not None:
                entry.close()
            entry = self.entries[number] = self.make_entry(number, descriptors[0], size_bytes)
        if entry is None:
            raise WireError(f"the daemon mentions segment {number}, and never handed it over", fault="daemon")
        return entry

    def make_entry(self, number: int, fd: int, size_bytes: int) -> Entry:
        """What this borrower keeps of a segment."""
        return Entry(number, fd, size_bytes)


def aligned(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where buffers of these sizes begin in a segment that they share, and where the last ends.

    Example:
        >>> aligned([100, 10])
        ([0, 128], 138)
    """
    offsets, end = [], 0
    for size in sizes:
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        offsets.append(begin)
        end = begin + size
    return offsets, end
