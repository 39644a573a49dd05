"""Messages in: whose each is, what it means, and the event that it becomes.

Guarantees: nothing here decides about a call; a message that is not what its peer may send now is refused with a reason
and counted. Assumes: one thread; frames that came in stay alive while a call needs them.
"""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from plover import errors
from plover.daemon import modules
from plover.daemon.calls import CallRecord, CallRecords
from plover.daemon.config import DaemonLimits
from plover.daemon.guests import FROM_GUEST, client_of, status_for
from plover.daemon.lending import Lending
from plover.daemon.lives import Lives
from plover.daemon.output import Piece
from plover.daemon.payloads import FunctionStore
from plover.daemon.peers import ClientPeer, GuestPeer, Peers
from plover.daemon.pipes import Pipes
from plover.daemon.post import Post
from plover.daemon.scheduler import events as e
from plover.daemon.scheduler.config import Device
from plover.daemon.workers import WorkerRecord, Workers
from plover.errors import WireError
from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Arrivals"]

log = logging.getLogger("plover.daemon")

#: A worker that has so many calls before it is not idle soon.
_AHEAD = 8
#: What is told about each limit on sizes.
_ADVICE = {
    "payload_bytes": errors.IN_PIECES,
    "function_bytes": errors.AS_ARGUMENTS,
    "bundles_bytes": errors.OUT_OF_PACKAGES,
}


