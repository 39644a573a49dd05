"""`plover.debug`: a call in a foreground worker, with the terminal's own input and output."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("keys", ["q\n", ""])  # the end of its input is a quit
def test_leaving_the_debugger_ends_the_call_in_one_line(tmp_path: Path, keys: str) -> None:
    body = """
def inner():
    breakpoint()
    return 1
def stops():
    return inner()
plover.debug(stops)  # the caller's line
"""
    status, _, errors = run(tmp_path, body, keys)
    assert status == 1
    assert [line for line in errors.splitlines() if set(line) != set(" ^")] == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path / "script.py"}", line 12, in <module>',
        "    plover.debug(stops)  # the caller's line",
        "plover.errors.CallCancelled: stops was left in the debugger, before it had ended",
    ]


def test_the_debugger_shows_the_users_frames_alone(tmp_path: Path) -> None:
    body = """
def inner(x):
    breakpoint()
    return x
def outer():
    y = inner(1)
    return y

@cuda.jit
def fill(out):
    cuda.syncthreads()
    if cuda.grid(1) == 1:
        import pdb; pdb.set_trace()
    out[cuda.grid(1)] = 7

@gpu_function
def launches(out):
    fill[1, 2](out)
    return out

print(plover.debug(outer))
print(plover.debug(launches, np.zeros(2)))
print(plover.debug(gpu_function(fill)[1, 2], np.zeros(2)))
"""
    status, output, errors = run(tmp_path, body, "w\nu\nc\n" + 2 * "w\nc\n")
    assert (status, errors) == (0, "")
    shown = re.findall(r"^[> ] (.*)\(\d+\)(\w+)\(\)", output.replace("(Pdb) ", ""), re.MULTILINE)
    assert {path for path, _ in shown} == {str(tmp_path / "script.py")}
    assert "plover" not in output
    stop, stack, up = ["inner"], ["outer", "inner"], ["outer"]
    kernels = ["fill"] * 4  # each of its threads has a stack of its own: once where it stops, once in it
    assert [name for _, name in shown] == [*stop, *stack, *up, *kernels]


def test_stepping_out_of_the_function_ends_the_call(tmp_path: Path) -> None:
    body = """
class Slow:
    def __reduce__(self):
        return str, ("sent",)
def stops():
    breakpoint()
    return Slow()
print(plover.debug(stops))
"""
    status, output, errors = run(tmp_path, body, "n\nn\nn\nn\n")
    assert (status, errors) == (0, "")
    assert output.endswith("sent\n")


def test_what_is_typed_for_the_next_call_or_for_the_script_is_left_to_it(tmp_path: Path) -> None:
    body = """
import sys
def asks():
    return input()
def stops():
    breakpoint()
    return "stopped"
print([plover.debug(asks), plover.debug(stops), plover.debug(asks), sys.stdin.readline()])
"""
    keys = "first\nc\nzwölf\nthe script's own\n"
    expected = "['first', 'stopped', 'zwölf', \"the script's own\\n\"]"
    assert run(tmp_path, body, keys)[1].splitlines()[-1].removeprefix("(Pdb) ") == expected


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
