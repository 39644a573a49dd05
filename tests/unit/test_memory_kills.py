"""How a zygote knows that the kernel killed a worker for memory: the count of its cgroup, of either version of cgroups."""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plover_runtime import zygote
from plover_runtime.zygote import MemoryKills

#: What the kernel writes, with the lines beside the one that counts.
_V2 = "low 0\nhigh 0\nmax 7\noom 2\noom_kill {}\noom_group_kill 9\n"
_V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
_HOST = "nr_free_pages 12345\npgfault 1\noom_kill {}\nnuma_hit 5\n"

_FILES = {
    "v2": ("0::/user.slice/session.scope", "/sys/fs/cgroup/user.slice/session.scope/memory.events", _V2),
    "v2, a container with a namespace": ("0::/", "/sys/fs/cgroup/memory.events", _V2),
    "v2, a container that sees the host's path": ("0::/docker/1234", "/sys/fs/cgroup/memory.events", _V2),
    "v2, the nearest one with memory": ("0::/user.slice/a.scope/b", "/sys/fs/cgroup/user.slice/memory.events", _V2),
    "v2, beside version 1": ("0::/a", "/sys/fs/cgroup/unified/a/memory.events", _V2),
    "v1": ("4:memory:/a/b", "/sys/fs/cgroup/memory/a/b/memory.oom_control", _V1),
    "v1, with another controller": ("4:cpu,memory:/a", "/sys/fs/cgroup/memory/a/memory.oom_control", _V1),
    "v1, at the root": ("4:memory:/", "/sys/fs/cgroup/memory/memory.oom_control", _V1),
    "v1, a container that sees the host's path": (
        "4:memory:/docker/1234",
        "/sys/fs/cgroup/memory/memory.oom_control",
        _V1,
    ),
    "v1, with version 2 for the rest": ("1:memory:/a\n0::/b", "/sys/fs/cgroup/memory/a/memory.oom_control", _V1),
    "no memory cgroup": ("2:cpu:/a", "/proc/vmstat", _HOST),
    "no cgroups at all": (None, "/proc/vmstat", _HOST),
    "v2, at the host's root": ("0::/", "/proc/vmstat", _HOST),
}


class Host:
    """A host's files in a directory, and its clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1000.0

    def write(self, path: str, text: str) -> None:
        """Make a file of the host's."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """What the zygote's module sees of the system is this."""
    host = Host(tmp_path)

    def open(path: Any, *args: Any, **options: Any) -> Any:
        return builtins.open(tmp_path / str(path).lstrip("/"), *args, **options)

    monkeypatch.setattr(zygote, "open", open, raising=False)
    monkeypatch.setattr(zygote, "time", types.SimpleNamespace(monotonic=lambda: host.now))
    return host


@pytest.fixture(params=_FILES.values(), ids=_FILES.keys())
def count(host: Host, request: pytest.FixtureRequest) -> Callable[[int], None]:
    """Sets the kernel's count, on hosts of every kind."""
    cgroup, path, text = request.param
    if cgroup is not None:
        host.write("/proc/self/cgroup", f"3:cpuset:/elsewhere\n{cgroup}\n")
    if text is not _HOST:
        host.write("/proc/vmstat", _HOST.format(100))  # another's business, where the cgroup has a count of its own
    return lambda number: host.write(path, text.format(number))


def test_kills_before_are_none_of_its_business(host: Host, count: Callable[[int], None]) -> None:
    count(5)
    assert not MemoryKills().happened()


def test_a_kill_is_seen_and_explains_the_deaths_of_the_moment(host: Host, count: Callable[[int], None]) -> None:
    count(5)
    kills = MemoryKills()
    count(6)
    assert kills.happened()
    host.now += 0.5
    assert kills.happened()  # two deaths of one kill, reaped apart
    host.now += 5
    assert not kills.happened()
    count(7)
    assert kills.happened()


def test_other_kills_on_the_host_are_none_of_a_cgroups(host: Host) -> None:
    host.write("/proc/self/cgroup", "0::/a\n")
    host.write("/sys/fs/cgroup/a/memory.events", _V2.format(0))
    host.write("/proc/vmstat", _HOST.format(0))
    kills = MemoryKills()
    host.write("/proc/vmstat", _HOST.format(1))
    assert not kills.happened()


def test_a_kernel_that_counts_no_kills_of_a_cgroup_has_the_hosts(host: Host) -> None:
    """Linux 4.13 and later write ``oom_kill`` into the file of version 1."""
    host.write("/proc/self/cgroup", "4:memory:/a\n")
    host.write("/sys/fs/cgroup/memory/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")
    host.write("/proc/vmstat", _HOST.format(0))
    kills = MemoryKills()
    host.write("/proc/vmstat", _HOST.format(1))
    assert kills.happened()


def test_without_any_count_nothing_is_claimed(host: Host) -> None:
    kills = MemoryKills()
    assert not kills.happened()
    host.write("/proc/vmstat", "oom_kill not a number\n")
    assert not MemoryKills().happened()


def test_a_count_that_goes_away_is_no_error(host: Host) -> None:
    host.write("/proc/self/cgroup", "0::/a\n")
    host.write("/sys/fs/cgroup/a/memory.events", _V2.format(3))
    kills = MemoryKills()
    (host.root / "sys/fs/cgroup/a/memory.events").unlink()
    assert not kills.happened()
