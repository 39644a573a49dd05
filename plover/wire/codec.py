"""How a message is written in bytes, and the only place that knows.

A message is one ZeroMQ frame, followed by one frame for each large buffer. The first frame is::

    offset  size  what
    0       2     the letters ``PL``
    2       1     the version of this protocol
    3       1     0, kept for later
    4       8     the incarnation of the daemon it is for, or from; 0 before the handshake (little endian)
    12      4     how long the header is, in bytes (little endian)
    16      n     the header: the message as MessagePack
    16 + n  …     the body: small buffers, one after another, found by `Inline(offset, size)` from the body's start

Buffers of up to `INLINE_LIMIT` bytes stand in the body, larger ones are frames of their own, or lie in segments, which a
message only mentions. Packets between daemon and zygote, and between daemon and borrowers, are written the same way.

Messages without frames of their own that go to one peer at one time may be joined to one frame, in order, because what a
message costs on its way is mostly a cost per frame::

    0       2     the letters ``PM``
    2       1     the version of this protocol
    3       1     0
    4       4     how many messages there are, n (little endian)
    8       4 n   how long each is
    8 + 4 n …     the messages

Guarantees: decoding never executes anything, never trusts a size, and every refusal is a `WireError` that says whose
fault it is. Relaying copies no frame: a header is written anew, body and frames pass as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from plover.errors import WireError
from plover.wire import messages as m

__all__ = [
    "EMPTY",
    "FROM_BORROWER",
    "FROM_CLIENT",
    "FROM_STRANGER",
    "FROM_WORKER",
    "FROM_ZYGOTE",
    "TO_BORROWER",
    "TO_CLIENT",
    "TO_WORKER",
    "TO_ZYGOTE",
    "Body",
    "Incoming",
    "Piece",
    "Reader",
    "join",
    "relay",
    "size_bytes",
    "split",
    "write",
]

MAGIC = b"PL"
MAGIC_OF_MANY = b"PM"
PROTOCOL = 1

#: Buffers up to this size travel inside the message's own frame: below it another frame costs more than the copy.
INLINE_LIMIT = 16 * 1024
#: A header describes a message; one larger than this is a mistake or an attack.
HEADER_LIMIT = 16 * 1024 * 1024
#: So many frames may follow a message's own.
FRAMES_LIMIT = 65_536

#: Messages up to this size are joined, up to so many bytes in all: copying them costs less than frames of their own would.
JOIN_LIMIT = 16 * 1024
JOINED_LIMIT = 256 * 1024

_MANY = struct.Struct("<2sBBI")
_PREFIX = struct.Struct("<2sBBQI")
PREFIX_SIZE = _PREFIX.size
_encoder = msgspec.msgpack.Encoder()

Buffer = bytes | bytearray | memoryview
#: A buffer, or where it lies in shared memory.
Piece = Buffer | m.Segment
T = TypeVar("T", bound=m.Message)


class Body:
    """The bytes that go with a message: small ones gathered for its own frame, large ones as frames of their own.

    Invariant: every `Bytes` that `add` returned describes bytes of this body.
    """

    __slots__ = ("_size", "frames", "inline")

    def __init__(self) -> None:
        self.inline: list[Buffer] = []
        self.frames: list[Buffer] = []
        self._size = 0

    def add(self, data: Piece) -> m.Bytes:
        """Put one buffer in, and say where it is. `data` must be contiguous bytes; it is not copied before `write`. What lies
        in a segment stays there.
        """
        if isinstance(data, m.Segment):
            return data
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        if size <= INLINE_LIMIT:
            self.inline.append(data)
            self._size += size
            return m.Inline(self._size - size, size)
        self.frames.append(data)
        return m.Frame(len(self.frames) - 1, size)

    def pack(self, buffers: Sequence[Piece]) -> m.Packed:
        """Put several buffers in, in order."""
        return tuple([self.add(data) for data in buffers])


EMPTY = Body()


def write(message: m.AnyMessage, incarnation: int = 0, body: Body = EMPTY) -> list[Any]:
    """A message's frames, ready to be sent."""
    return relay(message, incarnation, body.inline, body.frames)


def relay(message: m.AnyMessage, incarnation: int, inline: Sequence[Buffer], frames: Sequence[Any]) -> list[Any]:
    """A message's frames, its body and frames being those that came in with another message."""
    header = _encoder.encode(message)
    return [b"".join([_PREFIX.pack(MAGIC, PROTOCOL, 0, incarnation, len(header)), header, *inline]), *frames]


