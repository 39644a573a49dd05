"""The daemon's loop: receive, decode, hand to the scheduler, carry out what it answers.

One thread and one ROUTER socket for clients and workers alike. Everything else that can happen (launcher news, output,
signals, the parent's death) is a descriptor in one epoll instance beside it.

Guarantees: nothing here decides; nothing here unpickles. A peer's bad message is refused and counted, and the loop goes
on. Messages are taken before launcher news, and a worker's death waits shortly for a result that was sent before it.

Assumes: `Scheduler.handle` is pure; launchers never block; frames that came in stay alive while a call needs them.
"""

from __future__ import annotations

import collections
import functools
import logging
import os
import secrets
import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_never

import zmq

from plover import addresses
from plover.daemon import status
from plover.daemon.config import DaemonConfig
from plover.daemon.launchers import base
from plover.daemon.outcomes import describe
from plover.daemon.output import Piece
from plover.daemon.payloads import FunctionStore
from plover.daemon.peers import ClientPeer, Peers, WorkerPeer
from plover.daemon.scheduler import commands as c
from plover.daemon.scheduler import events as e
from plover.daemon.scheduler.config import Device
from plover.daemon.scheduler.scheduler import Scheduler
from plover.daemon.workers import WorkerRecord, Workers
from plover.errors import WireError
from plover.serialize import Buffer
from plover.versions import versions
from plover.wire import codec, sockets
from plover.wire import messages as m

__all__ = ["Shell"]

log = logging.getLogger("plover.daemon")

#: Messages taken before the other descriptors are looked at again.
_BATCH = 64
#: A worker's pipes are watched when it has begun and ended no call for so long. A short call's output is read with its
#: result; watching would wake the loop for each marker, which costs a short call more than all the rest.
_LOOK_S = 0.02
#: A worker that sent a result and died: the result is on its way through the socket and needs no longer than this.
_LATE_RESULT_S = 0.05


class _Call:
    """What the shell holds of a call: whose it is, and its bytes while they may be needed."""

    __slots__ = (
        "arguments",
        "arrived",
        "client",
        "dispatched",
        "function",
        "name",
        "result",
        "submission",
        "tenant",
        "worker",
    )

    def __init__(self, tenant: str, client: bytes, submit: m.Submit, arguments: Sequence[Buffer]) -> None:
        self.tenant = tenant
        self.client = client
        self.submission = submit.submission
        self.function = submit.function
        self.name = submit.name
        self.arguments: Sequence[Buffer] | None = arguments  # None once no attempt can follow
        self.dispatched = 0.0
        self.arrived = 0.0
        self.worker: WorkerRecord | None = None  # the last one it was sent to
        self.result: tuple[m.Finished, list[Buffer]] | None = None

    @property
    def call_id(self) -> str:
        return m.call_id(self.client, self.submission)

    def __str__(self) -> str:
        return f"{self.name or 'the call'} ({self.call_id})"