class Arrivals:
    """Takes what comes out of the clients' socket and the workers' lines.

    Args:
        post: for answers that need no decision.
        peers, lives, workers, calls, functions, pipes, lending: the daemon's books.
        limits: of the shell.
        incarnation: the daemon's.
        devices: of this host.
        happen: takes an event and the time.
        show: takes what workers wrote.
        status: makes the document that `plover status` shows.
        unfinished: how many calls are.

    Attributes:
        has_time: a worker that ended something has more to do, and another moment makes no difference to it.
    """

    def __init__(
        self,
        *,
        post: Post,
        peers: Peers,
        lives: Lives,
        workers: Workers,
        calls: CallRecords,
        functions: FunctionStore,
        pipes: Pipes,
        lending: Lending,
        limits: DaemonLimits,
        incarnation: int,
        devices: Sequence[Device],
        happen: Callable[[e.AnyEvent, float], None],
        show: Callable[[list[Piece]], None],
        status: Callable[[float], bytes],
        unfinished: Callable[[], int],
    ) -> None:
        self._post = post
        self._peers = peers
        self._lives = lives
        self._workers = workers
        self._calls = calls
        self._functions = functions
        self._pipes = pipes
        self._lending = lending
        self._limits = limits
        self._incarnation = incarnation
        kinds = collections.Counter((device.kind, device.model) for device in devices)
        self._devices = tuple(m.HostDevices(*kind, count) for kind, count in kinds.items())
        self._happen = happen
        self._show = show
        self._status = status
        self._unfinished = unfinished
        self._versions = versions()
        self.has_time = False

    def take(self, routing_id: bytes, frames: Sequence[Any], now: float) -> None:
        """One message from a client, or from whoever wants to be one."""
        try:
            peer = self._peers.find(routing_id)
            if peer is None:
                self._from_stranger(routing_id, frames, now)
                return
            incoming = codec.FROM_CLIENT.read(frames)
            if incoming.incarnation == self._incarnation:
                self._from_client(routing_id, peer, incoming, now)
            else:
                self._reject_other_incarnation(routing_id, incoming.incarnation)
        except WireError as error:
            self._post.reject(routing_id, "WireError", str(error), kind="not a message")

    # -- handshakes -----------------------------------------------------------------------------------------------------

    def _from_stranger(self, routing_id: bytes, frames: Sequence[Any], now: float) -> None:
        """From whoever is not of this machine, or has not shaken hands."""
        guest = self._peers.find_guest(routing_id)
        if guest is not None:
            self._from_guest(routing_id, guest, FROM_GUEST.read(frames), now)
            return
        named = codec.incarnation(frames)
        if named not in (0, self._incarnation):
            self._reject_other_incarnation(routing_id, named)
            return
        self._client_hello(routing_id, codec.FROM_STRANGER.read(frames).message, now)

    def _client_hello(self, routing_id: bytes, hello: m.Hello, now: float) -> None:
        peer: ClientPeer | None
        if self._post.key is not None:
            peer = self._admit_guest(routing_id, hello, self._post.key)
            if peer is None:
                return
        else:
            peer = self._peers.admit_client(routing_id, hello.client, hello.secret)
        if peer is None:
            self._post.reject(
                routing_id,
                "AccessDenied",
                "this client does not know the secret that lies beside the daemon's socket: "
                "connect as the user who started the daemon",
                kind="wrong secret",
            )
            return
        welcome = m.Welcome(
            incarnation=self._incarnation,
            tenant=peer.tenant,
            versions=self._versions,
            payload_limit_bytes=self._limits.payload_bytes,
            function_limit_bytes=self._limits.function_bytes,
            pid=os.getpid(),
            devices=self._devices,
        )
        self._post.send(routing_id, welcome)
        self._happen(e.ClientConnected(tenant=peer.tenant, client=peer.client), now)
        if self._post.key is None:
            self._lives.greet(peer, hello.pid, hello.started)

    def _admit_guest(self, routing_id: bytes, hello: m.Hello, key: str) -> GuestPeer | None:
        """A guest proved its key when it connected; since then it may have been revoked."""
        assert self._post.gate is not None
        tenant = self._post.gate.tenant_of(key)
        if tenant is None:
            reason = "the operator of this daemon does not trust this client's key any more"
            self._post.reject(routing_id, "AccessDenied", reason, kind="revoked key")
            return None
        return self._peers.admit_guest(routing_id, client_of(key, hello.client), tenant, key)

    def _from_guest(
        self, routing_id: bytes, guest: GuestPeer, incoming: codec.Incoming[m.FromClient], now: float
    ) -> None:
        """As from a client of this machine, but for what a guest is not shown."""
        if incoming.incarnation != self._incarnation:
            self._reject_other_incarnation(routing_id, incoming.incarnation)
        elif isinstance(incoming.message, m.AskStatus):
            self._post.send(routing_id, m.Status(status_for(guest.tenant, self._status(now))))
        else:
            self._from_client(routing_id, guest, incoming, now)

    def _reject_other_incarnation(self, routing_id: bytes, named: int) -> None:
        """What was meant for an earlier daemon is not taken by this one as new."""
        self._post.reject(
            routing_id,
            "DaemonLost",
            f"a message for daemon {named:x}, and this is {self._incarnation:x}: the daemon was replaced",
            kind="earlier incarnation",
        )

    # -- clients --------------------------------------------------------------------------------------------------------

    def _from_client(
        self, routing_id: bytes, peer: ClientPeer, incoming: codec.Incoming[m.FromClient], now: float
    ) -> None:
        tenant, client = peer.tenant, peer.client
        match incoming.message:
            case m.Submit() as submit:
                self._submit(routing_id, peer, submit, incoming, now)
                if submit.acknowledged:  # afterwards: the call is on its way meanwhile
                    self._happen(
                        e.ResultsAcknowledged(tenant=tenant, client=client, submissions=submit.acknowledged), now
                    )
            case m.Cancel(submission=submission):
                self._happen(e.CallCancelled(tenant=tenant, client=client, submission=submission), now)
            case m.Acknowledge(submissions=submissions):
                self._happen(e.ResultsAcknowledged(tenant=tenant, client=client, submissions=submissions), now)
            case m.Resume(submissions=submissions):
                self._happen(e.ResultsWanted(tenant=tenant, client=client, submissions=submissions), now)
            case m.Ping():
                self._post.send(routing_id, m.Pong())
                self._happen(e.ClientSeen(tenant=tenant, client=client), now)
            case m.Goodbye():
                self._happen(e.ClientGone(tenant=tenant, client=client), now)
                self._peers.forget(routing_id)
                self._lives.forget(client)
            case m.AskStatus():
                self._post.send(routing_id, m.Status(self._status(now)))
            case m.AskToEnd(drain=drain):
                self._post.send(routing_id, m.Ending(self._unfinished()))
                self._happen(e.DrainRequested() if drain else e.StopRequested(), now)
            case m.Hello():
                self._post.reject(routing_id, "WireError", "a second hello on one connection", kind="out of turn")

    def _submit(
        self,
        routing_id: bytes,
        peer: ClientPeer,
        submit: m.Submit,
        incoming: codec.Incoming[m.FromClient],
        now: float,
    ) -> None:
        limits, options = self._limits, submit.options
        size = codec.size_bytes(submit.arguments)
        if size > limits.payload_bytes:
            self._reject_too_large(routing_id, submit, "arguments", size, "payload_bytes")
            return
        call = CallRecord(peer.tenant, peer.client, submit, incoming.pieces(submit.arguments))
        try:
            call.in_segments = self._lending.claim(peer.client, submit.arguments, call)
        except WireError as error:
            self._post.reject(routing_id, "WireError", str(error), kind="not lent", submission=submit.submission)
            return
        self._calls.submit(call)
        if submit.payload is not None:
            function_size = codec.size_bytes(submit.payload)
            if function_size > limits.function_bytes:
                self._reject_too_large(routing_id, submit, "function", function_size, "function_bytes")
                return
            self._functions.put(peer.tenant, submit.function, incoming.take(submit.payload), function_size)
        elif not self._functions.holds(peer.tenant, submit.function):
            self._post.send(routing_id, m.PayloadWanted(submit.submission, submit.function))
            return
        if submit.modules is not None and not self._has_modules(routing_id, peer.tenant, submit, incoming):
            return
        self._happen(
            e.CallSubmitted(
                tenant=peer.tenant,
                environment=options.environment,
                client=peer.client,
                submission=submit.submission,
                function=modules.function_key(submit.function, call.modules),
                modules=call.modules,
                python=submit.python,
                gpu=e.GpuRequest(*options.gpu) if options.gpu is not None else None,
                require_gpu=options.require_gpu,
                timeout_s=options.timeout_s,
                queue_timeout_s=options.queue_timeout_s,
                retries=options.retries,
                priority=options.priority,
                size_bytes=size,
            ),
            now,
        )

    def _has_modules(
        self, routing_id: bytes, tenant: str, submit: m.Submit, incoming: codec.Incoming[m.FromClient]
    ) -> bool:
        """Keep the bundles that came along. If not all are here then, the client is told, and False."""
        assert submit.modules is not None
        size = modules.size_bytes(submit.bundles)
        if size > self._limits.bundles_bytes:
            self._reject_too_large(routing_id, submit, "modules", size, "bundles_bytes")
            return False
        modules.keep(self._functions, tenant, incoming, submit.bundles)
        missing = modules.missing(self._functions, tenant, submit.modules)
        if missing:
            self._post.send(routing_id, m.PayloadWanted(submit.submission, b"", missing))
        return not missing

    def _reject_too_large(self, routing_id: bytes, submit: m.Submit, what: str, size: int, setting: str) -> None:
        """Clients know these limits and refuse first, but for those that are made otherwise."""
        limit = getattr(self._limits, setting)
        reason = errors.beyond_limit(
            f"the {what} of this call of {submit.name}", size, setting, limit, _ADVICE[setting]
        )
        self._post.reject(routing_id, "PayloadTooLarge", reason, kind="too large", submission=submit.submission)

    # -- workers --------------------------------------------------------------------------------------------------------

    def take_from_worker(self, worker: WorkerRecord, frames: list[Any], now: float) -> None:
        """One message from a worker.

        Raises:
            WireError: it is none.
        """
        incoming = codec.FROM_WORKER.read(frames)
        match incoming.message:
            case m.Finished() as finished:
                number, attempt = finished.call, finished.attempt
                known = worker.finished(number, attempt)
                call = self._calls.find(number) if known else None
                used = self._lending.accept(worker.number, finished.packed, call and (call, "result"), now)
                if not known:
                    return
                self._lending.attempt_ended(worker.number, number, attempt, now)
                if len(worker.sent) >= _AHEAD:
                    self.has_time = True
                pieces = worker.output.complete(number, attempt, finished.records)
                if pieces:
                    self._show(pieces)
                self._pipes.touch(worker, now)
                if call is not None:
                    call.result = finished, incoming.pieces(finished.packed)
                    call.result_in_segments = used
                    call.arrived = now
                self._happen(
                    e.CallFinished(
                        worker=worker.number,
                        call=number,
                        attempt=attempt,
                        status=finished.status,
                        size_bytes=codec.size_bytes(finished.packed),
                        run_s=finished.timings.ended - finished.timings.begun,
                    ),
                    now,
                )
            case m.PayloadMissing(call=number, attempt=attempt):
                if worker.finished(number, attempt):
                    worker.output.forget(number, attempt)
                    self._lending.attempt_ended(worker.number, number, attempt, now)
                    self._happen(e.PayloadMissed(worker=worker.number, call=number, attempt=attempt), now)
            case m.BundlesMissing(call=number, attempt=attempt):
                if worker.finished(number, attempt):
                    worker.output.forget(number, attempt)
                    self._lending.attempt_ended(worker.number, number, attempt, now)
                    call = self._calls.find(number)
                    if call is not None:
                        call.wants_bundles = worker.number
                    self._happen(e.PayloadMissed(worker=worker.number, call=number, attempt=attempt), now)
            case m.Unwell(reason=reason):
                log.warning("%s is unwell: %s", worker.name, reason)
                self._happen(e.WorkerUnwell(worker=worker.number, reason=reason), now)
            case m.WorkerHello(pid=pid):
                worker.pid = pid
                self._happen(e.WorkerReady(worker=worker.number), now)
