"""What client and daemon say to each other, whoever has the turn: the handshake, calls, outcomes, pings.

Guarantees: an outcome is delivered before its call is taken off the table, so that `take` may be interrupted anywhere:
after a reconnection the daemon is asked for what is still on the table, and delivering twice does no harm. What the daemon
does not know after a reconnection is sent again if it cannot have been forgotten (a client that was never silent for as
long as its lease), or may run twice; otherwise it ends as `DaemonLost`.

Assumes: `take` and `keep_time` are called by whoever has the turn; `lock` guards the table and the outbox.
"""

from __future__ import annotations

import collections
import queue
import threading
from typing import Any

from plover import errors
from plover.client.calls import PendingCall, PendingCalls
from plover.client.link import Link
from plover.client.output import Outputs
from plover.errors import DaemonLost, DaemonUnreachable, PloverError
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Conversation"]

#: How long a daemon may take to shake hands, at first and again after the connection broke.
HANDSHAKE_S = 10.0
RECONNECT_S = 5.0
#: The daemon's lease is 30 s: three pings fit into it.
PING_S = 10.0
#: A client that sent something within this time still has its lease: the daemon has forgotten nothing of it.
LEASE_IS_SAFE_S = 25.0
#: Outcomes are acknowledged with the next call, or at the latest when so many have gathered or so long has passed.
ACKNOWLEDGE_AT = 256
ACKNOWLEDGE_S = 0.1


