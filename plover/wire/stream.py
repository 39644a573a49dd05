"""Messages over a stream socket: what a worker and its daemon say to each other.

A message's frames (`plover.wire.codec`) follow each other, each behind one word of eight bytes (little endian): its size,
times two, and one more if another frame of the same message follows.

Guarantees: a message is given whole or not at all; a frame that is too large for the buffer is read straight into the memory
that it is given in, and written from where it lies; a size is checked before memory is taken for it. Sending to a socket
that does not block never waits: what does not go at once is kept, in order. Assumes: one thread.
"""

from __future__ import annotations

import collections
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from plover.errors import WireError

__all__ = ["HungUp", "Stream"]

_WORD = struct.Struct("<Q")
_WORD_SIZE = _WORD.size
_BUFFER_SIZE = 64 * 1024
#: Taken of a large frame at a time from a socket that does not block, so that others have their turn too.
_BUDGET_BYTES = 4 * 1024 * 1024
#: So many pieces are handed to the kernel at once (IOV_MAX is 1,024).
_PIECES = 256
#: Messages up to this size are joined to one piece: below it, that costs less than a list of pieces.
_JOIN_SIZE = 8 * 1024
#: In a turn of its loop an eager receiver gives the core to whoever wants it. A thread that only hands a message on has it
#: for some tens of microseconds; one that keeps it for longer needs it, and then the receiver goes to sleep.
_CROWDED_S = 200e-6


class HungUp(Exception):
    """The other side has closed its end, or is gone."""


