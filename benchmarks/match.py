"""A match: a contestant, the reference and Plover, measured in turns.

The machines are noisy, so only ratios mean anything, and only of what was measured within the same seconds: each figure of a
contestant is divided by the mean of the reference's just before and just after, and the medians of these over the rounds are
the result. Where a contestant fails at something, that is said in its result, and the rest is measured.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.contestant import ENTRIES, PLOVER, REFERENCE
from benchmarks.stage import Failed, Player, busy, fresh_client_s, player, versions

__all__ = ["FULL", "QUICK", "Settings", "match"]

Figures = dict[str, float]


#: No further round of a kind begins after so long.
_KIND_S = 90.0


class Settings(NamedTuple):
    """How much is measured."""

    rounds: int
    calls: int
    limit_s: float  # of the calls of one round
    burst: int
    array_bytes: int
    naps: int
    shipped_bytes: int


FULL = Settings(5, 1000, 4.0, 2000, 128_000_000, 1000, 1 << 20)
QUICK = Settings(2, 200, 2.0, 500, 16_000_000, 200, 1 << 20)


class _Series:
    """What was measured in all rounds, and the ratios of each round."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, figures: Figures) -> None:
        for name, value in figures.items():
            self._values.setdefault(name, []).append(value)

    def add_ratios(self, figures: Figures, to: list[Figures]) -> None:
        for name in figures.keys() & to[0].keys():
            self.add({name: figures[name] / statistics.fmean(each[name] for each in to)})

    def medians(self) -> Figures:
        return {name: statistics.median(values) for name, values in self._values.items()}


def match(
    name: str,
    settings: Settings,
    kinds: tuple[str, ...],
    reference: str = REFERENCE,
    beside: str | None = PLOVER,
) -> dict[str, Any]:
    """Measure a contestant.

    Args:
        name: whom.
        settings: how much.
        kinds: what: ``round_trips``, ``burst``, ``first``, ``shipped``, ``echo``, ``shared`` (with one worker, the last of
            this one alone), ``naps`` (with two).
        reference: whose multiples its figures are.
        beside: who else is measured in the same rounds, so that the two can be compared; None for nobody.

    Returns:
        ``medians``, their multiples ``to_reference``, ``beside`` (that one's figures as multiples of this one's), what
        ``failed`` and why, how ``busy`` the machine was before and after, and the ``versions``.

    Raises:
        Absent: the contestant cannot be had.
        Failed: it cannot be started.
    """
    if beside == name:
        beside = None
    result: dict[str, Any] = {"title": ENTRIES[name].title, "reference": reference, "versions": versions(ENTRIES[name])}
    before = busy()
    single = tuple(kind for kind in kinds if kind != "naps")
    own, ratios, others = _Series(), _Series(), _Series()
    failed: dict[str, str] = {}
    for workers, asked in ((1, single), (2, ("naps",) if "naps" in kinds else ())):
        if asked:
            _play(name, reference, beside, workers, asked, settings, own, ratios, others, failed)
    result |= {"medians": own.medians(), "to_reference": ratios.medians(), "beside": others.medians()}
    return result | {"failed": failed, "busy": [before, busy()]}


def _play(
    name: str,
    reference: str,
    beside: str | None,
    workers: int,
    kinds: tuple[str, ...],
    settings: Settings,
    own: _Series,
    ratios: _Series,
    others: _Series,
    failed: dict[str, str],
) -> None:
    with contextlib.ExitStack() as stack:
        seats = {each: stack.enter_context(player(each, workers)) for each in {reference, name, beside} - {None}}
        me, base = seats[name], seats[reference]
        for kind in kinds:
            try:
                pace = _pace(kind, me, settings)
                give_up = time.monotonic() + _KIND_S
                for number in range(settings.rounds):
                    if number and time.monotonic() > give_up:
                        break
                    turns = [me] if beside is None else [me, seats[beside]]
                    found: dict[str, Figures] = {}
                    first = pace(base)
                    for each in turns if number % 2 else reversed(turns):
                        found[each.name] = pace(each)
                    last = pace(base)
                    mine = found[name]
                    own.add(mine)
                    ratios.add_ratios(mine, [first, last])
                    if beside is not None:
                        others.add_ratios(found[beside], [mine])
            except Failed as error:
                failed[kind] = str(error)


def _pace(kind: str, me: Player, settings: Settings) -> Callable[[Player], Figures]:
    """How a kind is measured; everybody has warmed up, and a slow contestant slows nobody down by more than seconds."""
    if kind == "round_trips":
        me.do("round_trips", count=settings.calls // 4, limit_s=settings.limit_s)
        return lambda each: each.do("round_trips", count=settings.calls, limit_s=settings.limit_s)
    if kind == "burst":
        p50_us = me.do("round_trips", count=30, limit_s=settings.limit_s)["p50_us"]
        count = max(100, min(settings.burst, int(settings.limit_s * 1e6 / p50_us)))
        return lambda each: each.do("burst", count=count)
    if kind == "echo":
        return lambda each: each.do("echo", size_bytes=settings.array_bytes)
    if kind == "shared":
        return lambda each: each.do("shared", size_bytes=settings.array_bytes) if each is me else {}
    if kind == "shipped":
        return lambda each: each.do("shipped", size_bytes=settings.shipped_bytes)
    if kind == "first":
        return _fresh
    assert kind == "naps"
    return lambda each: each.do("naps", count=settings.naps)


def _fresh(each: Player) -> Figures:
    """Seconds of a fresh client until its first call is done, and beyond what Python and NumPy take by themselves."""
    nobody_s = fresh_client_s("nobody", "", each.name)
    first_s = fresh_client_s(each.name, each.address, each.name)
    return {"first_s": first_s, "first_beyond_s": first_s - nobody_s}
