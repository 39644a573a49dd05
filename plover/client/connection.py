"""The connection to one daemon: a thread that owns the socket, and a table of what is pending.

Calls are written where they are made and sent by the thread; outcomes are received by the thread and unpickled where they
are asked for. `submit` and `Future.result` are the interface: how the socket is driven behind them may change.

Guarantees: only the thread touches the socket. A lost daemon ends every pending call as `DaemonLost` within
`RECONNECT_S`; a connection that broke while the daemon lives is made anew, and what is pending is asked for again. A
connection that has ended never comes back: its session makes another. The lease is renewed while calls are pending.

Assumes: the address names a socket whose directory holds the daemon's secret (see `plover.session`).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import queue
import secrets
import socket as sockets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from plover import errors
from plover.client.calls import Payload, PendingCall, PendingCalls
from plover.client.futures import Future
from plover.errors import DaemonLost, DaemonUnreachable, PloverError
from plover.serialize import Buffer
from plover.wire import codec
from plover.wire import messages as m
from plover.wire import sockets as wire_sockets

__all__ = ["Connection"]

#: How long a daemon may take to shake hands, at first and again after the connection broke.
HANDSHAKE_S = 10.0
RECONNECT_S = 5.0
#: The daemon's lease is 30 s: three pings fit into it.
PING_S = 10.0
#: Outcomes are acknowledged with the next call, or at the latest when so many have gathered or so long has passed.
ACKNOWLEDGE_AT = 256
ACKNOWLEDGE_S = 0.1
#: Messages received before the outbox is looked at again.
_BATCH = 64


class Connection:
    """A client's connection to one daemon.

    Args:
        address: ``ipc://…``.
        secret: what proves that this process may use the socket.
        versions: of this process.
        handshake_s: how long to wait for the daemon.

    Raises:
        DaemonUnreachable: nobody answered.
        AccessDenied, WireError, VersionMismatch: the daemon refused.
    """

    def __init__(self, address: str, secret: bytes, versions: m.Versions, handshake_s: float = HANDSHAKE_S) -> None:
        self.address = address
        self.client = secrets.token_bytes(16)
        self._secret = secret
        self._versions = versions
        self._calls = PendingCalls()
        self._lock = threading.Lock()  # guards _calls and _ended
        self._submissions = itertools.count(1)
        self._outbox: collections.deque[list[Any]] = collections.deque()
        self._replies: collections.deque[queue.SimpleQueue[Any]] = collections.deque()
        #: The first answer of the daemon; kept up to date over reconnections.
        self.welcome: m.Welcome | None = None
        self._shaken = threading.Event()
        #: Why the connection is over; set once, and then nothing can be submitted any more.
        self._ended: PloverError | None = None
        self._closing = False
        self._awake = False
        self._wake_in, self._wake_out = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._callbacks: queue.SimpleQueue[Callable[[], None]] | None = None
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, args=(handshake_s,), name="plover-connection", daemon=True)
        self._thread.start()
        self._shaken.wait(handshake_s + 5)
        if self._ended is not None:
            raise self._ended
        if self.welcome is None:
            raise self._unreachable(handshake_s)

    def __repr__(self) -> str:
        return f"<connection to {self.address}: {self._ended or self._calls!r}>"

    @property
    def usable(self) -> bool:
        """Whether calls can be submitted: it has not ended, and this is the process that made it."""
        return self._ended is None and os.getpid() == self._pid

    # -- for any thread -------------------------------------------------------------------------------------------------

    def submit(
        self,
        payload: Payload,
        arguments: Sequence[Buffer],
        classes: list[type],
        options: m.CallOptions,
        finish: Callable[[Any], Any] | None = None,
    ) -> Future:
        """Send a call; returns at once.

        Args:
            payload: the function.
            arguments: packed; must not change any more.
            classes: those that went by value in the arguments.
            options: of the call.
            finish: applied to the value before anybody sees it.

        Raises:
            PloverError: the connection has ended.
        """
        submission = next(self._submissions)
        future = Future(m.call_id(self.client, submission), self, submission)
        future._keep = (payload.classes, classes)
        future._finish = finish
        call = PendingCall(submission, payload, arguments, classes, options, future)
        with self._lock:
            if self._ended is not None:
                raise self._ended
            with_payload = self._calls.add(call)
            acknowledged = self._calls.acknowledgements()
            self._outbox.append(call.frames(self._incarnation, self._versions.python, with_payload, acknowledged))
        self._wake()
        return future

    def cancel(self, submission: int) -> None:
        """Tell the daemon that a call is not wanted any more."""
        with self._lock:
            if self._ended is None and self._calls.find(submission) is not None:
                self._outbox.append(codec.write(m.Cancel(submission), self._incarnation))
        self._wake()

    def ask(self, message: m.AskStatus | m.AskToEnd, timeout_s: float = 5.0) -> Any:
        """An operator's question and its answer.

        Raises:
            DaemonUnreachable: no answer came in time.
        """
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._replies.append(reply)
            self._outbox.append(codec.write(message, self._incarnation))
        self._wake()
        try:
            answer = reply.get(timeout=timeout_s)
        except queue.Empty:
            raise self._unreachable(timeout_s) from None
        if isinstance(answer, PloverError):
            raise answer
        return answer

    def close(self, timeout_s: float = 2.0) -> None:
        """Say goodbye, which cancels what is pending, and end the thread."""
        if os.getpid() != self._pid or self.is_own_thread():
            return
        with self._lock:
            if self._ended is None:
                self._outbox.append(codec.write(m.Goodbye(), self._incarnation))
            self._closing = True
        self._wake()
        self._thread.join(timeout_s)

    def is_own_thread(self) -> bool:
        """Whether the caller is the connection's thread, which must never wait for a call."""
        return threading.current_thread() is self._thread

    def call_back(self, callback: Callable[[], None]) -> None:
        """Run a future's callbacks on a thread where they may make calls and wait for them."""
        if self._callbacks is None:
            self._callbacks = queue.SimpleQueue()
            threading.Thread(
                target=_run_callbacks, args=(self._callbacks,), name="plover-callbacks", daemon=True
            ).start()
        self._callbacks.put(callback)

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            with contextlib.suppress(BlockingIOError, OSError):
                self._wake_in.send(b"\0")

    @property
    def _incarnation(self) -> int:
        return self.welcome.incarnation if self.welcome is not None else 0

    def _unreachable(self, waited_s: float) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"no daemon answered at {self.address} within {waited_s:g} s: see whether one runs there with "
            "`plover status`, and start it with `plover start`",
            address=self.address,
        )

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _run(self, handshake_s: float) -> None:
        context = zmq.Context()
        driver = _Driver(self, context)
        try:
            driver.run(handshake_s)
        except BaseException as error:  # a fault of ours must end the calls, not hang them
            self._end(PloverError(f"the connection to {self.address} failed: {type(error).__name__}: {error}"))
            raise
        finally:
            self._end(DaemonLost(f"the connection to {self.address} is closed", address=self.address))
            context.destroy(linger=500)
            self._wake_in.close()
            self._wake_out.close()

    def _end(self, reason: PloverError) -> None:
        """Nothing can be submitted any more, and whatever is pending ends."""
        with self._lock:
            if self._ended is None:
                self._ended = reason
            calls = list(self._calls.end_all())
            replies = list(self._replies)
            self._replies.clear()
        for call in calls:
            call.future.fail(_for_call(reason, call.future.call_id))
        for reply in replies:
            reply.put(reason)
        self._shaken.set()


