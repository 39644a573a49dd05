"""Properties of the codec: any message of any direction comes back as it was, and no bytes do worse than be refused."""

from __future__ import annotations

import contextlib
import struct
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plover.bundles.format import BundleSet
from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m
from plover.wire.records import Logged, Warned

DIRECTIONS: dict[str, tuple[Any, codec.Reader[Any]]] = {
    "client to daemon": (m.FromClient, codec.FROM_CLIENT),
    "daemon to client": (m.ToClient, codec.TO_CLIENT),
    "worker to daemon": (m.FromWorker, codec.FROM_WORKER),
    "daemon to worker": (m.ToWorker, codec.TO_WORKER),
    "zygote to daemon": (m.FromZygote, codec.FROM_ZYGOTE),
    "daemon to zygote": (m.ToZygote, codec.TO_ZYGOTE),
}
READERS = [reader for _, reader in DIRECTIONS.values()] + [codec.FROM_STRANGER]
_INCARNATIONS = st.integers(0, 2**64 - 1)
#: Sizes on both sides of the limit between body and frame, cheap to make.
_SIZES = st.sampled_from([0, 1, 3, 8, 1000, codec.INLINE_LIMIT, codec.INLINE_LIMIT + 1, 40_000])


def _members(union: Any) -> tuple[type, ...]:
    return typing.get_args(union) or (union,)


def _fields(cls: type, packed: st.SearchStrategy[m.Packed]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{name: _values(kind, packed) for name, kind in hints.items()})


def _values(kind: Any, packed: st.SearchStrategy[m.Packed]) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may have on the wire."""
    if kind == m.Packed:
        return packed
    if kind == m.Packed | None:
        return st.none() | packed
    if kind == m.Bundles:
        return packed
    if kind in (BundleSet, m.CallOptions, m.Versions, m.Timings, m.Receipt, Logged, Warned):
        return _fields(kind, packed)
    if kind is int or kind == tuple[int, ...]:
        numbers = st.integers(-(2**63), 2**64 - 1)
        return numbers if kind is int else st.lists(numbers, max_size=4).map(tuple)
    if kind is float:
        return st.floats(allow_nan=False)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and Ellipsis not in arguments:
        return st.tuples(*(_values(each, packed) for each in arguments))
    if typing.get_origin(kind) is tuple and arguments[0] not in (int, str):
        return st.lists(_values(arguments[0], packed), max_size=2).map(tuple)
    if typing.get_origin(kind) is dict:
        return st.dictionaries(st.text(max_size=5), _values(arguments[1], packed), max_size=3)
    if arguments and type(None) in arguments:
        return st.one_of(st.none(), *(_values(each, packed) for each in arguments if each is not type(None)))
    if arguments and typing.get_origin(kind) not in (tuple, typing.Literal):  # a union of plain types
        return st.one_of(*(_values(each, packed) for each in arguments))
    return st.from_type(kind)


@st.composite
def _messages(draw: st.DrawFn, union: Any) -> tuple[list[Any], Any, list[bytes]]:
    """A message's frames, the message, and the buffers that it describes, in order."""
    body = codec.Body()
    buffers: list[bytes] = []

    def make(sizes: list[int]) -> m.Packed:
        made = [bytes([len(buffers) + number & 255]) * size for number, size in enumerate(sizes)]
        buffers.extend(made)
        return body.pack(made)

    packed = st.lists(_SIZES, max_size=4).map(lambda sizes: tuple(sizes))
    cls = draw(st.sampled_from(_members(union)))
    sketch = draw(_fields(cls, packed))
    # sizes first, bytes afterwards, so that what shrinking threw away leaves nothing in the body
    values = {name: getattr(sketch, name) for name in cls.__struct_fields__}
    for name, kind in typing.get_type_hints(cls).items():
        if kind in (m.Packed, m.Packed | None) and values[name] is not None:
            values[name] = make(values[name])
        elif kind == m.Bundles:
            values[name] = tuple([(bytes([number]), each) for number, each in enumerate(make(values[name]))])
    message = cls(**values)
    return codec.write(message, draw(_INCARNATIONS), body), message, buffers


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(data=st.data())
def test_any_message_comes_back_as_it_was(direction: str, data: st.DataObject) -> None:
    union, reader = DIRECTIONS[direction]
    frames, message, buffers = data.draw(_messages(union))
    incoming = reader.read(frames)
    assert incoming.message == message
    assert type(incoming.message) is type(message)
    assert [bytes(each) for each in incoming.take(incoming.message.described())] == buffers
    assert codec.size_bytes(incoming.message.described()) == sum(map(len, buffers))
    assert codec.incarnation(frames) == incoming.incarnation


