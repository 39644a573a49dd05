"""The connection to one daemon: for any thread to send calls over and to wait at, each doing the work when it is its turn.

`submit` and `Future.result` are the interface. Who uses the socket is decided in `turns`, what is said in `conversation`,
and how in `link`; here are the threads. See docs/adr/0012.

Guarantees: one thread at a time uses the socket. A lost daemon ends every pending call as `DaemonLost` within some
seconds; a connection that broke while the daemon lives, or that an interrupt left in doubt, is made anew, and what is
pending is asked for again. A connection that has ended never comes back: its session makes another.

Assumes: the address names a socket whose directory holds the daemon's secret (see `plover.session`).
"""

from __future__ import annotations

import itertools
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from plover.client.calls import Payload, PendingCall
from plover.client.conversation import Conversation
from plover.client.futures import Future
from plover.client.link import Bell, Link
from plover.client.turns import ATTEND_S, SLICE_S, Turn, Turns
from plover.errors import DaemonLost, PloverError
from plover.serialize import Buffer
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Connection"]

#: How long a new connection waits for the daemon.
HANDSHAKE_S = 10.0
#: What was sent has so long to go out when a socket is closed.
_LINGER_MS = 500
#: Messages received before anything else is looked at.
_BATCH = 64


class Connection:
    """A client's connection to one daemon.

    Args:
        address: ``ipc://…``.
        secret: what proves that this process may use the socket.
        versions: of this process.

    Raises:
        DaemonUnreachable: nobody answered.
        AccessDenied, WireError, VersionMismatch: the daemon refused.
    """

    def __init__(self, address: str, secret: bytes, versions: m.Versions) -> None:
        self.address = address
        self.client = secrets.token_bytes(16)
        self._versions = versions
        self._submissions = itertools.count(1)
        self._pid = os.getpid()
        # Guards the table of calls, the outbox and the turns. Reentrant: a signal handler may make a call anywhere.
        self._lock = threading.RLock()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._bell = Bell()  # wakes whoever has the turn
        self._io_bell = Bell()  # wakes the I/O thread where it rests
        self._link = Link(self._context, address, self._bell)
        self._left: list[Link] = []  # whose last user may still be inside them
        now = time.monotonic()
        self._talk = Conversation(address, m.Hello(self.client, secret, versions), self._lock, now)
        self._closing = False
        self._settled = threading.Event()
        self._callbacks: queue.SimpleQueue[Callable[[], None]] | None = None
        self._thread = threading.Thread(target=self._run, name="plover-io", daemon=True)
        self._turns = Turns(0, now)
        self._thread.start()
        self._settled.wait(HANDSHAKE_S + 5)
        if self._talk.ended is not None:
            raise self._talk.ended
        if self._talk.welcome is None:
            raise self._talk.unreachable(HANDSHAKE_S)

    def __repr__(self) -> str:
        return f"<connection to {self.address}: {self._talk.ended or self._talk.calls!r}>"

    @property
    def usable(self) -> bool:
        """Whether calls can be submitted: it has not ended, and this is the process that made it."""
        return self._talk.ended is None and os.getpid() == self._pid

    @property
    def in_order(self) -> bool:
        """Whether it is usable, and nothing points to the daemon's being gone."""
        return self._may_be_used() and os.getpid() == self._pid

    @property
    def welcome(self) -> m.Welcome:
        """What the daemon said of itself."""
        assert self._talk.welcome is not None
        return self._talk.welcome

    # -- calls ----------------------------------------------------------------------------------------------------------

    def submit(
        self,
        payload: Payload,
        arguments: Sequence[Buffer],
        classes: list[type],
        options: m.CallOptions,
        finish: Callable[[Any], Any] | None = None,
        *,
        waits: bool = False,
    ) -> Future[Any]:
        """Send a call; returns at once, or, if the caller waits, when it has done the connection's work meanwhile.

        Args:
            payload: the function.
            arguments: packed; must not change any more.
            classes: those that went by value in the arguments.
            options: of the call.
            finish: applied to the value before anybody sees it.
            waits: the calling thread has nothing else to do until the call is done.

        Raises:
            PloverError: the connection has ended.
        """
        submission = next(self._submissions)
        future: Future[Any] = Future(None, self, submission)
        future._keep = (payload.classes, classes)
        future._finish = finish
        call = PendingCall(submission, payload, arguments, classes, options, future)
        talk = self._talk
        try:
            with self._lock:
                if talk.ended is not None:
                    raise talk.ended
                with_payload = talk.calls.add(call)
                frames = call.frames(
                    talk.incarnation, self._versions.python, with_payload, talk.calls.acknowledgements()
                )
            self._post(frames, future if waits else None)
        except BaseException:  # interrupted: nobody will ever see this future
            with self._lock:
                if talk.calls.forget(submission) is not None:
                    talk.outbox.append(codec.write(m.Cancel(submission), talk.incarnation))
            raise
        return future

    def cancel(self, submission: int) -> None:
        """Tell the daemon that a call is not wanted any more."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._talk.ended is not None or self._talk.calls.find(submission) is None:
                return
        self._post(codec.write(m.Cancel(submission), self._talk.incarnation))

    def ask(self, message: m.AskStatus | m.AskToEnd, timeout_s: float = 5.0) -> Any:
        """An operator's question and its answer.

        Raises:
            DaemonUnreachable: no answer came in time.
        """
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            if self._talk.ended is not None:
                raise self._talk.ended
            self._talk.replies.append(reply)
        self._post(codec.write(message, self._talk.incarnation))
        self.attend()
        try:
            answer = reply.get(timeout=timeout_s)
        except queue.Empty:
            raise self._talk.unreachable(timeout_s) from None
        if isinstance(answer, PloverError):
            raise answer
        return answer

    # -- the end --------------------------------------------------------------------------------------------------------

    def give_up(self, reason: PloverError) -> None:
        """The daemon is known to be dead: what is pending ends for this reason."""
        self._talk.end(reason)

    def close(self, timeout_s: float = 2.0) -> None:
        """Say goodbye, which cancels what is pending, and end the thread."""
        if os.getpid() != self._pid or self._is_at_work():
            return
        with self._lock:
            if self._talk.ended is None:
                self._talk.outbox.append(codec.write(m.Goodbye(), self._talk.incarnation))
            self._closing = True
        self.attend()
        self._thread.join(timeout_s)

    # -- for futures ----------------------------------------------------------------------------------------------------

    def attend(self) -> None:
        """Somebody waits who cannot do the work: the I/O thread does it from now on."""
        with self._lock:
            if self._turns.holder is not self._turns.io:
                self._turns.io_wanted = True
        self._io_bell.ring()
        self._bell.ring()

    def work_for(self, future: Future[Any], timeout_s: float | None) -> None:
        """Do the connection's work on the calling thread until a future is done, if it is this thread's turn.

        Returns when the future is done, the time is over, or others do the work.
        """
        if os.getpid() != self._pid:
            return
        try:
            now = time.monotonic()
            with self._lock:
                turn = self._turns.claim(self._link, threading.get_ident(), now) if self._may_be_used() else None
            if turn is None:
                self._tell_io(now)
                return
            limit = SLICE_S if timeout_s is None or timeout_s > SLICE_S else max(0.0, timeout_s)
            self._work(turn, future, now, now + limit)
            self._release(turn)
        except BaseException:
            self._give_up_turn()
            raise

    def wait_for(self, wait: Callable[[], Any]) -> Any:
        """Block in `wait`, while others do the work."""
        mark = object()
        try:
            with self._lock:
                self._turns.waiting.add(mark)
                if self._turns.holder is None:
                    self._turns.io_wanted = True
            self._tell_io(time.monotonic())
            return wait()
        finally:
            self._turns.waiting.discard(mark)

    def call_back(self, callback: Callable[[], None]) -> None:
        """Run a future's callbacks, on a thread where they may make calls and wait for them."""
        if not self._is_at_work():
            callback()
            return
        if self._callbacks is None:
            self._callbacks = queue.SimpleQueue()
            threading.Thread(
                target=_run_callbacks, args=(self._callbacks,), name="plover-callbacks", daemon=True
            ).start()
        self._callbacks.put(callback)

    def _is_at_work(self) -> bool:
        """Whether the calling thread does the connection's work, and so must not wait for anything."""
        thread, holder = threading.get_ident(), self._turns.holder
        return self._thread.ident == thread or (holder is not None and holder.thread == thread)

    # -- a caller's turn ------------------------------------------------------------------------------------------------

    def _may_be_used(self) -> bool:
        return self._talk.shaken and not self._talk.broken and self._talk.ended is None

    def _post(self, frames: list[Any], awaited: Future[Any] | None = None) -> None:
        """Send a message, or have it sent by whoever has the turn; then work for the future that is waited for."""
        talk, turns = self._talk, self._turns
        try:
            now = time.monotonic()
            with self._lock:
                turn = None
                if self._may_be_used() and not talk.outbox:
                    turn = turns.claim(self._link, threading.get_ident(), now)
                if turn is None:
                    talk.outbox.append(frames)
            if turn is None:
                self._bell.ring()
                self._tell_io(now)
                return
            talk.send(turn.link, frames, now)
            if awaited is not None:
                turns.attended = now
                if turns.io_rests_until is None:
                    self._tell_io(now)
                self._work(turn, awaited, now, now + SLICE_S)
            elif now - turns.attended >= ATTEND_S:
                self._receive(turn, now)
            self._release(turn)
        except BaseException:
            self._give_up_turn()
            raise

    def _work(self, turn: Turn, future: Future[Any], now: float, until: float) -> None:
        """Send and receive until the future is done, `until` has come, or the turn is wanted by others."""
        talk, link, turns = self._talk, turn.link, self._turns
        while not future.has_ended():
            self._bell.listen()
            if talk.outbox:
                self._bell.awake()
                talk.send_outbox(link, now)
                continue
            came, _ = link.wait(max(0, int((until - now) * 1000 + 0.999)))
            if turns.holder is not turn:
                return
            now = time.monotonic()
            if came:
                self._receive(turn, now)
            talk.keep_time(link, now)
            if turns.io_wanted or not self._may_be_used():
                return
            if now >= until:
                with self._lock:
                    turns.io_wanted = True  # not a short call: nothing is gained by going on
                return

    def _receive(self, turn: Turn, now: float) -> None:
        """Take what has come."""
        link, talk, turns = turn.link, self._talk, self._turns
        turns.attended = now
        for _ in range(_BATCH):
            try:
                frames = link.receive()
            except zmq.Again:
                return
            talk.take(link, frames, now)
            if not len(talk.calls) or turns.holder is not turn or not link.has_more():
                return  # nothing more is waited for: whatever comes is seen by the next poll

    def _release(self, turn: Turn) -> None:
        """Give the turn back; what others put into the outbox meanwhile is sent before."""
        talk, turns = self._talk, self._turns
        while True:
            with self._lock:
                if turns.holder is not turn:
                    return  # taken away: whoever has it now sees to everything
                if not talk.outbox or not self._may_be_used():
                    turns.release(bool(len(talk.calls)))
                    turns.io_wanted = turns.io_wanted or talk.broken
                    break
            talk.send_outbox(turn.link, time.monotonic())
        self._tell_io(turns.attended)

    def _give_up_turn(self) -> None:
        """After an exception that may have struck anywhere."""
        with self._lock:
            given_up = self._turns.give_up(threading.get_ident())
        if given_up:
            self._io_bell.ring()

    def _tell_io(self, now: float) -> None:
        """Wake the I/O thread if it would otherwise look too late."""
        if self._turns.io_must_be_told(now, len(self._talk.calls), self._talk.due()):
            self._io_bell.ring()

    # -- the I/O thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._turns.io.thread = threading.get_ident()
        talk = self._talk
        try:
            talk.greet(self._link, time.monotonic())
            while not self._is_over():
                self._serve()
                self._rest()
        except BaseException as error:  # a fault of ours must end the calls, not hang them
            talk.end(PloverError(f"the connection to {self.address} failed: {type(error).__name__}: {error}"))
            raise
        finally:
            talk.end(DaemonLost(f"the connection to {self.address} is closed", address=self.address))
            self._settled.set()
            self._context.destroy(linger=_LINGER_MS)
            self._bell.close()
            self._io_bell.close()

    def _is_over(self) -> bool:
        talk = self._talk
        return talk.ended is not None or (self._closing and (not talk.shaken or not talk.outbox))

    def _serve(self) -> None:
        """The I/O thread's turn: until all is over, or nothing is pending and everything is in order."""
        talk, turns = self._talk, self._turns
        now = time.monotonic()
        while True:
            if turns.doubtful or talk.broken:
                self._reconnect(now)
            turns.io.link = link = self._link
            talk.keep_time(link, now)
            talk.send_outbox(link, now)
            if self._is_over():
                return
            with self._lock:
                if talk.shaken and not (talk.outbox or len(talk.calls) or talk.replies or self._closing):
                    turns.release(pending=False)
                    return
            self._bell.listen()
            must_look = (talk.outbox and talk.shaken) or self._closing
            came, broke = link.wait(0 if must_look else _timeout_ms(talk.due(), now), with_monitor=True)
            now = time.monotonic()
            if came:
                self._receive(turns.io, now)
            if broke and talk.shaken:
                talk.broken = True
            if talk.shaken:
                self._settled.set()

    def _reconnect(self, now: float) -> None:
        """A fresh link to the same daemon."""
        turns = self._turns
        with self._lock:
            left_inside = turns.left_inside
            turns.doubtful = turns.left_inside = False
        if left_inside:
            self._left.append(self._link)
        else:
            self._link.end(_LINGER_MS)
        self._link = Link(self._context, self.address, self._bell)
        self._talk.greet(self._link, now)

    def _rest(self) -> None:
        """Let callers do the work, look after it, and come back with the turn."""
        turns, talk = self._turns, self._talk
        while True:
            self._io_bell.listen()
            now = time.monotonic()
            with self._lock:
                turns.io_wanted = turns.io_wanted or self._is_over()
                if turns.holder is turns.io or turns.io_takes(now, len(talk.calls), talk.due()):
                    self._io_bell.awake()
                    return
            if self._link.rest(self._io_bell, _timeout_ms(turns.io_rests_until, now)):
                talk.broken = turns.io_wanted = True
                self._bell.ring()


def _timeout_ms(due: float | None, now: float) -> int:
    return -1 if due is None else max(0, int((due - now) * 1000) + 1)


def _run_callbacks(callbacks: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        callbacks.get()()
