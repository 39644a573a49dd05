"""What a call costs: raw pyzmq loops and Plover beside them, and on demand Plover's peers.

    python -m benchmarks.calls                    floors and Plover: tables (some minutes)
    python -m benchmarks.calls --check            exit status 1 if a bar is missed
    python -m benchmarks.calls --regression       half a minute, for CI: exit status 1 if Plover is far slower than it was
    python -m benchmarks.calls --peers [NAME…]    the peers, too; what was measured at this commit is not measured again
    python -m benchmarks.calls --peers --document docs/performance.md, .json and .svg

All are measured by the same code (`benchmarks.measure`) in interleaved rounds (`benchmarks.match`), for only ratios mean
anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import document, report
from benchmarks.bars import judge
from benchmarks.contestant import ENTRIES, FLOORS, PEERS, PLOVER, REFERENCE
from benchmarks.match import FULL, QUICK, Settings, match
from benchmarks.stage import DIRECTORY, ROOT, Absent, Failed, player

#: What is measured of whom beside what, in this order.
_FLOORS = ("round_trips", "burst", "echo", "naps")
_PLOVER = ("round_trips", "burst", "first", "shipped", "echo", "shared", "naps")
_PEER = ("round_trips", "burst", "first", "echo", "naps")

#: Plover must not get slower than this, as multiples of the relayed loop: no bars, but what passes on a loaded machine, too.
_REGRESSION = {"p50_us": 2.5, "per_s": 0.12}


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """One contestant's result, whatever happens."""
    try:
        if name in PEERS:
            return match(name, settings, _PEER)
        if name == PLOVER:
            return match(name, settings, _PLOVER)
        if name == "plover-tcp":
            return match(name, settings, ("round_trips", "burst", "echo"), reference="curve", beside=None)
        kinds = tuple(kind for kind in _FLOORS if kind != "naps" or name in (REFERENCE, "tuned", "direct"))
        return match(name, settings, kinds, beside=None)
    except (Absent, Failed) as error:
        return {"title": ENTRIES[name].title, "absent": str(error)}


def regression(rounds: int = 20) -> list[str]:
    """What got far slower, if any: a single good round proves that nothing did, since noise only adds."""
    with player(REFERENCE, 1) as base, player(PLOVER, 1) as plover:
        left = dict(_REGRESSION)
        best: dict[str, float] = {}
        for _ in range(rounds):
            for kind, options, figure in (
                ("round_trips", {"count": 300, "limit_s": 5.0}, "p50_us"),
                ("burst", {"count": 1000}, "per_s"),
            ):
                ratio = plover.do(kind, **options)[figure] / base.do(kind, **options)[figure]
                pick = min if figure == "p50_us" else max
                best[figure] = pick(ratio, best.get(figure, ratio))
                if pick(ratio, _REGRESSION[figure]) == ratio:
                    left.pop(figure, None)
            if not left:
                break
    print(", ".join(f"{figure}: {value:.2f} of the relayed loop's" for figure, value in best.items()))
    return [f"{figure}: {best[figure]:.2f}, and once it was {limit} or better" for figure, limit in left.items()]


def _commit() -> str:
    """Of what is measured, and whether it was changed since; "" where there is no git."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)

    changed = git("diff", "--quiet", "HEAD", "--", "plover", "runtime", "benchmarks").returncode == 1
    return git("rev-parse", "--short", "HEAD").stdout.strip() + " with changes" * changed


def _results(names: list[str], settings: Settings, keep: bool) -> dict[str, Any]:
    """Everybody's results; kept in files, one each, so that an interrupted run goes on where it was."""
    directory = DIRECTORY / "results"
    directory.mkdir(parents=True, exist_ok=True)
    made_with = {"commit": _commit(), "settings": list(settings)}
    results = {}
    for name in names:
        path = directory / f"{name}.json"
        if keep and path.exists():
            stored = json.loads(path.read_text())
            if stored["made_with"] == made_with and "absent" not in stored["result"]:
                results[name] = stored["result"]
                continue
        began = time.monotonic()
        results[name] = measure(name, settings)
        path.write_text(json.dumps({"made_with": made_with, "result": results[name]}, indent=2) + "\n")
        print(f"{ENTRIES[name].title}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return results


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", nargs="*", metavar="NAME", choices=PEERS, help=f"of {', '.join(PEERS)}; or all")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=ENTRIES, help="these and no others")
    parser.add_argument("--quick", action="store_true", help="to see whether it works: few and small rounds")
    parser.add_argument("--rounds", type=int, help="of each match")
    parser.add_argument("--again", action="store_true", help="also what was measured at this commit")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a bar is missed")
    parser.add_argument(
        "--regression", action="store_true", help="for CI: far slower than before? Nothing else is done"
    )
    parser.add_argument("--document", action="store_true", help="write docs/performance.md, .json and .svg")
    arguments = parser.parse_args()
    if arguments.regression:
        slower = regression()
        print("\n".join(slower))
        return int(bool(slower))
    if arguments.document and arguments.quick:
        parser.error("--quick is to see whether it works: its figures are not for --document")
    settings = QUICK if arguments.quick else FULL
    if arguments.rounds:
        settings = settings._replace(rounds=arguments.rounds)
    names = [*FLOORS, PLOVER, "plover-tcp"]
    if arguments.peers is not None:
        names += arguments.peers or list(PEERS)
    keep = arguments.peers is not None and not arguments.again
    results = _results(arguments.only or names, settings, keep)
    text = json.dumps({"machine": document.machine(), "commit": _commit(), "results": results}, indent=2) + "\n"
    if arguments.output:
        arguments.output.write_text(text)
    if arguments.json:
        print(text, end="")
    else:
        print(report.as_text(report.contestants_table(results, ENTRIES)))
        print()
        print(report.as_text(report.bars_table(results)))
        print("\n".join(["", *report.remarks(results)]))
    if arguments.document:
        document.write(text)
    return int(arguments.check and any(verdict.is_missed for verdict in judge(results)))


if __name__ == "__main__":
    sys.exit(main())
