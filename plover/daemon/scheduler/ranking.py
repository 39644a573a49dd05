"""A heap whose entries may go stale: the one ordered container of the scheduler.

Guarantees: `push` and `pop` cost O(log n), withdrawing an item O(1) (its `rank` is set to 0 or to a newer entry's
number and the old entry is dropped when it surfaces), all amortized: stale entries never outnumber twice the live
ones, because the heap is swept when it has doubled. Assumes: entry numbers are unique and positive, and whoever
withdraws an item changes its `rank`.
"""

from __future__ import annotations

import heapq
from typing import Any, Generic, Protocol, TypeVar

_SMALLEST_SWEEP = 64


class Ranked(Protocol):
    """What can stand in a ranking: `rank` is the number of its valid entry, or 0 where it has none."""

    rank: int


T = TypeVar("T", bound=Ranked)


class Ranking(Generic[T]):
    """Items by key, the smallest first; equal keys in the order of their entry numbers."""

    __slots__ = ("_heap", "_sweep_at")

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, T]] = []  # a heap; an entry is valid iff item.rank is its number
        self._sweep_at = _SMALLEST_SWEEP  # the length beyond which stale entries are thrown out

    def push(self, key: Any, number: int, item: T) -> None:
        """Enter `item`; an entry it had before is void from now on."""
        item.rank = number
        heapq.heappush(self._heap, (key, number, item))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[2].rank == entry[1]]
            heapq.heapify(self._heap)
            self._sweep_at = max(_SMALLEST_SWEEP, 2 * len(self._heap))

    def first(self) -> T | None:
        """The valid item with the smallest key, left where it is."""
        heap = self._heap
        while heap:
            entry = heap[0]
            if entry[2].rank == entry[1]:
                return entry[2]
            heapq.heappop(heap)
        return None

    def first_key(self) -> Any:
        """The key of `first()`, or None."""
        return None if self.first() is None else self._heap[0][0]

    def pop(self) -> T:
        """Take the first item out. Assumes that there is one."""
        while True:
            _, number, item = heapq.heappop(self._heap)
            if item.rank == number:
                item.rank = 0
                return item

    def items(self) -> list[T]:
        """All valid items in order. Linear: for rare events and for tests only."""
        return [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2]) if entry[2].rank == entry[1]]

    def __len__(self) -> int:
        """How many entries are stored, stale ones included."""
        return len(self._heap)

    def __repr__(self) -> str:
        return f"Ranking({len(self._heap)} entries)"
