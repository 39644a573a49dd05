"""Integers in simulated kernels: typed as compiled Numba types them, whatever kind of array they come from."""

from __future__ import annotations

import functools
import pickle

import cupy as cp
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import cuda, int16, int32, uint8

NARROW = ("i1", "u1", "i2", "u2", "i4", "u4")
PAIRS = [
    ("u1", "u1"), ("i1", "i1"), ("u1", "i1"), ("i2", "u2"), ("u2", "u4"), ("i4", "i4"), ("u4", "u4"), ("i4", "u1"),
    ("u4", "i8"), ("i8", "u4"), ("u8", "u1"), ("u1", "u8"), ("u2", "f4"), ("i4", "f4"), ("f4", "i1"), ("f8", "u4"),
]  # fmt: skip


def _source(whole):
    """A function that stores every expression's value as bits (if it is an integer) and as a float."""
    common = ["x + y", "x - y", "x * y", "x // y", "x % y", "x / y", "-x", "+x", "abs(y)", "x + 1", "1 - x", "3 * x",
              "x // 7", "x % 7", "x - y - 200", "(x + y) // 3 - 9", "x * 0.5", "2.5 - x", "x < y", "x <= y", "x == y",
              "x != y", "x > y", "x >= y", "(x - y) < 0", "-y > x"]  # fmt: skip
    integers = ["x & y", "x | y", "x ^ y", "~x", "x << (y & 31)", "x >> (y & 31)", "x << 3", "x >> 1", "1 << (x & 31)",
                "(x - y) >> 2", "~x & y", "x & 15", "15 | x", "x ^ 0xDEADBEEF", "x * y * y * y * 2654435761",
                "(x ^ y) * 6364136223846793005 >> 33", "x ** 2", "y ** 3"]  # fmt: skip
    lines = ["def calculate(a, b, bits, values):", "    x, y = a[0], b[0]"]
    for k, expression in enumerate(common + (integers if whole else [])):
        lines.append(f"    r{k} = {expression}")
        if whole:
            lines.append(f"    bits[{k}] = r{k}")
        lines.append(f"    values[{k}] = r{k}")
    return "\n".join(lines), common + (integers if whole else [])


@functools.cache
def _calculate(whole):
    source, expressions = _source(whole)
    made = {}
    exec(source, made)
    return made["calculate"], numba.njit(made["calculate"], error_model="numpy"), expressions


def _values(dtype):
    if dtype[0] == "f":
        return st.sampled_from([0.5, -1.25, 3.0, 1e3, -77.0])
    info = np.iinfo(dtype)
    return st.integers(int(info.min), int(info.max)) | st.sampled_from([int(info.min), 1, 5, int(info.max)])


@pytest.mark.parametrize("left, right", PAIRS)
def test_arithmetic_is_compiled_numbas(left, right):
    whole = "f" not in left + right
    plain, compiled, expressions = _calculate(whole)
    kernel = cuda.jit(plain)

    @settings(max_examples=40, deadline=None, database=None)
    @given(_values(left), _values(right).filter(bool))
    def compare(x, y):
        a, b = np.array([x], left), np.array([y], right)
        here = np.zeros(len(expressions), "i8"), np.zeros(len(expressions))
        there = np.zeros(len(expressions), "i8"), np.zeros(len(expressions))
        kernel[1, 1](a, b, *here)
        compiled(a, b, *there)
        for k, expression in enumerate(expressions):
            case = f"{expression} with x = {left}({x}), y = {right}({y})"
            assert here[0][k] == there[0][k], case
            np.testing.assert_equal(here[1][k], there[1][k], case)

    compare()
