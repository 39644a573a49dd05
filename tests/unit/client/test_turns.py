"""Whose turn it is: every rule of docs/adr/0012, with the clock as an argument."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plover.client.turns import GRACE_S, STUCK_S, Turn, Turns

IO, MAIN, OTHER = 1, 2, 3
LINK = object()


@pytest.fixture
def turns() -> Turns:
    """After the handshake: the I/O thread has given its turn back."""
    turns = Turns(IO, 0.0)
    turns.release(pending=False)
    return turns


def claim(turns: Turns, thread: int = MAIN, now: float = 0.0) -> Turn | None:
    return turns.claim(LINK, thread, now)


def test_at_first_the_io_thread_has_it() -> None:
    turns = Turns(IO, 0.0)
    assert turns.holder is turns.io
    assert claim(turns) is None
    assert repr(turns) == "<the I/O thread>"


def test_a_caller_takes_a_free_turn_and_gives_it_back(turns: Turns) -> None:
    turn = claim(turns, now=5.0)
    assert turn is not None
    assert (turns.holder, turn.thread, turn.link, turn.since) == (turn, MAIN, LINK, 5.0)
    assert repr(turns) == "<<turn of thread 2 since 5.000>>"
    assert claim(turns, OTHER) is None
    turns.release(pending=False)
    assert repr(turns) == "<nobody>"
    assert claim(turns, OTHER) is not None


def test_where_others_wait_the_io_thread_serves_them_all(turns: Turns) -> None:
    assert claim(turns) is not None
    turns.waiting.add("another thread")
    turns.release(pending=True)
    assert claim(turns) is None
    assert turns.io_takes(0.0, 1, None)
    assert turns.holder is turns.io


def test_who_waits_for_nothing_that_is_pending_keeps_nobody_out(turns: Turns) -> None:
    assert claim(turns) is not None
    turns.waiting.add("another thread")
    turns.release(pending=False)
    assert not turns.io_wanted


def test_the_io_thread_takes_what_is_neglected(turns: Turns) -> None:
    assert not turns.io_takes(GRACE_S / 2, 1, None)
    assert turns.io_rests_until == GRACE_S / 2 + GRACE_S
    assert not turns.io_takes(GRACE_S * 9, 0, None)
    assert turns.io_rests_until is None
    assert turns.io_takes(GRACE_S * 9, 1, None)


def test_the_io_thread_takes_what_is_due(turns: Turns) -> None:
    assert not turns.io_takes(1.0, 0, 1.5)
    assert turns.io_rests_until == 1.5
    assert turns.io_takes(1.5, 0, 1.5)


def test_the_io_thread_leaves_a_caller_at_it(turns: Turns) -> None:
    claim(turns)
    assert not turns.io_takes(0.5, 1, 0.1)
    assert turns.io_rests_until is not None
    assert turns.io_rests_until > 0.5


def test_a_turn_without_end_is_taken_away(turns: Turns) -> None:
    claim(turns)
    assert turns.io_takes(STUCK_S, 1, None)
    assert (turns.holder, turns.doubtful, turns.left_inside) == (turns.io, True, True)
    assert repr(turns) == "<the I/O thread, doubtful>"


def test_an_interrupted_turn_ends_in_doubt(turns: Turns) -> None:
    claim(turns)
    assert not turns.give_up(OTHER)
    assert turns.give_up(MAIN)
    assert not turns.give_up(MAIN)
    assert claim(turns) is None
    assert (turns.doubtful, turns.left_inside) == (True, False)
    assert turns.io_takes(0.0, 0, None)


def test_a_call_in_the_middle_of_its_own_threads_turn_ends_that_in_doubt(turns: Turns) -> None:
    claim(turns)
    assert claim(turns) is None
    assert (turns.holder, turns.doubtful, turns.left_inside, turns.io_wanted) == (None, True, True, True)


def test_the_io_threads_turn_cannot_be_given_up_by_others() -> None:
    turns = Turns(IO, 0.0)
    assert not turns.give_up(IO)
    assert turns.holder is turns.io


def test_who_must_tell_the_io_thread(turns: Turns) -> None:
    assert not turns.io_must_be_told(0.0, 0, None)  # nothing will be missed
    assert turns.io_must_be_told(0.0, 1, None)  # it sleeps without end
    assert not turns.io_takes(0.0, 1, None)
    assert not turns.io_must_be_told(0.0, 1, None)  # it looks in a moment
    turns.io_rests_until = 10.0
    assert turns.io_must_be_told(0.0, 0, 1.0)
    claim(turns)
    assert turns.io_must_be_told(0.0, 2, None)
    assert turns.io_must_be_told(0.0, 1, None)
    turns.io_rests_until = 0.1
    assert not turns.io_must_be_told(0.0, 1, None)  # a lone caller leaves nothing behind
    turns.holder = turns.io
    assert not turns.io_must_be_told(0.0, 5, 0.0)


class TurnsMachine(RuleBasedStateMachine):
    """Threads that claim, release, are interrupted and get lost, in any order: one holder, and nothing is left undone."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(IO, 0.0)
        self.now = 0.0
        self.mine: dict[int, Any] = {}
        self.pending = 0

    @initialize()
    def shaken(self) -> None:
        self.turns.release(pending=False)

    @rule(seconds=st.sampled_from([0.0, 0.001, GRACE_S, 0.05, STUCK_S]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(0, 3))
    def calls(self, count: int) -> None:
        self.pending = count

    @rule(thread=st.sampled_from([MAIN, OTHER]))
    def claim(self, thread: int) -> None:
        before = self.turns.holder
        turn = self.turns.claim(LINK, thread, self.now)
        if turn is not None:
            assert before is None
            assert not self.turns.doubtful
            self.mine[thread] = turn

    @rule(thread=st.sampled_from([MAIN, OTHER]))
    def release(self, thread: int) -> None:
        turn = self.mine.pop(thread, None)
        if turn is not None and self.turns.holder is turn:
            self.turns.release(self.pending > 0)

    @rule(thread=st.sampled_from([MAIN, OTHER]))
    def interrupt(self, thread: int) -> None:
        had = self.mine.pop(thread, None)
        gave = self.turns.give_up(thread)
        assert not gave or (had is not None and self.turns.doubtful)

    @rule(mark=st.integers(0, 2), on=st.booleans())
    def wait(self, mark: int, on: bool) -> None:
        (self.turns.waiting.add if on else self.turns.waiting.discard)(mark)

    @precondition(lambda self: self.turns.holder is not self.turns.io)
    @rule()
    def io_looks(self) -> None:
        if self.turns.io_takes(self.now, self.pending, None):
            self.turns.doubtful = self.turns.left_inside = False
            if self.pending == 0:
                self.turns.release(pending=False)

    @precondition(lambda self: self.turns.holder is self.turns.io)
    @rule()
    def io_ends(self) -> None:
        self.turns.doubtful = False
        self.turns.release(pending=False)

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
