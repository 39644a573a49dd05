"""A zygote that is stopped: a worker that it should fork does not come, which is told as it is, and its nest is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

import plover
from plover.errors import CallTimeout
from tests.support.daemons import PATIENCE_S, Daemon
from tests.support.daemons import plover as command
from tests.support.fake_daemon import wait_until

_PROGRAM = """
import logging, sys
from pathlib import Path
from plover.daemon.config import DaemonConfig
from plover.daemon.run import serve
from plover.daemon.scheduler.config import Limits
logging.basicConfig(level=logging.INFO)
config = DaemonConfig(
    addresses=(sys.argv[1],), state_dir=Path(sys.argv[2]), devices="simulated:1", scheduler_limits=Limits(worker_start_s=3)
)
serve(config, on_ready=lambda: print("ready", flush=True))
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    running = Daemon(program=_PROGRAM)
    yield running
    running.close()


def echo(x: int) -> int:
    return x


def test_it_is_given_up_in_time_and_nothing_else_is_said_of_it(daemon: Daemon) -> None:
    with plover.connect(daemon.address) as session:
        assert session.submit(echo, 1).result(PATIENCE_S) == 1
        (worker,) = daemon.status()["pids"].values()
        with open(f"/proc/{worker}/stat", "rb") as file:
            zygote = int(file.read().rpartition(b")")[2].split()[1])
        os.kill(zygote, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: daemon.status()["pids"] == {"2": None}, "another worker is to start")
        assert "worker 2 (pid -) starting" in command("status", "--address", daemon.address)[1]
        late = session.submit(plover.gpu_function(echo).options(queue_timeout=0.2), 2)
        with pytest.raises(CallTimeout, match="the worker was still starting"):
            late.result(PATIENCE_S)
        assert session.submit(echo, 3).result(PATIENCE_S) == 3
        (device,) = daemon.status()["scheduler"]["devices"]
        assert (device["nest"], device["last_failure"]) == (2, "worker 2 was not ready within 3 s")
        assert device["state"] == "healthy"
        assert "last failure" not in command("status", "--address", daemon.address)[1]  # it is over
        assert not os.path.exists(f"/proc/{zygote}")
