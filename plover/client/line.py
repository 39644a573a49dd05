"""What the threads of one connection share: its lock, its link, the turns at it, and what is said over it.

Guarantees: whoever places news (a message in the outbox, a wish of the I/O thread's turn) and then rings is heard by who has
the turn and by the I/O thread, wherever they are. Assumes: as `turns` and `conversation` do.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from plover.client.conversation import Conversation
from plover.client.link import Bell, Link
from plover.client.turns import Turn, Turns
from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Line"]

#: Messages received before anything else is looked at.
_BATCH = 64


class Callbacks:
    """Runs what it is given, in order, on a thread of its own that begins with the first."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._begun = False

    def put(self, callback: Callable[[], None]) -> None:
        """Run this soon."""
        self._queue.put(callback)
        if not self._begun:
            threading.Thread(target=self._run, name="plover-callbacks", daemon=True).start()
            self._begun = True  # not before: where an interrupt came between, two threads share the work

    def end(self) -> None:
        """Run what was put, and end."""
        self._queue.put(None)

    def _run(self) -> None:
        while (callback := self._queue.get()) is not None:
            callback()
        self._queue.put(None)  # for another one


class Line:
    """The shared state of a connection.

    Args:
        address: ``ipc://…``.
        hello: what the daemon is greeted with.

    Attributes:
        lock: guards the turns, and what is entered into the table of calls and the outbox. Reentrant: a signal handler or a
            destructor may make a call anywhere.
        link: the present one; only the I/O thread makes another.
        io_bell: wakes the I/O thread where it rests.
        callbacks: of futures, which may make calls, and so cannot run on a thread that does the connection's work.
        part_by: when goodbye is said, whatever still unwinds; means something while the connection is being closed.
        close_by: when the connection ends, whatever is left to be sent; None while it is not being closed.
        parted: goodbye was said.
    """

    def __init__(self, address: str, hello: m.Hello) -> None:
        self.address = address
        self.lock: Any = threading.RLock()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.link = Link(self.context, address)
        self.io_bell = Bell()
        self.part_by = 0.0
        self.close_by: float | None = None
        self.parted = False
        self.callbacks = Callbacks()
        now = time.monotonic()
        self.talk = Conversation(address, hello, now)
        self.turns = Turns(now)

    def may_be_used(self) -> bool:
        """Whether calls can be sent now."""
        talk = self.talk
        return talk.shaken and not talk.broken and talk.ended is None

    def part(self, now: float) -> None:
        """Say goodbye, if it is time to: after it, the daemon tells nothing any more of calls that were cancelled."""
        if self.close_by is not None and not self.parted and (now >= self.part_by or not self.talk.calls.unwinding()):
            self.parted = True
            self.talk.outbox.append(m.Goodbye())

    def send_outbox(self, turn: Turn, now: float) -> None:
        """Send what waits, many small messages as one. Each is taken off once sent: if interrupted, it is sent again."""
        talk, turns, outbox = self.talk, self.turns, self.talk.outbox
        while outbox and talk.shaken and turns.holder is turn:
            items = tuple(outbox)[:_BATCH]  # one step, in which nothing is added
            talk.send(turn.link, items, now)
            for item in items:
                # No call between these looks and `popleft`: in one of them the turn may be lost, and others go on here.
                if turns.holder is turn and outbox[0] is item:
                    outbox.popleft()

    def receive(self, turn: Turn, now: float) -> None:
        """Take what has come."""
        link, talk, turns = turn.link, self.talk, self.turns
        turns.attended = now
        by_io = turn is turns.io
        for _ in range(_BATCH if talk.shaken else 1):  # after a handshake there are other things to be done first
            try:
                frames = link.receive()
            except zmq.Again:
                return
            if turns.holder is not turn:
                return  # taken away meanwhile: whatever came is asked for again
            messages = _split(frames)
            for number, each in enumerate(messages):
                if not talk.take(each, now, by_io):
                    talk.inbox.extend(messages[number:])
                    turns.io_wanted = True
                    return
                if turns.holder is not turn:
                    return
            if not talk.calls.pending or turns.holder is not turn or not link.has_more():
                return  # nothing more is waited for: whatever comes is seen by the next poll

    def tell_io(self, now: float) -> None:
        """Wake the I/O thread if it would otherwise look too late."""
        if self.turns.io_must_be_told(now, bool(self.talk.calls.pending), self.talk.due()):
            self.io_bell.ring()

    def want_io(self) -> None:
        """The I/O thread must have a look, with the turn."""
        self.turns.io_wanted = True
        self.link.bell.ring()
        self.io_bell.ring()

    def unlocked(self, wait: Callable[[], Any]) -> Any:
        """Wait for something that others do, without the lock: this thread may hold it, in a signal handler or a destructor
        in the middle of something else that it was doing.
        """
        if not self.lock._is_owned():
            return wait()
        held = self.lock._release_save()
        try:
            return wait()
        finally:
            self.lock._acquire_restore(held)


def _split(frames: list[Any]) -> Sequence[Sequence[Any]]:
    """The messages that came as these frames; what cannot be read is found out by who reads it."""
    try:
        return codec.split(frames, "daemon")
    except WireError:
        return (frames,)
