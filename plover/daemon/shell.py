"""The daemon's loop: receive, decode, hand to the scheduler, carry out what it answers.

One thread, and one ROUTER socket for all clients. Everything else that can happen (workers' lines, launcher news, output,
signals, the parent's death) is a descriptor in one epoll instance with it. What comes in is read in `arrivals` and `news`,
what the scheduler wants is done in `hands`; here they meet.

Guarantees: nothing here decides; nothing here unpickles. A peer's bad message is refused and counted, and the loop goes on.

Assumes: `Scheduler.handle` is pure; launchers never block.
"""

from __future__ import annotations

import collections
import logging
import secrets
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from plover.daemon import host_memory, status
from plover.daemon.arrivals import Arrivals
from plover.daemon.calls import CallRecords
from plover.daemon.config import DaemonConfig
from plover.daemon.descriptors import Budget
from plover.daemon.hands import Hands
from plover.daemon.launchers import base
from plover.daemon.lending import Lending
from plover.daemon.lines import Lines
from plover.daemon.lives import Lives
from plover.daemon.news import News
from plover.daemon.output import Piece
from plover.daemon.payloads import FunctionStore
from plover.daemon.peers import ClientPeer, Peers
from plover.daemon.pipes import Pipes
from plover.daemon.post import Post
from plover.daemon.scheduler import events as e
from plover.daemon.scheduler.config import Device
from plover.daemon.scheduler.scheduler import Scheduler
from plover.daemon.segments import Pool
from plover.daemon.workers import WorkerRecord, Workers
from plover.errors import WireError
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Shell"]

log = logging.getLogger("plover.daemon")

#: Descriptors looked at in one turn.
_DESCRIPTORS = 64
#: So long results are let gather; a worker that has calls enough before it does some ten meanwhile.
_NAP_S = 0.0003
#: Messages taken before the other descriptors are looked at again.
_BATCH = 64


