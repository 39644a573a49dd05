"""What becomes of an accepted call: sent to a worker, finished, lost, sent back, cancelled, too slow.

Guarantees: an attempt that may have begun is never sent again unless the call's `retries` allow another; one that has
not begun goes back to its place in line with its number kept, at most `RETURNS_ALLOWED` times. A call that is being
stopped ends when its attempt has really ended: interrupt first, then (`interrupt_grace_s` later) its worker is
killed. Only what can be running is interrupted: the first of the calls sent to a worker, or what its page shows. The
time limits: `timeout_s` counts from what the worker's page says, `queue_timeout_s` all the time that the call spent
waiting in the daemon, before and between attempts, and at workers that ended before they had begun it. Assumes: a
worker runs what it is sent in order, and tells of each end before it begins anything long.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import msgspec

from plover.bundles.format import BundleSet
from plover.daemon.scheduler.commands import (
    Cancelled,
    FromWorker,
    InterruptCall,
    Lost,
    ReadPage,
    SendCall,
    TimedOut,
)
from plover.daemon.scheduler.events import CallFinished, CallSubmitted, PageRead
from plover.daemon.scheduler.queues import FairQueues
from plover.daemon.scheduler.results import Results, unfinished_calls
from plover.daemon.scheduler.state import LONG_S, Call, Client, Flow, Worker, World
from plover.daemon.scheduler.transitions import move_call, move_worker, restore_call

RETURNS_ALLOWED = 16  # so that a call which kills its worker before it begins does not do so for ever


class Attempts:
    """The life of calls between acceptance and end."""

    def __init__(self, world: World, queues: FairQueues, results: Results) -> None:
        self._world = world
        self._queues = queues
        self._results = results

    # -- into the queue, and out to a worker ---------------------------------------------------------------------------

    def accept(self, event: CallSubmitted, client: Client, flow: Flow, now: float) -> Call:
        """Take a call on. It must be sent, or wait, before the event is done."""
        world = self._world
        number = world.next_call()
        call = Call(
            number,
            client,
            event.submission,
            flow,
            event.timeout_s,
            event.queue_timeout_s,
            event.retries,
            event.priority,
            now,
            now,
        )
        world.calls[number] = client.calls[event.submission] = call
        world.unfinished += 1
        return call

    def wait(self, call: Call, now: float) -> None:
        """Put a call in line."""
        call.queued_since = now
        if call.queue_timeout_s is not None:
            call.timer = self._world.arm(now + call.queue_timeout_s - call.waited_s, call)
        self._queues.add(call)

    def send(self, call: Call, worker: Worker, now: float) -> bool:
        """Send a call that was just charged to its flow to a worker that has room. True if it has room for another."""
        world, flow = self._world, call.flow
        move_call(call, "sent")
        timer = call.timer
        if timer is not None:
            timer.rank = 0
            call.timer = None
        if call.timeout_s is not None:
            call.timer = world.arm(now + call.timeout_s, call)
        call.worker = worker
        call.worker_number = worker.number
        call.devices = worker.nest.device_ids
        call.sent = call.attempt
        call.waited_s += now - call.queued_since
        call.queue_s = now - call.submitted_at
        call.dispatched_at = now
        call.misses = 0
        call.warm = warm = flow.function in worker.known
        call.expected_s = flow.expected_s if warm else LONG_S  # loading may take any time
        worker.expected_s += call.expected_s
        worker.sent.append(call)
        if worker.state == "ready":
            move_worker(worker, "given_work")
            self._unfile(worker)
            if worker.timer is not None and call.queue_timeout_s is not None:
                worker.timer.rank = 0
                worker.timer = None
            if worker.timer is None:  # else that of an earlier time rings first, and finds out
                worker.timer = world.arm(now + self.silence_allowed_s(call), worker)
        self._hand_over(call, worker)
        return self.file_partial(worker)

    def silence_allowed_s(self, call: Call) -> float:
        """How long a worker may take to begin a call that it was sent: not longer than the call may wait."""
        limits = self._world.limits
        if call.queue_timeout_s is None:
            return limits.worker_silent_s
        return min(limits.worker_silent_s, max(limits.interrupt_grace_s, call.queue_timeout_s - call.waited_s))

    def _hand_over(self, call: Call, worker: Worker) -> None:
        function = call.flow.function
        if call.warm:
            worker.known.move_to_end(function)
        else:
            self._learn(worker, function, call.flow.modules)
        self._world.commands.append(
            SendCall(
                worker=worker.number,
                call=call.number,
                attempt=call.attempt,
                function=function,
                with_payload=not call.warm,
            )
        )

    # -- what a worker knows, and whether it is idle -------------------------------------------------------------------

    def _learn(self, worker: Worker, function: bytes, modules: BundleSet) -> None:
        if len(worker.known) >= self._world.limits.functions_known_per_worker:
            self.unlearn(worker, next(iter(worker.known)))
        worker.known[function] = None
        worker.meanings.take(modules)
        worker.nest.pool.holders.setdefault(function, OrderedDict())[worker.number] = worker

    def unlearn(self, worker: Worker, function: bytes) -> None:
        """The worker does not hold the function (any more)."""
        del worker.known[function]
        holders = worker.nest.pool.holders
        if function in worker.dropped:
            worker.dropped.remove(function)
        else:
            del holders[function][worker.number]
            if not holders[function]:
                del holders[function]

    def file_idle(self, worker: Worker) -> None:
        """Enter a worker that is ready into what placement looks up."""
        pool = worker.nest.pool
        pool.idle[worker.number] = worker
        for function in worker.dropped:
            pool.holders.setdefault(function, OrderedDict())[worker.number] = worker
        worker.dropped.clear()
        for kind in worker.nest.kinds:
            kind.idle[worker.nest.number] = worker.nest

    def _unfile(self, worker: Worker) -> None:
        nest = worker.nest
        nest.pool.idle.pop(worker.number, None)
        for kind in nest.kinds:
            kind.idle.pop(nest.number, None)

    def has_room(self, worker: Worker) -> bool:
        """Whether a short call may be sent behind those of a busy worker, which are few, short, and soon done."""
        limits = self._world.limits
        return worker.expected_s <= limits.prefetch_s and len(worker.sent) < limits.dispatched_per_worker

    def file_partial(self, worker: Worker) -> bool:
        """Enter a busy worker as the last of those with room, or take it out. Returns whether it has any."""
        partial = worker.nest.pool.partial
        partial.pop(worker.number, None)
        has_room = self.has_room(worker)
        if has_room:
            partial[worker.number] = worker
        return has_room

    def unfile(self, worker: Worker) -> None:
        """Nothing more shall be sent to this worker."""
        worker.nest.pool.partial.pop(worker.number, None)
        self._unfile(worker)

    # -- back from a worker --------------------------------------------------------------------------------------------

    def of_worker(self, worker: int, call: int, attempt: int) -> Call | None:
        """The call, if this attempt of it is really under way at this worker."""
        found = self._world.calls.get(call)
        if found is None or found.attempt != attempt or found.worker is None or found.worker.number != worker:
            return None
        return found

    def finished(self, event: CallFinished, now: float) -> bool:
        """A worker ended an attempt. False where that is stale."""
        call = self.of_worker(event.worker, event.call, event.attempt)
        if call is None:
            return False
        worker = call.worker
        assert worker is not None
        run_s = self._take_back(call, worker, now)
        worker.calls_done += 1
        self._settle(call, run_s, event.run_s)
        if call.ending is not None:
            self._end_stopped(call, "kill" if worker.state == "draining" else "interrupt", now)
        elif event.status == "interrupted":
            self._lose(call, Lost(f"worker {worker.number} says it was interrupted, but nobody asked for that"), now)
        else:
            self._results.end(call, event.status, FromWorker(event.attempt), now, event.size_bytes)
        self._after(worker, now)
        return True

    def _take_back(self, call: Call, worker: Worker, now: float) -> float:
        """Take a call off its worker; returns how long it can have run at most."""
        worker.sent.remove(call)
        # Sums of floats drift: this one starts afresh whenever nothing is left.
        worker.expected_s = worker.expected_s - call.expected_s if worker.sent else 0.0
        call.worker = None
        run_s = now - max(call.dispatched_at, worker.finished_at)
        worker.finished_at = now
        return run_s

    def _settle(self, call: Call, run_s: float | None, said_s: float | None = None) -> None:
        if self._queues.settle(call, run_s, said_s):
            self._world.seek(call.flow.demand)

    def _after(self, worker: Worker, now: float) -> None:
        """A worker has one call less."""
        if worker.state == "busy":
            if not worker.sent:
                move_worker(worker, "out_of_work")
                worker.nest.pool.partial.pop(worker.number, None)
                self.file_idle(worker)
            self._world.offers.append(worker)
        if worker.sent and worker.sent[0].ending is not None:
            self._interrupt(worker.sent[0], worker, now)

    def missed(self, call: Call, worker: Worker, now: float) -> None:
        """A worker lacks the function of an attempt: hand both over, once."""
        call.misses += 1
        if call.flow.function in worker.known:
            self.unlearn(worker, call.flow.function)
        if call.ending is None and call.misses == 1:
            call.warm = False
            worker.expected_s += LONG_S - call.expected_s
            call.expected_s = LONG_S
            worker.sent.remove(call)  # it stands behind the others now
            worker.sent.append(call)
            self._hand_over(call, worker)
            self._after(worker, now)
            return
        self._take_back(call, worker, now)
        self._settle(call, None)
        if call.ending is not None:
            self._end_stopped(call, "interrupt", now)
        else:
            self._results.end(
                call, "lost", Lost(f"worker {worker.number} did not keep the function that it was sent twice"), now
            )
        self._after(worker, now)

    def worker_died(self, worker: Worker, begun: tuple[int, int] | None, lost: Lost, now: float) -> None:
        """All calls of a worker that is gone: what it had begun is lost, the others go back.

        It ran them in order: those before the one that it began last have ended, but their results went down with it.
        """
        calls = list(worker.sent)
        names = [(call.number, call.attempt) for call in calls]
        begun_calls = 0 if begun not in names else names.index(begun) + 1
        for index, call in enumerate(calls):
            run_s = self._take_back(call, worker, now)
            began = index < begun_calls
            self._settle(call, run_s if began else None)
            if call.ending is not None:
                self._end_stopped(call, "kill", now)
            elif began:
                self._lose(call, lost, now)
            else:
                self._give_back(call, lost, now)
        if begun_calls:
            self._queues.distrust(calls[begun_calls - 1].flow)

    def _lose(self, call: Call, lost: Lost, now: float) -> None:
        if call.attempt > call.retries or call.client.state != "present":
            self._results.end(call, "lost", lost, now)
        else:
            self._requeue(call, "retried", now)
            call.attempt += 1

    def _give_back(self, call: Call, lost: Lost, now: float) -> None:
        call.returns += 1
        call.waited_s += now - call.dispatched_at  # nothing but waiting, though not in line
        if call.queue_timeout_s is not None and call.waited_s >= call.queue_timeout_s:
            call.overdue = lost.reason
        if call.returns > RETURNS_ALLOWED:
            reason = f"{call.returns} workers ended before they had begun this call; the last: {lost.reason}"
            self._results.end(call, "lost", msgspec.structs.replace(lost, reason=reason), now)
        elif call.client.state != "present":
            self._results.end(call, "cancelled", Cancelled("queue"), now)  # its lease ended: it does not wait again
        else:
            self._requeue(call, "returned", now)

    def _requeue(self, call: Call, reason: str, now: float) -> None:
        move_call(call, reason)
        if call.timer is not None:
            call.timer.rank = 0
            call.timer = None
        call.page_wanted = False
        self.wait(call, now)

    def fail(self, call: Call, reason: str, now: float) -> None:
        """End a call whose books are wrong, whatever they say."""
        worker = call.worker
        if call.outcome is not None:
            return
        if worker is not None:
            self._take_back(call, worker, now)
        if call.charge:
            self._settle(call, None)
        restore_call(call, "queued" if call.rank else "dispatched")
        self._results.end(call, "faulted", Lost(reason), now)

    # -- stopped -------------------------------------------------------------------------------------------------------

    def cancel(self, call: Call, now: float) -> None:
        """Nobody wants an unfinished call any more."""
        if call.worker is None:
            self._results.end(call, "cancelled", Cancelled("queue", self._world.phase == "stopping"), now)
        elif call.ending is None:
            self._stop(call, call.worker, "cancel", now)

    def _stop(
        self, call: Call, worker: Worker, ending: Literal["cancel", "timeout"], now: float, *, runs: bool = False
    ) -> None:
        """Have a dispatched call stopped: it ends as `ending` says when its attempt has really ended.

        `runs`: the page says that it is running, so those before it have ended, whether that was told yet or not.
        """
        call.ending = ending
        if call.timer is not None:
            call.timer.rank = 0
            call.timer = None
        if worker.sent[0] is call or runs:
            self._interrupt(call, worker, now)

    def _interrupt(self, call: Call, worker: Worker, now: float) -> None:
        if call.interrupted or worker.state == "draining":
            return  # a draining worker ends by itself or has a deadline for it
        call.interrupted = True
        call.timer = self._world.arm(now + self._world.limits.interrupt_grace_s, call)
        self._world.commands.append(InterruptCall(worker=worker.number, call=call.number, attempt=call.attempt))

    def _end_stopped(self, call: Call, tier: Literal["interrupt", "kill"], now: float) -> None:
        if call.ending == "timeout":
            self._results.end(call, "ran_too_long", TimedOut("run", call.timeout_s or 0.0), now)
        else:
            self._results.end(call, "cancelled", Cancelled(tier, self._world.phase == "stopping"), now)

    # -- clients that leave --------------------------------------------------------------------------------------------

    def client_gone(self, client: Client, now: float) -> None:
        """A goodbye: whatever is left of the client's calls is of no use."""
        calls = unfinished_calls(client)
        self._results.forget(client)
        for call in calls:
            self.cancel(call, now)

    def lease_rang(self, client: Client, now: float) -> None:
        """If the lease has ended, what waits is cancelled; what runs may end."""
        if self._results.lease_rang(client, now):
            for call in unfinished_calls(client):
                if call.state == "queued":
                    self.cancel(call, now)

    # -- time limits ---------------------------------------------------------------------------------------------------

    def rang(self, call: Call, now: float) -> Worker | None:
        """A call's deadline came. Returns the worker that must be killed for it, if so."""
        call.timer = None
        worker = call.worker
        if worker is None:
            limit_s = call.queue_timeout_s or 0.0
            self._results.end(call, "waited_too_long", TimedOut("queue", limit_s), now)
        elif call.ending is not None:
            return worker
        elif worker.state == "busy":
            # Asked again should the answer be lost: nothing here may wait for ever.
            call.page_wanted = True
            call.timer = self._world.arm(now + self._world.limits.interrupt_grace_s, call)
            self._world.commands.append(ReadPage(worker=worker.number))
        return None

    def page_read(self, worker: Worker, event: PageRead, now: float) -> bool:
        """Judge the calls that the page was read for. False where none waits for it."""
        asked = [call for call in worker.sent if call.page_wanted]
        for call in asked:
            call.page_wanted = False
            limit_s = call.timeout_s or 0.0
            begun_at = event.begun_at if event.begun == (call.number, call.attempt) else None
            assert call.timer is not None, "whose page was asked for has a timer that asks again"
            call.timer.rank = 0
            if begun_at is not None and begun_at + limit_s <= now:
                call.timer = None
                self._stop(call, worker, "timeout", now, runs=True)
            else:
                call.timer = self._world.arm((now if begun_at is None else begun_at) + limit_s, call)
        return bool(asked)
