"""A session with several daemons: each call goes to one of them, and stays there.

Which one: of those that have the devices that the call asks for, the one with the least to do for this session (unfinished
calls for each device that can run it); where two are alike, one that knows the function already, and else each in turn.

Guarantees: a daemon that cannot be reached is passed over, and looked for again every `LOOK_AGAIN_S` on a thread of its own,
while the others go on. A call that was sent is never sent to another daemon: if its daemon is lost it ends as `DaemonLost`,
since it may have run. Assumes: each daemon's devices stay those that it named when it was met.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plover.errors import DaemonLost, DaemonUnreachable, NoCapacity, PloverError
from plover.session import Session
from plover.suits import suits

if TYPE_CHECKING:
    from plover.client.calls import Payload
    from plover.client.connection import Connection
    from plover.client.futures import Future
    from plover.remote import CallRequest
    from plover.wire.messages import CallOptions, HostDevices

__all__ = ["LOOK_AGAIN_S", "SeveralDaemons"]

#: So long a daemon that could not be reached is left alone.
LOOK_AGAIN_S = 10.0


class _Member:
    """One of the daemons. Invariant: `away` says why it could not be reached the last time; None if it could."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = Session(address)
        self.away: PloverError | None = None
        self.devices: Sequence[HostDevices] = ()  # as it named them last
        self._look_at = 0.0
        self._looking = threading.Lock()

    def meet(self) -> Connection:
        """Its connection, made now if there is none; raises as `Session.connection` does."""
        try:
            connection = self.session.connection()
        except (DaemonUnreachable, DaemonLost) as error:
            self.leave(error)
            raise
        self.away, self.devices = None, connection.welcome.devices
        return connection

    def leave(self, reason: PloverError) -> None:
        """It cannot be reached."""
        self.away, self._look_at = reason, time.monotonic() + LOOK_AGAIN_S

    def look_again(self) -> None:
        """If it is time to, see whether it can be reached again, and do not wait for that."""
        if time.monotonic() >= self._look_at and self._looking.acquire(blocking=False):
            threading.Thread(target=self._look, name="plover-look", daemon=True).start()

    def _look(self) -> None:
        try:
            with contextlib.suppress(PloverError):  # still away, or closed meanwhile
                self.meet()
        finally:
            self._looking.release()

    def slots(self, options: CallOptions) -> int:
        """How many of its devices can serve such a call."""
        model, count = options.gpu if options.gpu is not None else (None, 1)
        suited = sum(each.count for each in self.devices if suits(each.kind, each.model, model, options.require_gpu))
        return suited if suited >= count else 0

    def __str__(self) -> str:
        from plover.looks import devices_text

        return (
            f"{self.address} has {devices_text(self.devices)}"
            if self.away is None
            else f"{self.address} cannot be reached"
        )


class SeveralDaemons(Session):
    """A session with several daemons.

    Args:
        addresses: of each, as for `Session`.

    Raises:
        ValueError: there is none, or one is there twice.

    Example:
        ``with plover.connect(["gpu1", "gpu2"]) as session: list(session.map(fn, xs))``
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__()
        if not addresses or len(set(addresses)) < len(addresses):
            raise ValueError(f"several daemons need an address each, and each its own: {list(addresses)!r}")
        self._members = [_Member(address) for address in addresses]
        self._turns = itertools.count()

    def __repr__(self) -> str:
        from plover.looks import several_text

        return several_text(self._look())

    def _repr_html_(self) -> str:
        from plover.looks import several_html

        return several_html(self._look())

    def _look(self) -> list[tuple[str, bool, Connection | None]]:
        return [(each.address, each.away is not None, each.session.peek()) for each in self._members]

    def connection(self) -> Connection:
        """The connection to one that can be reached; all are met now, and those that cannot be are warned of.

        Raises:
            DaemonUnreachable: none can be reached; the message says why, of each.
            AccessDenied, VersionMismatch: as for one daemon.
        """
        met, missed = [], []
        for member in self._members:
            try:
                met.append(member.meet())
            except (DaemonUnreachable, DaemonLost):
                missed.append(member)
        if not met:
            raise self._all_away()
        for member in missed:
            warnings.warn(
                f"{member.address} cannot be reached now, and calls go to the others until it can: {member.away}",
                RuntimeWarning,
                stacklevel=3,
            )
        return met[0]

    def send(self, request: CallRequest, /) -> Future[Any]:
        """As `Session.send`, to one of the daemons.

        Raises:
            NoCapacity: none of those that can be reached has the devices that the call asks for.
        """
        for member in self._in_order(request.payload, request.options):
            try:
                return member.session.send(request)
            except (DaemonUnreachable, DaemonLost) as error:
                member.leave(error)
        raise self._all_away()

    def close(self) -> None:
        """Close the sessions with all of them."""
        for member in self._members:
            member.session.close()
        super().close()

    def _in_order(self, payload: Payload, options: CallOptions) -> list[_Member]:
        """Those to be tried, the best first."""
        for member in self._members:
            if member.away is not None:
                member.look_again()
        there = [member for member in self._members if member.away is None]
        if not there:
            with contextlib.suppress(DaemonUnreachable):
                self.connection()
            there = [member for member in self._members if member.away is None]
        turn, ranks = next(self._turns), []
        for index, member in enumerate(there):
            slots = member.slots(options)
            if not slots:
                continue
            connection = member.session.peek()
            ranks.append(
                (
                    connection is None or not connection.in_order,
                    connection.pending / slots if connection is not None else 0.0,
                    connection is None or not connection.knows(payload.digest),
                    (index - turn) % len(there),
                    index,
                )
            )
        if there and not ranks:
            what = f"{options.gpu[1]} x {options.gpu[0] or 'any GPU'}" if options.gpu is not None else "a real GPU"
            raise NoCapacity(
                f"{payload.name} asks for {what}, and none of these daemons can run that: "
                f"{'; '.join(map(str, self._members))}. Ask for other devices, or connect to a host that has them"
            )
        return [there[rank[-1]] for rank in sorted(ranks)]

    def _all_away(self) -> DaemonUnreachable:
        why = "\n".join(f"  {member.address}: {member.away}" for member in self._members)
        return DaemonUnreachable(f"none of the {len(self._members)} daemons can be reached:\n{why}")
