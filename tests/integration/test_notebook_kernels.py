"""Plover in a real Jupyter kernel: output under its cell, the stop button, `%%gpu`, errors, looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemons import Daemon, Fifo
from tests.support.kernels import Kernel, kernel

_DEFINITIONS = """
import contextvars, threading
import plover
from plover import gpu_function

@gpu_function
def say(*words):
    print(*words, flush=True)

@gpu_function
def say_later(word, begun, gate):
    open(begun, "w").write("begun\\n")
    open(gate).readline()
    print(word, flush=True)

@gpu_function
def spin(begun):
    open(begun, "w").write("begun\\n")
    while True:
        pass

def wait(path):
    with open(path) as fifo:
        return fifo.readline()
"""


@pytest.fixture(scope="module")
def notebook(daemon: Daemon) -> Iterator[Kernel]:
    """A kernel whose calls go to the module's daemon."""
    with kernel(PLOVER_ADDRESS=daemon.address) as running:
        done = running.run(_DEFINITIONS + "\n%load_ext plover\nsay('ready')")
        assert (done.error, done.stdout) == (None, "ready\n")
        yield running


# -- output ------------------------------------------------------------------------------------------------------------


def test_output_of_a_call_is_shown_under_its_cell_and_before_its_value(notebook: Kernel) -> None:
    first = notebook.send("say('one'); 1")
    second = notebook.send("import sys\ngpu_function(lambda: print('two', file=sys.stderr))(); 2")
    notebook.wait(second)
    assert (first.stdout, first.stderr, first.shown[0]["text/plain"]) == ("one\n", "", "1")
    assert (second.stdout, second.stderr, second.shown[0]["text/plain"]) == ("", "two\n", "2")


def test_output_of_a_call_that_goes_on_is_shown_under_the_cell_that_began_it(
    notebook: Kernel, fifos: list[Fifo]
) -> None:
    begun, gate = fifos[:2]
    first = notebook.run(f"future = say_later.submit('late', {begun.path!r}, {gate.path!r})")
    begun.wait()
    gate.say()
    second = notebook.run("future.result()\nprint('after')")
    notebook.wait(first, lambda cell: cell.stdout)
    assert (first.stdout, second.stdout) == ("late\n", "after\n")


def test_output_of_a_thread_of_the_cells_is_shown_under_it_while_another_cell_runs(
    notebook: Kernel, fifos: list[Fifo]
) -> None:
    """Such a thread is a task of asyncio's, `asyncio.to_thread`, or one that runs in the cell's context, as here."""
    begun, gate, go = fifos
    first = notebook.run(f"""
def work():
    wait({go.path!r})
    say_later('from the thread', {begun.path!r}, {gate.path!r})
context = contextvars.copy_context()
thread = threading.Thread(target=context.run, args=(work,))
thread.start()
""")
    second = notebook.send("say('second')\nthread.join()\nsay('still second')")
    notebook.wait(second, lambda cell: cell.stdout)
    go.say()
    begun.wait()
    gate.say()
    notebook.wait(second)
    notebook.wait(first, lambda cell: cell.stdout)
    assert (first.stdout, second.stdout) == ("from the thread\n", "second\nstill second\n")


def test_output_of_any_other_thread_is_shown_where_the_thread_itself_would_print(
    notebook: Kernel, fifos: list[Fifo]
) -> None:
    """Jupyter shows what a bare thread prints under the cell that runs; a call's output is no exception."""
    go = fifos[0]
    first = notebook.run(f"""
def work():
    wait({go.path!r})
    print('local')
    say('remote')
thread = threading.Thread(target=work)
thread.start()
""")
    second = notebook.send("print('begun', flush=True)\nthread.join()")
    notebook.wait(second, lambda cell: cell.stdout)
    go.say()
    notebook.wait(second)
    assert (first.stdout, second.stdout) == ("", "begun\nlocal\nremote\n")


