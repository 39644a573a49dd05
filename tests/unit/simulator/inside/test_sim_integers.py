"""Integers in simulated kernels: typed as compiled Numba types them, whatever kind of array they come from."""

from __future__ import annotations

import functools
import pickle

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import cuda, int16, uint8

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
                "(x ^ y) * 6364136223846793005", "x ** 2", "y ** 3"]  # fmt: skip
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


def test_bytes_are_added_without_wrapping_round():
    @cuda.jit
    def pairs(x, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = x[i] + x[i + 1]

    out = np.zeros(2, "i4")
    pairs[1, 2](np.array([200, 100, 250], "u1"), out)
    assert out.tolist() == [300, 350]
    pairs[1, 2](cuda.to_device(np.array([200, 100, 250], "u1")), out[::-1])
    assert out.tolist() == [350, 300]


def test_shared_local_and_constant_arrays_widen_too():
    table = np.array([250, 251], "u1")

    @cuda.jit
    def kernel(out):
        fixed, flexible = cuda.shared.array(2, uint8), cuda.shared.array(0, int16)
        own, constant = cuda.local.array((1, 2), uint8), cuda.const.array_like(table)
        i = cuda.threadIdx.x
        fixed[i], flexible[i], own[0, 0], own[0, 1] = 200 + i, 32767 - i, 255, 254
        cuda.syncthreads()
        row = own[0]
        total = 0
        for value in row:
            total += value + value
        out[i, 0] = fixed[0] + fixed[1]
        out[i, 1] = flexible[0] + flexible[1]
        out[i, 2] = row[0] + own[0, 1]
        out[i, 3] = constant[0] * constant[1]
        out[i, 4] = total

    out = np.zeros((2, 5), "i8")
    kernel[1, 2, 0, 4](out)
    assert out.tolist() == [[401, 65533, 509, 62750, 1018]] * 2


def test_scalars_and_record_fields_widen_too():
    @cuda.jit
    def kernel(scalar, wide, records, out):
        out[0], out[1] = scalar + scalar, wide * scalar
        out[2] = records[0].a + records[1].a + records[0]["a"]
        records[0].a, records[1]["a"], records[0].f = 300, -1, 2.5

    out = np.zeros(3, "i8")
    records = np.array([(200, 1.0), (250, 2.0)], [("a", "u1"), ("f", "f4")])
    kernel[1, 1](np.uint8(200), np.int64(2), records, out)
    assert out.tolist() == [400, 400, 650]
    assert records.tolist() == [(44, 2.5), (255, 2.0)]


def test_a_store_keeps_the_low_bits():
    @cuda.jit
    def store(values, narrow, wide):
        narrow[0], narrow[1], narrow[2], narrow[3] = 300, -1, 258.9, values[0] * values[0]
        wide[0], wide[1], wide[2] = 2**63 + 5, values[0] - values[1], -3.7

    narrow, wide, unsigned = np.zeros(4, "u1"), np.zeros(3, "i8"), np.zeros(3, "u8")
    values = np.array([200, 201], "u1")
    store[1, 1](values, narrow, wide)
    assert narrow.tolist() == [44, 255, 2, 64]
    assert wide.tolist() == [-(2**63) + 5, -1, -3]
    store[1, 1](values, narrow, unsigned)
    assert unsigned.tolist() == [2**63 + 5, 2**64 - 1, 2**64 - 3]


def test_where_all_arrays_are_of_int64_they_are_numpys_own():
    @cuda.jit
    def store(x, out):
        out[0] = x[0] + 2**63 - 1
        out[1] = 2**63

    out = np.zeros(2, "i8")
    with pytest.raises(OverflowError, match="Python int"):
        store[1, 1](np.array([1]), out)


def test_what_cannot_be_stored_is_still_an_error():
    @cuda.jit
    def store(out):
        out[0] = "text"

    with pytest.raises(ValueError, match="invalid literal"):
        store[1, 1](np.zeros(2, "i4"))


@pytest.mark.parametrize("dtype", ["i4", "u4", "u8", "i8"])
def test_atomics_wrap_round_in_the_arrays_own_width(dtype):
    @cuda.jit
    def kernel(counts, x, seen):
        i = cuda.grid(1)
        seen[i] = cuda.atomic.add(counts, 0, x[i])
        cuda.atomic.sub(counts, 1, x[i])
        cuda.atomic.max(counts, 2, x[i])
        cuda.atomic.cas(counts, 3, 0, x[i])
        cuda.atomic.or_(counts, 4, x[i])
        cuda.atomic.exch(counts, 5, x[i])
        cuda.atomic.inc(counts, 6, 2)

    counts, seen = np.zeros(7, dtype), np.zeros(3, dtype)
    largest = int(np.iinfo(dtype).max)
    kernel[1, 3](counts, np.array([largest, 1, 2], dtype), seen)
    assert seen.tolist() == [0, largest, (np.array([largest], dtype) + np.ones(1, dtype))[0]]
    expected = np.array([largest], dtype) + np.array([3], dtype)
    assert counts[0] == expected[0]
    assert counts[1:2] == np.zeros(1, dtype) - expected
    assert counts[2:].tolist() == [largest, largest, largest, 2, 0]


def test_bit_operations_know_how_wide_an_element_is():
    @cuda.jit
    def kernel(x, out):
        out[0], out[1], out[2], out[3] = cuda.clz(x[0]), cuda.popc(x[1]), cuda.ffs(x[0]), cuda.brev(x[0])

    out = np.zeros(4, "i8")
    kernel[1, 1](np.array([1, -1], "i4"), out)
    assert out.tolist() == [31, 32, 1, 2**31]


def test_an_element_is_an_integer_of_its_dtype():
    kept = []

    @cuda.jit
    def kernel(x):
        a, b = x[0], x[1]
        kept.append(pickle.dumps(a))
        kept.append((a.dtype, a.view("i1").dtype, divmod(a, b), divmod(1000, a), abs(a), hash(a) == hash(200)))
        kept.append((np.sqrt(a).dtype, a // 0, a % b, a / 0, a + 1j, a == "text", a < np.int64(300), np.float32(1) < a))
        kept.append(
            a + np.arange(2),
        )
        kept.append(a << 70)
        for wrong in (lambda: a + "text", lambda: a**-1, lambda: a.nothing):
            with pytest.raises((TypeError, ValueError, AttributeError)):
                wrong()

    kernel[1, 1](np.array([200, 7], "u1"))
    element = pickle.loads(kept[0])
    assert (element, type(element)) == (200, np.uint8)
    assert kept[1] == (np.dtype("u1"), np.dtype("i1"), (28, 4), (5, 0), 200, True)
    assert kept[2] == (np.dtype("f8"), 0, 4, np.inf, 200 + 1j, False, True, True)
    assert kept[3].tolist() == [200, 201]
    assert kept[4] == 0
