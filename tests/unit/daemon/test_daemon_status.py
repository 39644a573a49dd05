"""The status document, of a daemon that is only told about."""

from __future__ import annotations

import os
import types
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from plover.cli.daemon import _describe
from plover.daemon import status
from plover.daemon.config import DaemonConfig, DaemonLimits, limits_table
from plover.daemon.payloads import FunctionStore
from plover.daemon.scheduler.config import Device, Environment, Limits, SchedulerConfig
from plover.daemon.scheduler.events import CallSubmitted, ClientConnected, ClientSeen
from plover.daemon.scheduler.scheduler import Scheduler

CONFIG = DaemonConfig(addresses=("ipc:///run/x/daemon.sock",), state_dir=Path("/state"))
SEGMENTS = {"bytes": 3, "segments": 2, "free": 1, "lent": 1, "fallbacks": {"not lent": 4}}
TOKEN = b"secret-token-of-a-worker"


def shell() -> Any:
    functions = FunctionStore(1000)
    functions.put("default", b"d" * 32, [b"payload-bytes"], 13)
    return types.SimpleNamespace(
        config=CONFIG,
        incarnation=0xABC,
        started=10.0,
        workers=[types.SimpleNamespace(number=1, pid=77, token=TOKEN), types.SimpleNamespace(number=2, pid=0)],
        functions=functions,
        lending=types.SimpleNamespace(document=lambda: SEGMENTS),
        post=types.SimpleNamespace(refused=Counter({"peer": 2}), doors=types.SimpleNamespace(shut=["ipc:///full"])),
        secret=b"the-secret-of-the-socket",
        scheduler=Scheduler(
            SchedulerConfig(
                devices=(Device("simulated:0", "simulated", "Simulated GPU", 1 << 30),),
                environments=(Environment("default", "3.11"),),
            )
        ),
    )


def test_it_says_what_the_daemon_knows_of_itself() -> None:
    found = msgspec.json.decode(status.document(shell(), 12.5))
    assert found["pid"] == os.getpid()
    assert found["addresses"] == ["ipc:///run/x/daemon.sock"]
    assert (found["incarnation"], found["uptime_s"], found["launcher"]) == ("abc", 2.5, "process")
    assert found["pids"] == {"1": 77, "2": None}
    assert (found["functions"], found["refused_messages"]) == (1, {"peer": 2})
    assert found["segments"] == SEGMENTS
    assert found["full"] == ["ipc:///full"]
    assert len(found["versions"]) == 3
    assert found["scheduler"]["devices"][0]["id"] == "simulated:0"


def test_a_client_that_is_silent_while_it_has_calls_is_named() -> None:
    told = shell()
    for name in (b"silent-client", b"another"):
        told.scheduler.handle(CallSubmitted(client=name, submission=1, function=b"f", python="3.11"), 10.0)
    told.scheduler.handle(ClientSeen(client=b"another"), 25.0)
    told.scheduler.handle(ClientConnected(client=b"idle"), 10.0)
    found = msgspec.json.decode(status.document(told, 27.0))
    first, second = found["scheduler"]["clients"]
    assert first == {"client": b"silent".hex(), "tenant": "default", "state": "present", "silent_s": 17.0, "calls": 1}
    assert second["silent_s"] == 2.0
    lines = _describe(found).splitlines()
    assert f"    {b'silent'.hex()} of tenant default: silent for 17 s, 1 calls unfinished" in lines
    assert not any(b"anothe".hex() in line for line in lines)
    assert "  full: too many connections, so nobody else is let in at ipc:///full" in lines
    assert "  shared memory: 3 bytes in 2 segments, 1 of them free; not lent: 4 times" in lines


def test_it_names_every_limit() -> None:
    limits = msgspec.json.decode(status.document(shell(), 12.5))["limits"]
    assert limits == limits_table(CONFIG)
    assert set(limits) == set(DaemonLimits.__struct_fields__) | set(Limits.__struct_fields__)


def test_it_names_no_secret_no_token_and_no_payload() -> None:
    document = status.document(shell(), 12.5)
    for hidden in (TOKEN, b"the-secret-of-the-socket", b"payload-bytes"):
        assert hidden not in document
