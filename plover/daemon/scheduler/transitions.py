"""Every legal change of state, as one table of data, and the functions that apply it.

Guarantees: no other module assigns a `state`; a change that the table does not hold raises `IllegalTransition` with
the state, the reason and what happened before. docs/states.md is made from the table. Assumes: a record keeps its
`state` and its `history` (the last reasons) and is of the entity whose function is called.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn, cast

import msgspec

from plover.daemon.scheduler.state import (
    HISTORY,
    Call,
    CallState,
    Client,
    ClientState,
    DeviceRecord,
    DeviceState,
    Nest,
    NestState,
    Worker,
    WorkerState,
)

Entity = Literal["call", "worker", "nest", "device", "client"]


class Transition(msgspec.Struct, frozen=True):
    """One legal change: in `source`, `reason` leads to `target`; `why` is for people."""

    entity: Entity
    source: str
    reason: str
    target: str
    why: str


INITIAL: dict[Entity, str] = {
    "call": "queued",
    "worker": "starting",
    "nest": "creating",
    "device": "healthy",
    "client": "present",
}

TABLE: tuple[Transition, ...] = (
    # -- call: what waits, what runs, how it ended
    Transition("call", "queued", "sent", "dispatched", "placement found a worker (`SendCall`)"),
    Transition("call", "queued", "cancelled", "cancelled", "`CallCancelled`, the client left, or the daemon stops"),
    Transition("call", "queued", "waited_too_long", "timed_out", "all its waiting passed `queue_timeout_s`"),
    Transition("call", "queued", "never_possible", "refused", "the last device that could have taken it broke"),
    Transition("call", "dispatched", "returned", "queued", "its worker ended, the attempt had not begun: same number"),
    Transition("call", "dispatched", "retried", "queued", "its attempt was lost and another is allowed: next number"),
    Transition("call", "dispatched", "succeeded", "succeeded", "`CallFinished`: the function returned"),
    Transition("call", "dispatched", "failed", "failed", "`CallFinished`: the function raised"),
    Transition("call", "dispatched", "cancelled", "cancelled", "a cancelled attempt has really ended"),
    Transition("call", "dispatched", "ran_too_long", "timed_out", "an attempt beyond `timeout_s` has really ended"),
    Transition("call", "dispatched", "lost", "lost", "the last allowed attempt died, or could not be started"),
    Transition("call", "queued", "faulted", "lost", "an illegal transition, in production"),
    Transition("call", "dispatched", "faulted", "lost", "an illegal transition, in production"),
    # -- worker
    Transition("worker", "starting", "opened", "ready", "`WorkerReady`"),
    Transition(
        "worker", "starting", "nest_stopped", "draining", "its nest is being stopped; also for its taking too long"
    ),
    Transition("worker", "starting", "died", "gone", "`WorkerGone` or `NestGone`: a failed start"),
    Transition("worker", "ready", "given_work", "busy", "a first call was sent to it"),
    Transition("worker", "ready", "unwell", "draining", "`WorkerUnwell`: device context broken, or modules do not fit"),
    Transition(
        "worker", "ready", "renewed", "draining", "its modules do not fit who waits: a fresh one (`KillWorker`)"
    ),
    Transition("worker", "ready", "nest_stopped", "draining", "its nest is being stopped"),
    Transition("worker", "ready", "died", "gone", "`WorkerGone` or `NestGone`"),
    Transition("worker", "busy", "out_of_work", "ready", "all calls sent to it have ended"),
    Transition("worker", "busy", "unwell", "draining", "`WorkerUnwell`: device context broken, or modules do not fit"),
    Transition("worker", "busy", "killed", "draining", "a call did not heed its interrupt (`KillWorker`)"),
    Transition("worker", "busy", "nest_stopped", "draining", "its nest is being stopped"),
    Transition("worker", "busy", "died", "gone", "`WorkerGone` or `NestGone`"),
    Transition("worker", "draining", "died", "gone", "`WorkerGone` or `NestGone`"),
    # -- nest
    Transition("nest", "creating", "warmed", "warm", "`NestReady`"),
    Transition("nest", "creating", "stopped", "stopping", "too slow, not needed any more, or the daemon ends"),
    Transition("nest", "creating", "died", "gone", "`NestGone`: a failed start"),
    Transition("nest", "warm", "stopped", "stopping", "its devices are needed or broken, or the daemon ends"),
    Transition("nest", "warm", "died", "gone", "`NestGone`"),
    Transition("nest", "stopping", "died", "gone", "`NestGone`, or written off because it never came"),
    # -- device
    Transition("device", "healthy", "start_failed", "suspect", "a nest or worker on it failed to start: back off"),
    Transition("device", "suspect", "start_failed", "suspect", "once more: back off twice as long"),
    Transition("device", "suspect", "opened", "healthy", "`WorkerReady` on it"),
    Transition("device", "healthy", "given_up", "broken", "`start_failures` in a row, or its nest cannot be ended"),
    Transition("device", "suspect", "given_up", "broken", "`start_failures` in a row, or its nest cannot be ended"),
    # -- client
    Transition("client", "present", "lease_ended", "absent", "silent for `client_lease_s` with calls on the books"),
    Transition("client", "absent", "seen", "present", "any event of it"),
    Transition("client", "present", "left", "gone", "`ClientGone`, or its lease ended with nothing on the books"),
    Transition("client", "absent", "left", "gone", "`ClientGone`, or nothing is held for it any more"),
)


def _targets(entity: Entity) -> Any:
    return {(row.source, row.reason): row.target for row in TABLE if row.entity == entity}


_CALL = cast("dict[tuple[CallState, str], CallState]", _targets("call"))
_WORKER = cast("dict[tuple[WorkerState, str], WorkerState]", _targets("worker"))
_NEST = cast("dict[tuple[NestState, str], NestState]", _targets("nest"))
_DEVICE = cast("dict[tuple[DeviceState, str], DeviceState]", _targets("device"))
_CLIENT = cast("dict[tuple[ClientState, str], ClientState]", _targets("client"))


class IllegalTransition(Exception):
    """The table has no such change. `record` is the thing, `state`, `reason` and `history` say how it came about."""

    def __init__(self, entity: Entity, record: Call | Worker | Nest | DeviceRecord | Client, reason: str) -> None:
        self.entity, self.record, self.reason = entity, record, reason
        self.state: str = record.state
        self.history = tuple(record.history)
        before = ", ".join(self.history) or "nothing"
        super().__init__(f"{record!r}: {reason!r} is not legal in state {self.state!r}; before it: {before}")


def _illegal(entity: Entity, record: Call | Worker | Nest | DeviceRecord | Client, reason: str) -> NoReturn:
    raise IllegalTransition(entity, record, reason)


# One function an entity, not a generic one: each keeps its Literal types, and saves a lookup on the hot path.


def move_call(call: Call, reason: str) -> None:
    """Change a call's state as the table says for `reason`."""
    call.state = _CALL.get((call.state, reason)) or _illegal("call", call, reason)
    call.history = (*call.history, reason)[-HISTORY:]


