"""A daemon without workers, on a thread of this process: it speaks the protocol, and a test says what it answers and when.

Guarantees: it keeps to the rules of the real one: who has shaken hands on a new connection is a stranger on the old one; a
call is remembered until its client acknowledges its outcome, and a submission of one that is not remembered is run as new.
`runs` counts those, so that a call that ran twice is seen. Assumes: one client.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from plover import serialize
from plover.client.calls import Payload
from plover.client.connection import Connection
from plover.client.futures import Future
from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m

#: What never takes long may take so long on a loaded machine.
PATIENCE_S = 20.0

INCARNATION = 77


def function(name: str = "work", content: bytes = b"function") -> Payload:
    """A payload that nothing runs."""
    return Payload.of([content], [], name)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Poll a condition, with a bound."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        pause.wait(0.0005)


class FakeDaemon:
    """It answers each call with the call's own arguments, unless told otherwise.

    Attributes:
        held: arguments of calls that are not answered until `release`.
        before: arguments whose answer is sent right before the next call's that is not held.
        silent: it takes everything and says nothing.
        refusal: what it answers to a hand that is held out; None for a welcome.
        runs: how often each submission was taken as new.
        heard: every message that it took, in order.
        refused: how many messages came from strangers.
    """

    def __init__(self, directory: Path) -> None:
        self.address = f"ipc://{directory}/d.sock"
        self.held: set[Any] = set()
        self.before: list[Any] = []
        self.silent = False
        self.refusal: m.Rejected | None = None
        self.runs: collections.Counter[int] = collections.Counter()
        self.heard: list[Any] = []
        self.refused = 0
        self.calls: dict[int, tuple[Any, m.Outcome | None, codec.Body]] = {}
        self.incarnation = INCARNATION
        self._functions: set[bytes] = set()
        self._peer: bytes | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.address)
        self._orders: collections.deque[Callable[[], None]] = collections.deque()
        self._in, self._out = socket.socketpair()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="fake-daemon", daemon=True)
        self._thread.start()

    def order(self, what: Callable[[], None]) -> None:
        """Have something done on the daemon's thread."""
        self._orders.append(what)
        self._in.send(b"\0")

    def release(self, *arguments: Any) -> None:
        """Answer calls that were held."""
        self.held -= set(arguments)
        self.order(lambda: [self._answer(number) for number in self._numbers(arguments)])

    def forget(self, *arguments: Any) -> None:
        """As if these calls had never come, or their results had been held for too long."""
        self.order(lambda: [self.calls.pop(number, None) for number in self._numbers(arguments)])

    def forget_peer(self) -> None:
        """As if the client had never shaken hands."""
        self.order(lambda: setattr(self, "_peer", None))

    def forget_functions(self) -> None:
        """All payloads are gone."""
        self.order(self._functions.clear)

    def say(self, message: m.ToClient, body: codec.Body = codec.EMPTY) -> None:
        """Say something unasked."""
        self.order(lambda: self._say(message, body))

    def send(self, frames: list[Any]) -> None:
        """Send anything."""
        self.order(lambda: self._send(frames))

    def wait_for(self, kind: type, count: int = 1) -> None:
        """Until so many messages of a kind were taken."""
        wait_until(lambda: sum(type(each) is kind for each in list(self.heard)) >= count, f"{count} × {kind.__name__}")

    def close(self) -> None:
        """End."""
        self._ended = True
        self._in.send(b"\0")
        self._thread.join(PATIENCE_S)
        self._context.destroy(linger=0)
        self._in.close()
        self._out.close()

    # -- on its thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._out, zmq.POLLIN)
        while not self._ended:
            for ready, _ in poller.poll():
                if ready is self._socket:
                    with contextlib.suppress(zmq.Again):
                        while True:
                            peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
                            for each in codec.split(frames, "client"):
                                self._take(peer, *each)
                else:
                    self._out.recv(4096)
            while self._orders:
                self._orders.popleft()()

    def _take(self, peer: bytes, *frames: Any) -> None:
        if peer != self._peer and codec.incarnation(frames) not in (0, self.incarnation):
            return
        incoming = codec.FROM_CLIENT.read(list(frames))
        message = incoming.message
        if isinstance(message, m.Hello):
            self.heard.append(message)
            self._peer = peer
            welcome = m.Welcome(self.incarnation, "default", versions(), 1 << 20, 1 << 20, 1)
            self._say(self.refusal or welcome)
            return
        if peer != self._peer:
            self.refused += 1
            rejected = m.Rejected("WireError", "a stranger", None, 0)
            self._socket.send_multipart([peer, *codec.write(rejected, self.incarnation)])
            return
        self.heard.append(message)
        match message:
            case m.Submit():
                self._submitted(message, incoming)
                self._forget(message.acknowledged)
            case m.Acknowledge(submissions=submissions):
                self._forget(submissions)
            case m.Resume(submissions=submissions):
                for submission in submissions:
                    if submission not in self.calls:
                        self._say(m.Unknown((submission,)))
                    elif self.calls[submission][1] is not None:
                        self._answer(submission)
            case m.Cancel(submission=submission):
                if submission in self.calls and self.calls[submission][1] is None:
                    reason = m.Outcome(submission, "ended", m.Receipt(), (), "CallCancelled", "cancelled")
                    self._end(submission, reason, codec.EMPTY)
            case m.Ping():
                self._say(m.Pong())
            case m.AskStatus():
                self._say(m.Status(b"{}"))
            case m.Goodbye():
                self.calls.clear()

    def _submitted(self, message: m.Submit, incoming: Any) -> None:
        if message.payload is not None:
            self._functions.add(message.function)
        elif message.function not in self._functions:
            self._say(m.PayloadWanted(message.submission, message.function))
            return
        number = message.submission
        if number in self.calls:
            if self.calls[number][1] is not None:
                self._answer(number)
            return
        self.runs[number] += 1
        value = serialize.unpack(incoming.take(message.arguments))
        self.calls[number] = value, None, codec.EMPTY
        if value not in self.held:
            for early in self._numbers(self.before):
                self._answer(early)
            self._answer(number)

    def _answer(self, number: int) -> None:
        value, outcome, body = self.calls[number]
        if outcome is None:
            body = codec.Body()
            outcome = m.Outcome(number, "succeeded", m.Receipt(attempt=1), body.pack(serialize.pack(value)))
        self._end(number, outcome, body)

    def _end(self, number: int, outcome: m.Outcome, body: codec.Body) -> None:
        self.calls[number] = self.calls[number][0], outcome, body
        self._say(outcome, body)

    def _forget(self, submissions: tuple[int, ...]) -> None:
        for submission in submissions:
            if submission in self.calls and self.calls[submission][1] is not None:
                del self.calls[submission]

    def _numbers(self, arguments: Any) -> list[int]:
        return [number for number, call in list(self.calls.items()) if call[0] in arguments]

    def _say(self, message: m.ToClient, body: codec.Body = codec.EMPTY) -> None:
        self._send(codec.write(message, self.incarnation, body))

    def _send(self, frames: list[Any]) -> None:
        if not self.silent and self._peer is not None:
            self._socket.send_multipart([self._peer, *frames])


