"""Scripts that a test talks with: it says words to them through named pipes, and reads the lines that they print.

Assumes: as `tests.support.daemons`, of which this is a small addition. A pipe has one reader at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.support.daemons import Fifo, Mark, Script

__all__ = ["HEAR", "Talking", "talking"]

#: For the script: `hear(…)` waits for a word through a pipe, `say(…)` prints a line, at once and whole.
HEAR = """
import os

def hear(pipe="words"):
    word = b""
    fd = os.open(pipe, os.O_RDWR)
    try:
        while not word.endswith(b"\\n"):
            word += os.read(fd, 1)
    finally:
        os.close(fd)
    return word.decode().strip()

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


class Talking(Script):
    """A running script whose source begins with `HEAR`.

    Args:
        pipes: names of pipes in its directory, beside ``words``.
    """

    def __init__(self, source: str, *arguments: str, pipes: tuple[str, ...] = (), **options: Any) -> None:
        mark = Mark()
        self._pipes = {name: Fifo(mark.directory / name) for name in ("words", *pipes)}
        super().__init__(source, *arguments, mark=mark, **options)

    def say(self, word: str = "go on", pipe: str = "words") -> None:
        """Let it go on."""
        self._pipes[pipe].say(word)

    def path(self, pipe: str) -> str:
        """Where a pipe is, for others than the script."""
        return self._pipes[pipe].path

    def close(self) -> None:
        """Kill what a failed test left, and give everything back."""
        for pipe in self._pipes.values():
            pipe.close()
        super().close()


@contextlib.contextmanager
def talking(source: str, *arguments: str, **options: Any) -> Iterator[Talking]:
    """A running script, ended and cleaned up behind the test."""
    running = Talking(source, *arguments, **options)
    try:
        yield running
    finally:
        running.close()
