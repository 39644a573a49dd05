"""Who has which segment of shared memory: a table, without a descriptor, a socket or a clock.

A segment is free, or lent to one borrower, or in use by calls, or both of these. It belongs to one tenant for its whole life,
and it has a size class, four to an octave. See docs/adr/0017.

Guarantees: a segment is lent to one borrower at a time; it is free only when nobody has it and no call uses it, and only then
is it lent again, and only to its own tenant; all segments together, and each tenant's, stay within their limits. What was
shared with a fork's child is never lent again. Pure. Assumes: borrowers have numbers that are never used again.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable

import msgspec

from plover.errors import WireError

__all__ = ["Pool", "Refused", "Segment", "size_class"]

_PAGE = 4096
#: A segment serves for something smaller, but for no less than half of its size.
_WASTE = 2


def size_class(size_bytes: int) -> int:
    """How large a segment for so many bytes is: at most a quarter more, in whole pages.

    Example:
        >>> size_class(5_000_000), size_class(4 << 20)
        (5242880, 4194304)
    """
    octave = 1 << max(0, (max(size_bytes, _PAGE) - 1).bit_length() - 1)
    step = max(octave // 4, _PAGE)
    return -(-max(size_bytes, 1) // step) * step


class Segment:
    """One segment.

    Attributes:
        holder: the borrower that it is lent to, or None.
        users: calls, and what else the daemon reads or passes it on for.
        made: its memory is there.
        spoiled: somebody may see it for good.
        known: the borrowers that have its descriptor, or a mapping of it.
        idle_since: when it became free; monotonic seconds.
    """

    __slots__ = ("holder", "id", "idle_since", "known", "made", "size_bytes", "spoiled", "tenant", "users")

    def __init__(self, number: int, tenant: str, size_bytes: int, holder: int) -> None:
        self.id = number
        self.tenant = tenant
        self.size_bytes = size_bytes
        self.holder: int | None = holder
        self.users: set[Hashable] = set()
        self.made = False
        self.spoiled = False
        self.known: set[int] = set()
        self.idle_since = 0.0

    def __repr__(self) -> str:
        return f"<segment {self.id} of {self.tenant}, {self.size_bytes} bytes, holder={self.holder} users={len(self.users)}>"


class Refused(msgspec.Struct, frozen=True):
    """No segment, and why."""

    reason: str


class Pool:
    """All segments.

    Args:
        limit_bytes: of all together.
        tenant_limit_bytes: of one tenant's.
        borrower_limit: how many one borrower may have, or know of: each is a descriptor there.
        idle_s: a free one that nobody wanted for so long is closed.
        count_limit: of all together.

    Attributes:
        closed: segments that are none any more: whoever calls takes them off, and frees their memory.
        forgotten: (borrower, segment) where the borrower may give up what it knows of it; taken off in the same way.

    Invariants: `_free` holds exactly the segments that are made, have no holder and no users, the longest idle first; a
    borrower is in some segment's `known` or `holder` only while it is in `_borrowers`.
    """

    def __init__(
        self,
        limit_bytes: int,
        tenant_limit_bytes: int,
        borrower_limit: int = 128,
        idle_s: float = 60.0,
        count_limit: int = 1024,
    ) -> None:
        self._count_limit = count_limit
        self._limit = limit_bytes
        self._tenant_limit = tenant_limit_bytes
        self._borrower_limit = borrower_limit
        self._idle_s = idle_s
        self._numbers = itertools.count(1)
        self._segments: dict[int, Segment] = {}
        self._free: OrderedDict[int, Segment] = OrderedDict()
        self._by_user: dict[Hashable, list[Segment]] = {}
        self._borrowers: dict[int, str] = {}  # their tenants
        self._known: dict[int, OrderedDict[int, Segment]] = {}  # by borrower, the longest unused first
        self._held: Counter[int] = Counter()  # by borrower
        self._sizes: Counter[str] = Counter()  # by tenant
        self._size = 0
        self.closed: list[Segment] = []
        self.forgotten: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<{len(self._segments)} segments, {len(self._free)} free, {self._size} bytes>"

    # -- for people and tests -------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """What all segments take together."""
        return self._size

    def counts(self) -> dict[str, int]:
        """How many there are, in bytes and by what they do, for the status."""
        return {
            "bytes": self._size,
            "segments": len(self._segments),
            "free": len(self._free),
            "lent": sum(self._held.values()),
        }

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._segments.values())

    def find(self, number: int) -> Segment | None:
        """A segment by its number."""
        return self._segments.get(number)

    # -- borrowers ------------------------------------------------------------------------------------------------------

    def join(self, borrower: int, tenant: str) -> None:
        """Somebody may borrow from now on."""
        self._borrowers[borrower] = tenant
        self._known[borrower] = OrderedDict()

    def leave(self, borrower: int, now: float) -> None:
        """A borrower is gone, or has given up everything."""
        if self._borrowers.pop(borrower, None) is None:
            return
        for segment in self._known.pop(borrower).values():
            segment.known.discard(borrower)
        for segment in [each for each in self._segments.values() if each.holder == borrower]:
            self._take_from_holder(segment, now)
        del self._held[borrower]

    def borrow(self, borrower: int, size_bytes: int, now: float) -> Segment | Refused:
        """Lend a segment of at least this size. If its memory is still to be made, `made` or `failed` must follow."""
        tenant = self._borrowers[borrower]
        if self._held[borrower] >= self._borrower_limit:
            return Refused(
                f"this borrower has {self._borrower_limit} segments, which is the limit: give some back first"
            )
        wanted = size_class(size_bytes)
        fitting = [
            each
            for each in self._free.values()
            if each.tenant == tenant and wanted <= each.size_bytes <= wanted * _WASTE
        ]
        if fitting:  # the smallest, and of these the one used last, whose pages may still be in a cache
            segment = min(reversed(fitting), key=lambda each: each.size_bytes)
            del self._free[segment.id]
            self._give(segment, borrower)
            return segment
        refusal = self._make_room(tenant, wanted)
        if refusal is not None:
            return refusal
        segment = Segment(next(self._numbers), tenant, wanted, borrower)
        self._segments[segment.id] = segment
        self._sizes[tenant] += wanted
        self._size += wanted
        self._held[borrower] += 1
        return segment

    def made(self, number: int, now: float) -> Segment | None:
        """A segment's memory is there; returns it if somebody still waits for it."""
        segment = self._segments.get(number)
        if segment is None:
            return None
        segment.made = True
        self._settle(segment, now)
        return segment if segment.holder is not None else None

    def failed(self, number: int) -> int | None:
        """A segment's memory could not be had; returns who waits for it."""
        segment = self._segments.pop(number)
        self._uncount(segment)
        if segment.holder is not None:
            self._held[segment.holder] -= 1
        return segment.holder

    def give_back(self, borrower: int, numbers: Iterable[int], spoiled: bool, now: float) -> None:
        """A borrower does not need these any more; what it does not have is passed over."""
        for number in numbers:
            segment = self._segments.get(number)
            if segment is not None and segment.holder == borrower and segment.made:
                segment.spoiled = segment.spoiled or spoiled
                self._take_from_holder(segment, now)

    def introduce(self, segment: Segment, borrower: int) -> bool:
        """A borrower needs to know a segment that it is told of now; whether it does not know it yet. It may have to forget
        others, which are `forgotten` then.
        """
        known = self._known[borrower]
        assert segment.tenant == self._borrowers[borrower], (segment, borrower)
        if segment.id in known:
            known.move_to_end(segment.id)
            return False
        known[segment.id] = segment
        segment.known.add(borrower)
        if len(known) > self._borrower_limit:
            for number, each in list(known.items()):
                if each.holder != borrower and not each.users:
                    del known[number]
                    each.known.discard(borrower)
                    self.forgotten.append((borrower, number))
                    break
        return True

    def unknow(self, segment: Segment, borrower: int) -> None:
        """The borrower could not be told of it after all."""
        self._known[borrower].pop(segment.id, None)
        segment.known.discard(borrower)

    # -- calls ----------------------------------------------------------------------------------------------------------

    def held(self, borrower: int, number: int, end: int) -> Segment:
        """A segment that a borrower has, of which `end` bytes are meant.

        Raises:
            WireError: it has not got it, or it is not as large.
        """
        segment = self._segments.get(number)
        if segment is None or segment.holder != borrower or not segment.made:
            raise WireError(f"segment {number} is mentioned by who was not lent it", fault="client")
        if end > segment.size_bytes:
            raise WireError(f"{end} bytes of segment {number}, which has {segment.size_bytes}", fault="client")
        return segment

    def use(self, segment: Segment, user: Hashable) -> None:
        """A call, or whoever works for it, uses a segment until `release`."""
        if user not in segment.users:
            segment.users.add(user)
            self._by_user.setdefault(user, []).append(segment)

    def release(self, user: Hashable, now: float) -> None:
        """It uses none any more."""
        for segment in self._by_user.pop(user, ()):
            segment.users.discard(user)
            self._settle(segment, now)

    def take(self, segment: Segment, now: float) -> None:
        """Its holder has passed it on to the daemon."""
        self._take_from_holder(segment, now)

    def pass_on(self, segment: Segment, borrower: int) -> bool:
        """A borrower has it from now on; False if it has as many as it may. It must be in use, and nobody's."""
        assert segment.holder is None, segment
        assert segment.users, segment
        if self._held[borrower] >= self._borrower_limit or segment.tenant != self._borrowers[borrower]:
            return False
        self._give(segment, borrower)
        return True

    # -- time -----------------------------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When `expire` has something to do."""
        first = next(iter(self._free.values()), None)
        return None if first is None else first.idle_since + self._idle_s

    def expire(self, now: float) -> None:
        """Close what nobody wanted for long."""
        while (due := self.due()) is not None and due <= now:
            self._close(self._free.popitem(last=False)[1])

    # -- in here --------------------------------------------------------------------------------------------------------

    def _make_room(self, tenant: str, size_bytes: int) -> Refused | None:
        """Close free segments until there is room for another: the tenant's own where that is full, else anybody's."""
        if size_bytes > min(self._limit, self._tenant_limit):
            return Refused(f"{size_bytes} bytes are more than segments may take together")
        for segment in list(self._free.values()):
            tenant_is_full = self._sizes[tenant] + size_bytes > self._tenant_limit
            is_full = self._size + size_bytes > self._limit or len(self._segments) >= self._count_limit
            if not tenant_is_full and not is_full:
                return None
            if segment.tenant == tenant or not tenant_is_full:
                del self._free[segment.id]
                self._close(segment)
        if self._sizes[tenant] + size_bytes > self._tenant_limit:
            return Refused(f"segments of tenant {tenant} take {self._sizes[tenant]} bytes of {self._tenant_limit}")
        if self._size + size_bytes > self._limit:
            return Refused(f"segments take {self._size} bytes of {self._limit}")
        if len(self._segments) >= self._count_limit:
            return Refused(f"there are {len(self._segments)} segments, which is the limit")
        return None

    def _give(self, segment: Segment, borrower: int) -> None:
        segment.holder = borrower
        self._held[borrower] += 1

    def _take_from_holder(self, segment: Segment, now: float) -> None:
        if segment.holder is not None:
            self._held[segment.holder] -= 1
            segment.holder = None
        self._settle(segment, now)

    def _settle(self, segment: Segment, now: float) -> None:
        if segment.holder is not None or segment.users or not segment.made:
            return
        if segment.spoiled:
            self._close(segment)
            return
        segment.idle_since = now
        self._free[segment.id] = segment

    def _close(self, segment: Segment) -> None:
        del self._segments[segment.id]
        self._uncount(segment)
        for borrower in segment.known:
            del self._known[borrower][segment.id]
            self.forgotten.append((borrower, segment.id))
        segment.known.clear()
        self.closed.append(segment)

    def _uncount(self, segment: Segment) -> None:
        self._sizes[segment.tenant] -= segment.size_bytes
        self._size -= segment.size_bytes
