"""Values as bytes and back: cloudpickle for code, pickle protocol 5 with out-of-band buffers for arrays.

A value becomes a list of buffers: the pickle stream, then the bytes of arrays and of other large values, which are not
copied. The same in both directions, for functions, arguments, results and exceptions. The steps: `reducers` (how each type
is taken apart), `classes` (classes by value), `buffers` (large values), `culprits` (what cannot travel, by its path).

Guarantees:
  * Array bytes never stand inside a pickle stream, and arrays come out writable when the buffers are.
  * A function's bytes are the same in every process where its content is. (Sets of strings still differ: their order is
    the process's own.)
  * What cannot travel is a `NotSerializable` that names the whole path to it, before anything is sent.

Assumes: both sides have the same minor version of Python and the same cloudpickle major version; the daemon sees to it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle

from plover import kernels
from plover.bundles.references import NO_NAMES, Names, References
from plover.errors import NotSerializable
from plover.pickling.buffers import MARK, BytesApart, holds_large_bytes, load_with_bytes
from plover.pickling.classes import ClassNamespace
from plover.pickling.reducers import Reducing

__all__ = [
    "ClassNamespace",
    "Packer",
    "as_is",
    "digest",
    "pack",
    "pack_arguments",
    "pack_function",
    "pack_result",
    "unpack",
]

Buffer = bytes | bytearray | memoryview
#: From this size on, what a function captures is worth a warning.
LARGE_CAPTURE_BYTES = 10 * 1024 * 1024

Reducer = Callable[[Any], Any]


class Packer(Reducing, cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles one value. `classes` are those that went by value: who waits for an answer must keep them alive.

    Args:
        reducers: each is asked about every object that is not a plain built-in one, and answers with what
            `__reduce__` may return, or `NotImplemented`.
    """

    def __init__(self, reducers: Sequence[Reducer] = ()) -> None:
        self._stream = io.BytesIO()
        self._buffers: list[Buffer] = []
        self.reducers = reducers
        self.classes: list[type] = []
        # A function that does not know `self`: the pickler would hold itself, and with it every large array that it has
        # seen, until the garbage collector comes by, which few objects of large size do not make it do.
        super().__init__(self._stream, protocol=5, buffer_callback=_keeper_in(self._buffers))

    def pack(self, value: Any) -> list[Buffer]:
        """The pickle stream and its buffers."""
        self.dump(value)
        return [self._stream.getvalue(), *self._buffers]


def _keeper_in(buffers: list[Buffer]) -> Callable[[pickle.PickleBuffer], None]:
    return lambda buffer: buffers.append(buffer.raw())


class _PackerOfBytes(BytesApart, Packer):
    """A packer that puts large bytes beside the stream."""

    def pack(self, value: Any) -> list[Buffer]:
        stream, *rest = super().pack(value)
        return [bytes(stream) + MARK, *rest]


#: Values of these types hold nothing that a reducer could want to see: plain pickle writes them, at a fifth of the time.
_PLAIN = frozenset({type(None), bool, int, float, complex, str})


def _packer(values: Any, reducers: Sequence[Reducer]) -> Packer:
    return (_PackerOfBytes if holds_large_bytes(values) else Packer)(reducers)


def pack(value: Any, reducers: Sequence[Reducer] = ()) -> list[Buffer]:
    """A value as buffers."""
    return _packer((value,), reducers).pack(value)


def unpack(buffers: Sequence[Buffer]) -> Any:
    """The value that `pack` was given. Arrays are views of the buffers, writable where these are."""
    stream = buffers[0]
    if stream[-1] == MARK[0]:
        return load_with_bytes(stream, buffers[1:])
    return pickle.loads(stream, buffers=buffers[1:])


def as_is(value: Any) -> Any:
    """What a reduced device array is made of on arrival, at a client that knows no device: the NumPy array itself."""
    return value


def digest(buffers: Sequence[Buffer]) -> bytes:
    """The name of a payload: SHA-256 over its buffers, each with its length before it."""
    state = hashlib.sha256()
    for buffer in buffers:
        state.update(len(buffer).to_bytes(8, "little"))
        state.update(buffer)
    return state.digest()


def pack_function(function: Callable[..., Any]) -> tuple[list[Buffer], list[type], Names]:
    """A function with everything it captures, the classes that go with it by value, and the modules that it mentions.

    Warns (`plover.pickling.large.LargeCapture`) if that is much.

    Raises:
        NotSerializable: something that it captures cannot travel; the message names it and says what to do.
    """
    packer = Packer((kernels.reduce,))
    packer.references = References()
    try:
        buffers = packer.pack(function)
    except Exception as error:
        from plover.pickling import culprits

        raise culprits.explain(culprits.name_of(function), function, error, (kernels.reduce,)) from _cause(error)
    size_bytes = sum(buffer.nbytes if isinstance(buffer, memoryview) else len(buffer) for buffer in buffers)
    if size_bytes >= LARGE_CAPTURE_BYTES:
        from plover.pickling import large

        large.warn(function, size_bytes, (kernels.reduce,))
    return buffers, packer.classes, packer.references.names()


def pack_arguments(
    function: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Buffer], list[type], Names]:
    """A call's arguments, the classes that go with them by value, and the modules that they mention.

    Raises:
        NotSerializable: an argument cannot travel; the message names it and says what to do.
    """
    values = (*args, *kwargs.values())
    if _PLAIN.issuperset(map(type, values)):
        return [pickle.dumps((args, kwargs), 5)], [], NO_NAMES
    packer = _packer(values, (kernels.reduce,))
    packer.references = References()
    try:
        return packer.pack((args, kwargs)), packer.classes, packer.references.names()
    except Exception as error:
        from plover.pickling import culprits

        told = culprits.explain(culprits.short(function), (args, kwargs), error, (kernels.reduce,), call=True)
        raise told from _cause(error)


def pack_result(function: str, value: Any, reducers: Sequence[Reducer]) -> list[Buffer]:
    """What a function returned.

    Raises:
        NotSerializable: something in it cannot travel; the message names it and says what to do.
    """
    if type(value) in _PLAIN:
        return [pickle.dumps(value, 5)]
    try:
        return pack(value, reducers)
    except Exception as error:
        from plover.pickling import culprits

        whole = f"{culprits.short(function)} → result"
        raise culprits.explain(whole, value, error, reducers, result=True) from _cause(error)


def _cause(error: Exception) -> Exception | None:
    """What a `NotSerializable` is raised from: a refusal of ours says nothing that is not in its text already."""
    return None if isinstance(error, NotSerializable) else error
