"""The status page: five words of shared memory in which a worker and its daemon see what runs, without a message.

Layout, 64-bit words in the machine's byte order::

    0  the attempt that runs, as `pack(call, attempt)`; 0 for none       written by the worker
    1  when it began, nanoseconds of the monotonic clock                 written by the worker
    2  the attempt to be cancelled, as `pack(call, attempt)`             written by the daemon
    3  the attempt that ended last, as `pack(call, attempt)`             written by the worker
    4  `SEAL`                                                            written when the page is made

Guarantees: each word has one writer and is written whole (an aligned 8-byte store); what was written stands after a
SIGKILL. The worker clears word 0 before it changes word 1, so a reader that finds word 0 the same before and after has
a pair that belongs together. Assumes: total store order, or aligned stores seen in order, which x86-64 gives and
CPython's own work between two stores gives in practice on arm64.

Word 3 tells a call that never began from one that ended while its result was still on its way when the worker died.
Word 4 is gone when user code has written all over the page, which then says nothing.
"""

from __future__ import annotations

import mmap
import os
import sys
import time

SIZE = 4096
SEAL = int.from_bytes(b"ploverpg", "little")
_ATTEMPT_BITS = 16
_LOOKS = 100  # at a pair of words that changes all the time, as no worker's does


def pack(call: int, attempt: int) -> int:
    """Call and attempt as one word."""
    return call << _ATTEMPT_BITS | attempt & (1 << _ATTEMPT_BITS) - 1


def unpack(word: int) -> tuple[int, int] | None:
    """Call and attempt of a word, None for 0."""
    return (word >> _ATTEMPT_BITS, word & (1 << _ATTEMPT_BITS) - 1) if word else None


def create() -> int:
    """A new page on which nothing has begun; returns its descriptor, close-on-exec."""
    fd = os.memfd_create("plover-page", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, SEAL.to_bytes(8, sys.byteorder), 4 * 8)
    return fd


class StatusPage:
    """One side's view of a worker's page, over a descriptor that may be closed afterwards.

    Example:
        >>> page = StatusPage(create())
        >>> page.begin(7, 1)
        >>> page.running()[0]
        (7, 1)
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        self._words = memoryview(self._map).cast("Q")

    def begin(self, call: int, attempt: int) -> float:
        """The worker begins an attempt; returns when, in seconds of the monotonic clock."""
        now = time.monotonic_ns()
        self._words[0] = 0
        self._words[1] = now
        self._words[0] = pack(call, attempt)
        return now / 1e9

    def end(self) -> None:
        """The worker has ended its attempt."""
        if self._words[0]:
            self._words[3] = self._words[0]
            self._words[0] = 0

    def running(self) -> tuple[tuple[int, int] | None, float | None]:
        """(call, attempt) that runs and when it began in seconds of the monotonic clock, or (None, None)."""
        word = began = 0
        for _ in range(_LOOKS):
            word, began, again = self._words[0], self._words[1], self._words[0]
            if word == again:
                break
        return (unpack(word), began / 1e9) if word else (None, None)

    def is_whole(self) -> bool:
        """Whether nobody has written all over it."""
        return self._words[4] == SEAL

    def last(self) -> tuple[int, int] | None:
        """(call, attempt) that runs, or that ended last, or None if there was none: for the hour of death."""
        return unpack(self._words[0] or self._words[3])

    def cancel(self, call: int, attempt: int) -> None:
        """The daemon wants this attempt to stop."""
        self._words[2] = pack(call, attempt)

    def is_cancelled(self, call: int, attempt: int) -> bool:
        """Whether the daemon wants this attempt to stop."""
        return self._words[2] == pack(call, attempt)

    def running_is_cancelled(self) -> bool:
        """Whether what runs now is what the daemon wants to stop; for a signal handler."""
        word = self._words[0]
        return word != 0 and word == self._words[2]

    def close(self) -> None:
        """Give the mapping back."""
        self._words.release()
        self._map.close()
