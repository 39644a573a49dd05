"""`map`: order, bounds, laziness and early exits, over futures that the test completes."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from plover import serialize
from plover.client.futures import Future
from plover.client.mapping import IN_FLIGHT, expected, map_calls
from plover.errors import NotSerializable
from plover.exceptions import pack_exception
from plover.wire.messages import Receipt


class Desk:
    """Calls that were submitted, each ended by the test or, with `eager`, at once."""

    def __init__(self, eager: bool = False) -> None:
        self.calls: list[tuple[tuple[Any, ...], Future]] = []
        self._eager = eager

    def submit(self, *args: Any) -> Future:
        serialize.pack_arguments("double", args, {})
        self.calls.append((args, Future(f"c-{len(self.calls)}")))
        if self._eager:
            self.end(len(self.calls) - 1)
        return self.calls[-1][1]

    def end(self, number: int) -> None:
        """Succeeds with its argument doubled; an argument that is an exception fails with it."""
        args, future = self.calls[number]
        if isinstance(args[0], Exception):
            future.deliver(True, pack_exception(args[0]), Receipt())
        else:
            future.deliver(False, serialize.pack(args[0] * 2), Receipt())

    def map(self, items: Iterable[Any], **more: Any) -> Iterator[Any]:
        choices: dict[str, Any] = {
            "ordered": True,
            "return_exceptions": False,
            "in_flight": None,
            "name": "double",
            **more,
        }
        return map_calls(self.submit, ((item,) for item in items), **choices)

    @property
    def cancelled(self) -> list[int]:
        return [number for number, (_, future) in enumerate(self.calls) if future.cancelled()]


both = pytest.mark.parametrize("ordered", [True, False])


@both
def test_every_item_has_its_result(ordered: bool) -> None:
    assert sorted(Desk(eager=True).map(range(200), ordered=ordered)) == [2 * n for n in range(200)]


def test_results_come_in_the_order_of_the_items() -> None:
    desk = Desk()
    results = desk.map([1, 2, 3])
    for number in (2, 1, 0):
        desk.end(number)
    assert list(results) == [2, 4, 6]


def test_unordered_results_come_as_they_end() -> None:
    desk = Desk()
    results = desk.map([1, 2, 3], ordered=False)
    found = []
    for number in (2, 0, 1):
        desk.end(number)
        found.append(next(results))
    assert found == [6, 2, 4]
    assert list(results) == []


@both
def test_the_first_calls_are_sent_when_it_is_called(ordered: bool) -> None:
    desk = Desk()
    desk.map(range(1000), ordered=ordered)
    assert len(desk.calls) == IN_FLIGHT


@both
def test_never_more_than_the_bound_are_unread(ordered: bool) -> None:
    desk = Desk(eager=True)
    read = 0
    for _ in desk.map(range(20), ordered=ordered, in_flight=3):
        read += 1
        assert len(desk.calls) <= 3 + read
    assert read == 20


@both
def test_an_endless_iterable_is_read_as_calls_are_made(ordered: bool) -> None:
    desk = Desk(eager=True)
    results = desk.map(itertools.count(), ordered=ordered, in_flight=2)
    assert len(set(itertools.islice(results, 10))) == 10
    assert len(desk.calls) <= 12


@both
def test_no_items_are_no_calls(ordered: bool) -> None:
    desk = Desk()
    assert list(desk.map([], ordered=ordered)) == []
    assert desk.calls == []


@both
def test_an_exception_is_raised_and_cancels_the_rest(ordered: bool) -> None:
    desk = Desk()
    results = desk.map([1, ValueError("bad"), 3, 4], ordered=ordered)
    desk.end(0)
    assert next(results) == 2
    desk.end(1)
    with pytest.raises(ValueError, match="bad"):
        next(results)
    assert desk.cancelled == [2, 3]
    assert list(results) == []


@both
def test_exceptions_can_take_their_items_place(ordered: bool) -> None:
    desk = Desk(eager=True)
    found = list(desk.map([1, ValueError("bad"), 3], ordered=ordered, return_exceptions=True))
    assert [each for each in found if isinstance(each, int)] in ([2, 6], [6, 2])
    assert [str(each) for each in found if isinstance(each, ValueError)] == ["bad"]


@both
def test_what_cannot_be_sent_takes_its_items_place_too(ordered: bool) -> None:
    desk = Desk(eager=True)
    items = [threading.Lock(), 1, threading.Lock(), 2]
    found = list(desk.map(items, ordered=ordered, return_exceptions=True, in_flight=2))
    assert sorted(each for each in found if isinstance(each, int)) == [2, 4]
    refused = [each for each in found if isinstance(each, NotSerializable)]
    assert [each.path for each in refused] == ["double → argument 0 → threading.Lock"] * 2
    assert len({id(each) for each in refused}) == 2
    if ordered:
        assert [type(each) for each in found] == [NotSerializable, int, NotSerializable, int]


@both
def test_what_cannot_be_sent_is_raised_and_cancels_the_rest(ordered: bool) -> None:
    desk = Desk()
    with pytest.raises(NotSerializable, match="double"):
        desk.map([1, 2, threading.Lock()], ordered=ordered)
    assert desk.cancelled == [0, 1]


def test_its_line_says_how_far_it_is() -> None:
    desk = Desk()
    items = range(1, 10)
    results = desk.map(items, in_flight=4, total=expected((items, "abcdefghijk")))
    assert repr(results) == "<map of double: 0 of 9 done, 0 read>"
    for number in (0, 1, 3):
        desk.end(number)
    assert next(results) == 2
    assert repr(results) == "<map of double: 3 of 9 done, 1 read>"
    results.close()  # type: ignore[attr-defined]
    assert repr(results) == "<map of double: 1 of 9 done, 1 read, closed>"


@pytest.mark.parametrize("iterables", [(), (itertools.count(),), ("abc", iter(lambda: 0, 1))])
def test_the_line_of_one_without_a_known_end(iterables: tuple[Iterable[Any], ...]) -> None:
    results = Desk(eager=True).map([1, 2], total=expected(iterables))
    assert list(results) == [2, 4]
    assert repr(results) == "<map of double: 2 done, 2 read>"


@both
def test_leaving_early_cancels_what_is_pending(ordered: bool) -> None:
    desk = Desk()
    results = desk.map(range(10), ordered=ordered, in_flight=4)
    desk.end(0)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert desk.cancelled == [1, 2, 3, 4]


@both
def test_an_iterator_that_nobody_asked_cancels_its_calls_when_it_goes(ordered: bool) -> None:
    desk = Desk()
    results = desk.map(range(10), ordered=ordered, in_flight=4)
    assert len(desk.calls) == 4
    del results
    gc.collect()
    assert desk.cancelled == [0, 1, 2, 3]


@both
def test_an_iterable_that_raises_cancels_what_was_sent(ordered: bool) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise LookupError("no more")

    desk = Desk()
    with pytest.raises(LookupError, match="no more"):
        desk.map(items(), ordered=ordered)
    assert desk.cancelled == [0, 1]


@both
def test_an_iterable_that_raises_later_is_told_and_cancels_the_rest(ordered: bool) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise LookupError("no more")

    desk = Desk()
    results = desk.map(items(), ordered=ordered, in_flight=2)
    desk.end(0)
    with pytest.raises(LookupError, match="no more"):
        next(results)
    assert desk.cancelled == [1]


@both
@pytest.mark.parametrize("in_flight", [0, -1])
def test_a_bound_below_one_is_refused(ordered: bool, in_flight: int) -> None:
    desk = Desk()
    with pytest.raises(ValueError, match=f"in_flight is at least 1, not {in_flight}"):
        desk.map([1], ordered=ordered, in_flight=in_flight)
    assert desk.calls == []


def test_a_progress_bar_counts_what_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    results = Desk(eager=True).map(range(3), progress=True, total=3)
    assert list(results) == [0, 2, 4]
    shown = capsys.readouterr().err
    assert "double" in shown
    assert "3/3" in shown


def test_a_progress_bar_that_is_left_takes_back_what_is_pending(capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk()
    results = desk.map(range(5), progress=True)
    desk.end(0)
    assert next(results) == 0
    del results
    gc.collect()
    assert desk.cancelled == [1, 2, 3, 4]


def test_without_tqdm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"draws with tqdm: pip install 'plover-gpu\[notebook\]'"):
        Desk().map([1], progress=True)
