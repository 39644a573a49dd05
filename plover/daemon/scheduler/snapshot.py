"""What `plover status` shows of the scheduler: typed records, a copy that nothing changes afterwards.

Guarantees: taking one changes nothing. Assumes that it is asked for by people, not per call: it is linear in all
there is.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from plover.daemon.scheduler.events import DeviceKind
from plover.daemon.scheduler.state import (
    UNFINISHED,
    CallState,
    ClientState,
    DeviceState,
    NestState,
    Phase,
    WorkerState,
    World,
)


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device: its state, the nest on it, and what its last failed start said."""

    id: str
    kind: DeviceKind
    model: str
    memory_bytes: int
    state: DeviceState
    nest: int | None
    failures: int
    last_failure: str


class NestView(msgspec.Struct, frozen=True, kw_only=True):
    """A nest that is not gone."""

    nest: int
    state: NestState
    tenant: str
    environment: str
    devices: tuple[str, ...]
    workers: tuple[int, ...]


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is not gone. `calls` are those sent to it, the running one first."""

    worker: int
    nest: int
    state: WorkerState
    calls: tuple[int, ...]
    known_functions: int
    calls_done: int


class ClientView(msgspec.Struct, frozen=True, kw_only=True):
    """A client with unfinished calls, and when it was heard of last, on the scheduler's clock."""

    client: str
    tenant: str
    state: ClientState
    seen_at: float
    calls: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The whole scheduler at one moment.

    `calls` counts those on the books by state, `ended` those ended since the daemon started; `queued` is by tenant;
    `refused` were never taken; `ignored` events were about something unknown, stale or done already.
    """

    devices: tuple[DeviceView, ...]
    nests: tuple[NestView, ...]
    workers: tuple[WorkerView, ...]
    calls: dict[CallState, int]
    queued: dict[str, int]
    ended: dict[CallState, int]
    refused: int
    ignored: int
    clients_present: int
    clients_absent: int
    clients: tuple[ClientView, ...]
    held_results: int
    held_bytes: int
    draining: bool
    phase: Phase


def take(world: World, queued: dict[str, int]) -> Snapshot:
    """A snapshot of `world`; `queued` is the number of waiting calls by tenant."""
    calls: dict[CallState, int] = {}
    for call in world.calls.values():
        calls[call.state] = calls.get(call.state, 0) + 1
    present = sum(client.state == "present" for client in world.clients.values())
    return Snapshot(
        devices=tuple(
            DeviceView(
                id=each.config.id,
                kind=each.config.kind,
                model=each.config.model,
                memory_bytes=each.config.memory_bytes,
                state=each.state,
                nest=None if each.nest is None else each.nest.number,
                failures=each.failures,
                last_failure=each.last_failure,
            )
            for each in world.devices.values()
        ),
        nests=tuple(
            NestView(
                nest=each.number,
                state=each.state,
                tenant=each.pool.key[0],
                environment=each.pool.key[1],
                devices=each.device_ids,
                workers=tuple(worker.number for worker in each.workers),
            )
            for each in world.nests.values()
        ),
        workers=tuple(
            WorkerView(
                worker=each.number,
                nest=each.nest.number,
                state=each.state,
                calls=tuple(call.number for call in each.sent),
                known_functions=len(each.known),
                calls_done=each.calls_done,
            )
            for each in world.workers.values()
        ),
        calls=calls,
        queued=dict(queued),
        ended=dict(world.ended),
        refused=world.refused,
        ignored=world.ignored,
        clients_present=present,
        clients_absent=len(world.clients) - present,
        clients=tuple(_clients(world)),
        held_results=len(world.held),
        held_bytes=world.held_bytes,
        draining=world.phase != "running",
        phase=world.phase,
    )


def _clients(world: World) -> Iterator[ClientView]:
    for client in world.clients.values():
        calls = sum(call.state in UNFINISHED for call in client.calls.values())
        if calls:
            yield ClientView(
                client=client.id[:6].hex(),
                tenant=client.tenant,
                state=client.state,
                seen_at=client.seen_at,
                calls=calls,
            )
