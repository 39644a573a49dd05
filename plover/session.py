"""Sessions: which daemon calls go to, and how it is found.

Guarantees: nothing happens before the first call. A session's connection that has ended is made anew by the next call; an
embedded daemon that died is started again. The process's end says goodbye, which cancels what is pending, and leaves no
process behind.

Assumes: `current()` may be called from any thread; a forked child starts with a session of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from plover import addresses, errors, profiles, segments, serialize
from plover.bundles.needed import needed
from plover.errors import DaemonLost, PayloadTooLarge, PloverError, VersionMismatch
from plover.profiles import Target
from plover.simulation import say_simulated
from plover.tracebacks import leave_out_ours
from plover.wire.codec import Piece
from plover.wire.messages import Segment

if TYPE_CHECKING:
    from plover.client.calls import Payload
    from plover.client.connection import Connection
    from plover.client.futures import Future
    from plover.embedded import EmbeddedDaemon
    from plover.remote import CallRequest
    from plover.ways import Way

__all__ = ["Session", "connect", "current"]

#: How a child process finds the embedded daemon of its parent.
_INHERITED = "PLOVER_EMBEDDED_ADDRESS"


class Session:
    """A place to send calls: a daemon by its address, or whatever this machine has.

    Args:
        address: ``ipc:///path/of/a/socket``, ``tcp://host:port`` (with keys, see ``plover keys``), ``ssh://user@host``, or a
            profile's name; None for ``$PLOVER_ADDRESS``, the default profile, this machine's daemon, or an embedded one.

    Example:
        ``with plover.connect("ipc:///run/plover/daemon.sock") as session: session.submit(fn, x).result()``
    """

    def __init__(self, address: str | None = None) -> None:
        self._target = profiles.find(address) if address is not None else None
        self._lock = threading.Lock()  # guards the four below
        self._connection: Connection | None = None
        self._way: Way | None = None  # what the connection goes over
        self._embedded: EmbeddedDaemon | None = None
        self._closed = False

    def __repr__(self) -> str:
        from plover.looks import session_text

        return session_text(self._address(), self._connection, self._closed)

    def _repr_html_(self) -> str:
        from plover.looks import session_html

        return session_html(self._address(), self._connection, self._closed)

    def _address(self) -> str | None:
        return self._target.address if self._target is not None else None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin a call of a function, or of a `gpu_function` or kernel with its options, on this session's daemon."""
        try:
            future: Future[Any] = remote(function)._begin(args, kwargs, session=self)
        except BaseException as error:
            leave_out_ours(error)
            raise
        return future

    def map(
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        in_flight: int | None = None,
        progress: bool = False,
        **not_built: Any,
    ) -> Iterator[Any]:
        """`GpuFunction.map` on this session's daemon."""
        from plover.client.mapping import expected, map_calls

        one = remote(function)._each(timeout, not_built)
        return map_calls(
            lambda *args: one._begin(args, {}, session=self),
            zip(*iterables, strict=False),
            ordered=ordered,
            return_exceptions=return_exceptions,
            in_flight=in_flight,
            name=one._name(),
            total=expected(iterables),
            progress=progress,
        )

    def send(self, request: CallRequest, /) -> Future[Any]:
        """Send a packed function's call.

        Raises:
            NotSerializable, PayloadTooLarge, DaemonUnreachable …: nothing was sent.
        """
        payload, kwargs, finish = request.payload, request.kwargs, request.finish
        if "out" in kwargs:
            kwargs, finish = self._for_out(kwargs, finish)
        buffers, classes, names = serialize.pack_arguments(payload.name, request.args, kwargs)
        modules = needed(payload.names, names)
        connection = self.connection()
        self._check_size(payload, buffers, connection)
        pieces: Sequence[Piece] = buffers
        loan = None
        if len(buffers) > 1:
            if connection.segments is not None:
                pieces, loan = connection.segments.place(buffers, kwargs.get("out"))
            if not request.waits:
                pieces = [each if isinstance(each, Segment) else bytes(each) for each in pieces]
        return connection.submit(
            payload, pieces, classes, request.options, finish, waits=request.waits, modules=modules, loan=loan
        )

    def _for_out(
        self, kwargs: dict[str, Any], finish: Callable[[Any], Any] | None
    ) -> tuple[dict[str, Any], Callable[[Any], Any] | None]:
        """The keywords, and what is done with the result, so that an array of `plover.empty` holds what is written to it as
        ``out``: in place where its segment is this daemon's, else it goes there and back.
        """
        out, shared = kwargs["out"], self.connection().segments
        if type(out) is not np.ndarray or finish is not None or (shared is not None and shared.find_born(out)):
            return kwargs, finish
        if not segments.is_born(out):
            return kwargs, finish
        return {**kwargs, "out": segments.Out(out)}, functools.partial(segments.back_in_place, out)

    def connection(self) -> Connection:
        """The live connection, made now if there is none.

        Raises:
            DaemonUnreachable, AccessDenied, VersionMismatch: there is no daemon to be had; the message says why.
        """
        connection, embedded = self._connection, self._embedded
        if connection is not None and connection.in_order and (embedded is None or embedded.is_alive()):
            return connection
        with self._lock:
            if self._closed:
                raise PloverError("this session is closed: make another one with plover.connect(…)")
            self._drop_dead_daemon()
            if self._connection is None or not self._connection.usable or _has_gone(self._connection):
                self._connection = self._connect()
            return self._connection

    def peek(self) -> Connection | None:
        """The connection as it is, alive or not; None if there is none."""
        return self._connection

    def _drop_dead_daemon(self) -> None:
        """A connection takes seconds to give up a daemon that may come back; an embedded one that died never does."""
        embedded = self._embedded
        if embedded is None or embedded.is_alive():
            return
        self._embedded = None
        self._disown(embedded)
        connection = self._connection
        if connection is not None and connection.address == embedded.address:
            self._connection = None
            reason = f"the embedded daemon at {embedded.address} died; whether its pending calls ran is not known"
            connection.give_up(DaemonLost(reason, address=embedded.address))
            connection.close()
        embedded.stop(kill=True)

    @staticmethod
    def _disown(embedded: EmbeddedDaemon) -> None:
        """Children that are started from now on do not look for it."""
        if os.environ.get(_INHERITED) == embedded.address:
            del os.environ[_INHERITED]

    def close(self) -> None:
        """Cancel what is pending, leave the daemon, and end it if it is an embedded one."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
            embedded, self._embedded = self._embedded, None
            way, self._way = self._way, None
        if connection is not None:
            connection.close()
        if way is not None:
            way.close()
        if embedded is not None:
            self._disown(embedded)
            embedded.stop()
        _forget(self)

    def _connect(self) -> Connection:
        from plover.ways import open_way

        earlier, self._way = self._way, None
        if earlier is not None:
            earlier.close()  # its connection has ended
        target = self._target or self._find()
        way = open_way(target)
        try:
            connection = way.connect(target.address)
        except BaseException:
            way.close()
            raise
        self._way = way
        welcome = connection.welcome
        try:
            _check_versions(welcome.versions.plover)
        except VersionMismatch:
            connection.close()
            raise
        if welcome.simulated:
            say_simulated(target.address)
        return connection

    def _find(self) -> Target:
        """A daemon, when none was named by the caller."""
        configured = profiles.configured()
        if configured is not None:
            return configured
        inherited = os.environ.get(_INHERITED)
        if inherited and self._embedded is None and addresses.is_alive(addresses.socket_path(inherited)):
            return Target(inherited)
        default = addresses.default_directory() / addresses.SOCKET_NAME
        if default.exists() and addresses.is_alive(default):
            return Target(f"ipc://{default}")
        from plover.embedded import EmbeddedDaemon

        if self._embedded is not None:
            self._embedded.stop(kill=True)
        self._embedded = EmbeddedDaemon()
        os.environ[_INHERITED] = self._embedded.address
        return Target(self._embedded.address)

    @staticmethod
    def _check_size(payload: Payload, buffers: list[serialize.Buffer], connection: Connection) -> None:
        welcome = connection.welcome
        size = 0
        for buffer in buffers:
            size += buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
        if size > welcome.payload_limit_bytes:
            what, limit = f"the arguments of this call of {payload.name}", welcome.payload_limit_bytes
            raise _too_large(what, size, "payload_bytes", limit, errors.IN_PIECES)
        if payload.size_bytes > welcome.function_limit_bytes:
            what, limit = f"the function {payload.name} with what it captures", welcome.function_limit_bytes
            raise _too_large(what, payload.size_bytes, "function_bytes", limit, errors.AS_ARGUMENTS)


def _has_gone(connection: Connection) -> bool:
    """Whether nobody listens at its socket: its daemon has ended, and what is pending there soon ends by itself."""
    if connection.in_order or not connection.address.startswith("ipc://"):
        return False
    return not addresses.is_alive(addresses.socket_path(connection.address))


def _too_large(what: str, size: int, setting: str, limit: int, advice: str) -> PayloadTooLarge:
    text = errors.beyond_limit(what, size, setting, limit, advice)
    return PayloadTooLarge(text, size_bytes=size, limit_bytes=limit)


def remote(function: Any) -> Any:
    """A `GpuFunction` or `GpuKernel` as it is; one made of anything else."""
    from plover.decorator import GpuFunction, GpuKernel, gpu_function

    return function if isinstance(function, GpuFunction | GpuKernel) else gpu_function(function)


def _check_versions(daemon: str) -> None:
    from plover.versions import PLOVER

    def major_minor(version: str) -> list[str]:
        return version.split(".")[:2]

    if "unknown" not in daemon + PLOVER and major_minor(daemon) != major_minor(PLOVER):
        raise VersionMismatch(
            f"this is plover-gpu {PLOVER}, and the daemon runs {daemon}: install the same version on both sides",
            client=PLOVER,
            daemon=daemon,
        )


# -- the current session -----------------------------------------------------------------------------------------------

_lock = threading.Lock()
#: Invariant: the last one that is not closed is current; the first is the default, made by the first call.
_sessions: list[Session] = []


def connect(address: str | Sequence[str] | None = None) -> Session:
    """Send this process's calls to another daemon from now on, or until the session is closed.

    Args:
        address: ``ipc:///path/of/a/socket``, ``tcp://host:port`` (with keys, see ``plover keys``), ``ssh://user@host``, or a
            profile's name; None for the default. A list of these for several daemons at once: each call goes to the one that
            has the least to do for this session, among those that can run it.

    Returns:
        The session, also a context manager that closes it.

    Raises:
        ValueError: neither an address nor a profile's name.
        DaemonUnreachable, AccessDenied, VersionMismatch: there is no daemon to be had.

    Example:
        ``plover.connect("ipc:///run/plover/daemon.sock")``
    """
    if address is None or isinstance(address, str):
        session = Session(address)
    else:
        from plover.several import SeveralDaemons

        session = SeveralDaemons(address)
    try:
        session.connection()
    except BaseException as error:
        leave_out_ours(error)
        raise
    with _lock:
        _sessions.append(session)
    return session


def current() -> Session:
    """The session that calls go to; the default one is made when there is none."""
    with _lock:
        if not _sessions:
            _sessions.append(Session())
        return _sessions[-1]


def _forget(session: Session) -> None:
    with _lock, contextlib.suppress(ValueError):
        _sessions.remove(session)


@atexit.register
def _close_all() -> None:
    for session in _sessions:
        session.close()


def _after_fork() -> None:
    """A child has none of its parent's threads: its calls go over sessions of its own."""
    global _lock
    _lock = threading.Lock()
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
