"""Plover in notebooks: ``%load_ext plover`` and the ``%%gpu`` cell.

Guarantees: importing it imports no IPython. A cell that runs on a worker sees the named variables and nothing else of the
notebook; what it binds to the names behind ``->`` comes back, and the value of a last expression is displayed. What goes
wrong in it is shown as in any other cell: its own number and lines, and nothing of Plover or IPython; wrong use in one line.

Assumes: IPython's public interface for magics, and the `_render_traceback_` that it asks exceptions for; `plover` is
installed where the worker runs.
"""

from __future__ import annotations

import ast
import io
import keyword
import linecache
import shlex
import sys
import tokenize
import traceback
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from plover.bundles.references import Names, References
from plover.decorator import GpuFunction
from plover.errors import PloverError
from plover.pickling.variables import Variables

if TYPE_CHECKING:
    from plover.client.calls import Payload
    from plover.options import Options
    from plover.wire.messages import CallOptions

__all__ = ["Cell", "Ran", "load_ipython_extension", "parse_line", "run_cell"]

_OPTIONS = {"gpu": str, "timeout": float, "queue_timeout": float, "retries": int, "environment": str}
_USAGE = "%%gpu [--gpu MODEL] [--timeout SECONDS] [names in…] [-> names out…]"


class Cell(msgspec.Struct, frozen=True):
    """What the line of a ``%%gpu`` cell says: names that go in, names that come back, and options of the call."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[str, Any]


def parse_line(line: str) -> Cell:
    """Read the line of a ``%%gpu`` cell.

    Raises:
        ValueError: it is not one; the message has the usage.

    Example:
        >>> parse_line("--timeout 5 x, y -> z").outputs
        ('z',)
    """
    options: dict[str, Any] = {}
    try:
        words = shlex.split(line.replace(",", " "))
    except ValueError as error:  # a quote that is not closed
        raise ValueError(f"{error}: {_USAGE}") from None
    while words and words[0].startswith("--"):
        name, equals, value = words.pop(0)[2:].partition("=")
        name = name.replace("-", "_")
        if name not in _OPTIONS:
            raise ValueError(f"%%gpu has no option --{name}; it is used as: {_USAGE}")
        if not equals:
            if not words:
                raise ValueError(f"--{name} needs a value: {_USAGE}")
            value = words.pop(0)
        try:
            options[name] = _OPTIONS[name](value)
        except ValueError:
            raise ValueError(f"--{name} needs a number, not {value!r}: {_USAGE}") from None
    arrow = words.index("->") if "->" in words else len(words)
    inputs, outputs = tuple(words[:arrow]), tuple(words[arrow + 1 :])
    for name in (*inputs, *outputs):
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} is not the name of a variable: {_USAGE}")
    return Cell(inputs, outputs, options)


class Ran:
    """What came of a cell: the `variables` that come back, and the `value` of its last expression (None without one)."""

    def __init__(self, variables: Variables, value: Any) -> None:
        self.variables = variables
        self.value = value


def run_cell(source: str, filename: str, variables: Variables, outputs: tuple[str, ...]) -> Ran:
    """On a worker: run a cell's source.

    Args:
        source: Python; as everywhere in IPython, a semicolon at its end says that its value is not wanted.
        filename: what tracebacks call it.
        variables: what the cell sees.
        outputs: names that are to come back.

    Raises:
        NameError: the cell did not bind one of `outputs`.
    """
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    tree = ast.parse(source, filename)
    shows = bool(tree.body) and isinstance(tree.body[-1], ast.Expr) and not _ends_in_semicolon(source)
    last = tree.body.pop() if shows else None
    namespace: dict[str, Any] = {"__name__": "__main__", **variables}
    value = None
    try:
        # The user's own code, where it is meant to run; this module's `from __future__` is none of it.
        exec(compile(tree, filename, "exec", dont_inherit=True), namespace)  # noqa: S102
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), filename, "eval", dont_inherit=True), namespace)  # noqa: S307
    except NameError as error:
        error.add_note(_what_it_sees(variables))
        raise
    missing = [name for name in outputs if name not in namespace]
    if missing:
        raise NameError(f"the cell did not bind {', '.join(missing)}, which stands behind ->", name=missing[0])
    return Ran(Variables({name: namespace[name] for name in outputs}), value)


def _ends_in_semicolon(source: str) -> bool:
    beside = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.DEDENT, tokenize.ENDMARKER)
    words = [each.string for each in tokenize.generate_tokens(io.StringIO(source).readline) if each.type not in beside]
    return words[-1:] == [";"]


def _what_it_sees(variables: Variables) -> str:
    if not variables:
        return (
            "This cell runs on a worker: it sees what it imports itself, and no variable of the notebook; name those that "
            "it needs behind %%gpu."
        )
    return (
        f"This cell runs on a worker: it sees {', '.join(variables)} and what it imports itself; name what else it needs "
        "behind %%gpu."
    )


# -- IPython -----------------------------------------------------------------------------------------------------------


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext plover``."""
    shell.register_magic_function(_Magic(shell), "cell", "gpu")