def join(messages: Sequence[list[Any]]) -> list[list[Any]]:
    """The same messages in the same order, each as its frames, small ones next to each other joined to one frame."""
    joined: list[list[Any]] = []
    small: list[Any] = []
    size = 0
    for frames in messages:
        length = len(frames[0])
        is_small = len(frames) == 1 and length <= JOIN_LIMIT
        if small and (not is_small or size + length > JOINED_LIMIT):
            joined.append(_join(small))
            small, size = [], 0
        if is_small:
            small.append(frames[0])
            size += length
        else:
            joined.append(frames)
    if small:
        joined.append(_join(small))
    return joined


def _join(small: list[Any]) -> list[Any]:
    count = len(small)
    if count == 1:
        return small
    sizes = struct.pack(f"<{count}I", *map(len, small))
    return [b"".join([_MANY.pack(MAGIC_OF_MANY, PROTOCOL, 0, count), sizes, *small])]


def split(frames: Sequence[Any], side: str) -> Sequence[Sequence[Any]]:
    """The messages that came as these frames, each as its own: one as it is, many as views.

    Raises:
        WireError: what came is neither.
    """
    if not frames or frames[0][:2] != MAGIC_OF_MANY:
        return (frames,)
    first = memoryview(frames[0])
    if len(frames) != 1 or len(first) < _MANY.size:
        raise WireError(f"the {side} sent joined messages that are cut off, or with other frames", fault=side)
    _, version, _, count = _MANY.unpack_from(first)
    at = _MANY.size + 4 * count
    if version != PROTOCOL:
        raise WireError(_other_version(version, side), fault=side)
    if at > len(first):
        raise WireError(f"the {side} sent {count} joined messages in {len(first)} bytes", fault=side)
    found = []
    for size in struct.unpack_from(f"<{count}I", first, _MANY.size):
        found.append((first[at : at + size],))
        at += size
    if at != len(first):
        raise WireError(f"the {side} sent joined messages of {at} bytes in {len(first)}", fault=side)
    return found


def _other_version(version: int, side: str) -> str:
    return (
        f"the {side} sent version {version} of the protocol, and this side speaks version {PROTOCOL}: "
        "install the same version of plover-gpu on both sides"
    )


class Incoming(msgspec.Struct, Generic[T]):
    """A message that came in: the record, its body and frames, and the incarnation that it names."""

    message: T
    incarnation: int
    body: memoryview
    frames: Sequence[Any]

    def take(self, packed: m.Packed, resolve: Callable[[m.Segment], Any] | None = None) -> list[Buffer]:
        """The bytes that `packed` describes, ready for `pickle.loads`.

        Args:
            packed: of this message.
            resolve: finds what lies in segments; None where nothing may.

        The pickle stream is a view. The buffers after it are writable and aligned for every dtype of up to eight bytes:
        small ones are copied out of the message (libzmq hands several messages out of one receive buffer, at any
        address), large ones are the frames themselves (which it allocates one by one).

        Raises:
            WireError: something lies in a segment, and may not.
        """
        found: list[Buffer] = []
        for data in packed:
            if isinstance(data, m.Inline):
                view = self.body[data.offset : data.offset + data.size]
                found.append(bytearray(view) if found else view)
            elif isinstance(data, m.Frame):
                found.append(memoryview(self.frames[data.index]))
            elif resolve is None:
                raise WireError(f"bytes in segment {data.id}, where none can be", fault="peer")
            else:
                found.append(resolve(data))
        return found

    def pieces(self, packed: m.Packed) -> Sequence[Piece]:
        """As `take`, with what lies in segments left there: for who passes it on."""
        return self.take(packed, _as_it_is)


def _as_it_is(segment: m.Segment) -> Any:
    return segment


def size_bytes(packed: m.Packed) -> int:
    """How many bytes a packed value has."""
    size = 0
    for data in packed:
        size += data.size
    return size


