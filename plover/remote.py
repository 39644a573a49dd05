"""What functions and kernels have in common: a target that is packed when it changed, options, and how a call is sent.

Guarantees: a target of which nothing changed since the last call is not packed again, whatever options its copies have.

Assumes: a `plover.session` to send calls with; it is imported at the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from plover import kernels, serialize
from plover.options import with_environment
from plover.pickling import captures, named
from plover.wire.messages import CallOptions

if TYPE_CHECKING:
    from plover.client.calls import Payload
    from plover.client.futures import Future
    from plover.pickling.captures import Snapshot

__all__ = ["CallRequest", "Packed", "Remote", "TakesCalls"]


class CallRequest(msgspec.Struct, frozen=True):
    """A call that is to be sent, whole.

    Attributes:
        payload: the packed function.
        args: positional arguments.
        kwargs: keyword arguments.
        options: of the call, with what this process adds to every call.
        waits: the caller waits for the result, so its arrays need not be copied now.
        finish: applied to the value before anybody sees it.
    """

    payload: Payload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: CallOptions
    waits: bool = False
    finish: Callable[[Any], Any] | None = None


class TakesCalls(Protocol):
    """Where calls go: a session, one with several daemons, or the foreground worker of `plover.debug`."""

    def send(self, request: CallRequest, /) -> Future[Any]:
        """Begin the call."""


class Packed:
    """What a target was packed as; its copies with other options may share one.

    Attributes:
        last: the payload, and what tells whether it is still right (None where only pickling again can). One tuple, so that
            threads which pack at the same time never put one's payload beside another's snapshot.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: tuple[Payload, Snapshot | None] | None = None


class Remote:
    """What functions and kernels have in common: a target that is packed, options, and the ways to call it."""

    def __init__(self, target: Callable[..., Any], options: CallOptions, packed: Packed | None = None) -> None:
        self._target = target
        self._options = options
        self._packed = Packed() if packed is None else packed  # shared by copies with other options

    def __repr__(self) -> str:
        from plover.looks import function_text

        return function_text(*self._looks())

    def _repr_html_(self) -> str:
        from plover.looks import function_html

        return function_html(*self._looks())

    def __reduce__(self) -> Any:
        """As functions and classes are pickled: by name, where that finds it or what it is a copy of; else by value."""
        home = named.found(self)
        if home is self:
            return self.__qualname__
        if type(home) is type(self) and home._origin() is self._origin():
            return self._by_name(home)
        return self.by_value()

    def by_value(self) -> tuple[Any, ...]:
        """How it is made anew elsewhere: what `__reduce__` may return. Plover's own serializer always sends it so."""
        raise NotImplementedError

    def _origin(self) -> Any:
        """What its author decorated; copies with other options, bound methods and launches share it."""
        raise NotImplementedError

    def _by_name(self, home: Any) -> tuple[Any, ...]:
        """How it is made anew, for `__reduce__`, from what stands under its name."""
        raise NotImplementedError

    def _looks(self) -> tuple[Any, ...]:
        """What it looks like: what it is, its name, the Python function that has its parameters, and its options."""
        return "gpu_function", self._name(), self._target, self._options

    def _name(self) -> str:
        return str(getattr(self._target, "__qualname__", None) or getattr(self._target, "__name__", "function"))

    def _pack(self) -> Payload:
        """The target's payload as it is now, with everything that it captures."""
        packed = self._packed.last
        if packed is not None and self._is_as_before(packed[1]):
            return packed[0]
        from plover import versions
        from plover.client.calls import Payload

        snapshot = captures.Snapshot.of(self._target, (kernels.reduce,))  # first: what changes meanwhile shows later
        buffers, classes, names = serialize.pack_function(self._target)
        content: list[serialize.Buffer] = [*map(bytes, buffers), versions.stamp()]
        known = packed[0] if packed is not None else None
        if known is None or known.buffers != content or known.names != names:  # comparing costs less than a digest
            known = Payload.of(content, classes, self._name(), names)
        self._packed.last = known, snapshot
        return known

    @staticmethod
    def _is_as_before(snapshot: Snapshot | None) -> bool:
        return snapshot is not None and snapshot.unchanged()

    def _send(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        waits: bool,
        session: TakesCalls | None,
        finish: Callable[[Any], Any] | None = None,
    ) -> Future[Any]:
        """Send a call over a session, the current one unless told."""
        if session is None:
            from plover.session import current

            session = current()
        return session.send(CallRequest(self._pack(), args, kwargs, with_environment(self._options), waits, finish))

    def _begin(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, waits: bool = False, session: TakesCalls | None = None
    ) -> Future[Any]:
        """Begin a call with these arguments."""
        return self._send(args, kwargs, waits=waits, session=session)