def test_output_of_a_map_is_shown_under_the_cell_that_takes_its_results(notebook: Kernel) -> None:
    first = notebook.run(
        "results = gpu_function(lambda x: print(f'item {x}'), output='show').map(range(3), in_flight=1)"
    )
    second = notebook.run("list(results)")
    notebook.wait(first, lambda cell: "item 0" in cell.stdout + second.stdout)
    assert sorted((first.stdout + second.stdout).split("\n")) == ["", "item 0", "item 1", "item 2"]
    assert "item 2\n" in second.stdout


def test_a_maps_progress_bar_is_shown_without_a_word_about_what_is_not_installed(notebook: Kernel) -> None:
    cell = notebook.run("list(gpu_function(lambda x: x + 1).map(range(3), progress=True))")
    assert cell.shown[-1]["text/plain"] == "[1, 2, 3]"
    assert "3/3" in cell.stderr + str(cell.shown)
    assert "Warning" not in cell.stderr


# -- the stop button ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "spin(PATH)  # the line",
        "spin.submit(PATH).result()  # the line",
        "%%gpu\nopen(PATH, 'w').write('begun\\n')\nwhile True: pass  # the line",
    ],
)
def test_interrupting_the_kernel_cancels_the_call_and_nothing_else(
    notebook: Kernel, daemon: Daemon, fifos: list[Fifo], source: str
) -> None:
    before = daemon.status()["scheduler"]["ended"].get("cancelled", 0)
    notebook.run("kept = 7")
    cell = notebook.send(source.replace("PATH", repr(fifos[0].path)))
    fifos[0].wait()
    notebook.interrupt()
    notebook.wait(cell)
    assert cell.error is not None
    assert cell.error[0] == "KeyboardInterrupt"
    after = notebook.run("say('works'); kept")  # the one worker is free for it
    assert (after.error, after.stdout, after.shown[0]["text/plain"]) == (None, "works\n", "7")
    scheduler = daemon.status()["scheduler"]
    assert scheduler["ended"]["cancelled"] == before + 1
    assert all(worker["calls"] == [] for worker in scheduler["workers"])


def test_interrupting_a_map_cancels_all_of_it(notebook: Kernel, daemon: Daemon, fifos: list[Fifo]) -> None:
    cell = notebook.send(f"list(spin.map([{fifos[0].path!r}] * 5))")
    fifos[0].wait()
    notebook.interrupt()
    notebook.wait(cell)
    assert cell.error is not None
    assert cell.error[0] == "KeyboardInterrupt"
    assert notebook.run("say('works')").stdout == "works\n"
    assert all(worker["calls"] == [] for worker in daemon.status()["scheduler"]["workers"])


def test_interrupting_a_kernel_with_an_embedded_daemon(fifos: list[Fifo]) -> None:
    """The signal goes to all processes of the kernel's group."""
    with kernel() as running:
        first = running.run(_DEFINITIONS + "\nimport os\nworker = gpu_function(lambda: os.getpid())\nbefore = worker()")
        assert "calls run on a simulated device" in first.stderr
        cell = running.send(f"spin({fifos[0].path!r})")
        fifos[0].wait()
        running.interrupt()
        running.wait(cell)
        assert cell.error is not None
        assert cell.error[0] == "KeyboardInterrupt"
        after = running.run("say('works'); worker() == before")
        assert (after.error, after.stdout, after.stderr) == (None, "works\n", "")
        assert after.shown[0]["text/plain"] == "True"  # the same worker: it was interrupted, not killed


# -- %%gpu -------------------------------------------------------------------------------------------------------------