@given(data=st.data())
def test_no_direction_takes_a_message_of_another(data: st.DataObject) -> None:
    union, own = data.draw(st.sampled_from(list(DIRECTIONS.values())))
    frames, message, _ = data.draw(_messages(union))
    for other, reader in DIRECTIONS.values():
        if reader is not own and type(message) not in _members(other):
            with pytest.raises(WireError):
                reader.read(frames)


@given(frames=st.lists(st.binary(max_size=200), max_size=4), reader=st.sampled_from(READERS))
def test_arbitrary_bytes_are_at_worst_refused(frames: list[bytes], reader: codec.Reader[Any]) -> None:
    codec.incarnation(frames)
    with contextlib.suppress(WireError):
        reader.read(frames)


@given(header=st.binary(max_size=200), body=st.binary(max_size=20), reader=st.sampled_from(READERS))
def test_arbitrary_headers_are_at_worst_refused(header: bytes, body: bytes, reader: codec.Reader[Any]) -> None:
    first = struct.pack("<2sBBQI", b"PL", codec.PROTOCOL, 0, 1, len(header)) + header + body
    with contextlib.suppress(WireError):
        reader.read([first])


@given(data=st.data())
def test_a_truncated_header_is_refused(data: st.DataObject) -> None:
    union, reader = data.draw(st.sampled_from(list(DIRECTIONS.values())))
    frames, message, _ = data.draw(_messages(union))
    (length,) = struct.unpack_from("<I", frames[0], 12)
    cut = data.draw(st.integers(0, codec.PREFIX_SIZE + length - 1))
    with pytest.raises(WireError):
        reader.read([frames[0][:cut], *frames[1:]])
    assert message is not None


@given(data=st.data())
def test_a_message_without_one_of_its_frames_is_refused(data: st.DataObject) -> None:
    union, reader = data.draw(st.sampled_from([DIRECTIONS["client to daemon"], DIRECTIONS["daemon to worker"]]))
    frames, _, _ = data.draw(_messages(union).filter(lambda made: len(made[0]) > 1))
    with pytest.raises(WireError):
        reader.read(frames[:-1])


@given(data=st.data())
def test_flipped_bits_are_at_worst_refused_and_never_reach_outside(data: st.DataObject) -> None:
    union, reader = data.draw(st.sampled_from(list(DIRECTIONS.values())))
    frames, _, _ = data.draw(_messages(union))
    (length,) = struct.unpack_from("<I", frames[0], 12)
    first = bytearray(frames[0])
    flips = st.tuples(st.integers(0, codec.PREFIX_SIZE + length - 1), st.integers(0, 7))
    for at, bit in data.draw(st.lists(flips, min_size=1, max_size=8)):
        first[at] ^= 1 << bit
    try:
        incoming = reader.read([bytes(first), *frames[1:]])
    except WireError:
        return
    packed = incoming.message.described()
    assert [len(memoryview(each)) for each in incoming.take(packed)] == [each.size for each in packed]


@given(sizes=st.lists(_SIZES, min_size=1, max_size=6))
def test_buffers_after_the_stream_are_writable_whatever_their_sizes(sizes: list[int]) -> None:
    body = codec.Body()
    packed = body.pack([bytes(size) for size in sizes])
    frames = codec.write(m.Run(1, 1, "c-1", "f", b"f", packed), 1, body)
    # as `sockets.receive` gives them: the first as bytes, the others as the memory that they came in
    incoming = codec.TO_WORKER.read([frames[0], *map(bytearray, frames[1:])])
    taken = incoming.take(packed)
    assert [len(memoryview(each)) for each in taken] == sizes
    assert all(not memoryview(each).readonly for each in taken[1:])
