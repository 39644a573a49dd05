"""The stand-in's names and parameters are those of the real CuPy, where one is installed to compare with."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import cupy as cp
import pytest

from plover.errors import NotSimulated
from tests.support.preconditions import needs

ASK = """
import importlib, inspect, json
try:
    import cupy
except ImportError:
    raise SystemExit(9)
found = {}
for module in ("cupy", "cupy.linalg", "cupy.fft", "cupy.random", "cupy.cuda"):
    inside = importlib.import_module(module)
    for name in dir(inside):
        if not name.startswith("_"):
            try:
                found[module + "." + name] = list(inspect.signature(getattr(inside, name)).parameters)
            except (TypeError, ValueError):
                found[module + "." + name] = None
found["ndarray"] = [name for name in dir(cupy.ndarray) if not name.startswith("_")]
print(json.dumps(found))
"""
NOT_OFFERED = {"annotations", "warnings", "contextlib"}


@pytest.fixture(scope="module")
def real():
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_", "PLOVER_TEST_"))}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK], env=environment, capture_output=True, text=True, check=False
    )
    needs(run.returncode != 9, "an installed CuPy to compare with")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_every_name_is_there_or_not_simulated(real):
    unnamed = []
    for full in real:
        if full == "ndarray":
            continue
        module, name = full.rsplit(".", 1)
        owner = cp if module == "cupy" else getattr(cp, module.split(".", 1)[1])
        if name in NOT_OFFERED:
            continue
        try:
            getattr(owner, name)
        except NotSimulated as missing:
            unnamed += [name] if name not in str(missing) else []
    assert not unnamed


def test_every_method_of_an_array_is_there(real):
    array, unnamed = cp.ones((2, 2)), []
    for name in real["ndarray"]:
        try:
            assert hasattr(array, name), name
        except NotSimulated as missing:
            unnamed += [name] if name not in str(missing) else []
    assert not unnamed


def test_parameters_are_cupys_in_cupys_order(real):
    compared, differing = 0, []
    for full, theirs in real.items():
        module, name = full.rsplit(".", 1) if "." in full else ("", full)
        owner = cp if module == "cupy" else getattr(cp, module.split(".", 1)[-1], None)
        spec = None if owner is None else getattr(vars(owner).get(name), "spec", None)
        if spec is None or theirs is None or "args" in theirs:
            continue
        mine = [word.strip("!?*") for word in spec.rstrip("> ").split() if word != "|"]
        if mine != theirs:
            differing.append(f"{full}: {mine} here, {theirs} in CuPy")
        compared += 1
    assert not differing, "\n".join(differing)
    assert compared > 200