def test_a_gpu_cell_takes_variables_there_and_back(notebook: Kernel) -> None:
    notebook.run("import numpy as np\nx, factor, secret = np.arange(4.0), 3, 'here'")
    cell = notebook.run("""%%gpu x, factor -> y, total
import cupy as cp
y = cp.asarray(x) * factor
total = float(y.sum())
print('in a worker:', 'secret' in globals())
y.shape
""")
    assert (cell.error, cell.stdout, cell.shown[0]["text/plain"]) == (None, "in a worker: False\n", "(4,)")
    after = notebook.run("type(y).__name__, y.tolist(), total")
    assert after.shown[0]["text/plain"] == "('ndarray', [0.0, 3.0, 6.0, 9.0], 18.0)"


def test_a_gpu_cell_that_fails_shows_its_own_line(notebook: Kernel) -> None:
    cell = notebook.run("%%gpu\nzero = 0\nprint('first')\n1 / zero  # the culprit\n")
    assert cell.stdout == "first\n"
    assert cell.error is not None
    assert cell.error[:2] == ("ZeroDivisionError", "division by zero")
    assert "1 / zero  # the culprit" in cell.error[2]


def _like_a_cell(trace: str) -> tuple[list[str], set[int]]:
    """What a traceback says of places, and the numbers of the cells in it; there is nothing of Plover or IPython in it."""
    for word in ("notebook.py", "interactiveshell", "run_cell_magic", "plover"):
        assert word not in trace, trace
    places = re.findall(r"Cell In\[\d+\].*line \d+|-+> *\d+ .*|^ *\^+$|^\w+: .*", trace, re.MULTILINE)
    return [re.sub(r"In\[\d+\]", "In[…]", place) for place in places], set(map(int, re.findall(r"In\[(\d+)\]", trace)))


@pytest.mark.parametrize(
    "body",
    [
        "zero = 0\nprint('first')\n\n1 / zero  # the culprit\n",
        "def inner(n):\n    return [][n]\ndef outer():\n    return inner(3)\nouter()",
        "x = 1\nx = = 2\n",
        "def f():\nreturn 1",
        "class Bad(Exception):\n    pass\nraise Bad('its own')",
        "import json\njson.loads('{')",
    ],
)
def test_a_gpu_cell_that_fails_is_shown_as_any_other(notebook: Kernel, body: str) -> None:
    local = notebook.run(f"# here\n{body}").error
    remote = notebook.run(f"%%gpu\n{body}").error
    assert local is not None
    assert remote is not None
    assert remote[0] == local[0]
    here, (number,) = _like_a_cell(local[2])
    assert _like_a_cell(remote[2]) == (here, {number + 1})
    assert len(here) >= 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nope -> a", "UsageError: name 'nope' is not defined here, so it cannot go to the worker\n"),
        ("--speed 9", "UsageError: %%gpu has no option --speed; it is used as: %%gpu ["),
        ("--retries many", "UsageError: --retries needs a number, not 'many': %%gpu ["),
        ("--retries -1", "UsageError: retries is a whole number from 0 to"),
        ("x.y", "UsageError: 'x.y' is not the name of a variable: %%gpu ["),
        ("-> class", "UsageError: 'class' is not the name of a variable: %%gpu ["),
    ],
)
def test_wrong_use_of_a_gpu_cell_is_one_line(notebook: Kernel, line: str, told: str) -> None:
    cell = notebook.run(f"%%gpu {line}\n1")
    assert cell.error is None  # IPython shows it on stderr, as its own magics' wrong use
    assert cell.stderr.startswith(told), cell.stderr
    assert cell.stderr.count("\n") == 1
    assert notebook.run("'after'").shown[0]["text/plain"] == "'after'"


def test_what_is_not_the_code_of_a_gpu_cell_is_one_line(notebook: Kernel) -> None:
    unbound = notebook.run("%%gpu -> never\n1")
    assert unbound.error is not None
    assert unbound.error[2] == "NameError: the cell did not bind never, which stands behind ->\n"
    notebook.run("lock = threading.Lock()")
    unsendable = notebook.run("%%gpu lock\n1")
    assert unsendable.error is not None
    assert unsendable.error[0] == "NotSerializable"
    sent = "plover.errors.NotSerializable: cannot send %%gpu cell → variable 'lock' → threading.Lock: "
    assert unsendable.error[2].startswith(sent)
    assert unsendable.error[2].count("\n") == 1


