"""A call that says when it has begun, and ends when it is told to."""

from __future__ import annotations

from typing import Any

from plover import gpu_function

__all__ = ["blocker"]


def blocker() -> Any:
    """A function of two named pipes: it writes to the first when it begins, and returns what comes out of the second."""

    @gpu_function
    def block(begun: str, gate: str) -> str:
        with open(begun, "w") as fifo:
            fifo.write("begun\n")
        with open(gate) as fifo:
            return fifo.readline()

    return block
