"""cupy.cuda.nvtx: marks for a profiler that is not there."""

from __future__ import annotations


def Mark(message: str, id_color: int = -1) -> None:
    pass


def MarkC(message: str, color: int = 0) -> None:
    pass


def RangePush(message: str, id_color: int = -1) -> None:
    pass


def RangePushC(message: str, color: int = 0) -> None:
    pass


def RangePop() -> None:
    pass