@pytest.mark.parametrize(
    ("cell", "path"),
    [
        ("-> y\nimport threading\ny = [threading.Lock()]", "result → variable 'y' → [0] → threading.Lock: "),
        ("\nimport threading\n[threading.Lock()]", "result → [0] → threading.Lock: "),
    ],
)
def test_what_cannot_come_back_from_a_gpu_cell_is_named(notebook: Kernel, cell: str, path: str) -> None:
    error = notebook.run(f"%%gpu {cell}").error
    assert error is not None
    assert error[1].startswith(f"cannot send %%gpu cell → {path}")


def test_a_gpu_cell_that_ends_in_a_semicolon_shows_nothing_and_sends_nothing_back(notebook: Kernel) -> None:
    cell = notebook.run("%%gpu\nimport threading\nthreading.Lock();")
    assert (cell.error, cell.shown) == (None, [])


def test_a_gpu_cell_imports_the_authors_own_modules_as_they_are_now(daemon: Daemon) -> None:
    with kernel(PLOVER_ADDRESS=daemon.address) as running:
        files = running.mark.directory
        (files / "ownmod.py").write_text("from helpers import V\n")
        (files / "helpers.py").write_text("V = 1\n")
        (files / "late.py").write_text("W = 10\n")
        running.run("%load_ext plover")
        source = "%%gpu\nimport ownmod\ndef f():\n    from late import W\n    return W\nownmod.V + f()"
        first = running.run(source)
        assert (first.error, first.shown[0]["text/plain"]) == (None, "11")
        (files / "helpers.py").write_text("V = 20  # edited\n")
        running.run("import plover.bundles.collect as collect; collect.RECHECK_S = 0")  # else within half a second
        second = running.run(source)
        assert (second.error, second.shown[0]["text/plain"]) == (None, "30")


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_shows_the_line_of_the_cell_and_the_line_of_the_function(notebook: Kernel) -> None:
    notebook.run("@gpu_function\ndef divide(a, b):\n    return a / b  # the remote line\n")
    cell = notebook.run("numerator = 1\ndivide(numerator, 0)  # the calling line\n")
    assert cell.error is not None
    name, text, trace = cell.error
    assert (name, text) == ("ZeroDivisionError", "division by zero")
    assert "divide(numerator, 0)  # the calling line" in trace
    assert "return a / b  # the remote line" in trace
    assert trace.index("# the calling line") < trace.index("# the remote line")
    assert notebook.run("divide(1, 2)").shown[0]["text/plain"] == "0.5"


def test_an_error_of_plovers_shows_the_line_of_the_cell(notebook: Kernel) -> None:
    cell = notebook.run("import threading\nlock = threading.Lock()\ngpu_function(lambda: lock)()  # the calling line\n")
    assert cell.error is not None
    assert cell.error[0] == "NotSerializable"
    assert "# the calling line" in cell.error[2]


# -- looks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text", "parts"),
    [
        ("say", "<gpu_function say(*words)>", ["gpu_function say", "say(*words)"]),
        ("future = say.submit(); future.result(); future", "<future of say, call ", ["future of say", "done", "simulated"]),
        ("future.receipt", "Receipt(", ["receipt", "simulated"]),
        ("plover.connect(plover.session.current()._connection.address)", "<session with ipc://", ["no calls pending"]),
    ],
)  # fmt: skip
def test_things_are_tables_in_a_notebook(notebook: Kernel, source: str, text: str, parts: list[str]) -> None:
    shown: dict[str, Any] = notebook.run(source).shown[0]
    assert shown["text/plain"].startswith(text)
    assert all(part in shown["text/html"] for part in parts)
