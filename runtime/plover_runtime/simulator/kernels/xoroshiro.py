"""``numba.cuda.random`` with its generator's steps in Python integers.

Numba compiles these functions in object mode when it simulates, which warns and is slow. The recurrence is Blackman
and Vigna's xoroshiro128+, seeded by Steele, Lea and Flood's SplitMix64 (both in the public domain); the streams are
those that Numba's own functions give.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_MASK = 2**64 - 1
_JUMP = 0xD86B048B86AA9922_BEAC0467EBA5FACB


def _step(s0: int, s1: int) -> tuple[int, int]:
    s1 ^= s0
    return (
        ((s0 << 55 | s0 >> 9) & _MASK) ^ s1 ^ (s1 << 14 & _MASK),
        (s1 << 36 | s1 >> 28) & _MASK,
    )


def _jumped(s0: int, s1: int) -> tuple[int, int]:
    """The state 2**64 steps on."""
    a0 = a1 = 0
    for bit in range(128):
        if _JUMP >> bit & 1:
            a0, a1 = a0 ^ s0, a1 ^ s1
        s0, s1 = _step(s0, s1)
    return a0, a1


def _seeded(seed: int) -> tuple[int, int]:
    z = (seed + 0x9E3779B97F4A7C15) & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    z ^= z >> 31
    return z, z


def _get(states: Any, index: Any) -> tuple[int, int]:
    record = states[int(index)]
    return int(record["s0"]), int(record["s1"])


def _put(states: Any, index: Any, state: tuple[int, int]) -> None:
    record = states[int(index)]
    record["s0"], record["s1"] = np.uint64(state[0]), np.uint64(state[1])


def xoroshiro128p_next(states: Any, index: Any) -> Any:
    s0, s1 = _get(states, index)
    _put(states, index, _step(s0, s1))
    return np.uint64((s0 + s1) & _MASK)


def xoroshiro128p_jump(states: Any, index: Any) -> None:
    _put(states, index, _jumped(*_get(states, index)))


def init_xoroshiro128p_state(states: Any, index: Any, seed: Any) -> None:
    _put(states, index, _seeded(int(seed) & _MASK))


def init_xoroshiro128p_states_cpu(states: Any, seed: Any, subsequence_start: Any) -> None:
    state = _seeded(int(seed) & _MASK)
    for _ in range(int(subsequence_start)):
        state = _jumped(*state)
    for index in range(states.shape[0]):
        states[index] = state
        state = _jumped(*state)


def mend(module: Any) -> None:
    """Put these, and the plain Python of what is built on them, into ``numba.cuda.random``."""
    for name, value in list(vars(module).items()):
        if hasattr(value, "py_func"):
            setattr(module, name, value.py_func)
    for function in (
        xoroshiro128p_next, xoroshiro128p_jump, init_xoroshiro128p_state, init_xoroshiro128p_states_cpu,
    ):  # fmt: skip
        setattr(module, function.__name__, function)
