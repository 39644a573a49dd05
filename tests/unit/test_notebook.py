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
from plover.notebook import Cell, parse_line
from plover.notebook import run_cell as run_cell_itself
from plover.pickling.variables import Variables


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
        ("x -> class", "'class' is not the name of a variable"),
        ("None", "'None' is not the name of a variable"),
    ],
)
def test_a_line_that_is_none(line: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_line(line)


def run_cell(source: str, filename: str, variables: dict[str, Any], outputs: tuple[str, ...]) -> tuple[list[Any], Any]:
    ran = run_cell_itself(source, filename, Variables(variables), outputs)
    assert tuple(ran.variables) == outputs
    return list(ran.variables.values()), ran.value


class TestRunning:
    def test_a_cell_sees_its_inputs_and_gives_back_its_outputs(self) -> None:
        assert run_cell("z = x + 1\nw = z * 2\nz", "<cell>", {"x": 2}, ("w", "z")) == ([6, 3], 3)

    def test_without_a_last_expression(self) -> None:
        assert run_cell("z = 1", "<cell>", {}, ()) == ([], None)
        assert run_cell("", "<cell>", {}, ()) == ([], None)

    def test_it_sees_nothing_else(self) -> None:
        with pytest.raises(NameError, match="'pytest' is not defined") as caught:
            run_cell("pytest", "<cell>", {}, ())
        assert caught.value.__notes__ == [
            "This cell runs on a worker: it sees what it imports itself, and no variable of the notebook; name those that it "
            "needs behind %%gpu."
        ]
        with pytest.raises(NameError) as caught:
            run_cell("pytest", "<cell>", {"x": 1, "y": 2}, ())
        assert caught.value.__notes__ == [
            "This cell runs on a worker: it sees x, y and what it imports itself; name what else it needs behind %%gpu."
        ]

    @pytest.mark.parametrize("source", ["x;", "x; \n\n# a word\n", "if x:\n    pass\n(\n    x\n)  ;  # why", "1; x;"])
    def test_a_semicolon_at_the_end_says_that_the_value_is_not_wanted(self, source: str) -> None:
        assert run_cell(source, "<cell>", {"x": 2}, ()) == ([], None)

    @pytest.mark.parametrize("source", ["1; x", "x  # ;", "x;\nx", "'x;' and x"])
    def test_any_other_semicolon_does_not(self, source: str) -> None:
        assert run_cell(source, "<cell>", {"x": 2}, ()) == ([], 2)

    def test_it_is_compiled_as_any_other_cell(self) -> None:
        source = "def f(n: int): pass\nf.__annotations__['n']"
        assert run_cell(source, "<cell>", {}, ()) == ([], int)

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

    def test_a_cell_that_ends_in_a_semicolon_shows_nothing(self, shell: Any) -> None:
        assert shell.run_cell("%%gpu -> y\ny = 1\ny;  # kept quiet").result is None
        assert shell.user_ns["y"] == 1

    def test_a_name_that_is_not_there(self, shell: Any) -> None:
        done = shell.run_cell("%%gpu missing\n1")
        assert isinstance(done.error_in_exec, UsageError)
        assert "'missing' is not defined here, so it cannot go to the worker" in str(done.error_in_exec)

    def test_what_the_cell_raises(self, shell: Any) -> None:
        done = shell.run_cell("%%gpu\n1 / 0")
        assert isinstance(done.error_in_exec, ZeroDivisionError)


def test_the_extension_is_plovers() -> None:
    assert plover.load_ipython_extension.__doc__ is not None