class Conversation:
    """One client's side of it.

    Args:
        address: of the daemon, for errors.
        hello: what to begin with.
        lock: the connection's.
        now: monotonic seconds.

    Attributes:
        calls: what is pending.
        outbox: messages that wait for whoever has the turn, in order.
        welcome: the daemon's first answer; kept up to date over reconnections.
        shaken: whether hands are shaken, so that anything else may be said.
        broken: a new link must be made, and hands be shaken again.
        ended: why the conversation is over; set once.
    """

    def __init__(self, address: str, hello: m.Hello, lock: threading.RLock, now: float) -> None:
        self.calls = PendingCalls()
        self.outbox: collections.deque[list[Any]] = collections.deque()
        self.replies: collections.deque[queue.SimpleQueue[Any]] = collections.deque()
        self.welcome: m.Welcome | None = None
        self.shaken = False
        self.broken = False
        self.ended: PloverError | None = None
        self._address = address
        self._hello = hello
        self._lock = lock
        self._outputs = Outputs()
        self._shaking_until = now + HANDSHAKE_S
        self._next_ping = now + PING_S
        self._acknowledge_by = 0.0  # means something while there are outcomes to acknowledge
        self._spoke_at = now
        self._may_be_forgotten = False

    @property
    def incarnation(self) -> int:
        """The daemon's; 0 before the handshake."""
        return self.welcome.incarnation if self.welcome is not None else 0

    # -- out ------------------------------------------------------------------------------------------------------------

    def greet(self, link: Link, now: float) -> None:
        """On a fresh link: hold the hand out."""
        self._shaking_until = now + (HANDSHAKE_S if self.welcome is None else RECONNECT_S)
        self.broken = self.shaken = False
        self._may_be_forgotten = now - self._spoke_at > LEASE_IS_SAFE_S
        link.send(codec.write(self._hello))

    def send(self, link: Link, frames: list[Any], now: float) -> None:
        """Send a message."""
        link.send(frames)
        self._spoke_at = now

    def send_outbox(self, link: Link, now: float) -> None:
        """Send what waits; each is taken off when it was sent, so an interrupted one is sent again."""
        outbox = self.outbox
        while outbox and self.shaken:
            self.send(link, outbox[0], now)
            outbox.popleft()

    def due(self) -> float | None:
        """When `keep_time` has something to do by itself."""
        if not self.shaken:
            return self._shaking_until
        ping = self._next_ping if len(self.calls) else None
        if self.calls.unacknowledged and (ping is None or self._acknowledge_by < ping):
            return self._acknowledge_by
        return ping

    def keep_time(self, link: Link, now: float) -> None:
        """Acknowledge, ping, or give up."""
        if not self.shaken:
            if now >= self._shaking_until:
                self.end(self._no_handshake())
            return
        calls = self.calls
        gathered = calls.unacknowledged
        if gathered and (now >= self._acknowledge_by or gathered >= ACKNOWLEDGE_AT):
            with self._lock:
                done = calls.acknowledgements()
            if done:
                self.send(link, codec.write(m.Acknowledge(done), self.incarnation), now)
        if now >= self._next_ping:
            if len(calls):
                # After a long silence (a stopped process, a sleeping laptop) the lease may have run out: ask again.
                self._may_be_forgotten = late = now - self._spoke_at > LEASE_IS_SAFE_S
                with self._lock:
                    message = m.Resume(calls.submissions()) if late else m.Ping()
                self.send(link, codec.write(message, self.incarnation), now)
            self._next_ping = now + PING_S

    # -- in -------------------------------------------------------------------------------------------------------------

    def take(self, link: Link, frames: list[Any], now: float) -> None:
        """What the daemon says; answers go over the same link."""
        incoming = codec.TO_CLIENT.read(frames)
        message = incoming.message
        match message:
            case m.Outcome():
                self._outcome(message, incoming, now)
            case m.Output():
                self._outputs.show(message)
            case m.Welcome():
                self._welcomed(link, message, now)
            case m.Rejected():
                self._rejected(message)
            case m.PayloadWanted():
                with self._lock:
                    self.calls.disown(message.function)
                    self._submit_again(self.calls.find(message.submission))
            case m.Unknown():
                self._unknown(message.submissions)
            case m.Status() | m.Ending():
                if self.replies:
                    self.replies.popleft().put(message)

    def _outcome(self, message: m.Outcome, incoming: codec.Incoming[m.ToClient], now: float) -> None:
        self._outputs.end(message.submission)
        call = self.calls.find(message.submission)
        if call is not None:
            _deliver(call, message, incoming)
        with self._lock:
            if not self.calls.unacknowledged:
                self._acknowledge_by = now + ACKNOWLEDGE_S
            self.calls.end(message.submission)

    def _submit_again(self, call: PendingCall | None) -> None:
        if call is not None:
            self.calls.must_send(call)
            self.outbox.append(call.frames(self.incarnation, self._hello.versions.python, True))

    def _unknown(self, submissions: tuple[int, ...]) -> None:
        for submission in submissions:
            with self._lock:
                call = self.calls.find(submission)
                if call is not None and (call.options.retries > 0 or not self._may_be_forgotten):
                    self._submit_again(call)
                    continue
                call = self.calls.refuse(submission)
            if call is not None:
                call.future.fail(self._forgotten(call.future.call_id))

    # -- the handshake, and what can go wrong with it --------------------------------------------------------------------

    def _welcomed(self, link: Link, welcome: m.Welcome, now: float) -> None:
        before, self.welcome = self.welcome, welcome
        self._next_ping = now + PING_S
        if before is not None and before.incarnation != welcome.incarnation:
            self.end(self._replaced())
        elif before is not None:
            with self._lock:
                submissions = self.calls.resume()
            self.send(link, codec.write(m.Resume(submissions), welcome.incarnation), now)
        self.shaken = True

    def _rejected(self, message: m.Rejected) -> None:
        if message.submission is not None:
            with self._lock:
                call = self.calls.refuse(message.submission)
            if call is not None:
                call.future.fail(_error(message.error, message.reason, message.facts, call.future.call_id))
        elif self.welcome is not None and not self.shaken:
            # It took our hand before: each daemon makes a secret of its own, so this is another one.
            self.end(self._replaced())
        elif self.welcome is not None and message.incarnation != self.incarnation:
            self.broken = True  # a daemon that does not know us: shake hands, and learn whether it is a new one
        else:
            self.end(_error(message.error, message.reason, message.facts, None))

    # -- the end --------------------------------------------------------------------------------------------------------

    def end(self, reason: PloverError) -> None:
        """Nothing can be said any more, and whatever is pending ends."""
        with self._lock:
            if self.ended is None:
                self.ended = reason
            calls = list(self.calls.end_all())
            replies = list(self.replies)
            self.replies.clear()
        for call in calls:
            call.future.fail(_for_call(reason, call.future.call_id))
        for reply in replies:
            reply.put(reason)

    def unreachable(self, waited_s: float) -> DaemonUnreachable:
        """Nobody answered."""
        return DaemonUnreachable(
            f"no daemon answered at {self._address} within {waited_s:g} s: see whether one runs there with "
            "`plover status`, and start it with `plover start`",
            address=self._address,
        )

    def _no_handshake(self) -> PloverError:
        if self.welcome is None:
            return self.unreachable(HANDSHAKE_S)
        return DaemonLost(
            f"the daemon at {self._address} went away; whether its pending calls ran is not known",
            address=self._address,
        )

    def _replaced(self) -> DaemonLost:
        return DaemonLost(
            f"the daemon at {self._address} was replaced by another one while calls were pending; "
            "whether they ran is not known. Make them again if that does no harm",
            address=self._address,
        )

    def _forgotten(self, call_id: str) -> DaemonLost:
        reason = f"the daemon at {self._address} knows nothing of call {call_id} (any more)"
        return DaemonLost(
            f"{reason}: it never arrived, or its result was held as long as results are held. "
            "If it may run twice, let it be tried again with .options(retries=…)",
            call_id=call_id,
            address=self._address,
        )


def _deliver(call: PendingCall, message: m.Outcome, incoming: codec.Incoming[m.ToClient]) -> None:
    if message.status == "ended":
        error = _error(message.error, message.reason, message.facts, call.future.call_id)
        call.future.fail(error, message.receipt)
    else:
        call.future.deliver(message.status == "failed", incoming.take(message.packed), message.receipt)


def _error(name: str, reason: str, facts: dict[str, Any], call_id: str | None) -> PloverError:
    """An error that the daemon named, as the exception of that name."""
    cls = getattr(errors, name, PloverError)
    if not (isinstance(cls, type) and issubclass(cls, PloverError)):
        cls = PloverError
    return cls(reason, **({"call_id": call_id} if call_id is not None else {}), **facts)


def _for_call(reason: PloverError, call_id: str) -> PloverError:
    """The conversation's end as one call's error: each call raises an exception of its own."""
    return type(reason)(str(reason), **{**vars(reason), "call_id": call_id})