def move_worker(worker: Worker, reason: str) -> None:
    """Change a worker's state as the table says for `reason`."""
    worker.state = _WORKER.get((worker.state, reason)) or _illegal("worker", worker, reason)
    worker.history.append(reason)


def move_nest(nest: Nest, reason: str) -> None:
    """Change a nest's state as the table says for `reason`."""
    nest.state = _NEST.get((nest.state, reason)) or _illegal("nest", nest, reason)
    nest.history.append(reason)


def move_device(device: DeviceRecord, reason: str) -> None:
    """Change a device's state as the table says for `reason`."""
    device.state = _DEVICE.get((device.state, reason)) or _illegal("device", device, reason)
    device.history.append(reason)


def move_client(client: Client, reason: str) -> None:
    """Change a client's state as the table says for `reason`."""
    client.state = _CLIENT.get((client.state, reason)) or _illegal("client", client, reason)
    client.history.append(reason)


# After an illegal transition in production: put a record into the state that is true of it, so that it can be ended.


def restore_call(call: Call, state: CallState) -> None:
    """Overwrite the state of a call whose books are wrong."""
    call.state = state
    call.history = (*call.history, f"restored to {state}")[-HISTORY:]


def restore_worker(worker: Worker, state: WorkerState) -> None:
    """Overwrite the state of a worker whose books are wrong."""
    worker.state = state
    worker.history.append(f"restored to {state}")


def restore_nest(nest: Nest, state: NestState) -> None:
    """Overwrite the state of a nest whose books are wrong."""
    nest.state = state
    nest.history.append(f"restored to {state}")
