"""The connection to one daemon: for any thread to send calls over and to wait at, each doing the work when it is its turn.

`submit` and `Future.result` are the interface. Who uses the socket is decided in `turns`, what is said in `conversation`,
and how in `link`; here are the callers, and in `io_thread` the connection's own thread. See docs/adr/0012.

Guarantees: one thread at a time uses the socket. An exception may strike a caller between any two instructions (Ctrl-C): no
call of another is lost or made twice by it. A connection that has ended never comes back: its session makes another.

Assumes: the address names a socket whose directory holds the daemon's secret (see `plover.session`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import queue
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from plover.addresses import Plugged
from plover.client.calls import Payload, PendingCall, Stage
from plover.client.conversation import Question, for_call
from plover.client.futures import Future
from plover.client.io_thread import IoThread, close_parked
from plover.client.line import Line
from plover.client.turns import ATTEND_S, GATHER_S, GATHERED, SLICE_S, Turn
from plover.errors import DaemonLost, PloverError
from plover.wire import identity
from plover.wire import messages as m
from plover.wire.codec import Piece

if TYPE_CHECKING:
    from plover.bundles.collect import Collected
    from plover.client.segments import ClientSegments, Loan

__all__ = ["Connection"]

#: How long a new connection waits for the daemon.
HANDSHAKE_S = 10.0
#: A connection that is closed waits so long for the daemon to come back, if it has to say goodbye first.
PARTING_S = 1.0
#: And so long for calls that were cancelled and unwind, since what they print in a ``finally`` is to be shown.
UNWIND_S = 1.0
#: A caller that asks the I/O thread for its turn waits so long for it before it goes to sleep.
HAND_OVER_S = 0.002
#: While the I/O thread looks as often as this, nothing that a caller leaves behind is late.
_SOON_S = 0.2


class Connection:
    """A client's connection to one daemon.

    Args:
        address: ``ipc://…``.
        secret: what proves that this process may use the socket.
        versions: of this process.

    Raises:
        DaemonUnreachable: nobody answered.
        AccessDenied, WireError, VersionMismatch: the daemon refused.

    Attributes:
        segments: shared memory with a daemon of this host; None with one elsewhere.
    """

    def __init__(self, address: str, secret: bytes, versions: m.Versions) -> None:
        self.address = address
        self.client = secrets.token_bytes(16)
        self._submissions = itertools.count(1)
        self._pid = os.getpid()
        self._line = line = Line(address, m.Hello(self.client, secret, versions, *identity.of_this_process()))
        self._io = IoThread(line)
        self.segments: ClientSegments | None = None
        _living.add(self)
        try:
            self._io.start()
            self._io.settled.wait(HANDSHAKE_S + 5)
            if line.talk.welcome is None:
                raise line.talk.ended or line.talk.unreachable(HANDSHAKE_S)
            if sys.platform == "linux" and not isinstance(address, Plugged):
                from plover.client import segments

                self.segments = line.talk.segments = segments.connect(
                    address, self.client, secret, line.talk.calls.pending.__contains__
                )
        except BaseException:
            self._leave()
            raise

    def __repr__(self) -> str:
        return f"<connection to {self.address}: {self._line.talk.ended or self._line.talk.calls!r}>"

    @property
    def usable(self) -> bool:
        """Whether calls can be submitted: it has not ended, and this is the process that made it."""
        return self._line.talk.ended is None and os.getpid() == self._pid

    @property
    def in_order(self) -> bool:
        """Whether it is usable, and nothing points to the daemon's being gone."""
        return self._line.may_be_used() and os.getpid() == self._pid

    @property
    def ended(self) -> PloverError | None:
        """Why it is over, if it is."""
        return self._line.talk.ended

    def stage(self, submission: int) -> Stage:
        """How far a call is known to be."""
        call = self._line.talk.calls.find(submission)
        return call.stage if call is not None else "sent"

    @property
    def welcome(self) -> m.Welcome:
        """What the daemon said of itself."""
        assert self._line.talk.welcome is not None
        return self._line.talk.welcome

    @property
    def pending(self) -> int:
        """How many calls have no outcome yet."""
        return len(self._line.talk.calls)

    def knows(self, function: bytes) -> bool:
        """Whether the daemon was sent the payload of this digest, as far as is known here."""
        return self._line.talk.calls.knows(function)

    # -- calls ----------------------------------------------------------------------------------------------------------

    def submit(
        self,
        payload: Payload,
        arguments: Sequence[Piece],
        classes: list[type],
        options: m.CallOptions,
        finish: Callable[[Any], Any] | None = None,
        *,
        waits: bool = False,
        modules: Collected | None = None,
        loan: Loan | None = None,
    ) -> Future[Any]:
        """Send a call; returns at once, or, if the caller waits, when it has done the connection's work meanwhile.

        Args:
            payload: the function.
            arguments: packed; must not change any more.
            classes: those that went by value in the arguments.
            options: of the call.
            finish: applied to the value before anybody sees it.
            waits: the calling thread has nothing else to do until the call is done.
            modules: what the call needs of the author's own.
            loan: keeps the arguments that lie in segments.

        Raises:
            PloverError: the connection has ended.
        """
        submission = next(self._submissions)
        future: Future[Any] = Future(None, self, submission)
        future._function = payload.name
        future._keep = (payload.classes, classes)
        future._finish = finish
        call = PendingCall(submission, payload, arguments, classes, options, future, modules=modules, loan=loan)
        try:
            self._take_turn(call, future if waits else None)
        except BaseException:  # interrupted: nobody will ever see this future
            future.cancel()
            raise
        return future

    def cancel(self, submission: int) -> None:
        """Tell the daemon that a call is not wanted any more."""
        if os.getpid() == self._pid and submission in self._line.talk.calls.pending:
            with contextlib.suppress(PloverError):  # the connection has ended, and so has the call
                self._take_turn(m.Cancel(submission))

    def ask(self, message: m.AskStatus | m.AskToEnd, timeout_s: float = 5.0) -> Any:
        """An operator's question and its answer; it is asked again if the connection breaks meanwhile.

        Raises:
            DaemonUnreachable: no answer came in time.
            PloverError: the connection has ended.
        """
        talk, question = self._line.talk, Question(message)
        talk.questions.append(question)
        try:
            self._take_turn(message)
            answer = self.wait_for(functools.partial(question.answer.get, timeout=timeout_s))
        except queue.Empty:
            raise talk.unreachable(timeout_s) from None
        finally:
            talk.forget(question)  # its answer may still come, and is nobody's
        if isinstance(answer, PloverError):
            raise for_call(answer, None)
        return answer

    # -- the end --------------------------------------------------------------------------------------------------------

    def give_up(self, reason: PloverError) -> None:
        """The daemon is known to be dead: what is pending ends for this reason."""
        self._line.talk.end(reason)
        self._line.want_io()

    def close(self, timeout_s: float = 2.0) -> None:
        """Say goodbye, which cancels what is pending, and end the thread. Cancelled calls have a moment to unwind first."""
        if os.getpid() == self._pid:
            self._leave(UNWIND_S)
            self._io.wait_for_end(timeout_s + UNWIND_S)

    def _leave(self, unwind_s: float = 0.0) -> None:
        line = self._line
        with line.lock:
            if line.close_by is None:
                line.part_by = time.monotonic() + unwind_s
                line.close_by = line.part_by + PARTING_S
            line.turns.abandon(threading.get_ident())
        line.want_io()

    # -- for futures ----------------------------------------------------------------------------------------------------

    def attend(self) -> None:
        """Somebody will be told when a future has ended, and does not do the work: the I/O thread does it from now on."""
        line = self._line
        with line.lock:
            line.turns.io_stays = True
        if line.turns.holder is not line.turns.io:  # which serves whatever is pending
            line.want_io()

    def work_for(self, future: Future[Any], timeout_s: float | None) -> None:
        """Do the connection's work on the calling thread until a future is done, if it is this thread's turn.

        Returns when the future is done, the time is over, or others do the work.
        """
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._take_turn(None, future, timeout_s)
        if not future.has_ended() and self._is_handed_over(future):
            self._take_turn(None, future, None if timeout_s is None else until - time.monotonic())

    def _is_handed_over(self, future: Future[Any]) -> bool:
        """Whether the I/O thread, which was asked for its turn, gives it back soon. It does unless others need it:
        it has it for a call that took long, or because nobody looked, and short calls are better done by who waits for them.
        """
        turns, thread = self._line.turns, threading.get_ident()
        give_up = time.monotonic() + HAND_OVER_S
        while turns.may_ask(thread) and not future.has_ended():
            if time.monotonic() >= give_up:
                return False
            time.sleep(0)  # gives the interpreter away
        return turns.holder is None

    def wait_for(self, wait: Callable[[], Any]) -> Any:
        """Block in `wait`, while others do the work."""
        line, turns, mark, thread = self._line, self._line.turns, object(), threading.get_ident()
        if thread == turns.io.thread:  # in a destructor, or in a stream of the user's
            self._io.replace()
        try:
            with line.lock:
                turns.abandon(thread)
                turns.waiting.add(mark)
                if turns.holder is None:
                    turns.io_wanted = True
            line.tell_io(time.monotonic())
            return line.unlocked(wait)
        finally:
            turns.waiting.discard(mark)

    def call_back(self, callback: Callable[[], None]) -> None:
        """Run a future's callbacks, on a thread where they may make calls and wait for them."""
        holder = self._line.turns.holder
        if not self._io.is_this_thread() and (holder is None or holder.thread != threading.get_ident()):
            callback()
        else:
            self._line.callbacks.put(callback)

    # -- a caller's turn ------------------------------------------------------------------------------------------------

    def _take_turn(
        self,
        item: PendingCall | m.FromClient | None,
        awaited: Future[Any] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Enter something to be sent, and send it, or have it sent by whoever has the turn; then work for the future that is
        waited for.

        Raises:
            PloverError: the connection has ended.
        """
        line, talk, turns = self._line, self._line.talk, self._line.turns
        now = time.monotonic()
        turn = Turn(threading.get_ident(), now)
        nested = line.lock._is_owned()  # a signal handler or a destructor, in the middle of a locked section
        try:
            with line.lock:
                if item is not None:
                    if talk.ended is not None:
                        raise for_call(talk.ended, None)
                    if type(item) is PendingCall:  # no call from here to `append`, or one could be in the table only
                        talk.calls.pending[item.submission] = item
                    talk.outbox.append(item)
                usable = talk.shaken and not (nested or talk.broken or talk.ended)
                gathers = usable and awaited is None and type(item) is PendingCall and self._may_gather(now)
                mine = usable and not gathers and turns.claim(turn, line.link)
            if gathers:
                talk.gathered_at = now
                turns.loose = True
                line.tell_io(now)
            elif mine:
                self._use(turn, awaited, now, math.inf if timeout_s is None else now + max(0.0, timeout_s))
            else:
                if turns.holder is None:
                    turns.io_wanted = True
                turns.asked = True
                line.link.bell.ring()
                line.tell_io(now)
        except BaseException:
            # No call before `over`, either: another exception could strike there, and the turn would be lost.
            if turns.holder is turn:
                turns.doubtful = turns.io_wanted = True
                turns.holder = None
            turn.over = True
            line.want_io()
            raise
        turn.over = True
        if turn.link is not None and turn.link is not line.link:
            line.want_io()  # it was taken away meanwhile: the old link can be closed now
            close_parked()  # here, if the I/O thread has ended

    def _may_gather(self, now: float) -> bool:
        """Whether a call that nobody waits for may stay in the outbox for a moment: others were sent only just now, so more
        of them are to be expected, and one message for many costs what one costs.
        """
        turns = self._line.turns
        just_now = turns.holder is None and not turns.waiting and now - turns.sent_at < GATHER_S
        return just_now and len(self._line.talk.outbox) < GATHERED

    def _use(self, turn: Turn, awaited: Future[Any] | None, now: float, until: float) -> None:
        """Use a turn, and give it back."""
        line, talk, turns = self._line, self._line.talk, self._line.turns
        line.send_outbox(turn, now)
        if awaited is not None:
            turns.attended = now
            if turns.io_rests_until is None:
                line.tell_io(now)
            now = self._work(turn, awaited, now, until)
        else:
            turns.sent_at = now
            turns.loose = True
            if now - turns.attended >= ATTEND_S:
                line.receive(turn, now)
        self._release(turn)
        if talk.calls.pending:
            turns.loose = True  # whoever made these does not wait for them at the moment
        rests_until = turns.io_rests_until
        if turns.io_wanted or talk.calls.pending or rests_until is None or rests_until > now + _SOON_S:
            line.tell_io(now)

    def _work(self, turn: Turn, future: Future[Any], now: float, limit: float) -> float:
        """Send and receive until the future is done, `limit` has come, nothing comes for long, or others want the turn;
        returns the time.
        """
        line, talk, turns, link = self._line, self._line.talk, self._line.turns, turn.link
        until = min(limit, now + SLICE_S)
        while not future.has_ended():
            link.bell.asleep = True
            if turns.holder is not turn or turns.io_wanted or not line.may_be_used():
                link.bell.asleep = False
                break
            if talk.outbox:
                link.bell.asleep = False
                line.send_outbox(turn, now)
                continue
            came, _ = link.wait(max(0, int((until - now) * 1000 + 0.999)))
            now = time.monotonic()
            if came and turns.holder is turn:
                line.receive(turn, now)
                turn.since = now
                until = min(limit, now + SLICE_S)
            if now >= until and not future.has_ended():
                turns.io_wanted = True  # not a short call: nothing is gained by going on
        return now

    def _release(self, turn: Turn) -> None:
        """Give the turn back; what others put into the outbox meanwhile is sent before."""
        line, talk, turns = self._line, self._line.talk, self._line.turns
        while True:
            with line.lock:
                if turns.holder is not turn:
                    return  # taken away: whoever has it now sees to everything
                usable = line.may_be_used()
                if not usable or (talk.calls.pending and turns.waiting):
                    turns.io_wanted = True
                if turns.holder is turn and (turns.io_wanted or not talk.outbox):  # and no call until it is given back
                    turns.holder = None
                    return
            line.send_outbox(turn, time.monotonic())


# -- forks -------------------------------------------------------------------------------------------------------------

_living: weakref.WeakSet[Connection] = weakref.WeakSet()
#: Connections of the parent: ZeroMQ's state must not be touched here, not even to be given back.
_parents: list[Connection] = []


def _after_fork() -> None:
    """In a child none of the parent's threads is there, and its sockets are not the child's: pending calls end here."""
    for connection in list(_living):
        _parents.append(connection)
        line = connection._line
        line.lock = threading.RLock()
        line.talk.end(DaemonLost(f"the connection to {line.address} is the parent process's", address=line.address))
        for call in list(line.talk.calls.pending.values()):
            call.future.disown()
    _living.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
