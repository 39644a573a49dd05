"""Whose turn it is: every rule of docs/adr/0012, with the clock as an argument."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plover.client.turns import _WATCH_S, GRACE_S, STUCK_S, Turn, Turns

IO, MAIN, OTHER = 1, 2, 3
LINK = object()


@pytest.fixture
def turns() -> Turns:
    """After the handshake: the I/O thread has given its turn back."""
    turns = Turns(0.0)
    turns.io.thread = IO
    turns.holder = None
    return turns


def claim(turns: Turns, thread: int = MAIN, now: float = 0.0) -> Turn | None:
    turn = Turn(thread, now)
    return turn if turns.claim(turn, LINK) else None


def test_at_first_the_io_thread_has_it() -> None:
    turns = Turns(0.0)
    assert turns.holder is turns.io
    assert claim(turns) is None
    assert repr(turns) == "<the I/O thread>"


def test_a_caller_takes_a_free_turn_and_nobody_else_has_it_meanwhile(turns: Turns) -> None:
    turn = claim(turns, now=5.0)
    assert turn is not None
    assert (turns.holder, turn.thread, turn.link, turn.since, turn.over) == (turn, MAIN, LINK, 5.0, False)
    assert repr(turns) == "<<turn of thread 2 since 5.000>>"
    assert claim(turns, OTHER) is None
    turns.holder = None
    assert repr(turns) == "<nobody>"
    assert claim(turns, OTHER) is not None


def test_where_others_wait_the_io_thread_serves_them_all(turns: Turns) -> None:
    turns.waiting.add("another thread")
    assert claim(turns) is None


def test_a_caller_that_asks_gets_the_turn_from_the_io_thread(turns: Turns) -> None:
    turns.holder = turns.io
    assert turns.may_ask(MAIN)
    assert not turns.may_ask(IO), "it would wait for itself"
    turns.io_gives_back(turns.io, pending=True)
    assert turns.holder is turns.io, "nobody asked"
    turns.asked = True
    turns.io_gives_back(turns.io, pending=True)
    assert turns.holder is None
    assert not turns.asked
    assert not turns.may_ask(MAIN), "it is free"


@pytest.mark.parametrize("needed", ["to be told", "several wait"])
def test_the_io_thread_keeps_the_turn_where_others_need_it(turns: Turns, needed: str) -> None:
    turns.holder, turns.asked = turns.io, True
    turns.io_stays = needed == "to be told"
    turns.waiting = {"another thread"} if needed == "several wait" else set()
    assert not turns.may_ask(MAIN)
    turns.io_gives_back(turns.io, pending=True)
    assert turns.holder is turns.io
    turns.io_gives_back(turns.io, pending=False)
    assert turns.holder is None
    assert not turns.io_stays, "nobody is to be told of anything any more"


def test_only_the_io_thread_that_has_it_gives_it_back(turns: Turns) -> None:
    turn = claim(turns)
    turns.io_gives_back(turns.io, pending=False)
    assert turns.holder is turn


def test_the_io_thread_has_what_it_wants_next(turns: Turns) -> None:
    turns.io_wanted = True
    assert claim(turns) is None
    assert turns.io_is_needed_at(5.0, False, None) == 5.0
    assert turns.io_takes(5.0, False, None)
    assert (turns.holder, turns.io_wanted) == (turns.io, False)


def test_the_io_thread_takes_what_is_neglected(turns: Turns) -> None:
    assert not turns.io_takes(GRACE_S / 2, True, None)
    assert turns.io_rests_until == GRACE_S / 2 + GRACE_S
    assert not turns.io_takes(GRACE_S * 9, False, None)
    assert turns.io_rests_until is None
    assert turns.io_takes(GRACE_S * 9, True, None)


def test_the_io_thread_takes_what_is_due(turns: Turns) -> None:
    assert not turns.io_takes(1.0, False, 1.5)
    assert turns.io_rests_until == 1.5
    assert turns.io_takes(1.5, False, 1.5)


def test_the_io_thread_leaves_a_caller_at_it_and_looks_after_it(turns: Turns) -> None:
    claim(turns)
    assert not turns.io_takes(0.5, True, 0.1)
    assert turns.io_rests_until == 0.5 + _WATCH_S


def test_where_somebody_may_not_wait_the_io_thread_looks_more_often(turns: Turns) -> None:
    claim(turns)
    turns.loose = True
    assert not turns.io_takes(0.5, True, None)
    assert turns.io_rests_until == 0.5 + GRACE_S
    assert not turns.io_takes(0.6, False, None)
    assert not turns.loose
    assert turns.io_rests_until == 0.6 + _WATCH_S


def test_a_turn_without_end_is_taken_away(turns: Turns) -> None:
    turn = claim(turns)
    assert turns.io_takes(STUCK_S, True, None)
    assert (turns.holder, turns.doubtful, turns.inside) == (turns.io, True, [turn])
    assert repr(turns) == "<the I/O thread, doubtful>"


def test_who_waits_in_the_middle_of_its_own_turn_gives_it_up(turns: Turns) -> None:
    turn = claim(turns)
    turns.abandon(OTHER)
    assert turns.holder is turn
    turns.abandon(MAIN)
    assert (turns.holder, turns.doubtful, turns.io_wanted, turns.inside) == (None, True, True, [turn])
    assert claim(turns) is None
    turns.abandon(MAIN)
    assert turns.inside == [turn]
    assert turns.io_takes(0.0, False, None)


def test_the_io_threads_turn_is_not_given_up() -> None:
    turns = Turns(0.0)
    turns.io.thread = IO
    turns.abandon(IO)
    assert turns.holder is turns.io
    assert not turns.doubtful


@pytest.mark.parametrize("holder", ["the I/O thread", "a caller", "nobody"])
def test_another_io_thread_takes_the_place_of_one_that_waits(turns: Turns, holder: str) -> None:
    before = turns.io
    caller = claim(turns) if holder == "a caller" else None
    if holder == "the I/O thread":
        turns.holder = before
    turns.io_supplants(after := Turn(7, 1.0))
    assert (turns.io, turns.holder, turns.doubtful) == (after, after, True)
    assert before in turns.inside  # it may be inside the monitor
    assert (caller in turns.inside) == (caller is not None)


def test_who_must_tell_the_io_thread(turns: Turns) -> None:
    assert not turns.io_must_be_told(0.0, False, None)  # nothing will be missed
    assert turns.io_must_be_told(0.0, True, None)  # it sleeps without end
    assert not turns.io_takes(0.0, True, None)
    assert not turns.io_must_be_told(0.0, True, None)  # it looks in a moment
    turns.io_wanted = True
    assert turns.io_must_be_told(0.0, True, None)  # and even so somebody waits for it now
    turns.io_wanted = False
    turns.io_rests_until = 10.0
    assert turns.io_must_be_told(0.0, False, 1.0)
    claim(turns)
    assert turns.io_must_be_told(0.0, True, None)
    turns.io_rests_until = 0.1
    assert not turns.io_must_be_told(0.0, True, None)  # who waits leaves nothing behind
    turns.loose = True
    assert turns.io_must_be_told(0.0, True, None)
    turns.holder = turns.io
    assert not turns.io_must_be_told(0.0, True, 0.0)


class TurnsMachine(RuleBasedStateMachine):
    """Threads that claim, release, are interrupted and get lost, in any order: one holder, and nothing is left undone."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(0.0)
        self.now = 0.0
        self.mine: dict[int, Turn] = {}
        self.pending = False

    @initialize()
    def shaken(self) -> None:
        self.turns.holder = None

    @rule(seconds=st.sampled_from([0.0, 0.001, GRACE_S, 0.05, STUCK_S]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(are=st.booleans())
    def calls(self, are: bool) -> None:
        self.pending = are

    @rule(thread=st.sampled_from([MAIN, OTHER]), loose=st.booleans())
    def claim(self, thread: int, loose: bool) -> None:
        before = self.turns.holder
        turn = claim(self.turns, thread, self.now)
        if turn is not None:
            assert before is None
            assert not self.turns.doubtful
            self.mine[thread] = turn
            self.turns.loose = self.turns.loose or loose

    @rule(thread=st.sampled_from([MAIN, OTHER]))
    def release(self, thread: int) -> None:
        turn = self.mine.pop(thread, None)
        if turn is not None and self.turns.holder is turn:
            self.turns.holder = None

    @rule(thread=st.sampled_from([MAIN, OTHER]))
    def wait_in_the_middle(self, thread: int) -> None:
        self.turns.abandon(thread)
        had = self.mine.pop(thread, None)
        assert self.turns.holder is None or self.turns.holder is not had

    @rule(mark=st.integers(0, 2), on=st.booleans())
    def wait(self, mark: int, on: bool) -> None:
        (self.turns.waiting.add if on else self.turns.waiting.discard)(mark)

    @precondition(lambda self: self.turns.holder is not self.turns.io)
    @rule()
    def io_looks(self) -> None:
        if self.turns.io_takes(self.now, self.pending, None):
            self.turns.doubtful, self.turns.inside = False, []

    @precondition(lambda self: self.turns.holder is self.turns.io)
    @rule()
    def io_ends(self) -> None:
        self.turns.doubtful = False
        self.turns.holder = None

    @rule()
    def io_is_replaced(self) -> None:
        self.turns.io_supplants(Turn(IO, self.now))

    @invariant()
    def doubt_is_the_io_threads(self) -> None:
        if self.turns.doubtful and self.turns.holder is not self.turns.io:
            assert self.turns.io_wanted
            assert self.turns.io_is_needed_at(self.now, self.pending, None) == self.now

    @invariant()
    def pending_calls_are_looked_after(self) -> None:
        if self.pending and self.turns.holder is not self.turns.io:
            assert self.turns.io_is_needed_at(self.now, self.pending, None) is not None


TestTurnsMachine = TurnsMachine.TestCase
TestTurnsMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
