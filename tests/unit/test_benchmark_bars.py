"""What the benchmarks make of figures: bars, tables, the page."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import document, report
from benchmarks.bars import BARS, judge


def result(title: str, beside: dict[str, float] | None = None, **figures: float) -> dict[str, Any]:
    return {
        "title": title,
        "reference": "relay",
        "medians": figures,
        "to_reference": figures,
        "beside": beside or {},
        "failed": {},
        "busy": [0.0, 0.0],
    }


def words(results: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(verdict.bar.what, verdict.bar.than): verdict.word for verdict in judge(results)}


def test_without_figures_no_bar_is_met_or_missed() -> None:
    assert set(words({}).values()) == {"not measured"}
    absent = {"ray-actor": {"title": "Ray", "absent": "cannot be installed"}}
    assert set(words(absent).values()) == {"not measured"}


@pytest.mark.parametrize(("p50", "word"), [(1.15, "met"), (1.16, "missed")])
def test_at_most(p50: float, word: str) -> None:
    assert words({"plover": result("Plover", p50_us=p50)})["warm no-op, p50", "raw pyzmq, relayed"] == word


@pytest.mark.parametrize(("rate", "word"), [(1.0, "met"), (0.99, "missed")])
def test_at_least(rate: float, word: str) -> None:
    assert words({"plover": result("Plover", per_s=rate)})["pipelined no-ops", "raw pyzmq, relayed"] == word


def test_plover_is_so_many_times_ahead_of_a_peer() -> None:
    results = {"dask": result("Dask", {"p50_us": 0.25}), "parsl": result("Parsl", {"p50_us": 0.5})}
    found = {verdict.bar.than: verdict for verdict in judge(results) if verdict.bar.what == "warm no-op, ahead of"}
    assert (found["Dask"].value, found["Dask"].word) == (4.0, "met")
    assert (found["Parsl"].value, found["Parsl"].word) == (2.0, "missed")


def test_the_best_peer_is_the_one_that_comes_closest() -> None:
    results = {"pool": result("Pool", {"gb_s": 4.0}), "loky": result("Loky", {"gb_s": 1.5}), "rpyc": result("RPyC")}
    assert words(results)["128 MB there and back", "the best peer"] == "missed"


def test_every_bar_is_in_the_table() -> None:
    table = report.bars_table({"plover": result("Plover", p50_us=1.0)})
    assert len(table) == 1 + len(BARS)
    assert table[1] == ["warm no-op, p50", "raw pyzmq, relayed", "≤ 1.15×", "1.00×", "met"]


def test_who_could_not_be_measured_is_named() -> None:
    failing = result("Dask", p50_us=900.0) | {"failed": {"echo": "no answer within 60 s"}, "busy": [0.5, 0.0]}
    results = {"ray-actor": {"title": "Ray, actor", "absent": "cannot be installed: no such package"}, "dask": failing}
    text = report.as_text(report.contestants_table(results, ["dask", "ray-actor"]))
    assert "absent" in text
    assert "failed" in text
    assert report.remarks(results) == [
        "Ray, actor was not measured: cannot be installed: no such package",
        "Dask failed at echo: no answer within 60 s",
        "Dask: the machine was not quiet (50% of its cores in use)",
    ]


def test_the_page_changes_between_its_marks_alone() -> None:
    measured = {"machine": "2 cores", "commit": "abc", "results": {"plover": result("Plover", p50_us=1.0)}}
    before = "# Performance\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nThe rest.\n"
    after = document.page(before, measured)
    assert after.startswith("# Performance\n<!-- figures: begin -->\n")
    assert after.endswith("<!-- figures: end -->\nThe rest.\n")
    assert "old" not in after
    assert "| Plover |" in after
    assert document.page(after, measured) == after
