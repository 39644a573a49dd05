"""Live functions by the digest of their payload: the reason why a repeat call unpickles nothing but its arguments.

Guarantees: a function that was loaded stays the same object until it is evicted, and so do its compiled kernels. At most
`LIMIT` are kept, the least recently used goes first; the daemon assumes the same limit, and is told when it is wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from plover.serialize import Buffer, ClassNamespace, unpack
from plover_runtime import skew

LIMIT = 256


class LiveFunction:
    """A function that is loaded: itself, its own classes, and a dict that its calls share."""

    __slots__ = ("cache", "classes", "target")

    def __init__(self, target: Callable[..., Any], classes: ClassNamespace) -> None:
        self.target = target
        self.classes = classes
        self.cache: dict[Any, Any] = {}


class Functions:
    """The worker's live functions."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._live: OrderedDict[bytes, LiveFunction] = OrderedDict()

    def __repr__(self) -> str:
        return f"<{len(self._live)} live functions>"

    def find(self, digest: bytes) -> LiveFunction | None:
        """The live function of a payload, if it is here."""
        function = self._live.get(digest)
        if function is not None:
            self._live.move_to_end(digest)
        return function

    def load(self, digest: bytes, payload: Sequence[Buffer], name: str = "the function") -> LiveFunction:
        """Make a payload live; raises whatever unpickling it raises, or `VersionMismatch`, and keeps nothing then."""
        classes = ClassNamespace()
        differs = skew.check(payload, name)
        try:
            with classes.entered():
                function = LiveFunction(unpack(payload), classes)
        except Exception as error:
            if differs is not None:
                error.add_note(differs)
            raise
        self._live[digest] = function
        while len(self._live) > self._limit:
            self._live.popitem(last=False)
        return function