class Shell:
    """A running daemon.

    Args:
        config: how it is to run.
        devices: what it may use.
        scheduler: fresh.
        launcher: fresh.
        secrets_by_address: the secret for clients, one for all addresses.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: DaemonConfig,
        devices: tuple[Device, ...],
        scheduler: Scheduler,
        launcher: base.Launcher,
        secret: bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.devices = {device.id: device for device in devices}
        self.scheduler = scheduler
        self.incarnation = secrets.randbits(63) | 1
        self.started = clock()
        self.workers = Workers(config.limits)
        self.functions = FunctionStore(config.limits.functions_bytes_per_tenant)
        #: Messages that were refused, by the reason's kind.
        self.refused: collections.Counter[str] = collections.Counter()
        self._clock = clock
        self._launcher = launcher
        self._peers = Peers(secret)
        self._versions = versions()
        self._calls: dict[int, _Call] = {}
        self._incoming: dict[tuple[bytes, int], _Call] = {}  # submitted, and not taken by the scheduler yet
        self._events: collections.deque[e.AnyEvent] = collections.deque()
        self._deaths: list[tuple[float, base.WorkerEnded]] = []  # waiting for a late result, by deadline
        self._looks: dict[int, float] = {}  # workers whose pipes are not watched, and when they will be, soonest first
        self._launcher_due: float | None = None  # `Launcher.next_deadline()` after the last news or command
        self._exiting = False
        self._context = zmq.Context()
        self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self._router.setsockopt(option, 0)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.MAXMSGSIZE, config.limits.payload_bytes + codec.HEADER_LIMIT)
        self._worker_address = f"ipc://{config.state_dir / 'workers.sock'}"
        for address in (*config.addresses, self._worker_address):
            self._router.bind(address)
            Path(addresses.socket_path(address)).chmod(0o600)
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        self.watch(launcher.fileno(), self._take_news)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back, on the loop, whenever a descriptor is readable."""
        self._watched[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def happen(self, event: e.AnyEvent) -> None:
        """Hand an event to the scheduler and carry out what it wants; events that follow from that, too."""
        self._events.append(event)
        if len(self._events) > 1:
            return  # the loop below, further up the stack, will come to it
        while self._events:
            commands = self.scheduler.handle(self._events[0], self._clock())
            if isinstance(self._events[0], e.CallSubmitted):
                self._adopt(self._events[0])
            for command in commands:
                self._carry_out(command)
            self._events.popleft()

    def run(self) -> None:
        """Serve until draining or stopping has ended, or `leave` is called."""
        self.happen(e.DaemonStarted())
        epoll_fd = self._epoll.fileno()
        others = (epoll_fd,)
        while not self._exiting:
            due = self._next_deadline()
            timeout_ms = -1 if due is None else max(0, int((due - self._clock()) * 1000) + 1)
            for ready in sockets.poll(self._router, others, timeout_ms):
                if ready is self._router:
                    self._receive()
                    continue
                for fd, _ in self._epoll.poll(0):
                    callback = self._watched.get(fd)
                    if callback is not None:
                        callback()
            if due is not None and self._clock() >= due:
                self._keep_time(self._clock())

    def leave(self) -> None:
        """End the loop after what it is doing now."""
        self._exiting = True

    def close(self) -> None:
        """Kill what was started, let the last messages out, and take the sockets away."""
        self._launcher.close()
        for worker in list(self.workers):
            self.workers.remove(worker.number)
            worker.close()
        self._epoll.close()
        self._router.setsockopt(zmq.LINGER, 1000)
        self._router.close()
        self._context.term()
        for address in (*self.config.addresses, self._worker_address):
            addresses.socket_path(address).unlink(missing_ok=True)

    # -- the clock ------------------------------------------------------------------------------------------------------

    def _next_deadline(self) -> float | None:
        """When the loop must look at the clock, if no message comes before."""
        due = self.scheduler.next_deadline()
        if self._launcher_due is not None and (due is None or self._launcher_due < due):
            due = self._launcher_due
        if self._deaths and (due is None or self._deaths[0][0] < due):
            due = self._deaths[0][0]
        if self._looks:
            look = next(iter(self._looks.values()))
            if due is None or look < due:
                due = look
        return due

    def _keep_time(self, now: float) -> None:
        while self._deaths and now >= self._deaths[0][0]:
            self._worker_ended(self._deaths.pop(0)[1])
        while self._looks and now >= next(iter(self._looks.values())):
            self._watch_pipes(next(iter(self._looks)))
        if self._launcher_due is not None and now >= self._launcher_due:
            self._take_news()
        deadline = self.scheduler.next_deadline()
        if deadline is not None and now >= deadline:
            self.happen(e.DeadlineReached())

    # -- messages in ----------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        for _ in range(_BATCH):
            try:
                routing_id, frames = sockets.receive_with_identity(self._router)
            except zmq.Again:
                return
            try:
                self._take(routing_id, frames)
            except WireError as error:
                self._reject(routing_id, "WireError", str(error), kind="not a message")

    def _take(self, routing_id: bytes, frames: list[Any]) -> None:
        peer = self._peers.find(routing_id)
        match peer:
            case ClientPeer():
                incoming = codec.FROM_CLIENT.read(frames)
                if incoming.incarnation == self.incarnation:
                    self._take_from_client(routing_id, peer, incoming)
                else:
                    self._reject_other_incarnation(routing_id, incoming.incarnation)
            case WorkerPeer():
                self._take_from_worker(peer, codec.FROM_WORKER.read(frames))
            case None:
                self._take_from_stranger(routing_id, frames)
            case _:
                assert_never(peer)

    def _reject_other_incarnation(self, routing_id: bytes, named: int) -> None:
        """What was meant for an earlier daemon is not taken by this one as new."""
        self._reject(
            routing_id,
            "DaemonLost",
            f"a message for daemon {named:x}, and this is {self.incarnation:x}: the daemon was replaced",
            kind="earlier incarnation",
        )

    def _take_from_stranger(self, routing_id: bytes, frames: list[Any]) -> None:
        named = codec.incarnation(frames)
        if named not in (0, self.incarnation):
            self._reject_other_incarnation(routing_id, named)
            return
        match codec.FROM_STRANGER.read(frames).message:
            case m.Hello() as hello:
                peer = self._peers.admit_client(routing_id, hello.client, hello.secret)
                if peer is None:
                    self._reject(
                        routing_id,
                        "AccessDenied",
                        "this client does not know the secret that lies beside the daemon's socket: "
                        "connect as the user who started the daemon",
                        kind="wrong secret",
                    )
                    return
                limits = self.config.limits
                self._send(
                    routing_id,
                    m.Welcome(
                        incarnation=self.incarnation,
                        tenant=peer.tenant,
                        versions=self._versions,
                        payload_limit_bytes=limits.payload_bytes,
                        function_limit_bytes=limits.function_bytes,
                        pid=os.getpid(),
                        simulated=all(device.kind == "simulated" for device in self.devices.values()),
                    ),
                )
                self.happen(e.ClientConnected(tenant=peer.tenant, client=peer.client))
            case m.WorkerHello() as hello:
                worker = self.workers.admit(hello.token, routing_id)
                if worker is None:
                    self._reject(
                        routing_id, "AccessDenied", "no worker was launched with this token", kind="wrong token"
                    )
                    return
                worker.pid = hello.pid
                self._peers.admit_worker(routing_id, worker.number)
                self.happen(e.WorkerReady(worker=worker.number))

    def _take_from_client(self, routing_id: bytes, peer: ClientPeer, incoming: codec.Incoming[m.FromClient]) -> None:
        tenant, client = peer.tenant, peer.client
        match incoming.message:
            case m.Submit() as submit:
                if submit.acknowledged:
                    self.happen(e.ResultsAcknowledged(tenant=tenant, client=client, submissions=submit.acknowledged))
                self._submit(routing_id, peer, submit, incoming)
            case m.Cancel(submission=submission):
                self.happen(e.CallCancelled(tenant=tenant, client=client, submission=submission))
            case m.Acknowledge(submissions=submissions):
                self.happen(e.ResultsAcknowledged(tenant=tenant, client=client, submissions=submissions))
            case m.Resume(submissions=submissions):
                self.happen(e.ResultsWanted(tenant=tenant, client=client, submissions=submissions))
            case m.Ping():
                self.happen(e.ClientSeen(tenant=tenant, client=client))
            case m.Goodbye():
                self.happen(e.ClientGone(tenant=tenant, client=client))
                self._peers.forget(routing_id)
            case m.AskStatus():
                self._send(routing_id, m.Status(status.document(self, self._clock())))
            case m.AskToEnd(drain=drain):
                self._send(routing_id, m.Ending(self.scheduler.world.unfinished))
                self.happen(e.DrainRequested() if drain else e.StopRequested())
            case m.Hello():
                self._reject(routing_id, "WireError", "a second hello on one connection", kind="out of turn")

    def _submit(
        self, routing_id: bytes, peer: ClientPeer, submit: m.Submit, incoming: codec.Incoming[m.FromClient]
    ) -> None:
        size = codec.size_bytes(submit.arguments)
        if size > self.config.limits.payload_bytes:
            self._reject_too_large(routing_id, submit, "arguments", size, self.config.limits.payload_bytes)
            return
        if submit.payload is not None:
            function_size = codec.size_bytes(submit.payload)
            if function_size > self.config.limits.function_bytes:
                self._reject_too_large(routing_id, submit, "function", function_size, self.config.limits.function_bytes)
                return
            self.functions.put(peer.tenant, submit.function, incoming.take(submit.payload), function_size)
        elif not self.functions.holds(peer.tenant, submit.function):
            self._send(routing_id, m.PayloadWanted(submit.submission, submit.function))
            return
        options = submit.options
        call = _Call(peer.tenant, peer.client, submit, incoming.take(submit.arguments))
        self._incoming[peer.client, submit.submission] = call
        self.happen(
            e.CallSubmitted(
                tenant=peer.tenant,
                environment=options.environment,
                client=peer.client,
                submission=submit.submission,
                function=submit.function,
                python=submit.python,
                gpu=e.GpuRequest(*options.gpu) if options.gpu is not None else None,
                require_gpu=options.require_gpu,
                timeout_s=options.timeout_s,
                queue_timeout_s=options.queue_timeout_s,
                retries=options.retries,
                priority=options.priority,
                size_bytes=size,
            )
        )
        self._incoming.pop((peer.client, submit.submission), None)

    def _adopt(self, event: e.CallSubmitted) -> None:
        """If the scheduler took a submission, its bytes are that call's from now on."""
        number = self.scheduler.find_call(event.client, event.submission, event.tenant)
        if number is not None and number not in self._calls:
            call = self._calls[number] = self._incoming[event.client, event.submission]
            self.functions.hold(call.tenant, call.function)

    def _reject_too_large(self, routing_id: bytes, submit: m.Submit, what: str, size: int, limit: int) -> None:
        reason = f"{submit.name}: its {what} of {size} bytes are more than the daemon's limit of {limit}"
        self._reject(routing_id, "PayloadTooLarge", reason, kind="too large", submission=submit.submission)

    def _take_from_worker(self, peer: WorkerPeer, incoming: codec.Incoming[m.FromWorker]) -> None:
        worker = self.workers.find(peer.worker)
        if worker is None:
            return  # its end was told already
        match incoming.message:
            case m.Finished() as finished:
                if not worker.finished(finished.call, finished.attempt):
                    return
                self._show(worker.output.complete(finished.call, finished.attempt))
                self._look_later(worker)
                call = self._calls.get(finished.call)
                if call is not None:
                    call.result = finished, incoming.take(finished.packed)
                    call.arrived = self._clock()
                self.happen(
                    e.CallFinished(
                        worker=worker.number,
                        call=finished.call,
                        attempt=finished.attempt,
                        status=finished.status,
                        size_bytes=codec.size_bytes(finished.packed),
                    )
                )
            case m.PayloadMissing(call=number, attempt=attempt):
                if worker.finished(number, attempt):
                    worker.output.forget(number, attempt)
                    self.happen(e.PayloadMissed(worker=worker.number, call=number, attempt=attempt))
            case m.Unwell(reason=reason):
                log.warning("%s is unwell: %s", worker.name, reason)
                self.happen(e.WorkerUnwell(worker=worker.number, reason=reason))
            case m.WorkerHello():
                log.warning("%s said hello twice", worker.name)

    # -- launcher news and output ---------------------------------------------------------------------------------------

    def _take_news(self) -> None:
        self._receive()  # what a worker sent before it died comes before its death
        for news in self._launcher.news():
            match news:
                case base.NestPrepared(nest=nest):
                    log.info("nest %d is warm after %.2f s (pid %d)", nest, news.import_s, news.pid)
                    self.happen(e.NestReady(nest=nest))
                case base.NestEnded(nest=nest, reason=reason):
                    log.info("nest %d ended: %s", nest, reason)
                    self.happen(e.NestGone(nest=nest, reason=reason))
                case base.WorkerForked(worker=number, pid=pid):
                    worker = self.workers.find(number)
                    if worker is not None:
                        worker.pid = pid
                case base.WorkerEnded(worker=number):
                    worker = self.workers.find(number)
                    if worker is not None and worker.page.running()[0] is None and worker.last_begun() is not None:
                        self._deaths.append((self._clock() + _LATE_RESULT_S, news))
                    else:
                        self._worker_ended(news)
                case _:
                    assert_never(news)
        self._launcher_due = self._launcher.next_deadline()

    def _worker_ended(self, news: base.WorkerEnded) -> None:
        worker = self.workers.remove(news.worker)
        if worker is None:
            return
        self._show(worker.output.drain())
        self._looks.pop(worker.number, None)
        for pipe in worker.output.pipes:
            self._unwatch(pipe.fd)
        if worker.routing_id is not None:
            self._peers.forget(worker.routing_id)
        log.info("%s ended: exit code %s, signal %s %s", worker.name, news.exit_code, news.signal, news.reason)
        self.happen(
            e.WorkerGone(
                worker=worker.number,
                begun=worker.last_begun(),
                exit_code=news.exit_code,
                signal=news.signal,
                out_of_memory=news.out_of_memory,
            )
        )
        worker.close()

    def _look_later(self, worker: WorkerRecord) -> None:
        """Something began or ended on the worker: leave its pipes alone for a moment."""
        if self._looks.pop(worker.number, None) is None:
            for pipe in worker.output.pipes:
                self._unwatch(pipe.fd)
        self._looks[worker.number] = self._clock() + _LOOK_S

    def _watch_pipes(self, number: int) -> None:
        del self._looks[number]
        worker = self.workers.find(number)
        if worker is not None:
            for pipe in worker.output.pipes:
                self.watch(pipe.fd, functools.partial(self._read_pipe, pipe.fd))

    def _read_pipe(self, fd: int) -> None:
        pieces, is_open = self.workers.of_pipe(fd).output.read(fd)
        self._show(pieces)
        if not is_open:
            self._unwatch(fd)

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _show(self, pieces: list[Piece]) -> None:
        for (number, _), stream, data in pieces:
            call = self._calls.get(number)
            routing_id = self._peers.routing_id_of(call.client) if call is not None else None
            if call is not None and routing_id is not None:
                self._send(routing_id, m.Output(call.submission, stream, data))

    # -- commands -------------------------------------------------------------------------------------------------------

    def _carry_out(self, command: c.Command) -> None:
        match command:
            case c.SendCall():
                self._send_call(command)
            case c.SendOutcome():
                self._send_outcome(command)
            case c.ReleaseArguments(call=number):
                self._release_arguments(self._calls[number])
            case c.ReleaseCall(call=number):
                self._release_arguments(self._calls.pop(number))
            case c.TellUnknown(client=client, submission=submission):
                self._send_to_client(client, m.Unknown((submission,)))
            case c.InterruptCall(worker=number):
                worker = self.workers.find(number)
                if worker is not None:
                    worker.page.cancel(command.call, command.attempt)
                    self._launcher.interrupt_worker(number)
            case c.ReadPage(worker=number):
                worker = self.workers.find(number)
                begun, begun_at = worker.page.running() if worker is not None else (None, None)
                self.happen(e.PageRead(worker=number, begun=begun, begun_at=begun_at))
            case c.StartNest():
                self._start_nest(command)
            case c.StopNest(nest=nest):
                self._launcher.stop_nest(nest)
                self._launcher_due = self._launcher.next_deadline()
            case c.StartWorker(worker=number, nest=nest):
                worker = self.workers.add(number, nest)
                worker.launch(self._launcher)
                self._launcher_due = self._launcher.next_deadline()
                self._look_later(worker)
            case c.KillWorker(worker=number, reason=reason):
                log.info("killing worker %d: %s", number, reason)
                self._launcher.kill_worker(number)
                self._launcher_due = self._launcher.next_deadline()
            case c.LogFault(reason=reason):
                log.error("a fault of the scheduler's: %s", reason)
            case c.Exit():
                self.leave()
            case _:
                assert_never(command)

    def _start_nest(self, command: c.StartNest) -> None:
        first = self.devices[command.devices[0]]
        self._launcher.start_nest(
            base.NestSpec(
                nest=command.nest,
                tenant=command.tenant,
                environment=command.environment,
                device_kind=first.kind,
                devices=command.devices,
                memory_bytes=first.memory_bytes,
                worker_address=self._worker_address,
                payload_limit_bytes=self.config.limits.payload_bytes,
            )
        )
        self._launcher_due = self._launcher.next_deadline()

    def _send_call(self, command: c.SendCall) -> None:
        worker = self.workers.find(command.worker)
        call = self._calls[command.call]
        if worker is None or worker.routing_id is None or call.arguments is None:
            return  # its end is on its way
        body = codec.Body()
        arguments = body.pack(call.arguments)
        payload = body.pack(self.functions.get(call.tenant, call.function)) if command.with_payload else None
        self._look_later(worker)
        call.worker = worker
        call.dispatched = self._clock()
        worker.sent.append((command.call, command.attempt))
        worker.output.expect(command.call, command.attempt)
        self._send(
            worker.routing_id,
            m.Run(command.call, command.attempt, call.call_id, call.name, call.function, arguments, payload),
            body,
        )

    def _send_outcome(self, command: c.SendOutcome) -> None:
        number, name = command.call, (command.client, command.submission)
        call = self._incoming[name] if number is None else self._calls[number]
        body = codec.Body()
        outcome = command.outcome
        if isinstance(outcome, c.FromWorker) and call.result is not None:
            finished, buffers = call.result
            message = m.Outcome(
                command.submission,
                "succeeded" if finished.status == "succeeded" else "failed",
                self._receipt(command, call, finished.timings),
                body.pack(buffers),
            )
        else:
            assert not isinstance(outcome, c.FromWorker)
            worker = call.worker.name if call.worker is not None else ""
            last = (
                call.worker.output.last.decode("utf-8", "backslashreplace").strip() if call.worker is not None else ""
            )
            error, reason, facts = describe(outcome, str(call), worker, last)
            message = m.Outcome(
                command.submission, "ended", self._receipt(command, call, None), (), error, reason, facts
            )
        self._send_to_client(command.client, message, body)

    @staticmethod
    def _receipt(command: c.SendOutcome, call: _Call, timings: m.Timings | None) -> m.Receipt:
        worker = call.worker.name if call.worker is not None else None
        simulated = command.devices[0].startswith("simulated:") if command.devices else None
        if timings is None:
            return m.Receipt(
                queue_s=command.queue_s if command.call is not None else None,
                worker=worker,
                devices=command.devices,
                attempt=command.attempt,
                simulated=simulated,
            )
        return m.Receipt(
            queue_s=command.queue_s,
            transfer_s=max(0.0, timings.begun - call.dispatched) + max(0.0, call.arrived - timings.ended),
            load_s=timings.loaded - timings.begun,
            run_s=timings.ended - timings.loaded,
            worker=worker,
            devices=command.devices,
            attempt=command.attempt,
            warm=timings.warm,
            simulated=timings.simulated,
        )

    def _release_arguments(self, call: _Call) -> None:
        if call.arguments is not None:
            call.arguments = None
            self.functions.release(call.tenant, call.function)

    # -- messages out ---------------------------------------------------------------------------------------------------

    def _send_to_client(self, client: bytes, message: m.ToClient, body: codec.Body | None = None) -> None:
        routing_id = self._peers.routing_id_of(client)
        if routing_id is not None:
            self._send(routing_id, message, body)

    def _send(self, routing_id: bytes, message: m.ToClient | m.ToWorker, body: codec.Body | None = None) -> None:
        frames = (
            codec.write(message, self.incarnation, body) if body is not None else codec.write(message, self.incarnation)
        )
        try:
            sockets.send(self._router, [routing_id, *frames])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            # The peer has gone: a worker's death comes by its pidfd, a client comes back or its lease ends.

    def _reject(self, routing_id: bytes, error: str, reason: str, kind: str, submission: int | None = None) -> None:
        self.refused[kind] += 1
        known = self._peers.find(routing_id) is not None
        self._send(routing_id, m.Rejected(error, reason, submission, self.incarnation if known else 0))
