"""A connection's own thread: it does whatever no caller does, and everything out of the ordinary. See docs/adr/0012.

Guarantees: a lost daemon ends every pending call as `DaemonLost` within some seconds; a link that broke while the daemon
lives, or that is in doubt, is made anew, and what is pending is asked for again. Where user code runs on this thread (a
destructor, a stream of the user's) and waits for a call, another thread takes its place.

Assumes: signals are handled on the main thread, so this one is never interrupted.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from plover.client.line import Line
from plover.client.link import Bell, Link
from plover.client.turns import Turn
from plover.client.unbreakable import Event
from plover.errors import DaemonLost, PloverError

__all__ = ["IoThread", "close_parked"]

#: What was sent has so long to go out when a socket is closed.
_LINGER_MS = 500

#: What some thread was still inside when its connection ended, with the process that made it: whoever leaves it closes it.
_parked: list[tuple[int, Any, list[tuple[Link, list[Turn]]]]] = []


class IoThread:
    """The I/O thread of a line.

    Attributes:
        settled: hands are shaken, or never will be.
        ended: everything is over and given back.
    """

    def __init__(self, line: Line) -> None:
        self.settled = Event()
        self.ended = Event()
        self._line = line
        self._left: list[tuple[Link, list[Turn]]] = []  # links, and turns of threads that may still be inside them

    def start(self) -> None:
        """Begin."""
        self._start(self._line.turns.io, self._line.io_bell)

    def wait_for_end(self, timeout_s: float) -> None:
        """Until everything is over and given back."""
        if not self.is_this_thread():
            self._line.unlocked(lambda: self.ended.wait(timeout_s))

    def is_this_thread(self) -> bool:
        """Whether it is the calling one."""
        return self._line.turns.io.thread == threading.get_ident()

    def replace(self) -> None:
        """This is the I/O thread, and it is about to wait for a call: another one goes on with the work."""
        line = self._line
        io, bell = Turn(0, time.monotonic()), Bell()
        with line.lock:
            line.io_bell = bell
            line.turns.io_supplants(io)
        self._start(io, bell)

    def _start(self, io: Turn, bell: Bell) -> None:
        threading.Thread(target=self._run, args=(io, bell), name="plover-io", daemon=True).start()

    def _run(self, io: Turn, bell: Bell) -> None:
        line, turns = self._line, self._line.turns
        io.thread = threading.get_ident()
        try:
            if line.talk.welcome is None:
                line.talk.greet(line.link, io.since)
            while not self._is_over() and turns.io is io:
                self._serve(io)
                self._rest(io, bell)
        except BaseException as error:  # a fault of ours must end the calls, not hang them
            if turns.io is io:
                line.talk.end(PloverError(f"the connection to {line.address} failed: {type(error).__name__}: {error}"))
            raise
        finally:
            if turns.io is io:
                self._end()
            io.over = True
            bell.close()
            if turns.io is io:
                self.ended.set()
            else:
                line.want_io()  # the one that took this one's place can close the old link now
                close_parked()  # or this one, if that has ended

    def _is_over(self) -> bool:
        line, talk = self._line, self._line.talk
        if talk.ended is not None or line.close_by is None:
            return talk.ended is not None
        return (
            talk.welcome is None
            or time.monotonic() >= line.close_by
            or (talk.shaken and line.parted and not talk.outbox)
        )

    def _serve(self, io: Turn) -> None:
        """The I/O thread's turn: until all is over, or nothing is pending and everything is in order."""
        line, talk, turns = self._line, self._line.talk, self._line.turns
        now = time.monotonic()
        while turns.holder is io:
            turns.io_wanted = False  # before it looks: whoever wants it from now on has it look again
            if turns.doubtful or talk.broken:
                self._reconnect(io, now)
            if self._left and talk.shaken:
                self._close_left(now)
            io.link = link = line.link
            self._read_inbox(io, now)
            talk.keep_time(link, now)
            line.part(now)
            line.send_outbox(io, now)
            if self._is_over() or self._gives_back(io):
                return
            link.bell.asleep = True
            timeout_ms = 0 if self._must_look() else _timeout_ms(self._due(), now)
            came, broke = link.wait(timeout_ms, with_monitor=True)
            now = time.monotonic()
            if turns.holder is not io:
                return
            if came:
                line.receive(io, now)
            if broke and talk.shaken:
                talk.broken = True
            if talk.shaken and not self.settled.is_set():
                self.settled.set()

    def _read_inbox(self, io: Turn, now: float) -> None:
        """What callers left to this thread."""
        talk, turns = self._line.talk, self._line.turns
        while talk.inbox and turns.holder is io:
            frames = talk.inbox[0]
            talk.take(frames, now, by_io=True)
            if turns.holder is io and talk.inbox[0] is frames:
                talk.inbox.popleft()

    def _gives_back(self, io: Turn) -> bool:
        line, talk, turns = self._line, self._line.talk, self._line.turns
        busy = talk.broken or not talk.shaken or talk.questions or line.close_by is not None
        with line.lock:
            if not (busy or talk.inbox or talk.outbox or turns.io_wanted):
                turns.io_gives_back(io, bool(talk.calls.pending))
        return turns.holder is not io

    def _must_look(self) -> bool:
        """Whether there are news already, now that the bell would ring for more."""
        talk = self._line.talk
        news = self._line.turns.io_wanted or talk.inbox or (talk.outbox and talk.shaken)
        return bool(news or talk.broken or self._is_over())

    def _due(self) -> float | None:
        line, due = self._line, self._line.talk.due()
        if line.close_by is None:
            return due
        over_by = line.close_by if line.parted else line.part_by
        return over_by if due is None else min(due, over_by)

    def _reconnect(self, io: Turn, now: float) -> None:
        """A fresh link to the same daemon."""
        line, turns = self._line, self._line.turns
        link = Link(line.context, line.address)
        with line.lock:
            if turns.holder is not io:
                link.end(0)
                return
            self._left.append((line.link, turns.inside))
            line.link.bell.ring()  # whoever is inside for no good reason leaves
            line.link, turns.inside, turns.doubtful = link, [], False
        line.talk.greet(link, now)

    def _close_left(self, now: float) -> None:
        """Close the links that nobody is inside any more; what came over them before is taken first."""
        talk = self._line.talk
        for left in list(self._left):
            link, inside = left
            if all(turn.over for turn in inside):
                self._left.remove(left)
                talk.take_late(link, now)
                link.end(_LINGER_MS)
                talk.calls.acknowledge_again()  # somebody may have acknowledged over an old link

    def _rest(self, io: Turn, bell: Bell) -> None:
        """Let callers do the work, look after it, and come back with the turn."""
        line, talk, turns = self._line, self._line.talk, self._line.turns
        while turns.io is io:
            bell.asleep = True
            now = time.monotonic()
            with line.lock:
                if self._is_over() or line.close_by is not None:
                    turns.io_wanted = True
                if turns.holder is io or turns.io_takes(now, bool(talk.calls.pending), talk.due()):
                    bell.asleep = False
                    return
            link = line.link
            if turns.io is io and link.rest(bell, _timeout_ms(turns.io_rests_until, now)):
                talk.broken = turns.io_wanted = True
                line.link.bell.ring()

    def _end(self) -> None:
        line, talk = self._line, self._line.talk
        with line.lock:
            talk.end(DaemonLost(f"the connection to {line.address} is closed", address=line.address))
        self._left.append((line.link, line.turns.inside))
        self._close_left(time.monotonic())
        talk.end_calls()
        line.callbacks.end()
        self.settled.set()
        if self._left:
            _parked.append((os.getpid(), line.context, self._left))
            close_parked()  # they may have left meanwhile
        else:
            line.context.destroy(linger=_LINGER_MS)


def close_parked() -> None:
    """Give back what threads were inside of when its connection ended, if they have left. For who may be the last of them."""
    for parked in list(_parked):
        pid, context, left = parked
        if pid != os.getpid() or not all(turn.over for _, inside in left for turn in inside):
            continue
        try:
            _parked.remove(parked)
        except ValueError:  # another thread was faster
            continue
        for link, _ in left:
            link.end(0)
        context.destroy(linger=0)


def _timeout_ms(due: float | None, now: float) -> int:
    return -1 if due is None else max(0, int((due - now) * 1000) + 1)