class Shell:
    """A running daemon.

    Args:
        config: how it is to run.
        devices: what it may use.
        scheduler: fresh.
        launcher: fresh.
        secret: lets clients in.
        budget: of descriptors.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: DaemonConfig,
        devices: tuple[Device, ...],
        scheduler: Scheduler,
        launcher: base.Launcher,
        secret: bytes,
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.scheduler = scheduler
        self.incarnation = secrets.randbits(63) | 1
        self.started = clock()
        self.workers = Workers(config.limits)
        self.functions = FunctionStore(config.limits.functions_bytes_per_tenant)
        self._clock = clock
        self._launcher = launcher
        self._peers = Peers(secret)
        self._calls = CallRecords(self.functions, lambda user: self.lending.release(user, clock()))
        self._events: collections.deque[tuple[e.AnyEvent, float]] = collections.deque()
        self._exiting = False
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], object]] = {}
        message_limit = config.limits.payload_bytes + codec.HEADER_LIMIT
        self.post = Post(config.addresses, self.incarnation, self._peers, message_limit, budget)
        limits = config.limits
        memory = host_memory.total_bytes()
        pool = Pool(
            int(memory * limits.segments_share),
            int(memory * limits.segments_share_per_tenant),
            limits.segments_per_borrower,
            limits.segment_idle_s,
            budget.segments,
        )
        self.lending = Lending(self, pool, secret, clock)
        self._lines = Lines(
            self,
            self.incarnation,
            message_limit,
            lambda worker, frames, now: self._arrivals.take_from_worker(worker, frames, now),
            self._give_up,
            clock,
        )
        self._pipes = Pipes(self, self._show)
        self._lives = Lives(self, self._client_died)
        self._arrivals = Arrivals(
            post=self.post,
            peers=self._peers,
            lives=self._lives,
            workers=self.workers,
            calls=self._calls,
            functions=self.functions,
            pipes=self._pipes,
            lending=self.lending,
            limits=config.limits,
            incarnation=self.incarnation,
            devices=devices,
            happen=self.happen,
            show=self._show,
            status=lambda now: status.document(self, now),
            unfinished=lambda: scheduler.world.unfinished,
        )
        self._hands = Hands(
            post=self.post,
            lines=self._lines,
            launcher=launcher,
            workers=self.workers,
            calls=self._calls,
            functions=self.functions,
            pipes=self._pipes,
            lending=self.lending,
            devices={device.id: device for device in devices},
            limits=config.limits,
            happen=self.happen,
            leave=self.leave,
        )
        self._news = News(
            launcher=launcher,
            workers=self.workers,
            lines=self._lines,
            lending=self.lending,
            pipes=self._pipes,
            happen=self.happen,
            show=self._show,
        )
        self._clients_fd = self.post.socket.fileno()  # pyzmq looks it up at some cost
        self.watch(launcher.fileno(), lambda: self._news.take(self._clock()))
        self.watch(self.post.doors.fileno(), lambda: self.post.doors.take(self._clock()))

    # -- the loop -------------------------------------------------------------------------------------------------------

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back, on the loop, whenever a descriptor is readable."""
        self._watched[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def watch_writing(self, fd: int, wanted: bool) -> None:
        """Call a watched descriptor's callback when it is writable, too, or not any more."""
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Not any more; nothing if it was not watched."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def happen(self, event: e.AnyEvent, now: float | None = None) -> None:
        """Hand an event to the scheduler and carry out what it wants; events that follow from that, too."""
        events = self._events
        events.append((event, self._clock() if now is None else now))
        if len(events) > 1:
            return  # the loop below, further up the stack, will come to it
        while events:
            event, now = events[0]
            commands = self.scheduler.handle(event, now)
            if isinstance(event, e.CallSubmitted):
                self._calls.adopt(self.scheduler.find_call(event.client, event.submission, event.tenant))
            for command in commands:
                self._hands.carry_out(command, now)
            events.popleft()

    def run(self) -> None:
        """Serve until draining or stopping has ended, or `leave` is called."""
        self.happen(e.DaemonStarted())
        self._flush()
        epoll, watched = self._epoll, self._watched
        self.watch(self._clients_fd, self._hear)
        while not self._exiting:
            due = self._next_deadline()
            # The router's descriptor says that its state may have changed, no more; sending may have taken that word away.
            if self._hear():
                self._flush()
                timeout_s = 0.0
            else:
                if self._arrivals.has_time:
                    self._nap()
                timeout_s = -1.0 if due is None else max(0.0, due - self._clock())
            for fd, _ in epoll.poll(timeout_s, _DESCRIPTORS):
                callback = watched.get(fd)
                if callback is not None:
                    callback()
            if due is not None:
                now = self._clock()
                if now >= due:
                    self._keep_time(now)
            self._flush()

    def _hear(self) -> bool:
        """Take what clients say; whether there was anything."""
        if not self.post.has_more():
            return False
        self._arrivals.has_time = False
        self._receive(self._clock())
        return True

    def _nap(self) -> None:
        """Let results gather, which the workers go on writing meanwhile: to wake up for each would cost the two of them more
        than all that there is to do. A client's message ends it.
        """
        self._arrivals.has_time = False
        select.select((self._clients_fd,), (), (), _NAP_S)

    def _flush(self) -> None:
        """What this turn of the loop has to say. Workers first: they have something to do."""
        self._lines.flush()
        self.post.flush()

    def leave(self) -> None:
        """End the loop after what it is doing now."""
        self._exiting = True

    def close(self) -> None:
        """Kill what was started, let the last messages out, and take the sockets away."""
        self._launcher.close()
        for worker in list(self.workers):
            self.workers.remove(worker.number)
            self._lines.close(worker, self._clock())
            worker.close()
        self.lending.close()
        self._lives.close()
        self._epoll.close()
        self.post.close()

    def _receive(self, now: float) -> None:
        """Take the messages that have come."""
        post, take = self.post, self._arrivals.take
        for _ in range(_BATCH):
            try:
                routing_id, frames = post.receive()
            except zmq.Again:
                return
            for each in self._split(routing_id, frames):
                take(routing_id, each, now)
            if not post.has_more():
                return
            now = self._clock()

    def _split(self, routing_id: bytes, frames: list[Any]) -> Sequence[Sequence[Any]]:
        try:
            return codec.split(frames, "client")
        except WireError as error:
            self.post.reject(routing_id, "WireError", str(error), kind="not a message")
            return ()

    def _client_died(self, pid: int, clients: list[ClientPeer]) -> None:
        """What it had submitted is of no use to anybody any more; what it said last was never heard, and is not taken."""
        log.info("process %d has ended without a goodbye to this daemon; its calls are cancelled", pid)
        for peer in clients:
            routing_id = self._peers.routing_id_of(peer.client)
            if routing_id is not None:
                self._peers.forget(routing_id)
            self.happen(e.ClientGone(tenant=peer.tenant, client=peer.client))

    def _give_up(self, worker: WorkerRecord, reason: str, now: float) -> None:
        """A worker is of no more use; it is replaced."""
        log.warning("%s is given up: %s", worker.name, reason)
        self.happen(e.WorkerUnwell(worker=worker.number, reason=reason), now)

    def _show(self, pieces: list[Piece]) -> None:
        for (number, _), stream, data in pieces:
            call = self._calls.find(number)
            if call is not None:
                self.post.send_to_client(call.client, m.Output(call.submission, stream, data))

    # -- the clock ------------------------------------------------------------------------------------------------------

    def _next_deadline(self) -> float | None:
        """When the loop must look at the clock, if no message comes before."""
        due: float | None = None
        for moment in (
            self.scheduler.next_deadline(),
            self._pipes.due(),
            self._news.due(),
            self._lines.due(),
            self.lending.due(),
            self.post.doors.due(),
        ):
            if moment is not None and (due is None or moment < due):
                due = moment
        return due

    def _keep_time(self, now: float) -> None:
        self._pipes.keep_time(now)
        self._news.keep_time(now)
        self._lines.keep_time(now)
        self.lending.keep_time(now)
        self.post.doors.keep_time(now)
        deadline = self.scheduler.next_deadline()
        if deadline is not None and now >= deadline:
            self.happen(e.DeadlineReached(), now)
