"""Objects that say themselves how they are pickled (`__reduce__`, `__getstate__`, a reducer), as they were.

They are asked again, and what they answer is compared with what they answered: objects that are the same each time by
identity, fresh ones by value where they are numbers, texts or small buffers, and else by what they answer themselves.

Guarantees: an answer that differs in anything that would be pickled counts as changed. Assumes: asking has no effect
(pickling asks too).
"""

from __future__ import annotations

import pickle
import struct
import types
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np

__all__ = ["BeyondBudget", "Reduced", "Unstable"]

Ask = Callable[[Any], Any]
_CONSTANT = frozenset({int, str, bytes, bool, type(None)})


class Unstable(Exception):
    """Each answer has new objects that cannot be compared."""


class BeyondBudget(Exception):
    """The answer is too large to be compared at every call."""


class _Fresh:
    """A container that is made anew for each answer, by its parts (of a dict: the keys, then the values)."""

    __slots__ = ("kind", "parts")

    def __init__(self, kind: type, parts: list[Any]) -> None:
        self.kind = kind
        self.parts = parts


class _Key:
    """An array or a buffer that is made anew for each answer, by its content."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key


class _Object:
    """An object that is made anew for each answer, by its own answer."""

    __slots__ = ("answer", "ask", "kind")

    def __init__(self, kind: type, ask: Ask, answer: Any) -> None:
        self.kind = kind
        self.ask = ask
        self.answer = answer


class Reduced:
    """One such object.

    Args:
        obj: the object.
        how: tells of an object how it is asked.
        entries: how many parts an answer may have.
        size_bytes: how large its fresh parts may be together.

    Attributes:
        kept: the parts that are the same objects each time.

    Raises:
        Unstable, BeyondBudget: it cannot be told by asking.
    """

    def __init__(self, obj: Any, how: Callable[[Any], Ask], entries: int, size_bytes: int) -> None:
        self._obj = obj
        self._how = how
        self._ask = how(obj)
        self._limit = entries
        self._entries_left = 2 * entries
        self._bytes_left = size_bytes
        self.kept: list[Any] = []
        self._answer = self._remember_answers(self._ask, obj, obj)

    def is_as_before(self) -> bool:
        """Whether the object answers as it did."""
        return _is_same(_listed(self._ask(self._obj), self._limit), self._answer, self._limit)

    def _remember_answers(self, ask: Ask, first: Any, second: Any) -> Any:
        return self._remember(_listed(ask(first), self._limit), _listed(ask(second), self._limit))

    def _remember(self, first: Any, second: Any) -> Any:
        """What to compare with, from two answers: the same object, a constant, a `_Fresh`, a `_Key` or an `_Object`."""
        self._entries_left -= 1
        if self._entries_left < 0:
            raise BeyondBudget
        if first is second:
            self.kept.append(first)
            return first
        kind = type(first)
        if type(second) is not kind:
            raise Unstable
        if kind is tuple or kind is list or kind is dict:
            if len(first) != len(second):
                raise Unstable
            return _Fresh(kind, list(map(self._remember, _parts(first), _parts(second))))
        self._bytes_left -= _size(first)
        if self._bytes_left < 0:
            raise BeyondBudget
        key = _key(first)
        if key is not None:
            if key != _key(second):
                raise Unstable
            return first if kind in _CONSTANT else _Key(key)
        if isinstance(first, type | types.FunctionType) or kind is object:
            raise Unstable
        ask = self._how(first)
        return _Object(kind, ask, self._remember_answers(ask, first, second))


def _is_same(now: Any, before: Any, limit: int) -> bool:
    kind = type(before)
    if kind is _Fresh:
        parts = before.parts
        if type(now) is not before.kind:
            return False
        found: Any = now if before.kind is not dict else [*now, *now.values()]
        if len(found) != len(parts):
            return False
        for part, known in zip(found, parts, strict=True):
            if part is not known and not _is_same(part, known, limit):
                return False
        return True
    if kind is _Key:
        return bool(_key(now) == before.key)
    if kind is _Object:
        return type(now) is before.kind and _is_same(_listed(before.ask(now), limit), before.answer, limit)
    return now is before or (kind in _CONSTANT and type(now) is kind and now == before)


def _parts(container: Any) -> Iterable[Any]:
    return (*container, *container.values()) if type(container) is dict else container


def _listed(answer: Any, limit: int) -> Any:
    """An answer of `__reduce__` whose iterators (of list items, of dictionary items) are lists."""
    if type(answer) is not tuple or len(answer) < 4:
        return answer
    parts = list(answer)
    for index in (3, 4):
        if index < len(parts) and parts[index] is not None:
            parts[index] = list(islice(parts[index], limit + 1))
            if len(parts[index]) > limit:
                raise BeyondBudget
    return tuple(parts)


def _size(part: Any) -> int:
    if isinstance(part, bytes | bytearray | str):
        return len(part)
    if isinstance(part, np.ndarray):
        return part.nbytes
    return memoryview(part).nbytes if isinstance(part, pickle.PickleBuffer) else 0


def _key(part: Any) -> Any:
    """What a fresh part is compared by; None where it cannot be."""
    kind = type(part)
    if kind in _CONSTANT:
        return kind, part
    if kind is bytearray:
        return kind, bytes(part)
    if kind is slice:
        return kind, _key(part.start), _key(part.stop), _key(part.step)
    if isinstance(part, np.number | np.bool_ | np.datetime64 | np.timedelta64):
        return kind, part.dtype, part.tobytes()
    if kind is float or kind is complex:
        return kind, struct.pack("dd", part.real, part.imag)  # -0.0 is not 0.0, and nan is nan
    if kind is pickle.PickleBuffer:
        with memoryview(part) as view:
            return kind, view.readonly, view.tobytes()
    if kind is np.ndarray and not part.dtype.hasobject:
        return kind, part.dtype, part.shape, part.strides, part.flags.writeable, part.tobytes()
    return None
