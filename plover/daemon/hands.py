"""Commands out: what the scheduler wants, done. One method a command that takes more than a line.

Guarantees: no command blocks. Assumes: one thread; commands are carried out in the order in which they were given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import assert_never

from plover.daemon import modules
from plover.daemon.calls import CallRecords
from plover.daemon.config import DaemonLimits
from plover.daemon.launchers import base
from plover.daemon.lending import Lending
from plover.daemon.lines import Lines
from plover.daemon.outcomes import describe
from plover.daemon.payloads import FunctionStore
from plover.daemon.pipes import Pipes
from plover.daemon.post import Post
from plover.daemon.scheduler import commands as c
from plover.daemon.scheduler import events as e
from plover.daemon.scheduler.config import Device
from plover.daemon.workers import WorkerRecord, Workers
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["Hands"]

log = logging.getLogger("plover.daemon")


class Hands:
    """Carries commands out.

    Args:
        post: for messages to clients.
        lines: for those to workers.
        launcher: for nests and workers.
        workers, calls, functions, pipes, lending: the daemon's books.
        devices: by id.
        limits: of the shell.
        happen: takes an event and the time.
        leave: ends the loop.
    """

    def __init__(
        self,
        *,
        post: Post,
        lines: Lines,
        launcher: base.Launcher,
        workers: Workers,
        calls: CallRecords,
        functions: FunctionStore,
        pipes: Pipes,
        lending: Lending,
        devices: dict[str, Device],
        limits: DaemonLimits,
        happen: Callable[[e.AnyEvent, float], None],
        leave: Callable[[], None],
    ) -> None:
        self._post = post
        self._lines = lines
        self._launcher = launcher
        self._workers = workers
        self._calls = calls
        self._functions = functions
        self._pipes = pipes
        self._lending = lending
        self._devices = devices
        self._limits = limits
        self._happen = happen
        self._leave = leave

    def carry_out(self, command: c.Command, now: float) -> None:
        """One command."""
        match command:
            case c.SendCall():
                self._send_call(command, now)
            case c.SendOutcome():
                self._send_outcome(command)
            case c.ReleaseArguments(call=number):
                self._calls.release_arguments(self._calls[number])
            case c.ReleaseCall(call=number):
                self._calls.release(number)
            case c.TellUnknown(client=client, submission=submission):
                self._post.send_to_client(client, m.Unknown((submission,)))
            case c.InterruptCall(worker=number):
                worker = self._workers.find(number)
                if worker is not None:
                    worker.page.cancel(command.call, command.attempt)
                    self._launcher.interrupt_worker(number)
            case c.ReadPage(worker=number):
                worker = self._workers.find(number)
                if worker is not None:
                    self._happen(_read_page(worker, now), now)
            case c.StartNest():
                self._start_nest(command)
            case c.StopNest(nest=nest):
                self._launcher.stop_nest(nest)
            case c.StartWorker(worker=number, nest=nest):
                self._start_worker(number, nest, now)
            case c.KillWorker(worker=number, reason=reason):
                log.info("killing worker %d: %s", number, reason)
                self._launcher.kill_worker(number)
            case c.LogFault(reason=reason):
                log.error("a fault of the scheduler's: %s", reason)
            case c.Exit():
                self._leave()
            case _:
                assert_never(command)

    def _start_worker(self, number: int, nest: int, now: float) -> None:
        try:
            worker = self._workers.add(number, nest)
        except OSError as error:
            self._could_not_start(number, error, now)
            return
        try:
            segments = self._lending.open(number, self._workers.tenants[nest])
            line = self._lines.open(worker)
        except OSError as error:
            self._workers.remove(number)
            self._lending.worker_ended(number, now)
            worker.abandon()
            self._could_not_start(number, error, now)
            return
        worker.launch(self._launcher, line, segments)
        self._pipes.touch(worker, now)

    def _could_not_start(self, number: int, error: OSError, now: float) -> None:
        """The scheduler tries again after a while."""
        reason = f"the daemon had no means to start it: {error.strerror}"
        log.error("worker %d: %s", number, reason)
        self._happen(e.WorkerGone(worker=number, begun=None, reason=reason), now)

    def _start_nest(self, command: c.StartNest) -> None:
        first = self._devices[command.devices[0]]
        self._workers.tenants[command.nest] = command.tenant
        self._launcher.start_nest(
            base.NestSpec(
                nest=command.nest,
                tenant=command.tenant,
                environment=command.environment,
                device_kind=first.kind,
                devices=command.devices,
                memory_bytes=first.memory_bytes,
                payload_limit_bytes=self._limits.payload_bytes,
            )
        )

    def _send_call(self, command: c.SendCall, now: float) -> None:
        number, attempt = command.call, command.attempt
        worker = self._workers.find(command.worker)
        call = self._calls[number]
        if worker is None or call.arguments is None:
            return  # its end is on its way
        body = codec.Body()
        pieces = call.arguments
        if call.in_segments:
            pieces = self._lending.to_worker(command.worker, number, attempt, pieces)
        arguments = body.pack(pieces)
        payload = body.pack(self._functions.get(call.tenant, call.function)) if command.with_payload else None
        wanted = None if call.modules is modules.EMPTY else call.modules
        bundles: m.Bundles = ()
        if wanted is not None and call.wants_bundles == command.worker:
            bundles = modules.pack(self._functions, call.tenant, wanted, body)
        call.worker = worker
        call.dispatched = now
        worker.expect(number, attempt)
        self._lines.send(
            worker,
            m.Run(
                number,
                attempt,
                call.call_id,
                call.name,
                call.function,
                arguments,
                payload,
                call.log_level,
                wanted,
                bundles,
                call.in_segments and call.repeatable,
                self._lending.serves(call.client),
            ),
            body,
        )
        self._pipes.touch(worker, now)

    def _send_outcome(self, command: c.SendOutcome) -> None:
        outcome = command.outcome
        call = self._calls.submitted if command.call is None else self._calls[command.call]
        body = codec.Body()
        if isinstance(outcome, c.FromWorker) and call.result is not None:
            finished, buffers = call.result
            if call.result_in_segments:
                buffers = self._lending.to_client(command.client, command.submission, buffers)
            message = m.Outcome(
                command.submission,
                "succeeded" if finished.status == "succeeded" else "failed",
                call.receipt(command),
                body.pack(buffers),
            )
        else:
            assert not isinstance(outcome, c.FromWorker)
            worker = call.worker
            last = worker.output.last.decode("utf-8", "backslashreplace").strip() if worker is not None else ""
            error, reason, facts = describe(
                outcome, str(call), worker.name if worker is not None else "", last, command.attempt
            )
            call.result = None  # its segments, if any, go with the call
            message = m.Outcome(command.submission, "ended", call.receipt(command), (), error, reason, facts)
        self._post.send_to_client(command.client, message, body)


def _read_page(worker: WorkerRecord, now: float) -> e.PageRead | e.WorkerUnwell:
    if not worker.has_sound_page(now):
        reason = "its status page was overwritten (does a function write out of bounds?)"
        return e.WorkerUnwell(worker=worker.number, reason=reason)
    begun, begun_at = worker.page.running()
    moved_at = worker.line.moved_at if worker.line is not None else 0.0
    return e.PageRead(worker=worker.number, begun=begun, begun_at=begun_at, moved_at=moved_at)
