"""A traceback has the caller's line, then the function's own: in scripts, notebooks and pytest, however the call was made."""

from __future__ import annotations

import concurrent.futures
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import plover
from plover import gpu_function
from tests.support.daemons import PATIENCE_S, Daemon, run_script

_HEAD = """
import asyncio, sys
import numpy as np
import plover
from numba import cuda

if len(sys.argv) > 1:
    plover.connect(sys.argv[1])

def deeper(x):
    return 1 // x  # where it breaks

@plover.gpu_function
def fail(x):
    return deeper(x)

@plover.gpu_function
@cuda.jit
def kernel(x):
    x[0] = deeper(0)

@plover.gpu_function
def outer(x):
    return fail.submit(x).result()

async def awaits():
    await fail.aio(0)  # where it is called

async def awaits_a_future():
    await fail.submit(0)  # where it is called
"""
#: Each way to call a function that fails: a line of a script, and the functions that its traceback has.
_WAYS = {
    "call": ("fail(0)  # where it is called", ["fail", "deeper"]),
    "submit": ("fail.submit(0).result()  # where it is called", ["fail", "deeper"]),
    "aio": ("asyncio.run(awaits())", ["awaits", "fail", "deeper"]),
    "await": ("asyncio.run(awaits_a_future())", ["awaits_a_future", "fail", "deeper"]),
    "map": ("list(fail.map([1, 0]))  # where it is called", ["fail", "deeper"]),
    "unordered": ("list(fail.map([1, 0], ordered=False))  # where it is called", ["fail", "deeper"]),
    "progress": ("list(fail.map([1, 0], progress=True))  # where it is called", ["fail", "deeper"]),
    "starmap": ("list(fail.starmap([(0,)]))  # where it is called", ["fail", "deeper"]),
    "kernel": ("kernel[1, 1](np.zeros(1))  # where it is called", ["kernel", "deeper"]),
    "inside": ("outer(0)  # where it is called", ["outer", "fail", "deeper"]),
}


@pytest.mark.parametrize("way", _WAYS)
def test_in_a_script(way: str, daemon: Daemon) -> None:
    line, functions = _WAYS[way]
    status, _, errors = run_script(f"{_HEAD}\n{line}\n", daemon.address)
    assert status == 1
    frames = re.findall(r'^  File "(.*)", line \d+, in (.*)$', errors, re.MULTILINE)
    assert [name for file, name in frames if file.endswith("script.py")] == ["<module>", *functions], errors
    assert [file for file, _ in frames if "/asyncio/" not in file and not file.endswith("script.py")] == []
    for text in ("# where it is called", "return 1 // x  # where it breaks", "ZeroDivisionError"):
        assert text in errors


def test_the_failing_expression_is_marked_as_in_local_code(daemon: Daemon) -> None:
    source = """
import sys, plover
plover.connect(sys.argv[1])

@plover.gpu_function
def fail(x):
    return "é", (x + 1) / 0 + 3

fail{}(1)
"""
    _, _, remote = run_script(source.format(""), daemon.address)
    _, _, local = run_script(source.format(".local"), daemon.address)
    marks = [re.findall(r"^ +[~^]+$", errors, re.MULTILINE)[-1] for errors in (remote, local)]
    assert marks[0] == marks[1]
    assert marks[0].strip() == "~~~~~~~~^~~"


_REFUSED = """
import sys, threading, time, plover
plover.connect(sys.argv[1])
f = plover.gpu_function(lambda *args: time.sleep(1000))
"""


@pytest.mark.parametrize(
    "line",
    [
        "f(threading.Lock())",
        "f.submit(threading.Lock())",
        "list(f.map([threading.Lock()]))",
        "plover.gpu_function(gpu='H100')(f.local)()",
        "f.options(timeout=0.1)()",
        "f.submit().result(0.1)",
        "plover.connect('ipc:///nowhere/d.sock')",
        "plover.gpu_function(lambda: 1)(2)",
    ],
)
def test_what_is_plovers_to_say_is_said_at_the_callers_line(line: str, daemon: Daemon) -> None:
    status, _, errors = run_script(f"{_REFUSED}{line}\n", daemon.address)
    assert status == 1
    files = re.findall(r'^  File "(.*)", line', errors, re.MULTILINE)
    assert len([file for file in files if not file.endswith("script.py")]) <= 1, errors
    assert errors.count("Traceback") == 1


