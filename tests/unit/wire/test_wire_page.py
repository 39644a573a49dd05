"""The status page, seen by a worker and by its daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plover.wire import page


@pytest.fixture
def sides() -> Iterator[tuple[page.StatusPage, page.StatusPage]]:
    """The worker's view and the daemon's, of one page."""
    fd = page.create()
    worker, daemon = page.StatusPage(fd), page.StatusPage(fd)
    os.close(fd)
    yield worker, daemon
    worker.close()
    daemon.close()


Sides = tuple[page.StatusPage, page.StatusPage]


def test_a_new_page_shows_nothing(sides: Sides) -> None:
    _, daemon = sides
    assert daemon.running() == (None, None)
    assert daemon.last() is None
    assert not daemon.running_is_cancelled()


def test_the_descriptor_is_not_inherited() -> None:
    fd = page.create()
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_what_runs_is_seen_with_its_begin(sides: Sides) -> None:
    worker, daemon = sides
    began = worker.begin(7, 2)
    assert daemon.running() == ((7, 2), began)
    assert daemon.last() == (7, 2)


def test_what_ended_is_last_and_runs_no_more(sides: Sides) -> None:
    worker, daemon = sides
    worker.begin(7, 2)
    worker.end()
    assert daemon.running() == (None, None)
    assert daemon.last() == (7, 2)


def test_what_runs_now_is_last_though_another_ended_before(sides: Sides) -> None:
    worker, daemon = sides
    worker.begin(7, 1)
    worker.end()
    worker.begin(8, 1)
    assert daemon.last() == (8, 1)


def test_ending_twice_keeps_what_ended(sides: Sides) -> None:
    worker, daemon = sides
    worker.begin(7, 1)
    worker.end()
    worker.end()
    assert daemon.last() == (7, 1)


def test_a_cancellation_reaches_only_its_attempt(sides: Sides) -> None:
    worker, daemon = sides
    daemon.cancel(7, 2)
    assert worker.is_cancelled(7, 2)
    assert not worker.is_cancelled(7, 1)
    worker.begin(7, 1)
    assert not worker.running_is_cancelled()
    worker.begin(7, 2)
    assert worker.running_is_cancelled()
    worker.end()
    assert not worker.running_is_cancelled()


def test_a_torn_pair_is_read_again(sides: Sides) -> None:
    """The worker begins another attempt between the reader's loads."""
    worker, daemon = sides
    worker.begin(7, 1)

    class Words:
        reads = 0

        def __getitem__(self, index: int) -> int:
            self.reads += 1
            if self.reads == 2:
                worker.begin(8, 1)
            return words[index]

        def release(self) -> None:
            words.release()

    words = daemon._words
    daemon._words = Words()  # type: ignore[assignment]
    attempt, began = daemon.running()
    assert attempt == (8, 1)
    assert began == worker.running()[1]


@given(call=st.integers(1, 2**48 - 1), attempt=st.integers(0, 2**16 - 1))
def test_a_word_holds_a_call_and_its_attempt(call: int, attempt: int) -> None:
    word = page.pack(call, attempt)
    assert 0 < word < 2**64
    assert page.unpack(word) == (call, attempt)


def test_no_word_is_no_attempt() -> None:
    assert page.unpack(0) is None


def test_a_page_that_was_written_all_over_is_not_whole(sides: Sides) -> None:
    worker, daemon = sides
    worker.begin(7, 1)
    assert daemon.is_whole()
    worker._map[:] = bytes(page.SIZE)
    assert not daemon.is_whole()


def test_a_word_that_never_stands_still_is_not_looked_at_for_ever(sides: Sides) -> None:
    _, daemon = sides

    class Restless(list[int]):
        def __getitem__(self, index: Any) -> Any:
            value = super().__getitem__(index)
            self[index] = value + 1
            return value

    daemon._words.release()
    daemon._words = Restless([1, 2, 3, 4])  # type: ignore[assignment]
    begun, begun_at = daemon.running()
    assert begun is not None
    assert begun_at is not None
    daemon._words = memoryview(daemon._map).cast("Q")
