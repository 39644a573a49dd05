"""The ``%%gpu`` cell in a real IPython shell; the call itself runs inline."""

from __future__ import annotations

import builtins
import linecache
import sys
import traceback
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import plover
from plover import context
from plover.notebook import Cell, parse_line, run_cell


@pytest.mark.parametrize(
    ("line", "cell"),
    [
        ("", Cell((), (), {})),
        ("x y", Cell(("x", "y"), (), {})),
        ("x,y -> z", Cell(("x", "y"), ("z",), {})),
        ("-> a, b", Cell((), ("a", "b"), {})),
        ("--timeout 5 --gpu=H100 x -> y", Cell(("x",), ("y",), {"timeout": 5.0, "gpu": "H100"})),
        ("--queue-timeout=2 --retries 3", Cell((), (), {"queue_timeout": 2.0, "retries": 3})),
    ],
)
def test_the_line(line: str, cell: Cell) -> None:
    assert parse_line(line) == cell


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--speed 9", "has no option --speed; it is used as: %%gpu"),
        ("--timeout", "--timeout needs a value"),
        ("--timeout soon", "--timeout needs a number, not 'soon': %%gpu"),
        ("'x", "No closing quotation: %%gpu"),
        ("x.y", "'x.y' is not the name of a variable"),
        ("x -> 2", "'2' is not the name of a variable"),
    ],
)
def test_a_line_that_is_none(line: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_line(line)


class TestRunning:
    def test_a_cell_sees_its_inputs_and_gives_back_its_outputs(self) -> None:
        assert run_cell("z = x + 1\nw = z * 2\nz", "<cell>", {"x": 2}, ("w", "z")) == ([6, 3], 3)

    def test_without_a_last_expression(self) -> None:
        assert run_cell("z = 1", "<cell>", {}, ()) == ([], None)
        assert run_cell("", "<cell>", {}, ()) == ([], None)

    def test_it_sees_nothing_else(self) -> None:
        with pytest.raises(NameError, match="'pytest' is not defined"):
            run_cell("pytest", "<cell>", {}, ())

    def test_a_name_that_it_did_not_bind(self) -> None:
        with pytest.raises(NameError, match="did not bind a, b, which stands behind ->") as caught:
            run_cell("c = 1", "<cell>", {}, ("a", "c", "b"))
        assert caught.value.name == "a"

    def test_a_traceback_shows_its_lines(self) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            run_cell("x = 0\nprint(1 / x)\n", "<cell 9>", {}, ())
        last = traceback.extract_tb(caught.value.__traceback__)[-1]
        assert (last.filename, last.lineno, last.line) == ("<cell 9>", 2, "print(1 / x)")
        del linecache.cache["<cell 9>"]

    def test_functions_of_it_call_each_other(self) -> None:
        source = "def a(n): return b(n) + 1\ndef b(n): return n * 10\na(2)"
        assert run_cell(source, "<cell>", {}, ()) == ([], 21)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(context, "in_worker", lambda: True)  # every form of call runs inline
    for name in ("display", "get_ipython"):  # IPython puts these there
        monkeypatch.setattr(builtins, name, None, raising=False)
    monkeypatch.setattr(sys, "displayhook", sys.displayhook)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "plover")
    yield shell
    InteractiveShell.clear_instance()


class TestInIPython:
    def test_a_cell(self, shell: Any) -> None:
        shell.push({"x": 20})
        assert shell.run_cell("%%gpu x -> y\ny = x + 1\ny * 2").result == 42
        assert shell.user_ns["y"] == 21

    def test_a_name_that_is_not_there(self, shell: Any) -> None:
        done = shell.run_cell("%%gpu missing\n1")
        assert isinstance(done.error_in_exec, UsageError)
        assert "'missing' is not defined here, so it cannot go to the worker" in str(done.error_in_exec)

    def test_what_the_cell_raises(self, shell: Any) -> None:
        done = shell.run_cell("%%gpu\n1 / 0")
        assert isinstance(done.error_in_exec, ZeroDivisionError)


def test_the_extension_is_plovers() -> None:
    assert plover.load_ipython_extension.__doc__ is not None
