"""Warp operations: what the lanes of a warp tell each other.

All lanes that the mask names and that have not ended must meet, in the same operation with the same mask; if they do
not, the block fails with a message rather than hang. The value of a lane that has ended is undefined on a GPU; here it
is the asking lane's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .blocks import Wait
from .state import WARP_SIZE, linear_thread, running

Values = dict[int, Any]  #: lane → what it brought


def _meet(kind: str, mask: Any, value: Any) -> Any:
    block = running.block
    if block is None:
        raise RuntimeError(
            f"cuda.{kind} was reached in a way that could not be seen beforehand; call it by name in the kernel"
        )
    mask = int(mask) & 0xFFFFFFFF
    lane = linear_thread() % WARP_SIZE
    if not mask >> lane & 1:
        raise RuntimeError(f"lane {lane} calls {kind} with mask {mask:#010x}, which does not name it")
    return block.meet(Wait(kind, value, block.place(sys._getframe(2)), mask))


def shfl_sync(mask: Any, value: Any, src_lane: Any) -> Any:
    return _meet("shfl_sync", mask, (value, int(src_lane)))


def shfl_up_sync(mask: Any, value: Any, delta: Any) -> Any:
    return _meet("shfl_up_sync", mask, (value, int(delta)))


def shfl_down_sync(mask: Any, value: Any, delta: Any) -> Any:
    return _meet("shfl_down_sync", mask, (value, int(delta)))


def shfl_xor_sync(mask: Any, value: Any, lane_mask: Any) -> Any:
    return _meet("shfl_xor_sync", mask, (value, int(lane_mask)))


def all_sync(mask: Any, predicate: Any) -> Any:
    return _meet("all_sync", mask, bool(predicate))


def any_sync(mask: Any, predicate: Any) -> Any:
    return _meet("any_sync", mask, bool(predicate))


def eq_sync(mask: Any, predicate: Any) -> Any:
    return _meet("eq_sync", mask, bool(predicate))


def ballot_sync(mask: Any, predicate: Any) -> Any:
    return _meet("ballot_sync", mask, bool(predicate))


def match_any_sync(mask: Any, value: Any) -> Any:
    return _meet("match_any_sync", mask, value)


def match_all_sync(mask: Any, value: Any) -> Any:
    return _meet("match_all_sync", mask, value)


def syncwarp(mask: Any = 0xFFFFFFFF) -> None:
    _meet("syncwarp", mask, None)


def activemask() -> int:
    """The lanes of the warp that have not ended: a GPU may name fewer."""
    block = running.block
    if block is None:
        raise RuntimeError(
            "cuda.activemask was reached in a way that could not be seen beforehand; call it by name in the kernel"
        )
    first = linear_thread() // WARP_SIZE * WARP_SIZE
    return _bits(lane.number - first for lane in block.lanes[first : first + WARP_SIZE] if not lane.done)


def lanemask_lt() -> int:
    return (1 << linear_thread() % WARP_SIZE) - 1


def _bits(lanes: Any) -> int:
    return sum(1 << lane for lane in lanes)


def _from(source: Callable[[int, int], int]) -> Callable[[int, Values], Any]:
    def shuffle(lane: int, values: Values) -> Any:
        value, amount = values[lane]
        other = values.get(source(lane, amount))
        return value if other is None else other[0]

    return shuffle


def _match_all(lane: int, values: Values) -> tuple[int, bool]:
    same = all(value == values[lane] for value in values.values())
    return (_bits(values) if same else 0), same


OPERATIONS: dict[str, Callable[[int, Values], Any]] = {
    "shfl_sync": _from(lambda lane, source: source % WARP_SIZE),
    "shfl_up_sync": _from(lambda lane, delta: lane - delta),
    "shfl_down_sync": _from(lambda lane, delta: lane + delta),
    "shfl_xor_sync": _from(lambda lane, mask: lane ^ mask),
    "all_sync": lambda lane, values: all(values.values()),
    "any_sync": lambda lane, values: any(values.values()),
    "eq_sync": lambda lane, values: len(set(values.values())) == 1,
    "ballot_sync": lambda lane, values: _bits(number for number, value in values.items() if value),
    "match_any_sync": lambda lane, values: _bits(n for n, value in values.items() if value == values[lane]),
    "match_all_sync": _match_all,
    "syncwarp": lambda lane, values: None,
}

NAMES = (*OPERATIONS, "activemask", "lanemask_lt")
