"""`plover.debug`: a call in a foreground worker, with the terminal's own input and output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_HEAD = """
import numpy as np
import plover
from numba import cuda
from plover import gpu_function
"""


def run(tmp_path: Path, body: str, keys: str = "") -> tuple[int, str, str]:
    script = tmp_path / "script.py"
    script.write_text(_HEAD + body)
    done = subprocess.run(
        [sys.executable, str(script)], input=keys, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_a_breakpoint_in_a_simulated_kernel_and_its_arrays_in_place(tmp_path: Path) -> None:
    body = """
@gpu_function
@cuda.jit
def add(x, out):
    i = cuda.grid(1)
    if i == 2:
        breakpoint()
    print("thread", i)
    out[i] = x[i] + 1

out = np.zeros(4)
plover.debug(add[1, 4], np.arange(4.0), out)
print(out)
"""
    status, output, errors = run(tmp_path, body, "print('seen', i * 100)\nc\n")
    assert (status, errors) == (0, "")
    assert "seen 200" in output
    assert {f"thread {i}" for i in range(4)} <= set(output.replace("(Pdb) ", "").splitlines())
    assert output.endswith("[1. 2. 3. 4.]\n")


def test_a_function_with_its_input_and_a_device_array_as_result(tmp_path: Path) -> None:
    body = """
class Point:
    def __init__(self, x): self.x = x

def double(point, times):
    import cupy as cp
    print("asked:", input())
    return Point(cp.asarray(point.x) * times), plover.current_call().simulated

point, simulated = plover.debug(double, Point(np.arange(3)), times=2)
print(type(point) is Point, type(point.x).__name__, point.x.tolist(), simulated)
"""
    status, output, errors = run(tmp_path, body, "an answer\n")
    assert (status, errors) == (0, "")
    assert output == "asked: an answer\nTrue ndarray [0, 2, 4] True\n"


def test_what_it_raises_and_a_process_that_ends_without_a_word(tmp_path: Path) -> None:
    body = """
import os
def fails(x):
    return 1 / x
def dies():
    os._exit(3)
for call in (lambda: plover.debug(fails, 0), lambda: plover.debug(dies)):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error, getattr(error, "exit_code", None), flush=True)
plover.debug(fails, 0)
"""
    status, output, errors = run(tmp_path, body)
    assert status == 1
    assert output.splitlines() == [
        "ZeroDivisionError division by zero None",
        "WorkerLost the foreground worker of dies ended without an outcome, with status 3: "
        "it was killed, or left by quit() in the debugger 3",
    ]
    assert "return 1 / x" in errors


def test_leaving_the_debugger_ends_the_call(tmp_path: Path) -> None:
    body = """
def stops():
    breakpoint()
    return 1
try:
    plover.debug(stops)
except BaseException as error:
    print(type(error).__name__)
"""
    status, output, _ = run(tmp_path, body, "q\n")
    assert status == 0
    assert output.endswith("BdbQuit\n")


def test_where_a_gpu_is_required_it_is_required_here_too(tmp_path: Path) -> None:
    body = """
import os
os.environ["PLOVER_REQUIRE_GPU"] = "1"
try:
    print("simulated:", plover.debug(gpu_function(lambda: plover.current_call().simulated)))
except plover.WorkerLost as error:
    print("refused:", "ended without an outcome" in str(error))
"""
    status, output, _ = run(tmp_path, body)
    assert (status, output) in ((0, "refused: True\n"), (0, "simulated: False\n"))
