"""What Plover is to reach, as ratios, and whether the results show it. Pure.

Guarantees: a bar whose figures were not measured is neither met nor missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.contestant import PEERS

__all__ = ["BARS", "Bar", "Verdict", "judge"]

Results = Mapping[str, Any]


class Bar(NamedTuple):
    """One promise: `value` of the results is at most (or, if `is_least`, at least) `limit`; KeyError if not measured."""

    what: str
    than: str
    limit: float
    is_least: bool
    value: Callable[[Results], float]
    unit: str = "×"


class Verdict(NamedTuple):
    """A bar and what was measured; None for nothing."""

    bar: Bar
    value: float | None

    @property
    def is_missed(self) -> bool:
        """Measured, and on the wrong side."""
        if self.value is None:
            return False
        return self.value < self.bar.limit if self.bar.is_least else self.value > self.bar.limit

    @property
    def word(self) -> str:
        """For the table."""
        return "not measured" if self.value is None else "missed" if self.is_missed else "met"


def _own(part: str, figure: str, name: str = "plover") -> Callable[[Results], float]:
    return lambda results: float(results[name][part][figure])


def _beside(peer: str, figure: str) -> Callable[[Results], float]:
    return lambda results: float(results[peer]["beside"][figure])


def _ahead(*peers: str) -> Callable[[Results], float]:
    """How many times as long as a call of Plover's a call of the fastest of these peers takes."""
    return lambda results: min(1 / results[peer]["beside"]["p50_us"] for peer in peers)


def _best(figure: str) -> Callable[[Results], float]:
    """Against the peer that comes closest."""

    def value(results: Results) -> float:
        found = [results[peer].get("beside", {}) for peer in PEERS if peer in results]
        ratios = [each[figure] for each in found if figure in each]
        if not ratios:
            raise KeyError(figure)
        return min(ratios)

    return value


BARS = (
    Bar("warm no-op, p50", "raw pyzmq, relayed", 1.15, False, _own("to_reference", "p50_us")),
    Bar("warm no-op, p99", "raw pyzmq, relayed", 2.0, False, _own("to_reference", "p99_us")),
    Bar("warm no-op, p50", "a Ray actor", 0.5, False, _beside("ray-actor", "p50_us")),
    Bar("warm no-op, ahead of", "Parsl", 3.0, True, _ahead("parsl")),
    Bar("warm no-op, ahead of", "Dask", 3.0, True, _ahead("dask")),
    Bar("warm no-op, ahead of", "ipyparallel", 3.0, True, _ahead("ipyparallel")),
    Bar("warm no-op, ahead of", "Celery", 3.0, True, _ahead("celery")),
    Bar("pipelined no-ops", "raw pyzmq, relayed", 1.0, True, _own("to_reference", "per_s")),
    Bar("pipelined no-ops", "a Ray actor", 8.0, True, _beside("ray-actor", "per_s")),
    Bar("pipelined no-ops", "ProcessPoolExecutor", 2.5, True, _beside("pool", "per_s")),
    Bar("128 MB there and back", "memcpy", 0.45, True, _own("medians", "of_memcpy")),
    Bar("128 MB there and back", "the best peer", 2.0, True, _best("gb_s")),
    Bar("128 MB born shared", "memcpy", 1.5, True, _own("medians", "shared_of_memcpy")),
    Bar("128 MB over tcp", "raw pyzmq, tcp with CURVE", 1.8, True, _own("to_reference", "gb_s", "plover-tcp")),
    Bar("a new function of 1 MB, first call", "raw pyzmq", 1.5, False, _own("to_reference", "first_ms")),
    Bar("a new function of 1 MB, second call", "raw pyzmq", 1.2, False, _own("to_reference", "second_ms")),
    Bar("1,000 × 1 ms on two workers", "the ideal", 0.85, True, _own("medians", "of_ideal")),
    Bar("a fresh client's first call", "Python and NumPy", 0.15, False, _own("medians", "first_beyond_s"), " s more"),
)


def judge(results: Results) -> list[Verdict]:
    """Each bar with what the results say of it."""
    verdicts = []
    for bar in BARS:
        try:
            value: float | None = bar.value(results)
        except KeyError:
            value = None
        verdicts.append(Verdict(bar, value))
    return verdicts