class _Driver:
    """What the connection's thread does. Invariant: `_socket` is used by this thread alone."""

    def __init__(self, connection: Connection, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._c = connection
        self._context = context
        self._shaking_until: float | None = None
        self._next_ping = time.monotonic() + PING_S
        self._acknowledge_by: float | None = None
        self._open()

    def _open(self) -> None:
        """A fresh socket to the same daemon, and the hand held out."""
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self._socket.setsockopt(option, 0)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(self._c.address)
        self._socket.send_multipart(codec.write(m.Hello(self._c.client, self._c._secret, self._c._versions)))
        self._wake_fd = self._c._wake_out.fileno()
        self._others = (self._wake_fd, self._monitor)

    def _close_monitor(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)

    def _reopen(self) -> None:
        self._close_monitor()
        self._socket.close(0)
        self._open()

    def run(self, handshake_s: float) -> None:
        c = self._c
        self._shaking_until = time.monotonic() + handshake_s
        while True:
            c._awake = False
            # Whatever was put into the outbox before this was written is seen here; whatever comes later wakes the poll.
            must_look = (bool(c._outbox) and self._is_shaken()) or self._closed()
            has_come = False
            for ready in wire_sockets.poll(self._socket, self._others, 0 if must_look else self._timeout_ms()):
                if ready is self._socket:
                    has_come = True
                elif ready == self._wake_fd:
                    with contextlib.suppress(BlockingIOError):
                        c._wake_out.recv(4096)
                elif ready is self._monitor:
                    self._monitor.recv_multipart()
                    self._disconnected()
            c._awake = True
            if self._is_shaken():
                self._send()
            if has_come:
                self._receive()
            self._keep_time(time.monotonic())
            if self._closed() or c._ended is not None:
                self._socket.setsockopt(zmq.LINGER, 500)
                self._close_monitor()
                return

    def _is_shaken(self) -> bool:
        return self._shaking_until is None

    def _closed(self) -> bool:
        return self._c._closing and (not self._is_shaken() or not self._c._outbox)

    def _timeout_ms(self) -> int:
        now = time.monotonic()
        moments = [self._shaking_until, self._acknowledge_by, self._next_ping if len(self._c._calls) else None]
        wait = min((moment - now for moment in moments if moment is not None), default=None)
        return -1 if wait is None else max(0, int(wait * 1000) + 1)

    def _send(self) -> None:
        outbox = self._c._outbox
        while outbox:
            wire_sockets.send(self._socket, outbox.popleft())

    def _receive(self) -> None:
        for _ in range(_BATCH):
            try:
                frames = wire_sockets.receive(self._socket, wait=False)
            except zmq.Again:
                return
            self._take(codec.TO_CLIENT.read(frames))
            if not len(self._c._calls):
                return  # nothing more is waited for: whatever comes is seen by the next poll

    def _take(self, incoming: codec.Incoming[m.ToClient]) -> None:
        c, message = self._c, incoming.message
        match message:
            case m.Outcome():
                with c._lock:
                    call = c._calls.end(message.submission)
                    if c._calls._unacknowledged and self._acknowledge_by is None:
                        self._acknowledge_by = time.monotonic() + ACKNOWLEDGE_S
                if call is not None:
                    _deliver(call, message, incoming)
            case m.Output():
                _show(message)
            case m.Welcome():
                self._welcomed(message)
            case m.Rejected():
                self._rejected(message)
            case m.PayloadWanted():
                with c._lock:
                    c._calls.disown(message.function)
                    call = c._calls.find(message.submission)
                    if call is not None:
                        c._calls.must_send(call)
                        c._outbox.append(call.frames(c._incarnation, c._versions.python, True))
            case m.Unknown():
                self._unknown(message.submissions)
            case m.Status() | m.Ending():
                if c._replies:
                    c._replies.popleft().put(message)

    # -- the handshake, and what can go wrong with it --------------------------------------------------------------------

    def _welcomed(self, welcome: m.Welcome) -> None:
        c = self._c
        before, c.welcome = c.welcome, welcome
        self._shaking_until = None
        self._next_ping = time.monotonic() + PING_S
        if before is not None and before.incarnation != welcome.incarnation:
            c._end(self._replaced())
        elif before is not None:
            with c._lock:
                self._socket.send_multipart(codec.write(m.Resume(c._calls.submissions()), welcome.incarnation))
        c._shaken.set()

    def _replaced(self) -> DaemonLost:
        return DaemonLost(
            f"the daemon at {self._c.address} was replaced by another one while calls were pending; "
            "whether they ran is not known. Make them again if that does no harm",
            address=self._c.address,
        )

    def _disconnected(self) -> None:
        if self._shaking_until is None:
            self._shaking_until = time.monotonic() + RECONNECT_S
            self._reopen()

    def _rejected(self, message: m.Rejected) -> None:
        c = self._c
        if message.submission is not None:
            with c._lock:
                call = c._calls.refuse(message.submission)
            if call is not None:
                call.future.fail(_error(message.error, message.reason, message.facts, call.future.call_id))
        elif c.welcome is not None and not self._is_shaken():
            # It took our hand before: each daemon makes a secret of its own, so this is another one.
            c._end(self._replaced())
        elif message.incarnation != c._incarnation and c.welcome is not None:
            self._disconnected()  # a daemon that does not know us: shake hands, and learn whether it is a new one
        else:
            c._end(_error(message.error, message.reason, message.facts, None))

    def _unknown(self, submissions: tuple[int, ...]) -> None:
        """They never arrived, or their results were forgotten: which of the two, nobody knows any more. So a call is
        made again only if its author allowed retries.
        """
        c = self._c
        for submission in submissions:
            with c._lock:
                call = c._calls.find(submission)
                if call is not None and call.options.retries > 0:
                    c._calls.must_send(call)
                    c._outbox.append(call.frames(c._incarnation, c._versions.python, True))
                    continue
                call = c._calls.refuse(submission)
            if call is not None:
                reason = f"the daemon at {c.address} knows nothing of call {call.future.call_id} (any more)"
                call.future.fail(
                    DaemonLost(
                        f"{reason}: it never arrived, or its result was held as long as results are held. "
                        "If it may run twice, let it be tried again with .options(retries=…)",
                        call_id=call.future.call_id,
                        address=c.address,
                    )
                )

    # -- the clock ------------------------------------------------------------------------------------------------------

    def _keep_time(self, now: float) -> None:
        c = self._c
        if self._shaking_until is not None:
            if now >= self._shaking_until:
                c._end(
                    c._unreachable(HANDSHAKE_S)
                    if c.welcome is None
                    else DaemonLost(
                        f"the daemon at {c.address} went away; whether its pending calls ran is not known",
                        address=c.address,
                    )
                )
            return
        with c._lock:
            if self._acknowledge_by is not None and (
                now >= self._acknowledge_by or len(c._calls._unacknowledged) >= ACKNOWLEDGE_AT
            ):
                self._acknowledge_by = None
                if done := c._calls.acknowledgements():
                    self._socket.send_multipart(codec.write(m.Acknowledge(done), c._incarnation))
            if now >= self._next_ping and len(c._calls):
                # After a long silence (a stopped process, a sleeping laptop) the lease may have run out: ask again.
                late = now >= self._next_ping + PING_S
                message = m.Resume(c._calls.submissions()) if late else m.Ping()
                self._socket.send_multipart(codec.write(message, c._incarnation))
        if now >= self._next_ping:
            self._next_ping = now + PING_S


def _deliver(call: PendingCall, message: m.Outcome, incoming: codec.Incoming[m.ToClient]) -> None:
    if message.status == "ended":
        call.future.fail(_error(message.error, message.reason, message.facts, call.future.call_id), message.receipt)
    else:
        call.future.deliver(message.status == "failed", incoming.take(message.packed), message.receipt)


def _show(message: m.Output) -> None:
    """Output appears where the caller's own print would put it."""
    stream = sys.stdout if message.stream == 1 else sys.stderr
    with contextlib.suppress(OSError, ValueError):  # the caller closed it
        stream.write(message.data.decode("utf-8", "backslashreplace"))
        stream.flush()


def _error(name: str, reason: str, facts: dict[str, Any], call_id: str | None) -> PloverError:
    """An error that the daemon named, as the exception of that name."""
    cls = getattr(errors, name, PloverError)
    if not (isinstance(cls, type) and issubclass(cls, PloverError)):
        cls = PloverError
    return cls(reason, **({"call_id": call_id} if call_id is not None else {}), **facts)


def _for_call(reason: PloverError, call_id: str) -> PloverError:
    """The connection's end as one call's error: each call raises an exception of its own."""
    return type(reason)(str(reason), **{**vars(reason), "call_id": call_id})


def _run_callbacks(callbacks: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        callbacks.get()()
