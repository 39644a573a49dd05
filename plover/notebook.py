"""Plover in notebooks: ``%load_ext plover`` and the ``%%gpu`` cell.

Guarantees: importing it imports no IPython. A cell that runs on a worker sees the named variables and nothing else of the
notebook; what it binds to the names behind ``->`` comes back, and the value of a last expression is displayed.

Assumes: IPython's public interface for magics; `plover` is installed where the worker runs.
"""

from __future__ import annotations

import ast
import linecache
import shlex
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from plover.options import Options

__all__ = ["Cell", "load_ipython_extension", "parse_line", "run_cell"]

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
    words = shlex.split(line.replace(",", " "))
    while words and words[0].startswith("--"):
        name, equals, value = words.pop(0)[2:].partition("=")
        name = name.replace("-", "_")
        if name not in _OPTIONS:
            raise ValueError(f"%%gpu has no option --{name}; it is used as: {_USAGE}")
        if not equals:
            if not words:
                raise ValueError(f"--{name} needs a value: {_USAGE}")
            value = words.pop(0)
        options[name] = _OPTIONS[name](value)
    arrow = words.index("->") if "->" in words else len(words)
    inputs, outputs = tuple(words[:arrow]), tuple(words[arrow + 1 :])
    for name in (*inputs, *outputs):
        if not name.isidentifier():
            raise ValueError(f"{name!r} is not the name of a variable: {_USAGE}")
    return Cell(inputs, outputs, options)


def run_cell(source: str, filename: str, variables: dict[str, Any], outputs: tuple[str, ...]) -> tuple[Any, Any]:
    """On a worker: run a cell's source.

    Args:
        source: Python.
        filename: what tracebacks call it.
        variables: what the cell sees.
        outputs: names that are to come back.

    Returns:
        The values of `outputs`, and that of the cell's last expression (None without one).

    Raises:
        NameError: the cell did not bind one of `outputs`.
    """
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    tree = ast.parse(source, filename)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    namespace: dict[str, Any] = {"__name__": "__main__", **variables}
    value = None
    try:
        exec(compile(tree, filename, "exec"), namespace)  # noqa: S102  (the user's own code, where it is meant to run)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), filename, "eval"), namespace)  # noqa: S307
    except NameError as error:
        error.add_note(
            f"This cell runs on a worker: it sees {', '.join(variables) or 'no variable'} and what it imports itself."
        )
        raise
    missing = [name for name in outputs if name not in namespace]
    if missing:
        raise NameError(f"the cell did not bind {', '.join(missing)}, which stands behind ->", name=missing[0])
    return [namespace[name] for name in outputs], value


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
        from plover.decorator import GpuFunction
        from plover.options import parse_options
        from plover.wire.messages import CallOptions

        asked = parse_line(line)
        names = self._shell.user_ns
        for name in asked.inputs:
            if name not in names:
                raise NameError(f"name {name!r} is not defined here, so it cannot go to the worker", name=name)
        options: Options = asked.options  # type: ignore[assignment]
        run = GpuFunction(run_cell, parse_options(CallOptions(), options))
        filename = self._shell.compile.cache(cell)
        try:
            values, last = run(cell, filename, {name: names[name] for name in asked.inputs}, asked.outputs)
        except BaseException as error:
            if error.__traceback__ is not None:
                BaseException.with_traceback(
                    error, error.__traceback__.tb_next
                )  # the cell's own frames; see `plover.tracebacks`
            raise
        self._shell.push(dict(zip(asked.outputs, values, strict=True)))
        return last