class Reader(Generic[T]):
    """Decodes the messages that one side may send, and refuses everything else.

    Args:
        union: the messages that this side may send.
        side: who sends them, for the refusal: ``client``, ``daemon``, ``worker``, ``zygote``, or ``peer`` where that is
            not known yet.
    """

    def __init__(self, union: Any, side: str) -> None:
        self._decoder = msgspec.msgpack.Decoder(union)
        self._side = side

    def read(self, frames: Sequence[Any]) -> Incoming[T]:
        """Decode a message and check that every byte it describes is there.

        Raises:
            WireError: what came is not a message that this side may send.
        """
        if not frames:
            raise self._refuse("a message without any frame")
        first = memoryview(frames[0])
        if len(first) < PREFIX_SIZE:
            raise self._refuse(f"a message of {len(first)} bytes, shorter than the {PREFIX_SIZE} of its prefix")
        magic, version, _, incarnation, length = _PREFIX.unpack_from(first)
        if magic != MAGIC:
            raise self._refuse(f"bytes that are not Plover's (they begin with {magic!r})")
        if version != PROTOCOL:
            raise WireError(_other_version(version, self._side), fault=self._side)
        end = PREFIX_SIZE + length
        if length > HEADER_LIMIT and end > len(first):
            raise self._refuse(
                f"a damaged message, or none of Plover's: its prefix speaks of a header of {length} bytes, beyond the "
                f"limit of {HEADER_LIMIT}, and {len(first) - PREFIX_SIZE} follow"
            )
        if length > HEADER_LIMIT:
            raise self._refuse(f"a header of {length} bytes; the limit is {HEADER_LIMIT}")
        if end > len(first):
            raise self._refuse(f"a truncated message: a header of {length} bytes in {len(first) - PREFIX_SIZE}")
        if len(frames) - 1 > FRAMES_LIMIT:
            raise self._refuse(f"a message of {len(frames)} frames; the limit is {FRAMES_LIMIT}")
        try:
            message = self._decoder.decode(first[PREFIX_SIZE:end])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._refuse(f"a header that is none of its messages: {error}") from None
        body = first[end:]
        self._check(message.described(), len(body), frames)
        return Incoming(message, incarnation, body, frames[1:])

    def _check(self, packed: m.Packed, body_size: int, frames: Sequence[Any]) -> None:
        """Every described byte must be there, and every frame be described once, in order."""
        next_frame = 1
        for data in packed:
            if isinstance(data, m.Inline):
                if data.offset < 0 or data.size < 0 or data.offset + data.size > body_size:
                    where = f"{data.size} bytes at {data.offset}"
                    raise self._refuse(f"a description of {where} of a body of {body_size}")
            elif isinstance(data, m.Segment):
                if data.id <= 0 or data.offset < 0 or data.size < 0:
                    raise self._refuse(f"a description of {data.size} bytes at {data.offset} of segment {data.id}")
            else:
                if data.index != next_frame - 1 or next_frame >= len(frames):
                    raise self._refuse(f"a description of frame {data.index} of {len(frames) - 1}")
                size = len(memoryview(frames[next_frame]))
                if size != data.size:
                    raise self._refuse(f"a frame of {size} bytes, described as {data.size}")
                next_frame += 1
        if next_frame != len(frames):
            raise self._refuse(f"{len(frames) - next_frame} frames that no part of the message describes")

    def _refuse(self, what: str) -> WireError:
        return WireError(f"the {self._side} sent {what}", fault=self._side)


def incarnation(frames: Sequence[Any]) -> int:
    """The incarnation that a message names, as far as it is one at all: 0 if not."""
    if not frames or len(memoryview(frames[0])) < PREFIX_SIZE:
        return 0
    magic, version, _, named, _ = _PREFIX.unpack_from(memoryview(frames[0]))
    return int(named) if magic == MAGIC and version == PROTOCOL else 0


FROM_CLIENT: Reader[m.FromClient] = Reader(m.FromClient, "client")
TO_CLIENT: Reader[m.ToClient] = Reader(m.ToClient, "daemon")
#: Before its handshake a peer may only say hello, whoever it is.
FROM_STRANGER: Reader[m.Hello] = Reader(m.Hello, "peer")
FROM_WORKER: Reader[m.FromWorker] = Reader(m.FromWorker, "worker")
TO_WORKER: Reader[m.ToWorker] = Reader(m.ToWorker, "daemon")
FROM_ZYGOTE: Reader[m.FromZygote] = Reader(m.FromZygote, "zygote")
FROM_BORROWER: Reader[m.FromBorrower] = Reader(m.FromBorrower, "borrower")
TO_BORROWER: Reader[m.ToBorrower] = Reader(m.ToBorrower, "daemon")
TO_ZYGOTE: Reader[m.ToZygote] = Reader(m.ToZygote, "daemon")
