"""`map`: many calls of one function, ordered or as they come, bounded in flight.

Guarantees: the first calls are sent when `map` is called, not when its iterator is first asked; never more than
`in_flight` calls are unfinished or unread; leaving the iterator early (an error, `break`, garbage collection) cancels what
is still pending. Inputs are read as calls are made, so an endless iterable is fine.
"""

from __future__ import annotations

import concurrent.futures
import functools
import operator
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, cast

from plover.client.futures import Future
from plover.errors import PloverError
from plover.tracebacks import leave_out_ours

__all__ = ["expected", "map_calls"]

#: Enough to keep several workers busy with short calls, few enough that their results fit into memory.
IN_FLIGHT = 64


def map_calls(
    submit: Callable[..., Future[Any]],
    items: Iterable[tuple[Any, ...]],
    *,
    ordered: bool,
    return_exceptions: bool,
    in_flight: int | None,
    name: str,
    total: int | None = None,
    progress: bool = False,
) -> Iterator[Any]:
    """Submit a call for each item's arguments, and give back an iterator over the results.

    Args:
        submit: makes one call.
        items: the positional arguments of each call.
        ordered: results in the order of the items; else in the order in which they end.
        return_exceptions: an exception takes its result's place instead of being raised, also that of a call which could not
            be sent.
        in_flight: how many calls may be unfinished or unread at a time.
        name: the function's.
        total: how many items there will be, where that is known.
        progress: show a progress bar, which counts the results that were read.

    Raises:
        ImportError: a progress bar is wanted, and tqdm is not installed.
    """
    show = _bar(name, total) if progress else None
    limit = IN_FLIGHT if in_flight is None else in_flight
    if limit < 1:
        raise ValueError(f"in_flight is at least 1, not {limit}")
    source = iter(items)
    pending: dict[Future[Any], None] = {}
    if return_exceptions:
        submit = functools.partial(_submit_or_fail, submit)
    try:
        for future in _submit_next(submit, source, limit):
            pending[future] = None
    except BaseException as error:  # an iterable that raises, an argument that cannot travel
        for future in pending:
            future.cancel()
        leave_out_ours(error)
        raise
    take = _in_order if ordered else _as_they_end
    values = take(submit, source, pending, return_exceptions)
    return _Results(values if show is None else _counted(values, show), pending, name, total)


def expected(iterables: Iterable[Iterable[Any]]) -> int | None:
    """How many items the shortest has, where all say so."""
    return min((operator.length_hint(each) for each in iterables), default=0) or None


def _submit_or_fail(submit: Callable[..., Future[Any]], *args: Any) -> Future[Any]:
    """A call that cannot be sent, as one that failed."""
    try:
        return submit(*args)
    except PloverError as error:
        leave_out_ours(error)
        future: Future[Any] = Future("unsent")
        future.set_exception(error)
        return future


def _bar(name: str, total: int | None) -> Callable[[Iterator[Any]], Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without ipywidgets: the bar is one of text there
            from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True draws with tqdm: pip install 'plover-gpu[notebook]', or tqdm itself"
        ) from error
    return functools.partial(tqdm, desc=name, total=total)


def _counted(values: Generator[Any, None, None], show: Callable[[Iterator[Any]], Any]) -> Generator[Any, None, None]:
    try:
        yield from show(values)
    finally:
        values.close()


class _Results(Iterator[Any]):
    """The results as an iterator that takes back what is pending when it is left, even if it was never asked."""

    def __init__(
        self, values: Generator[Any, None, None], pending: dict[Future[Any], None], name: str, total: int | None
    ) -> None:
        self._values = values
        self._pending = pending
        self._name = name
        self._total = total
        self._read = 0
        self._closed = False

    def __repr__(self) -> str:
        from plover.looks import map_text

        done = self._read + sum(future.has_ended() for future in list(self._pending))
        return map_text(self._name, done, self._read, self._total, self._closed)

    def __next__(self) -> Any:
        try:
            value = next(self._values)
            self._read += 1
            return value
        except StopIteration:
            raise
        except BaseException as error:
            leave_out_ours(error, self._pending)
            self.close()
            raise

    def close(self) -> None:
        """Cancel what is pending."""
        self._closed = True
        self._values.close()
        pending = list(self._pending)
        self._pending.clear()
        for future in pending:
            future.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_pending"):  # else an interrupt struck while it was made
            self.close()


def _submit_next(
    submit: Callable[..., Future[Any]], source: Iterator[tuple[Any, ...]], count: int
) -> Iterator[Future[Any]]:
    for _ in range(count):
        try:
            args = next(source)
        except StopIteration:
            return
        yield submit(*args)


def _in_order(
    submit: Callable[..., Future[Any]],
    source: Iterator[tuple[Any, ...]],
    pending: dict[Future[Any], None],
    return_exceptions: bool,
) -> Generator[Any, None, None]:
    while pending:
        first = next(iter(pending))
        value = _value(first, return_exceptions)
        del pending[first]
        pending.update(dict.fromkeys(_submit_next(submit, source, 1)))
        yield value


def _as_they_end(
    submit: Callable[..., Future[Any]],
    source: Iterator[tuple[Any, ...]],
    pending: dict[Future[Any], None],
    return_exceptions: bool,
) -> Generator[Any, None, None]:
    while pending:
        done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
        for ended in done:
            future = cast("Future[Any]", ended)
            value = _value(future, return_exceptions)
            del pending[future]
            pending.update(dict.fromkeys(_submit_next(submit, source, 1)))
            yield value


def _value(future: Future[Any], return_exceptions: bool) -> Any:
    if return_exceptions:
        error = future.exception()
        if error is not None:
            return error
    return future.result()
