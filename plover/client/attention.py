"""Whether the daemon still listens to us: how long its silence has lasted though it was asked, and when that is too long.

A ping is answered by the daemon's loop, while libzmq's own thread, or the kernel, may answer for a daemon whose loop does
nothing any more. But a ping waits behind large arrays on their way, and so does its answer. So when the silence is long, the
daemon is asked once more, over a connection of its own, and only if that is silent, too, is it lost.

Guarantees: a daemon whose loop does nothing is lost within SILENCE_S + PROBE_S and two pings; one that is busy is not. Time
in which this process did not run (it was stopped, its machine slept) counts for nothing. Assumes: as `conversation` does.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time

import msgspec
import zmq

from plover.client.link import Link
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Attention"]

#: A daemon that was asked, and says nothing at all for so long, is asked over another connection.
SILENCE_S = 60.0
#: And may take so long to answer there.
PROBE_S = 10.0
#: A wait that took so much longer than it should was that of a process which did not run.
_LATE_S = 1.0


class Attention:
    """What is known of one daemon's.

    Args:
        address: of the daemon.
        hello: what it is greeted with.
    """

    def __init__(self, address: str, hello: m.Hello) -> None:
        self._address = address
        self._hello = hello
        self._asked_at: float | None = None  # the first question since anything was heard; None for none
        self._probe: _Probe | None = None

    def heard(self) -> None:
        """The daemon said something."""
        self._asked_at = None

    def asked(self, now: float, late: bool) -> None:
        """It was sent a ping.

        Args:
            now: monotonic seconds.
            late: this process did not run for a while: what was answered meanwhile may not be read yet.
        """
        if self._asked_at is None or late:
            self._asked_at = now
        elif self._probe is None and now - self._asked_at >= SILENCE_S:
            self._probe = _Probe(self._address, self._hello, now)

    def due(self) -> float | None:
        """When `is_lost` may say something else."""
        return None if self._probe is None else self._probe.over_by

    def is_lost(self, now: float) -> bool:
        """Whether it neither said anything nor answered elsewhere."""
        probe = self._probe
        if probe is None or (not probe.answered and now < probe.over_by):
            return False
        if probe.answered is None:
            probe.over_by = now + _LATE_S
            return False
        self._probe = None
        if probe.answered:
            self._asked_at = None
        return self._asked_at is not None


class _Probe:
    """A question over a connection of its own, asked on a thread of its own.

    Attributes:
        answered: None while that is not known.
        over_by: when it should be.
    """

    def __init__(self, address: str, hello: m.Hello, now: float) -> None:
        self.answered: bool | None = None
        self.over_by = now + PROBE_S + _LATE_S
        another = msgspec.structs.replace(hello, client=secrets.token_bytes(16), pid=0, started=0)
        threading.Thread(target=self._run, args=(address, another), name="plover-probe", daemon=True).start()

    def _run(self, address: str, hello: m.Hello) -> None:
        answered = False
        with contextlib.suppress(zmq.ZMQError, OSError):  # no descriptor is left: nothing speaks for the daemon
            answered = self._ask(address, hello)
        self.answered = answered

    @staticmethod
    def _ask(address: str, hello: m.Hello) -> bool:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        link = Link(context, address)
        try:
            link.send(codec.write(hello))
            came, took_s = False, PROBE_S + _LATE_S
            while not came and took_s >= PROBE_S + _LATE_S:
                began = time.monotonic()
                came, _ = link.wait(int(PROBE_S * 1000))
                took_s = time.monotonic() - began
            if came:
                link.send(codec.write(m.Goodbye(), codec.incarnation(link.receive())))
            return came
        finally:
            link.end(100)
            context.destroy()
