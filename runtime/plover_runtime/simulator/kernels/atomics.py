"""``cuda.atomic``: since one CUDA thread runs at a time, each is a plain read and write.

An atomic that changes nothing is how locks and flags are waited for, so it lets the other threads of the block run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .state import running


def _updating(change: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def atomic(self: Any, array: Any, index: Any, val: Any) -> Any:
        old = array[index]
        new = change(old, val)
        array[index] = new
        if running.block is not None and bool(old == array[index]):
            running.block.spin()
        return old

    return atomic


def _nan_aware(pick: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def change(old: Any, val: Any) -> Any:
        if old != old:
            return val
        return old if val != val else pick(old, val)

    return change


class Atomic:
    """The namespace ``cuda.atomic``; each operation returns the value that was there before."""

    add = _updating(lambda old, val: old + val)
    sub = _updating(lambda old, val: old - val)
    and_ = _updating(lambda old, val: old & val)
    or_ = _updating(lambda old, val: old | val)
    xor = _updating(lambda old, val: old ^ val)
    exch = _updating(lambda old, val: val)
    inc = _updating(lambda old, val: 0 if old >= val else old + 1)
    dec = _updating(lambda old, val: val if old == 0 or old > val else old - 1)
    max = _updating(lambda old, val: val if val > old or old != old else old)
    min = _updating(lambda old, val: val if val < old or old != old else old)
    nanmax = _updating(_nan_aware(lambda old, val: val if val > old else old))
    nanmin = _updating(_nan_aware(lambda old, val: val if val < old else old))

    def compare_and_swap(self, array: Any, old: Any, val: Any) -> Any:
        return self.cas(array, (0,) * np.ndim(array), old, val)

    def cas(self, array: Any, index: Any, old: Any, val: Any) -> Any:
        found = array[index]
        if found == old:
            array[index] = val
        elif running.block is not None:
            running.block.spin()
        return found