class FakeSession:
    """A fake daemon and a connection to it, with short ways to make calls.

    Args:
        directory: short, for the daemon's socket.
    """

    def __init__(self, directory: Path) -> None:
        self.daemon = FakeDaemon(directory)
        self.connection = Connection(self.daemon.address, b"secret", versions())
        self.function = function()

    def submit(self, argument: Any, *, waits: bool = False, **options: Any) -> Future[Any]:
        """Begin a call that gives its argument back."""
        packed = serialize.pack(argument)
        return self.connection.submit(self.function, packed, [], m.CallOptions(**options), waits=waits)

    def call(self, argument: Any) -> Any:
        """Make a call and wait, as a decorated function does it."""
        future = self.submit(argument, waits=True)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def assert_clean(self) -> None:
        """Nothing is pending, nobody has the turn, the daemon has been told of every outcome, and nothing ran twice."""
        line = self.connection._line
        self.connection.attend()
        wait_until(lambda: not line.talk.calls.pending, f"{line.talk.calls!r}")
        wait_until(lambda: not self.daemon.calls, f"held by the daemon: {self.daemon.calls}")
        wait_until(lambda: line.turns.holder is None and not line.turns.doubtful, f"{line.turns!r}")
        twice = [number for number, count in self.daemon.runs.items() if count > 1]
        assert not twice, f"ran twice: {twice}"
        wait_until(lambda: not line.turns.waiting, "somebody still waits")
        wait_until(lambda: not (line.talk.inbox or line.talk.outbox), "something waits to be sent or read")

    def close(self) -> None:
        """End both."""
        self.connection.close()
        self.daemon.close()


@contextlib.contextmanager
def fake_session(directory: Path) -> Iterator[FakeSession]:
    """A fake daemon and a connection to it."""
    session = FakeSession(directory)
    try:
        yield session
    finally:
        session.close()
