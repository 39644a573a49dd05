"""What the daemon takes for this host's memory, by itself and in a control group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plover.daemon import host_memory
from tests.support.memory_groups import LIMIT_BYTES, memory_group
from tests.support.preconditions import needs_host

_SCRIPT = "from plover.daemon import host_memory; print(host_memory.total_bytes(), host_memory.available_bytes())"


def test_a_control_group_limits_what_there_is(tmp_path: Path) -> None:
    group = memory_group(tmp_path.name)
    needs_host(group, "a memory cgroup that this process may divide")
    assert group is not None
    try:
        enter = f'echo $$ > "{group}/cgroup.procs" && exec "{sys.executable}" -c "{_SCRIPT}"'
        said = subprocess.run(["/bin/sh", "-c", enter], capture_output=True, text=True, check=True).stdout
        total, available = map(int, said.split())
        assert total == LIMIT_BYTES
        assert 0 < available < LIMIT_BYTES
    finally:
        os.rmdir(group)


def test_where_nothing_can_be_read_the_host_is_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host_memory.available_bytes()
    assert before is not None
    assert before < host_memory.total_bytes()
    monkeypatch.setattr(host_memory, "_GROUPS", tmp_path / "nothing")
    assert host_memory.total_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(host_memory, "_MEMINFO", tmp_path / "nothing")
    assert host_memory.available_bytes() is None


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (
            "0::/slice/scope\n",
            {"slice/scope/memory.max": "max", "slice/memory.max": "1000000", "slice/memory.current": "700000"},
        ),
        (
            "5:cpu:/x\n4:memory:/a\n",
            {"memory/a/memory.limit_in_bytes": "1000000", "memory/a/memory.usage_in_bytes": "700000"},
        ),
        ("0::/not/seen/here\n", {"memory.max": "1000000", "memory.current": "700000"}),
    ],
    ids=["v2, the group above", "v1", "v2 in a container"],
)
@pytest.mark.parametrize("droppable", [0, 200_000])
def test_both_versions(
    groups: str, files: dict[str, str], droppable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        if droppable:
            (path.parent / "memory.stat").write_text(f"anon 5\ninactive_file {droppable}\nactive_file 9\n")
    monkeypatch.setattr(host_memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(host_memory, "_MOUNTED", tmp_path / "fs")
    assert host_memory.total_bytes() == 1_000_000
    assert host_memory.available_bytes() == 300_000 + droppable