class Stream:
    """One end of a pair of stream sockets.

    Args:
        end: the socket, blocking or not; it is the stream's own from now on.
        side: who is at the other end, for refusals.
        limit_bytes: the largest message that is taken, all frames together.
        limit_frames: of how many frames it may be.
        eager_s: so long a receiver that waits looks again and again before it sleeps, if the socket blocks. What comes
            meanwhile finds it awake, with its caches warm.

    Attributes:
        moved_at: when a part of a message that did not go, or come, in one piece last moved; monotonic seconds.

    Invariant: what lies in the buffer between `_start` and `_end` was received and not given yet; it begins at a frame's
    word. While `_target` is set, the buffer is empty.
    """

    def __init__(
        self, end: socket.socket, side: str, limit_bytes: int, limit_frames: int, eager_s: float = 0.0
    ) -> None:
        self._socket = end
        self._side = side
        self._limits = (limit_bytes, limit_frames)
        self._eager_s = eager_s
        self._buffer = bytearray(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._frames: list[Any] = []  # of the message that is being received
        self._size_bytes = 0  # of these
        self._target: memoryview | None = None  # what is left of a large frame, to be filled
        self._is_last = False  # whether the frame that is being filled is its message's last
        self._unsent: collections.deque[bytes | memoryview] = collections.deque()
        self._is_drained = False  # the last look took all that there was
        self.moved_at = 0.0
        self._waiting: select.poll | None = None
        if end.getblocking():
            # A poll sleeps until there is something to read. A blocking receive would also be woken, to no end, by the other
            # side's reading what was sent before: on a machine with idle cores that costs more than the poll.
            self._waiting = select.poll()
            self._waiting.register(end, select.POLLIN)

    def __repr__(self) -> str:
        return f"<stream {self.fileno()} to a {self._side}, {len(self._unsent)} pieces unsent>"

    def fileno(self) -> int:
        """The socket's descriptor; -1 once it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the descriptor back."""
        self._unsent.clear()
        self._socket.close()

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    # -- out -----------------------------------------------------------------------------------------------------------

    def send(self, frames: Sequence[Any]) -> bool:
        """Send a message.

        Returns:
            Whether it is on its way whole. If not, its frames must not change until `flush` has said True; it never happens
            where the socket blocks.

        Raises:
            HungUp: nobody is there to take it.
        """
        self.put(frames)
        return self.flush()

    def put(self, frames: Sequence[Any]) -> None:
        """Have a message go with the next `flush`; as `send` in all else."""
        last = len(frames) - 1
        unsent = self._unsent
        if not last and len(frames[0]) <= _JOIN_SIZE:
            unsent.append(_WORD.pack(len(frames[0]) * 2) + frames[0])
            return
        for number, frame in enumerate(frames):
            view = memoryview(frame).cast("B")
            unsent.append(_WORD.pack(len(view) * 2 + (number < last)))
            if len(view):
                unsent.append(view)

    def flush(self) -> bool:
        """Send on what did not go before; whether nothing is left.

        Raises:
            HungUp: nobody is there to take it.
        """
        unsent = self._unsent
        try:
            if len(unsent) == 1:
                first = unsent[0]
                sent = self._socket.send(first, socket.MSG_NOSIGNAL)
                if sent == len(first):
                    unsent.clear()
                    return True
                unsent[0] = memoryview(first)[sent:]
            while unsent:
                sent = self._socket.sendmsg(list(itertools.islice(unsent, _PIECES)), (), socket.MSG_NOSIGNAL)
                self.moved_at = time.monotonic()
                while sent:
                    first = unsent[0]
                    if sent < len(first):
                        unsent[0] = memoryview(first)[sent:]
                        break
                    sent -= len(first)
                    unsent.popleft()
        except BlockingIOError:
            return False
        except OSError as error:
            raise HungUp from error
        return True

    # -- in ------------------------------------------------------------------------------------------------------------

    def receive(self, patient: bool = False) -> list[Any] | None:
        """The next message's frames; None if it is not there whole yet, which a socket that blocks waits for. After None, the
        descriptor is readable again when there is more.

        Args:
            patient: take whatever is there, however long a large message takes.

        Raises:
            HungUp: the other side has closed its end, and everything that it sent was given.
            WireError: the other side sends what is beyond the limits; nothing can be received any more.
        """
        budget = _BUDGET_BYTES
        while True:
            if self._target is None and self._cut():
                frames, self._frames, self._size_bytes = self._frames, [], 0
                return frames
            target = self._target
            if self._waiting is not None:
                self._wait(self._waiting)
            elif self._is_drained:
                self._is_drained = False
                return None
            room = _BUFFER_SIZE - self._end if target is None else len(target)
            try:
                count = self._socket.recv_into(self._view[self._end :] if target is None else target)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                count = 0
            if not count:
                raise HungUp
            self._is_drained = count < room
            if target is None:
                self._end += count
                continue
            self.moved_at = time.monotonic()
            self._target = target[count:] if count < len(target) else None
            if self._target is None and self._is_last:
                frames, self._frames, self._size_bytes = self._frames, [], 0
                return frames
            budget -= count
            if budget <= 0 and not patient and self._waiting is None:
                return None

    def _wait(self, poll: select.poll) -> None:
        """Until there is something to be received."""
        now = time.monotonic()
        give_up = now + self._eager_s
        while not poll.poll(0):
            if now >= give_up:
                poll.poll()
                return
            os.sched_yield()
            before, now = now, time.monotonic()
            if now - before > _CROWDED_S:
                give_up = now

    def _cut(self) -> bool:
        """Cut frames out of the buffer; True at the end of a message. Otherwise there is room to receive more, behind what
        the buffer holds or in `_target`.
        """
        view = self._view
        while True:
            start, left = self._start, self._end - self._start
            if left < _WORD_SIZE:
                break
            (word,) = _WORD.unpack_from(view, start)
            size, is_last = word >> 1, not word & 1
            if left < _WORD_SIZE + size:
                if _WORD_SIZE + size <= _BUFFER_SIZE:
                    break
                self._check(size)
                self._fill(size, is_last)
                return False
            self._check(size)
            after = start + _WORD_SIZE + size
            piece = view[start + _WORD_SIZE : after]
            self._frames.append(bytearray(piece) if self._frames else bytes(piece))
            self._start = after
            if is_last:
                if after == self._end:
                    self._start = self._end = 0
                return True
        if start:  # to the front: no frame that the buffer can hold is cut off by its end
            view[:left] = view[start : self._end]
            self._start, self._end = 0, left
        return False

    def _check(self, size: int) -> None:
        limit_bytes, limit_frames = self._limits
        self._size_bytes += size
        if self._size_bytes > limit_bytes or len(self._frames) >= limit_frames:
            raise WireError(
                f"the {self._side} sent {self._size_bytes} bytes or more in {len(self._frames) + 1} frames or more; "
                f"the limits are {limit_bytes} and {limit_frames}",
                fault=self._side,
            )

    def _fill(self, size: int, is_last: bool) -> None:
        """Receive a frame that the buffer cannot hold into memory of its own."""
        frame = bytearray(size)
        self._frames.append(frame)
        here = self._view[self._start + _WORD_SIZE : self._end]
        target = memoryview(frame)
        target[: len(here)] = here
        self._target, self._is_last = target[len(here) :], is_last
        self._start = self._end = 0
