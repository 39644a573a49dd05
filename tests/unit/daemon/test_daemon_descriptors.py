"""How a limit of descriptors is divided, and that a daemon does not start where it cannot be."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys

import pytest

from plover.daemon import descriptors
from plover.errors import PloverError
from tests.support.daemons import Mark


def test_a_flood_cannot_reach_the_limit_while_workers_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    for limit in (4096, 1_000_000):
        found = descriptors.budget(limit, 8, connections=10**9)
        assert found.full + descriptors.OVERRUN + 8 * descriptors.PER_DEVICE_AT_MOST <= limit
        assert found.base + found.segments < found.full
        assert found.segments > 400
    assert not caplog.records


def test_no_more_connections_than_wanted() -> None:
    found = descriptors.budget(1_000_000, 1, connections=100)
    assert found.full == found.base + found.segments + 300


def test_what_is_enough_but_no_protection_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "plover.daemon"):
        found = descriptors.budget(1024, 1, connections=10_000)
    assert found.base + 64 < found.full < 1024 - 400
    assert "only 1024 files may be open" in caplog.text


@pytest.mark.parametrize(("devices", "each"), [(1, "26 for its device"), (8, "26 for each of 8 devices")])
def test_what_cannot_hold_the_workers_is_refused(devices: int, each: str) -> None:
    least = 30 + 26 * devices + 64
    assert descriptors.budget(least, devices, 10_000).full > 0
    with pytest.raises(PloverError, match=f"may open {least - 1} files, and needs {least} .*{each}.*ulimit -n 4096"):
        descriptors.budget(least - 1, devices, 10_000)


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_a_daemon_with_too_few_says_so_and_does_not_start(how: list[str]) -> None:
    mark = Mark()
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", 'ulimit -n 60; exec "$0" "$@"', sys.executable, "-m", "plover.cli.main", "start"]
            + ["--devices", "simulated:1", *how],
            env=mark.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "plover: this daemon may open 60 files, and needs 120" in done.stderr
        mark.assert_gone()
    finally:
        mark.remove()


def test_what_is_open_is_counted() -> None:
    before = descriptors.count_open()
    pair = os.pipe()
    assert descriptors.count_open() == before + 2
    for end in pair:
        os.close(end)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert descriptors.count_open() > limits[1]  # it cannot be counted, because there is none left
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
