"""Whose turn it is to use the connection's socket: a caller's, the I/O thread's, or nobody's. See docs/adr/0012.

Pure: no socket, no thread, no clock. The connection asks it who may, and tells it what happened.

Guarantees: one holder at a time. A turn that is in doubt (its thread was interrupted, or it lasts too long) is never given
back as if nothing had happened: the I/O thread gets it, together with the word that the socket must be made anew.

Assumes: every method is called under the connection's lock.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ATTEND_S", "GRACE_S", "SLICE_S", "STUCK_S", "Turn", "Turns"]

#: A thread that waits for a call does the work for so long; a longer call is the I/O thread's.
SLICE_S = 0.05
#: The I/O thread takes over what is pending when nobody has looked for messages for so long.
GRACE_S = 0.005
#: A thread that only sends looks for messages, too, when nobody has for so long: less than GRACE_S, so that many calls
#: submitted in a row do not bring the I/O thread in, which would compete with them for the interpreter.
ATTEND_S = 0.001
#: A turn of this length has lost its thread. Callers give theirs back after SLICE_S.
STUCK_S = 1.0
#: While a lone caller has the turn, the I/O thread looks after it so often.
_WATCH_S = 0.1


class Turn:
    """One thread's use of a link, from `claim` to `release`."""

    __slots__ = ("link", "since", "thread")

    def __init__(self, link: Any, thread: int, since: float) -> None:
        self.link = link
        self.thread = thread
        self.since = since

    def __repr__(self) -> str:
        return f"<turn of thread {self.thread} since {self.since:.3f}>"


class Turns:
    """Who may use the socket.

    Attributes:
        holder: the turn that lasts; None for none.
        io: the I/O thread's turn.
        io_wanted: the I/O thread must have the next turn.
        doubtful: the socket must be made anew before it is used. Only the I/O thread clears it.
        left_inside: the doubtful socket's last user may still be inside it.
        attended: when somebody last looked for messages.
        waiting: a mark for each thread that waits for a future without having the turn.
        io_rests_until: when the I/O thread looks again by itself; None for never.
    """

    def __init__(self, io_thread: int, now: float) -> None:
        self.io = Turn(None, io_thread, now)
        self.holder: Turn | None = self.io
        self.io_wanted = False
        self.doubtful = False
        self.left_inside = False
        self.attended = now
        self.waiting: set[object] = set()
        self.io_rests_until: float | None = None

    def __repr__(self) -> str:
        who = "nobody" if self.holder is None else "the I/O thread" if self.holder is self.io else repr(self.holder)
        return f"<{who}{', doubtful' if self.doubtful else ''}>"

    def claim(self, link: Any, thread: int, now: float) -> Turn | None:
        """A turn for a caller, if it may have one. Where others wait already, the I/O thread serves them all better."""
        if self.holder is not None:
            if self.holder.thread == thread:
                # A signal handler in the middle of its own thread's turn, or one that was lost: nobody can go on with it.
                self.left_inside = self.give_up(thread) or self.left_inside
            return None
        if self.io_wanted or self.doubtful or self.waiting:
            return None
        self.holder = turn = Turn(link, thread, now)
        return turn

    def release(self, pending: bool) -> None:
        """The holder gives its turn back. Assumes: it was not taken away."""
        self.holder = None
        if pending and self.waiting:
            self.io_wanted = True

    def give_up(self, thread: int) -> bool:
        """This thread's turn, if it has one, ends in doubt."""
        holder = self.holder
        if holder is None or holder is self.io or holder.thread != thread:
            return False
        self.holder = None
        self.doubtful = self.io_wanted = True
        return True

    def io_takes(self, now: float, pending: int, due: float | None) -> bool:
        """Whether the I/O thread takes a turn now; if not, `io_rests_until` says when it is to ask again.

        Args:
            now: monotonic seconds.
            pending: how many calls are.
            due: when something has to be sent that nobody waits for; None for never.
        """
        holder = self.holder
        if holder is None:
            handed_over = self.io_wanted or self.doubtful
            neglected = pending > 0 and now - self.attended >= GRACE_S
            if handed_over or neglected or (due is not None and now >= due):
                self.holder = self.io
                self.io_wanted = False
                return True
        elif now - holder.since >= STUCK_S:
            self.holder = self.io
            self.doubtful = self.left_inside = True
            self.io_wanted = False
            return True
        self.io_rests_until = self.io_is_needed_at(now, pending, due)
        return False

    def io_is_needed_at(self, now: float, pending: int, due: float | None) -> float | None:
        """When the I/O thread must look by itself."""
        if self.io_wanted:
            return now
        if self.holder is not None and pending == 1:
            return now + _WATCH_S  # a lone caller, which leaves nothing behind
        if pending:
            return now + GRACE_S
        return due

    def io_must_be_told(self, now: float, pending: int, due: float | None) -> bool:
        """Whether the I/O thread, which rests, would look too late."""
        if self.holder is self.io:
            return False
        needed, rests_until = self.io_is_needed_at(now, pending, due), self.io_rests_until
        return needed is not None and (rests_until is None or rests_until > needed + GRACE_S)
