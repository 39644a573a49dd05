"""Results as tables: for a terminal and, the same, for docs/performance.md. Pure.

Assumes: results as `benchmarks.match.match` has them, or ``{"title": …, "absent": why}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.bars import judge
from benchmarks.contestant import REFERENCE

__all__ = ["QUIET", "as_text", "bars_table", "contestants_table", "remarks"]

#: The share of the cores that may be in use, before and after a match, on a machine that is called quiet.
QUIET = 0.1

_COLUMNS = ("", "no-op p50", "p99", "× two hops", "pipelined", "128 MB, both ways", "2 workers", "first call")


def contestants_table(results: Mapping[str, Any], order: Iterable[str]) -> list[list[str]]:
    """A row for each contestant that was to be measured."""
    return [list(_COLUMNS), *(_row(results[name]) for name in order if name in results)]


def _row(result: Mapping[str, Any]) -> list[str]:
    if "absent" in result:
        return [result["title"], "absent"] + [""] * (len(_COLUMNS) - 2)
    medians, failed = result["medians"], result["failed"]
    ratios = result["to_reference"] if result["reference"] == REFERENCE else {}

    def cell(kind: str, figure: str, form: str, of: Mapping[str, float] = medians) -> str:
        if figure in of:
            return form.format(of[figure])
        return "failed" if kind in failed else "–"

    return [
        result["title"],
        cell("round_trips", "p50_us", "{:,.0f} µs"),
        cell("round_trips", "p99_us", "{:,.0f} µs"),
        cell("round_trips", "p50_us", "{:.2f}", ratios),
        cell("burst", "per_s", "{:,.0f}/s"),
        cell("echo", "gb_s", "{:.2f} GB/s"),
        cell("naps", "of_ideal", "{:.0%}"),
        cell("first", "first_beyond_s", "{:+.2f} s"),
    ]


def bars_table(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each bar."""
    rows = [["", "beside", "bar", "measured", ""]]
    for verdict in judge(results):
        bar = verdict.bar
        sign = "≥" if bar.is_least else "≤"
        measured = "–" if verdict.value is None else f"{verdict.value:.2f}{bar.unit}"
        rows.append([bar.what, bar.than, f"{sign} {bar.limit:g}{bar.unit}", measured, verdict.word])
    return rows


def remarks(results: Mapping[str, Any]) -> list[str]:
    """Who was absent, what failed, and where the machine was in use by others."""
    said = []
    for result in results.values():
        if "absent" in result:
            said.append(f"{result['title']} was not measured: {result['absent']}")
        for kind, reason in result.get("failed", {}).items():
            said.append(f"{result['title']} failed at {kind}: {reason}")
        if max(result.get("busy", [0.0])) > QUIET:
            said.append(f"{result['title']}: the machine was not quiet ({max(result['busy']):.0%} of its cores in use)")
    return said


def as_text(table: list[list[str]], markdown: bool = False) -> str:
    """A table for a terminal, or as Markdown."""
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in table]
        lines.insert(1, "| --- |" + " ---: |" * (len(table[0]) - 1))
        return "\n".join(lines)
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
