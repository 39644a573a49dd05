"""docs/performance.md with its figures: the tables between two marks of the page, the plot, and the JSON they are made of.

    python -m benchmarks.document              the page and the plot anew, from the JSON
    python -m benchmarks.document JSON SVG     the plot alone; runs where matplotlib is

Guarantees: nothing of the page but what stands between its marks is changed.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.contestant import ENTRIES, Entry
from benchmarks.stage import ROOT, Absent, python_for

__all__ = ["machine", "page", "write"]

_PAGE, _JSON, _PLOT = (ROOT / "docs" / f"performance.{suffix}" for suffix in ("md", "json", "svg"))
_BEGIN, _END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
_PLOTTER = Entry("the plot", "", ("matplotlib",), None, "matplotlib")


def machine() -> str:
    """What it was measured on."""
    model = "an unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    system = f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, {system}"


def page(before: str, measured: dict[str, Any]) -> str:
    """The page with these figures in place of those that it had."""
    results = measured["results"]
    head, _, rest = before.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    lines = [f"Measured at {measured['commit']} on {measured['machine']}.", ""]
    lines += [report.as_text(report.contestants_table(results, ENTRIES), markdown=True), ""]
    lines += ["![Multiples of the raw loop](performance.svg)", ""]
    lines += [report.as_text(report.bars_table(results), markdown=True), ""]
    remarks = report.remarks(results)
    if remarks:
        lines += [*(f"- {remark}" for remark in remarks), ""]
    return f"{head}{_BEGIN}\n" + "\n".join(lines) + f"\n{_END}{tail}"


def write(text: str) -> None:
    """Put these results, as JSON, into the documentation."""
    _JSON.write_text(text)
    _PAGE.write_text(page(_PAGE.read_text(), json.loads(text)))
    try:
        command = [python_for(_PLOTTER), "-m", "benchmarks.document", str(_JSON), str(_PLOT)]
        subprocess.run(command, check=True, cwd=ROOT, timeout=300)
    except Absent as error:
        print(f"no plot: matplotlib {error}", file=sys.stderr)


def _plot(source: Path, target: Path) -> None:
    """Round trips and rates of all contestants, as multiples of the raw loop's."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "plover", "font.size": 9}
    from matplotlib import pyplot

    results = json.loads(source.read_text())["results"]
    local = [name for name in ENTRIES if name not in ("tcp", "curve", "plover-tcp")]
    names = [name for name in local if "p50_us" in results.get(name, {}).get("to_reference", {})]
    figure, sides = pyplot.subplots(1, 2, figsize=(9, 0.6 + 0.3 * len(names)), sharey=True, layout="constrained")
    for side, key, title in (
        (sides[0], "p50_us", "warm no-op, p50 (less is better)"),
        (sides[1], "per_s", "pipelined no-ops (more is better)"),
    ):
        values = [results[name]["to_reference"].get(key, 0.0) for name in names]
        colours = ["#c1440e" if name == "plover" else "#7a8b99" for name in names]
        bars = side.barh([results[name]["title"] for name in names], values, color=colours)
        side.bar_label(bars, [f"{value:.2f}×" for value in values], padding=2)
        side.axvline(1.0, color="black", linewidth=0.8)
        side.set_xscale("log")
        side.set_xlim(right=max(values) * 3)
        side.set_title(title)
        side.set_xlabel("× the relayed raw pyzmq loop")
    sides[0].invert_yaxis()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _plot(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        write(_JSON.read_text())
