"""That the benchmarks run, and what they say where a contestant cannot. No figure is looked at."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from benchmarks import arrays, scale, stage
from benchmarks.contestant import ENTRIES, Entry
from benchmarks.match import QUICK, match
from benchmarks.stage import Absent, Failed, fresh_client_s, player, python_for


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "DIRECTORY", tmp_path)


def test_a_match_of_plover(monkeypatch: pytest.MonkeyPatch) -> None:
    small = QUICK._replace(rounds=1, calls=50, burst=100, array_bytes=1 << 20, naps=20, shipped_bytes=1 << 16)
    kinds = ("round_trips", "burst", "first", "shipped", "echo", "naps")
    result = match("plover", small, kinds)
    assert result["failed"] == {}
    figures = {"p50_us", "p99_us", "per_s", "first_s", "first_ms", "second_ms", "gb_s", "of_memcpy", "of_ideal"}
    assert figures <= result["medians"].keys()
    assert {"p50_us", "per_s", "first_ms", "gb_s"} <= result["to_reference"].keys()


@pytest.mark.parametrize("name", ["tuned", "direct", "tcp", "curve", "plover-tcp", "pool"])
def test_every_contestant_of_this_environment(name: str) -> None:
    with player(name, 2) as running:
        assert running.do("round_trips", count=5, limit_s=5.0)["p50_us"] > 0
        assert running.do("burst", count=20)["per_s"] > 0
        assert running.do("echo", size_bytes=1 << 20)["gb_s"] > 0
        assert running.do("naps", count=20)["of_ideal"] > 0


def test_the_cost_of_a_call_at_scale() -> None:
    sizes = [(50, 1), (200, 8)]
    costs = scale.measure(sizes, clients=20, calls=100, rounds=1)
    assert [(cost.queued, cost.workers) for cost in costs] == sizes
    assert all(cost.call_us > 0 for cost in costs)


def test_large_arrays() -> None:
    found = arrays.measure(1, 8_000_000, [1 << 20])
    assert set(arrays.BARS) < set(found["shares"])
    assert set(found["sweep_us"][1 << 20]) == {"frames", "segments"}


def test_a_peer_that_cannot_be_installed(tmp_path: Path) -> None:
    entry = Entry("a peer", "", (str(tmp_path / "nowhere"),), None, "peer")
    with pytest.raises(Absent, match="cannot be installed: .*nowhere"):
        python_for(entry)


def test_a_peer_whose_installation_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_INSTALL_S", 0.0)
    with pytest.raises(Absent, match="not installed within 0 s"):
        python_for(Entry("a peer", "", ("numpy",), None, "peer"))


def test_a_peer_that_needs_a_program_which_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Absent, match=r"redis-server is missing \(Debian's package redis-server\)"):
        python_for(ENTRIES["celery"])


def test_a_contestant_that_does_not_answer_fails_and_nothing_of_it_is_left() -> None:
    with player("direct", 1, limit_s=0.1) as running:
        with pytest.raises(Failed, match="direct: naps: no answer within 0 s"):
            running.do("naps", count=1_000_000)
        with pytest.raises(Failed, match="direct: burst: it has failed to answer before"):
            running.do("burst", count=1)
        mark = f"{stage._MARK}={running._mark}".encode()
    assert [path for path in Path("/proc").glob("[0-9]*/environ") if mark in _read(path)] == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_contestant_that_dies_fails() -> None:
    with player("direct", 1) as running:
        os.kill(running._process.pid, signal.SIGKILL)
        with pytest.raises(Failed, match="direct: burst: its process has ended"):
            running.do("burst", count=5)


def test_a_contestant_that_cannot_do_something_says_so() -> None:
    with (
        player("direct", 1) as running,
        pytest.raises(Failed, match="direct: shared: AssertionError: it has no arrays"),
    ):
        running.do("shared", size_bytes=1 << 20)


def test_a_fresh_client_that_finds_nobody_fails(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="plover: a fresh client: its process has ended"):
        fresh_client_s("plover", f"ipc://{tmp_path}/nobody.sock", "plover")
