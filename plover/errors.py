"""Plover's own exceptions: one tree, so that ``except plover.PloverError`` means "Plover failed, not my function".

What a user's function raises arrives as its own type and is never wrapped in one of these.

Guarantees: every exception here survives pickling with its message and its attributes, and every message says what
happened, to which call or worker, and what to do now. Assumes nothing else of Plover: this module imports only the
standard library, so that client, daemon and worker can all use it.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

__all__ = [
    "AccessDenied",
    "CallCancelled",
    "CallTimeout",
    "DaemonLost",
    "DaemonUnreachable",
    "DeviceError",
    "DeviceOutOfMemory",
    "NoCapacity",
    "NotSerializable",
    "NotSimulated",
    "PayloadTooLarge",
    "PloverError",
    "VersionMismatch",
    "WireError",
    "WorkerLost",
]


class PloverError(Exception):
    """The root of everything that Plover itself raises.

    Args:
        message: what happened, to what, and what to do now.
        **attributes: the facts in the message, for programs; each becomes an attribute of the exception.
            A subclass that annotates an attribute always has it: `None` where nobody said.

    Example:
        >>> WorkerLost("worker 3 was killed", signal=9).signal
        9
    """

    def __init__(self, message: str = "", **attributes: Any) -> None:
        super().__init__(message)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.__dict__.get("__annotations__", {}):
            if name not in cls.__dict__:
                setattr(cls, name, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(cls: type[PloverError], args: tuple[Any, ...], attributes: dict[str, Any]) -> PloverError:
    error = cls(*args)
    error.__dict__.update(attributes)
    return error


class NotSerializable(PloverError):
    """Something that a function takes along, or is given, cannot travel; raised before anything is sent."""

    path: str | None  #: where the culprit stands, such as ``f → closure 'lock' → threading.Lock``


class VersionMismatch(PloverError):
    """Client and daemon, or a function and every environment of the daemon, do not fit together."""

    client: str | None  #: the version on the side of the caller
    daemon: str | None  #: the version, or versions, on the side of the daemon


class WorkerLost(PloverError):
    """The worker died while it ran the call; with ``retries=`` the call would have been tried again."""

    call_id: str | None
    worker: str | None
    exit_code: int | None  #: the exit status, None where a signal ended it
    signal: int | None  #: the signal's number, None where it exited by itself
    out_of_memory: bool | None  #: True where the kernel killed it for memory
    output: str | None  #: the last lines that the call wrote


class DeviceError(PloverError):
    """The device reported a sticky error (an illegal address, a failed launch …); the worker is replaced."""

    call_id: str | None
    worker: str | None
    device: str | None


class DeviceOutOfMemory(PloverError, MemoryError):
    """The device has no room for what the call asked for."""

    asked_bytes: int | None
    free_bytes: int | None
    total_bytes: int | None


class CallTimeout(PloverError, TimeoutError):
    """The call took longer than its ``timeout`` (phase ``run``) or waited longer than its ``queue_timeout``
    (phase ``queue``).
    """

    call_id: str | None
    phase: str | None  #: ``"queue"`` or ``"run"``
    limit_s: float | None


class CallCancelled(PloverError, concurrent.futures.CancelledError):
    """The call was cancelled."""

    call_id: str | None
    tier: str | None  #: what stopped it, known once it has really ended: ``queue``, ``interrupt`` or ``kill``


class NoCapacity(PloverError):
    """The daemon cannot take the call: its queue is full, or no slot of this host could ever run it."""

    call_id: str | None


class DaemonUnreachable(PloverError):
    """No daemon answered at the address: nothing was sent."""

    call_id: str | None
    address: str | None


class DaemonLost(PloverError):
    """The daemon went away while the call was pending; whether the call ran is not known."""

    call_id: str | None
    address: str | None


class AccessDenied(PloverError):
    """The daemon refused this client: a wrong secret or key, or a message that this peer may not send."""


class PayloadTooLarge(PloverError):
    """A function, its arguments, its result or its modules are larger than the limit, which the message names."""

    size_bytes: int | None
    limit_bytes: int | None


class NotSimulated(PloverError, NotImplementedError):
    """The simulated device does not do this (yet); the message names what is missing."""

    feature: str | None


class WireError(PloverError):
    """Bytes that are not a message of this protocol; ``fault`` says whose they were."""

    fault: str | None  #: which side sent them: ``client``, ``daemon``, ``worker`` or ``zygote``


#: What to do about each of what may be beyond a limit of the daemon's.
IN_PIECES = "send it in pieces, a call each, or let the function read it from a file that the worker sees"
AS_ARGUMENTS = "pass captured data as arguments, or let the function read it from a file that the worker sees"
BACK_IN_PIECES = "return less, or in pieces, a call each, or write it to a file that both sides see"
OUT_OF_PACKAGES = "move data out of the packages, or install them in the worker's environment"


def beyond_limit(what: str, size_bytes: int, setting: str, limit_bytes: int, advice: str) -> str:
    """The text of a `PayloadTooLarge` about a limit of the daemon's, by the name that `plover doctor` has for it."""
    return f"{what}: {size_bytes:,} bytes, and the daemon's limit {setting} is {limit_bytes:,}; {advice}"
