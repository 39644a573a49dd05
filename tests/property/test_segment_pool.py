"""Whatever borrowers do, the pool lends each segment once, to its own tenant, within its limits, and ends with all free."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plover.daemon.segments import Pool, Refused, Segment, size_class
from plover.errors import WireError

LIMIT, TENANT_LIMIT, BORROWER_LIMIT = 1 << 20, 600 << 10, 4


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(LIMIT, TENANT_LIMIT, BORROWER_LIMIT, idle_s=60.0, count_limit=6)
        self.now = 0.0
        self.tenants: dict[int, str] = {}
        self.next_borrower = 1
        self.users: list[int] = []
        self.next_user = 1
        self.making: list[Segment] = []
        self.told: dict[int, set[int]] = {}  # what each borrower was told of, and not told to forget

    def settle(self) -> None:
        """What the daemon does after each step."""
        for borrower, number in self.pool.forgotten:
            if borrower in self.told:
                self.told[borrower].remove(number)
        self.pool.forgotten.clear()
        for segment in self.pool.closed:
            assert segment.holder is None
            assert not segment.users
            assert segment.made
            assert self.pool.find(segment.id) is None
            assert not any(segment.id in known for known in self.told.values())
        self.pool.closed.clear()

    @rule(tenant=st.sampled_from("ab"))
    def join(self, tenant: str) -> None:
        if len(self.tenants) < 5:
            self.pool.join(self.next_borrower, tenant)
            self.tenants[self.next_borrower] = tenant
            self.told[self.next_borrower] = set()
            self.next_borrower += 1

    @precondition(lambda self: self.tenants)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        borrower = data.draw(st.sampled_from(sorted(self.tenants)))
        self.pool.leave(borrower, self.now)
        del self.tenants[borrower], self.told[borrower]
        self.settle()

    @precondition(lambda self: self.tenants)
    @rule(data=st.data(), size=st.integers(1, 700 << 10))
    def borrow(self, data: Any, size: int) -> None:
        borrower = data.draw(st.sampled_from(sorted(self.tenants)))
        was_free = {each.id for each in self.pool if each.made and each.holder is None and not each.users}
        segment = self.pool.borrow(borrower, size, self.now)
        if isinstance(segment, Refused):
            assert segment.reason
        else:
            assert segment.tenant == self.tenants[borrower]
            assert segment.holder == borrower
            assert segment.size_bytes >= size
            assert not segment.users
            assert not segment.spoiled
            assert segment.id in was_free if segment.made else segment.id not in was_free
            if segment.made:
                self.tell(segment, borrower)
            else:
                self.making.append(segment)
        self.settle()

    def tell(self, segment: Segment, borrower: int) -> None:
        is_new = self.pool.introduce(segment, borrower)
        assert is_new == (segment.id not in self.told[borrower])
        self.told[borrower].add(segment.id)

    @precondition(lambda self: self.making)
    @rule(data=st.data(), works=st.booleans())
    def make(self, data: Any, works: bool) -> None:
        segment = self.making.pop(data.draw(st.integers(0, len(self.making) - 1)))
        holder = segment.holder
        if works:
            waiting = self.pool.made(segment.id, self.now)
            assert (waiting is segment) == (holder is not None)
            if waiting is not None:
                self.tell(segment, holder)  # type: ignore[arg-type]
        else:
            assert self.pool.failed(segment.id) == holder
            assert self.pool.find(segment.id) is None
        self.settle()

    def some(self, data: Any, wanted: Any) -> Segment | None:
        found = [each for each in self.pool if wanted(each)]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data(), spoiled=st.booleans())
    def give_back(self, data: Any, spoiled: bool) -> None:
        segment = self.some(data, lambda each: each.holder is not None)
        if segment is not None:
            others = [each for each in self.tenants if each != segment.holder]
            for other in others:
                self.pool.give_back(other, [segment.id, 10**6], spoiled, self.now)
                assert segment.holder is not None
            self.pool.give_back(segment.holder, [segment.id], spoiled, self.now)  # type: ignore[arg-type]
        self.settle()

    @rule(data=st.data())
    def submit(self, data: Any) -> None:
        segment = self.some(data, lambda each: each.holder is not None and each.made)
        if segment is None:
            return
        holder = segment.holder
        assert holder is not None
        for other in self.tenants:
            if other != holder:
                try:
                    self.pool.held(other, segment.id, 1)
                except WireError:
                    continue
                raise AssertionError("somebody mentions what he was not lent")
        self.pool.use(self.pool.held(holder, segment.id, segment.size_bytes), self.next_user)
        self.users.append(self.next_user)
        self.next_user += 1

    @rule(data=st.data())
    def dispatch(self, data: Any) -> None:
        segment = self.some(data, lambda each: bool(each.users))
        readers = [each for each, tenant in self.tenants.items() if segment and tenant == segment.tenant]
        if segment is not None and readers:
            self.tell(segment, data.draw(st.sampled_from(readers)))
        self.settle()

    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        """A worker's segment becomes a result."""
        segment = self.some(data, lambda each: each.holder is not None and each.made)
        if segment is not None:
            self.pool.use(segment, self.next_user)
            self.pool.take(segment, self.now)
            self.users.append(self.next_user)
            self.next_user += 1

    @rule(data=st.data())
    def hand_over(self, data: Any) -> None:
        segment = self.some(data, lambda each: each.holder is None and bool(each.users))
        takers = [each for each, tenant in self.tenants.items() if segment and tenant == segment.tenant]
        if segment is not None and takers:
            taker = data.draw(st.sampled_from(takers))
            if self.pool.pass_on(segment, taker):
                self.tell(segment, taker)
        self.settle()

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        user = data.draw(st.sampled_from(self.users))
        self.users.remove(user)
        self.pool.release(user, self.now)
        self.settle()

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.pool.expire(self.now)
        due = self.pool.due()
        assert due is None or due > self.now
        self.settle()

    @invariant()
    def bounded(self) -> None:
        sizes: dict[str, int] = {}
        for segment in self.pool:
            assert segment.size_bytes == size_class(segment.size_bytes)
            sizes[segment.tenant] = sizes.get(segment.tenant, 0) + segment.size_bytes
            assert segment.holder is None or self.tenants[segment.holder] == segment.tenant
        assert sum(sizes.values()) == self.pool.size_bytes <= LIMIT
        assert all(size <= TENANT_LIMIT for size in sizes.values())
        assert self.pool.counts()["segments"] <= 6
        for borrower in self.tenants:
            assert sum(each.holder == borrower for each in self.pool) <= BORROWER_LIMIT

    def teardown(self) -> None:
        for segment in self.making:
            self.pool.made(segment.id, self.now)
        for borrower in list(self.tenants):
            self.pool.leave(borrower, self.now)
        for user in self.users:
            self.pool.release(user, self.now)
        counts = self.pool.counts()
        assert (counts["lent"], counts["free"]) == (0, counts["segments"])
        self.pool.expire(self.now + 1000)
        assert self.pool.counts() == {"bytes": 0, "segments": 0, "free": 0, "lent": 0}


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
