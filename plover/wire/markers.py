"""Output markers: how a worker says in its own stdout and stderr that an attempt's output is complete.

After each attempt the worker flushes both streams and writes a marker into each pipe, then sends its result. The daemon,
on a result, reads both pipes up to the attempt's marker: so output is complete before its result and lands in the right
call, also when the process is killed right afterwards.

Layout of a marker, `SIZE` bytes::

    2   0x00 0x1e
    16  the worker's random word, which user code cannot guess
    8   the attempt, as `plover.wire.page.pack`, big endian

Guarantees: shorter than PIPE_BUF, so a pipe takes it whole.
"""

from __future__ import annotations

WORD_SIZE = 16
SIZE = 2 + WORD_SIZE + 8
_START = b"\x00\x1e"


def make(word: bytes, attempt: int) -> bytes:
    """The marker of one attempt."""
    return _START + word + attempt.to_bytes(8, "big")


def split(data: bytes, word: bytes) -> tuple[bytes, int | None, bytes]:
    """What stands before the first marker in `data`, that marker's attempt, and what follows it.

    Without a whole marker the attempt is None, and what follows is the end of `data` that might be the beginning of one.
    """
    start = _START + word
    at = data.find(start)
    if at >= 0 and at + SIZE <= len(data):
        return data[:at], int.from_bytes(data[at + len(start) : at + SIZE], "big"), data[at + SIZE :]
    if at < 0:
        at = len(data)
        for length in range(min(len(start) - 1, len(data)), 0, -1):
            if data.endswith(start[:length]):
                at -= length
                break
    return data[:at], None, data[at:]
