"""Whose turn it is to use the connection's socket: a caller's, the I/O thread's, or nobody's. See docs/adr/0012.

Pure: no socket, no thread, no clock. The connection asks it who may, and tells it what happened.

Guarantees: one holder at a time. A turn that is in doubt (its thread was interrupted, waits for something else in the middle
of it, or takes too long) is never given back as if nothing had happened: the I/O thread gets the next one, together with the
word that the socket must be made anew.

Assumes: every method is called under the connection's lock, which a signal handler or a destructor that waits may give up
at any call in a method of ours: so between a look at `holder` and a change of it there is none.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

__all__ = ["ATTEND_S", "GATHERED", "GATHER_S", "GRACE_S", "SLICE_S", "STUCK_S", "Turn", "Turns"]

#: A thread that waits for a call does the work while anything comes within such a time; a longer call is the I/O thread's.
SLICE_S = 0.05
#: The I/O thread takes over what is pending when nobody has looked for messages for so long. Only who polls `done()` waits
#: for that; a busy machine may keep a thread that submits many calls in a row from running for half as long.
GRACE_S = 0.02
#: A thread that only sends looks for messages, too, when nobody has for so long: less than GRACE_S, so that many calls
#: submitted in a row do not bring the I/O thread in, which would compete with them for the interpreter.
ATTEND_S = 0.001
#: Calls that nobody waits for are gathered for so long, and so many of them, before they are sent as one message.
GATHER_S = 0.0003
GATHERED = 32
#: A turn of this length has lost its thread. Callers give theirs back after SLICE_S.
STUCK_S = 1.0
#: While callers that wait have the turn, the I/O thread looks after them so often.
_WATCH_S = 0.1
#: It is not woken to look so little earlier than it would by itself.
_EARLIER_S = 0.005


class Turn(msgspec.Struct, eq=False):
    """One thread's use of a link. `over`: it will not touch the link any more, whoever has the turn now."""

    thread: int
    since: float
    link: Any = None
    over: bool = False

    def __repr__(self) -> str:
        return f"<turn of thread {self.thread} since {self.since:.3f}>"


class Turns:
    """Who may use the socket.

    Attributes:
        holder: the turn that lasts; None for none.
        io: the I/O thread's turn.
        io_wanted: the I/O thread must have the next turn.
        doubtful: the socket must be made anew before it is used. Only the I/O thread clears it.
        inside: turns that were taken away from threads that may still be inside the doubtful socket.
        attended: when somebody last looked for messages.
        sent_at: when a caller that did not wait last sent something.
        asked: a caller wants the turn that the I/O thread has.
        io_stays: somebody is to be told of what is pending: the I/O thread keeps its turn, whoever asks.
        loose: there may be a pending call that nobody waits for.
        waiting: a mark for each thread that waits for a future without having the turn.
        io_rests_until: when the I/O thread looks again by itself; None for never.
    """

    def __init__(self, now: float) -> None:
        self.io = Turn(0, now)
        self.holder: Turn | None = self.io
        self.io_wanted = False
        self.doubtful = False
        self.inside: list[Turn] = []
        self.attended = now
        self.sent_at = -math.inf
        self.asked = False
        self.io_stays = False
        self.loose = False
        self.waiting: set[object] = set()
        self.io_rests_until: float | None = None

    def __repr__(self) -> str:
        who = "nobody" if self.holder is None else "the I/O thread" if self.holder is self.io else repr(self.holder)
        return f"<{who}{', doubtful' if self.doubtful else ''}>"

    # -- callers --------------------------------------------------------------------------------------------------------

    def claim(self, turn: Turn, link: Any) -> bool:
        """Whether a caller has this turn now. Where others wait already, the I/O thread serves them all better."""
        if self.holder is not None or self.io_wanted or self.doubtful or self.waiting:
            return False
        turn.link = link
        self.holder = turn
        return True

    def abandon(self, thread: int) -> None:
        """This thread is about to wait for others. If that is in the middle of its own turn (in a signal handler, in a
        destructor), nobody can go on with that.
        """
        holder = self.holder
        if holder is not None and holder is not self.io and holder.thread == thread:
            self.inside.append(holder)
            if self.holder is holder:
                self.doubtful = self.io_wanted = True
                self.holder = None

    def may_ask(self, thread: int) -> bool:
        """Whether a caller that waits for a future would get the turn from the I/O thread by asking."""
        io = self.io
        return self.holder is io and io.thread != thread and not (self.io_stays or self.waiting)

    # -- the I/O thread -------------------------------------------------------------------------------------------------

    def io_takes(self, now: float, pending: bool, due: float | None) -> bool:
        """Whether the I/O thread takes a turn now; if not, `io_rests_until` says when it is to ask again.

        Args:
            now: monotonic seconds.
            pending: whether calls are.
            due: when something has to be sent that nobody waits for; None for never.
        """
        holder = self.holder
        if holder is None:
            handed_over = self.io_wanted or self.doubtful
            neglected = pending and now - self.attended >= GRACE_S
            if handed_over or neglected or (due is not None and now >= due):
                self.holder = self.io
                self.io_wanted = False
                return True
        elif now - holder.since >= STUCK_S:
            self.io_supplants(self.io)
            return True
        self.loose = self.loose and pending
        self.io_rests_until = self.io_is_needed_at(now, pending, due)
        return False

    def io_gives_back(self, io: Turn, pending: bool) -> None:
        """The I/O thread has nothing to do at the moment: it gives its turn back if nothing is pending, or to a caller."""
        if self.holder is io and (not pending or (self.asked and not (self.io_stays or self.waiting))):
            self.io_stays = self.io_stays and pending
            self.asked = False
            self.holder = None

    def io_supplants(self, io: Turn) -> None:
        """The I/O thread, an old or a new one, takes the turn from whoever may be lost in it."""
        for turn in (self.holder, self.io):
            if turn is not None and turn is not io:
                self.inside.append(turn)
        self.io = self.holder = io
        self.doubtful = True
        self.io_wanted = False

    def io_is_needed_at(self, now: float, pending: bool, due: float | None) -> float | None:
        """When the I/O thread must look by itself."""
        if self.io_wanted:
            return now
        if self.holder is not None:  # who sends what is due; one who waits leaves nothing behind
            return now + (GRACE_S if self.loose else _WATCH_S)
        if pending:
            return now + GRACE_S if due is None else min(now + GRACE_S, due)
        return due

    def io_must_be_told(self, now: float, pending: bool, due: float | None) -> bool:
        """Whether the I/O thread, which rests, would look too late."""
        if self.io_wanted:
            return True
        if self.holder is self.io:
            return False
        needed, rests_until = self.io_is_needed_at(now, pending, due), self.io_rests_until
        return needed is not None and (rests_until is None or rests_until > needed + _EARLIER_S)
