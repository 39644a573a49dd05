"""From a fresh Python to the first result of an embedded daemon, simulated: how long it takes, what it must not import.

A time on a shared machine is bad luck as often as bad code. So the best of a few attempts counts, and the first one within
the bar is enough; a real regression fails all of them. What would cause one is asserted by itself, for client and daemon.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.daemons import run_script

_ATTEMPTS = 8
#: What takes long to import, or is not there on a client.
_HEAVY = ("cupy", "cupyx", "numba", "llvmlite", "docker")

_SCRIPT = """
import json, os, sys, time
import numpy as np
from plover import gpu_function

@gpu_function
def double(x):
    {body}

result = double(np.arange(4.0))
at = time.monotonic()

def libraries(pid):
    with open(f"/proc/{{pid}}/maps") as file:
        return sorted({{line.split(maxsplit=5)[5].strip() for line in file if ".so" in line}})

(daemon,) = open("/proc/self/task/%d/children" % os.getpid()).read().split()  # the embedded one
print(json.dumps({{
    "at": at,
    "result": result.tolist(),
    "modules": sorted({{name.partition(".")[0] for name in sys.modules}}),
    "of the client": libraries("self"),
    "of the daemon": libraries(daemon),
}}))
"""

_BODIES = {"NumPy": "return x * 2", "CuPy": "import cupy; return cupy.asarray(x) * 2"}


def _first_result(body: str) -> tuple[float, dict[str, Any]]:
    """How long it took from starting Python to having the result, and what the script found out."""
    begun = time.monotonic()  # the same clock in all processes
    status, out, errors = run_script(_SCRIPT.format(body=body), environment={"PLOVER_DEVICES": "simulated:1"})
    assert status == 0, errors
    said = json.loads(out)
    assert said["result"] == [0, 2, 4, 6]
    return said["at"] - begun, said


@pytest.mark.parametrize(("body", "bar_s"), [("NumPy", 2.5), ("CuPy", 4.0)])
def test_the_first_result_comes_soon(body: str, bar_s: float) -> None:
    took_s: list[float] = []
    while len(took_s) < _ATTEMPTS and min(took_s, default=bar_s + 1) > bar_s:
        took_s.append(_first_result(_BODIES[body])[0])
    assert min(took_s) <= bar_s, f"{len(took_s)} attempts took {took_s} s; none came within {bar_s:g} s"


@pytest.mark.parametrize("body", ["NumPy", "CuPy"])
def test_neither_client_nor_daemon_imports_what_only_workers_need(body: str) -> None:
    _, said = _first_result(_BODIES[body])
    assert "numpy" in said["modules"]
    assert not {*_HEAVY, "asyncio"} & set(said["modules"])
    for side in ("of the client", "of the daemon"):
        assert any("/zmq/" in library for library in said[side]), said[side]  # it is the process that is meant
        assert not [library for library in said[side] for name in _HEAVY if f"/{name}/" in library]