def test_a_fault_of_plovers_own_keeps_its_frames(session: plover.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plover.serialize, "pack_arguments", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        gpu_function(lambda: 1)()
    assert [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)][-2:] == ["send", "<lambda>"]


def test_no_frames_gather_and_what_it_was_raised_from_stays(session: plover.Session) -> None:
    @gpu_function
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904

    future = fail.submit()
    for _ in range(3):
        try:
            raise OSError("here, and being handled")
        except OSError:
            with pytest.raises(ValueError, match="second") as caught:
                future.result()
        names = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
        assert names == ["test_no_frames_gather_and_what_it_was_raised_from_stays", "fail"]
        assert type(caught.value.__context__) is KeyError
        assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, False)
    error = future.exception()
    assert error is not None
    assert [entry.name for entry in traceback.extract_tb(error.__traceback__)][-1] == "fail"


def test_without_a_context_of_its_own_it_gets_the_one_that_python_gives(session: plover.Session) -> None:
    @gpu_function
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        try:
            raise OSError
        except OSError:
            fail()
    assert type(caught.value.__context__) is OSError


def test_a_line_of_a_file_that_only_the_worker_has_is_shown(session: plover.Session, tmp_path: Path) -> None:
    @gpu_function
    def runs_a_file(path: str) -> None:
        import runpy

        with open(path, "w") as file:
            file.write("x = 0\n1 / x  # only there\n")
        runpy.run_path(path)

    there = tmp_path / "there.py"
    future = runs_a_file.submit(str(there))
    concurrent.futures.wait([future], PATIENCE_S)
    there.unlink()
    with pytest.raises(ZeroDivisionError) as caught:
        future.result()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "1 / x  # only there"


def test_under_pytest(daemon: Daemon, tmp_path: Path) -> None:
    tests = "".join(
        f"def test_{way}():\n    {line}\n\n" for way, (line, _) in _WAYS.items() if way not in ("aio", "await")
    )
    by_value = "import cloudpickle; cloudpickle.register_pickle_by_value(sys.modules[__name__])"
    program = _HEAD.replace(
        "if len(sys.argv) > 1:\n    plover.connect(sys.argv[1])", f"plover.connect({daemon.address!r})\n{by_value}"
    )
    (tmp_path / "test_user.py").write_text(program + tests)
    run = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--rootdir', sys.argv[1], sys.argv[1]]))"
    status, out, errors = run_script(run, str(tmp_path), environment={"PYTHONDONTWRITEBYTECODE": "1"})
    assert status == 1, out + errors
    places = re.findall(r"^(\S+\.py):\d+:", out, re.MULTILINE)
    assert len(places) >= 3 * 8
    assert {Path(place).name for place in places} == {"test_user.py"}, out
    assert out.count("return 1 // x  # where it breaks") >= 8


def _run_cells(*sources: str) -> list[Any]:
    """Run cells in a kernel of this Python; the last outputs' errors, with the colours taken out."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True)
    client.execute()
    return [
        (output["ename"], re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output["traceback"])))
        for cell in notebook.cells
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]


def test_in_a_notebook(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLOVER_ADDRESS", daemon.address)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    ways = {way: line for way, (line, _) in _WAYS.items() if way not in ("aio", "await", "progress")}
    ways |= {"aio": "await fail.aio(0)  # where it is called", "await": "await fail.submit(0)  # where it is called"}
    cell = "%%gpu\ny = 0\n1 // y  # where it breaks, and is called: # where it is called"
    head = _HEAD.replace("if len(sys.argv) > 1:\n    plover.connect(sys.argv[1])", "%load_ext plover")
    errors = _run_cells(head, *ways.values(), cell)
    assert len(errors) == len(ways) + 1, errors
    for way, (name, shown) in zip([*ways, "cell"], errors, strict=True):
        assert name == "ZeroDivisionError", shown
        frames = re.findall(r"^(?:File|Cell) (.*)$", shown, re.MULTILINE)
        assert len(frames) == 1 if way == "cell" else len(frames) >= 2, shown
        others = [frame for frame in frames if not frame.startswith("In[")]
        assert not any("plover" in frame for frame in others), shown
        assert not others, shown
        assert "# where it is called" in shown
        assert "# where it breaks" in shown


def test_python_is_one_whose_bare_raise_adds_no_entry() -> None:
    def again() -> None:
        try:
            raise ValueError
        except ValueError as error:
            error.__traceback__ = None
            raise

    with pytest.raises(ValueError) as caught:
        again()
    assert [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)] == [
        sys._getframe().f_code.co_name
    ]
