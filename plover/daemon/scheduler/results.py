"""How calls end, and for how long it is remembered: outcomes, clients' leases, held results.

Guarantees: a call ends once; its outcome is sent once unasked, and again whenever its client asks; it is remembered
until its client acknowledges it, says goodbye, or stays away for longer (or with more) than the hold limits allow.
Nothing is sent to a client that is absent; what it missed is sent when it is back. Assumes: who ends a call has taken
it off its worker already.
"""

from __future__ import annotations

from plover.daemon.scheduler.commands import (
    Outcome,
    Refused,
    ReleaseArguments,
    ReleaseCall,
    SendOutcome,
    TellUnknown,
    TimedOut,
)
from plover.daemon.scheduler.events import CallSubmitted, ResultsAcknowledged, ResultsWanted
from plover.daemon.scheduler.queues import FairQueues
from plover.daemon.scheduler.state import UNFINISHED, Call, Client, World
from plover.daemon.scheduler.transitions import move_call, move_client


class Results:
    """The books of clients and of calls that have ended."""

    def __init__(self, world: World, queues: FairQueues) -> None:
        self._world = world
        self._queues = queues

    # -- clients -------------------------------------------------------------------------------------------------------

    def greet(self, tenant: str, name: bytes, now: float) -> Client:
        """The client of this event, made if it is new: it has been seen."""
        return self.seen(tenant, name, now) or self._register(tenant, name, now)

    def seen(self, tenant: str, name: bytes, now: float) -> Client | None:
        """The client of this event, if it is known: its lease is renewed, and what it missed is sent."""
        client = self._world.clients.get((tenant, name))
        if client is not None:
            client.seen_at = now
            if client.state == "absent":
                self._welcome_back(client, now)
        return client

    def _register(self, tenant: str, name: bytes, now: float) -> Client:
        world = self._world
        client = world.clients[tenant, name] = Client(id=name, tenant=tenant, seen_at=now)
        client.timer = world.arm(now + world.limits.client_lease_s, client)
        return client

    def _welcome_back(self, client: Client, now: float) -> None:
        world = self._world
        move_client(client, "seen")
        client.timer = world.arm(now + world.limits.client_lease_s, client)
        for call in client.calls.values():
            if call.outcome is not None:
                self._unhold(call)
                world.owed += 1
                if not call.told:
                    self._tell(call)
        self._watch_held()

    def lease_rang(self, client: Client, now: float) -> bool:
        """Look whether a client's lease has really ended; if so it is absent from now on, and True."""
        world = self._world
        ends_at = client.seen_at + world.limits.client_lease_s
        if ends_at > now:
            client.timer = world.arm(ends_at, client)
            return False
        client.timer = None
        if not client.calls:
            self.forget(client)
            return False
        move_client(client, "lease_ended")
        for call in list(client.calls.values()):
            if call.outcome is not None:
                world.owed -= 1
                self._hold(call, now)
        return True

    def forget(self, client: Client) -> None:
        """The client has left: nothing is sent to it or held for it any more."""
        world = self._world
        was_present = client.state == "present"
        move_client(client, "left")
        del world.clients[client.tenant, client.id]
        if client.timer is not None:
            client.timer.rank = 0
            client.timer = None
        for call in list(client.calls.values()):
            if call.outcome is not None:
                world.owed -= was_present
                self._release(call)
        self._watch_held()

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def refuse(self, event: CallSubmitted, refused: Refused) -> None:
        """Tell a client that its submission is not taken; nothing is remembered of it."""
        self._world.refused += 1
        self._world.commands.append(
            SendOutcome(client=event.client, submission=event.submission, call=None, outcome=refused)
        )

    def end(self, call: Call, reason: str, outcome: Outcome, now: float, size_bytes: int = 0) -> None:
        """The call has ended for `reason`, for good."""
        world = self._world
        was_queued = call.state == "queued"
        move_call(call, reason)
        if was_queued:
            if reason == "waited_too_long":
                assert isinstance(outcome, TimedOut)
                workers, why = self._queues.obstacle(call.flow.demand)
                if call.overdue:
                    workers, why = "silent", call.overdue
                outcome = TimedOut(outcome.phase, outcome.limit_s, workers, why)
            self._queues.remove(call)
        timer = call.timer
        if timer is not None:
            timer.rank = 0
            call.timer = None
        call.outcome = outcome
        call.size_bytes = size_bytes
        world.unfinished -= 1
        world.ended[call.state] = world.ended.get(call.state, 0) + 1
        presence = call.client.state
        if presence == "present":
            world.owed += 1
            self._tell(call)
        world.commands.append(ReleaseArguments(call=call.number))
        if presence == "absent":
            self._hold(call, now)
        elif presence == "gone":
            self._release(call)

    def _tell(self, call: Call) -> None:
        assert call.outcome is not None
        call.told = True
        self._world.commands.append(
            SendOutcome(
                client=call.client.id,
                submission=call.submission,
                call=call.number,
                outcome=call.outcome,
                attempt=call.sent,
                worker=call.worker_number,
                devices=call.devices,
                queue_s=call.queue_s,
                warm=call.warm,
            )
        )

    def tell_again(self, call: Call) -> bool:
        """Send the outcome of a call once more, if it has ended."""
        if call.outcome is None:
            return False
        self._tell(call)
        return True

    def acknowledged(self, event: ResultsAcknowledged, now: float) -> bool:
        """A client has these results. False where that changed nothing."""
        client = self.seen(event.tenant, event.client, now)
        changed = False
        for submission in event.submissions if client is not None else ():
            call = client.calls.get(submission) if client is not None else None
            if call is not None and call.outcome is not None:
                self._world.owed -= 1
                self._release(call)
                changed = True
        return changed

    def wanted(self, event: ResultsWanted, now: float) -> None:
        """Answer what is known of each submission: its outcome, nothing while it is pending, or that it is unknown."""
        client = self.seen(event.tenant, event.client, now)
        for submission in event.submissions:
            call = client.calls.get(submission) if client is not None else None
            if call is None:
                self._world.commands.append(TellUnknown(client=event.client, submission=submission))
            else:
                self.tell_again(call)

    # -- held and released ---------------------------------------------------------------------------------------------

    def _release(self, call: Call) -> None:
        world = self._world
        del world.calls[call.number]
        del call.client.calls[call.submission]
        self._unhold(call)
        world.commands.append(ReleaseCall(call=call.number))

    def _hold(self, call: Call, now: float) -> None:
        world = self._world
        call.held_since = now
        world.held[call.number] = call
        world.held_bytes += call.size_bytes
        while world.held_bytes > world.limits.held_result_bytes:
            self._evict(next(iter(world.held.values())))
        self._watch_held()

    def _unhold(self, call: Call) -> None:
        if self._world.held.pop(call.number, None) is not None:
            self._world.held_bytes -= call.size_bytes

    def _evict(self, call: Call) -> None:
        client = call.client
        self._release(call)
        if not client.calls:
            self.forget(client)

    def held_rang(self, now: float) -> None:
        """Forget what has been held for too long."""
        world = self._world
        world.held_timer = None
        while world.held:
            oldest = next(iter(world.held.values()))
            if oldest.held_since + world.limits.held_result_s > now:
                break
            self._evict(oldest)
        self._watch_held()

    def _watch_held(self) -> None:
        world = self._world
        if world.held and world.held_timer is None:
            oldest = next(iter(world.held.values()))
            world.held_timer = world.arm(oldest.held_since + world.limits.held_result_s, "held")
        elif not world.held and world.held_timer is not None:
            world.held_timer.rank = 0
            world.held_timer = None


def unfinished_calls(client: Client) -> list[Call]:
    """The client's calls that have not ended, in the order of submission."""
    return [call for call in client.calls.values() if call.state in UNFINISHED]