class _Magic:
    """``%%gpu [options] [names in…] [-> names out…]``: run a cell on a worker."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.__name__ = "gpu"
        self.__doc__ = f"Run this cell on a GPU worker: {_USAGE}"

    def __call__(self, line: str, cell: str) -> Any:
        shell, names = self._shell, self._shell.user_ns
        asked, options = _asked(line, names)
        # With the magic's own line before it, so that lines are counted as in the notebook.
        filename = shell.compile.cache(f"%%gpu {line}\n{cell}", _cells_number(shell))
        source = f"\n{cell}"
        try:
            code = compile(source, filename, "exec", dont_inherit=True)
            run = _CellFunction(options, _mentioned(code))
            ran = run(source, filename, Variables({name: names[name] for name in asked.inputs}), asked.outputs)
        except SyntaxError as error:
            raise _shown_as_it_is(shell, error, filename) from None
        except BaseException as error:
            _show_the_cell_alone(shell, error, filename)
            raise
        shell.push(dict(ran.variables))
        return ran.value


class _CellFunction(GpuFunction[..., Ran]):
    """`run_cell`, with the modules that the cell mentions: its code travels as text, in which nobody else looks for them."""

    def __init__(self, options: CallOptions, mentioned: Names) -> None:
        super().__init__(run_cell, options)
        self._mentioned = mentioned

    def _pack(self) -> Payload:
        return msgspec.structs.replace(super()._pack(), name="%%gpu cell", names=self._mentioned)


def _mentioned(code: CodeType) -> Names:
    """The modules that a cell's code imports, wherever it does."""
    references = References()
    references.use(FunctionType(code, {"__name__": "__main__"}))
    return references.names()


def _asked(line: str, names: dict[str, Any]) -> tuple[Cell, CallOptions]:
    """What the line says, of this notebook.

    Raises:
        UsageError: IPython's, which it shows in one line.
    """
    from IPython.core.error import UsageError

    from plover.options import parse_options
    from plover.wire.messages import CallOptions

    try:
        asked = parse_line(line)
        options: Options = asked.options  # type: ignore[assignment]
        parsed = parse_options(CallOptions(), options)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    for name in asked.inputs:
        if name not in names:
            raise UsageError(f"name {name!r} is not defined here, so it cannot go to the worker")
    return asked, parsed


def _cells_number(shell: Any) -> int:
    """Of the cell that runs. IPython's `execution_count` may be the next one's already, depending on its version."""
    known = getattr(shell.compile, "_filename_map", {})
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename in known:
            return int(known[frame.f_code.co_filename])
        frame = frame.f_back
    return int(shell.execution_count)


def _cells_own(tb: TracebackType | None, filename: str) -> TracebackType | None:
    while tb is not None and tb.tb_frame.f_code.co_filename != filename:
        tb = tb.tb_next
    return tb


def _show_the_cell_alone(shell: Any, error: BaseException, filename: str) -> None:
    """Have IPython show, once, the cell's frames and those below; without any, it was none of the cell's code that raised."""
    own = _cells_own(error.__traceback__, filename)
    kind = type(error)
    if own is None and not isinstance(error, PloverError | KeyboardInterrupt | NameError):
        return  # a fault of Plover's own

    def render() -> list[str]:
        del vars(error)["_render_traceback_"]  # whoever raises it again is shown where
        if own is None:
            return traceback.format_exception_only(kind, error)
        lines: list[str] = shell.InteractiveTB.structured_traceback(kind, error, own, tb_offset=0)
        return lines

    vars(error)["_render_traceback_"] = render


def _shown_as_it_is(shell: Any, error: SyntaxError, filename: str) -> Exception:
    """What is raised instead of a syntax error, which IPython would show with all frames that lead to its magics."""
    own = _cells_own(error.__traceback__, filename)
    lines = shell.SyntaxTB.structured_traceback(type(error), error, traceback.extract_tb(own))
    shown: type[Exception] = type(type(error).__name__, (Exception,), {"_render_traceback_": lambda _: lines})
    return shown(*error.args[:1])
