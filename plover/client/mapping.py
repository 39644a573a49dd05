"""`map`: many calls of one function, ordered or as they come, bounded in flight.

Guarantees: the first calls are sent when `map` is called, not when its iterator is first asked; never more than
`in_flight` calls are unfinished or unread; leaving the iterator early (an error, `break`, garbage collection) cancels what
is still pending. Inputs are read as calls are made, so an endless iterable is fine.
"""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from plover.client.futures import Future

__all__ = ["map_calls"]

#: Enough to keep several workers busy with short calls, few enough that their results fit into memory.
IN_FLIGHT = 64


def map_calls(
    submit: Callable[..., Future],
    items: Iterable[tuple[Any, ...]],
    *,
    ordered: bool,
    return_exceptions: bool,
    in_flight: int | None,
) -> Iterator[Any]:
    """Submit a call for each item's arguments, and give back an iterator over the results.

    Args:
        submit: makes one call.
        items: the positional arguments of each call.
        ordered: results in the order of the items; else in the order in which they end.
        return_exceptions: an exception takes its result's place instead of being raised.
        in_flight: how many calls may be unfinished or unread at a time.
    """
    limit = IN_FLIGHT if in_flight is None else in_flight
    if limit < 1:
        raise ValueError(f"in_flight is at least 1, not {limit}")
    source = iter(items)
    first = collections.deque(_submit_next(submit, source, limit))
    results = (_in_order if ordered else _as_they_end)(submit, source, first, return_exceptions)
    return results


def _submit_next(submit: Callable[..., Future], source: Iterator[tuple[Any, ...]], count: int) -> Iterator[Future]:
    for _ in range(count):
        try:
            args = next(source)
        except StopIteration:
            return
        yield submit(*args)


def _in_order(
    submit: Callable[..., Future],
    source: Iterator[tuple[Any, ...]],
    pending: collections.deque[Future],
    return_exceptions: bool,
) -> Iterator[Any]:
    try:
        while pending:
            value = _value(pending[0], return_exceptions)
            pending.popleft()
            pending.extend(_submit_next(submit, source, 1))
            yield value
    finally:
        for future in pending:
            future.cancel()


def _as_they_end(
    submit: Callable[..., Future],
    source: Iterator[tuple[Any, ...]],
    first: collections.deque[Future],
    return_exceptions: bool,
) -> Iterator[Any]:
    pending = set(first)
    try:
        while pending:
            done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for ended in done:
                future = cast(Future, ended)
                value = _value(future, return_exceptions)
                pending.remove(future)
                pending.update(_submit_next(submit, source, 1))
                yield value
    finally:
        for future in pending:
            future.cancel()


def _value(future: Future, return_exceptions: bool) -> Any:
    if return_exceptions:
        error = future.exception()
        if error is not None:
            return error
    return future.result()
