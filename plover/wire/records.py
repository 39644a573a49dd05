"""Log records and warnings as bytes: what a worker writes into its third pipe, and what a client reads out of `Output`.

Layout: 4 bytes of the record's length, 8 of the attempt as `plover.wire.page.pack` (both little endian), then the record as
MessagePack; one after another. The daemon looks at the first twelve bytes and no further. See docs/adr/0014.

Guarantees: reading never executes anything; bytes that are no record end the reading of this call's records, and nothing
else. Assumes: bytes come in order, cut anywhere.
"""

from __future__ import annotations

import struct

import msgspec

__all__ = ["HEAD", "LARGEST", "LIMIT", "Logged", "Reader", "Record", "Warned", "write"]

#: A record's text and its exception are cut to this many characters each.
LIMIT = 64 * 1024
HEAD = struct.Struct("<IQ")
#: No record is longer.
LARGEST = 16 * LIMIT
_encoder = msgspec.msgpack.Encoder()


class Logged(msgspec.Struct, frozen=True, array_like=True, tag="log"):
    """A log record. `text` is the message with its arguments; `exception` a formatted traceback; `created` in seconds of
    the epoch; `extra` what was given as ``extra=`` and is a plain value.
    """

    name: str
    level: int
    text: str
    path: str
    line: int
    function: str
    created: float
    thread: str
    exception: str | None = None
    stack: str | None = None
    extra: dict[str, str | int | float | bool | None] = {}


class Warned(msgspec.Struct, frozen=True, array_like=True, tag="warning"):
    """A warning. `category` is its class as (module, name); `module` the name of the module that it was raised in, "" where
    nobody knows.
    """

    category: tuple[str, str]
    text: str
    path: str
    line: int
    module: str = ""


Record = Logged | Warned

_decoder = msgspec.msgpack.Decoder(Record)


def write(record: Record, attempt: int) -> bytes:
    """A record's bytes."""
    body = _encoder.encode(record)
    return HEAD.pack(len(body), attempt) + body


class Reader:
    """Reads the records of one call, fed in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._lost = False  # what came was no record: where the next one begins, nobody knows

    def feed(self, data: bytes) -> list[Record]:
        """The records that are complete now."""
        found: list[Record] = []
        self._rest += data
        while not self._lost and len(self._rest) >= HEAD.size:
            length, _ = HEAD.unpack_from(self._rest)
            end = HEAD.size + length
            if length > LARGEST:
                self._lost = True
            elif len(self._rest) < end:
                break
            else:
                try:
                    found.append(_decoder.decode(self._rest[HEAD.size : end]))
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    self._lost = True
                self._rest = self._rest[end:]
        if self._lost:
            self._rest = b""
        return found
