"""Large values beside the pickle stream: what they come out as, and that they are copied once at most."""

from __future__ import annotations

import array
import ctypes
import importlib
import os
import pickle
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from plover import serialize
from plover.pickling import buffers


def arrived(packed: list[serialize.Buffer]) -> list[serialize.Buffer]:
    """Buffers as they arrive: each in writable memory of its own."""
    return [bytes(packed[0]), *(bytearray(each) for each in packed[1:])]


def there(value: Any) -> Any:
    return serialize.unpack(arrived(serialize.pack(value)))


def needs(name: str) -> types.ModuleType:
    """A package that is there wherever the tests have to be complete."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} is not installed: pip install {name}")


def outside(value: Any) -> int:
    """How many bytes of a packed value stand beside its stream."""
    stream, *rest = serialize.pack(value)
    assert len(stream) < 3000
    return sum(memoryview(each).nbytes for each in rest)


ARRAYS = {
    "plain": np.arange(1000.0),
    "Fortran order": np.arange(600.0).reshape(20, 30, order="F"),
    "every third": np.arange(3000.0)[::3],
    "backwards": np.arange(1000)[::-1],
    "transposed": np.arange(24_000).reshape(20, 30, 40).transpose(1, 0, 2),
    "broadcast": np.broadcast_to(np.arange(40.0), (30, 40)),
    "datetime64": np.arange(1000).view("M8[ns]"),
    "datetime64, strided": np.arange(1000).view("M8[us]")[::2],
    "timedelta64": np.arange(1000).view("m8[h]"),
    "big endian": np.arange(1000, dtype=">f8"),
    "records": np.zeros(500, "f8, i4, U3"),
    "records with dates": np.zeros(500, [("when", "M8[s]"), ("x", ">i2", (2, 2))]),
    "aligned records": np.zeros(500, np.dtype("u1, f8", align=True)),
    "text": np.array(["abc", "d"] * 300),
    "bytes": np.array([b"abc", b"d"] * 300),
    "bool": np.arange(1000) % 2 == 0,
    "half": np.arange(1000, dtype="f2"),
    "long double": np.arange(1000, dtype="g"),
    "complex": np.arange(1000) * 1j,
    "void": np.zeros(1000, "V5"),
    "empty": np.zeros((0, 4)),
    "empty, strided": np.zeros((4, 0, 3)).transpose(2, 0, 1),
    "no dimensions": np.array(3.5),
    "no dimensions, a date": np.array(np.datetime64("2020-01-01")),
}


class TestArrays:
    @pytest.mark.parametrize("name", ARRAYS)
    def test_they_come_out_as_they_went_in(self, name: str) -> None:
        value = ARRAYS[name]
        found = there(value)
        assert (type(found), found.dtype, found.shape) == (np.ndarray, value.dtype, value.shape)
        np.testing.assert_array_equal(found, value)
        assert found.flags.f_contiguous or not value.flags.f_contiguous
        assert found.flags.c_contiguous or value.flags.f_contiguous
        assert found.flags.writeable is value.flags.writeable
        assert outside(value) == value.nbytes

    @pytest.mark.parametrize("name", [name for name, value in ARRAYS.items() if value.flags.forc and value.size])
    def test_contiguous_ones_are_not_copied(self, name: str) -> None:
        value = ARRAYS[name].copy("K")
        buffer = np.frombuffer(serialize.pack(value)[1], "u1")
        assert np.shares_memory(buffer, value)
        data = bytearray(buffer)
        found = serialize.unpack([serialize.pack(value)[0], data])
        assert np.shares_memory(found, np.frombuffer(data, "u1"))

    @pytest.mark.parametrize("make", [lambda: np.zeros(9), lambda: np.zeros(9)[::2], lambda: np.zeros(9, "M8[s]")])
    def test_what_is_read_only_stays_so(self, make: Any) -> None:
        value = make()
        assert there(value).flags.writeable
        value.flags.writeable = False
        assert not there(value).flags.writeable

    def test_metadata_of_a_dtype_goes_along(self) -> None:
        value = np.zeros(5, np.dtype("f8", metadata={"unit": "m"}))
        assert there(value).dtype.metadata == {"unit": "m"}

    @pytest.mark.parametrize(
        "value",
        [
            np.array(["a", None, [1, 2]], dtype=object),
            np.array([(1, [2])], "i4, O"),
            np.zeros(3, "S0"),
            np.zeros(9).view(np.recarray),
        ],
        ids=["objects", "records of objects", "no bytes", "a subclass"],
    )
    def test_the_rest_is_left_to_numpy(self, value: Any) -> None:
        found = there(value)
        assert (type(found), found.dtype, found.shape) == (type(value), value.dtype, value.shape)
        np.testing.assert_array_equal(found, value)

    def test_an_array_twice_is_one_array(self) -> None:
        value = np.arange(100)[::2]
        one, two = there([value, value])
        assert one is two

    @given(
        arrays.arrays(
            st.one_of(
                arrays.scalar_dtypes(),
                arrays.array_dtypes(max_size=3),
                arrays.nested_dtypes(max_leaves=4, max_itemsize=200),
            ),
            arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
        ),
        st.sampled_from(["", "T", "[::2]", "[::-1]"]),
    )
    @settings(max_examples=200, deadline=None)
    def test_any_array(self, value: Any, view: str) -> None:
        if view == "T":
            value = value.T
        elif view and value.ndim:
            value = value[::2] if view == "[::2]" else value[::-1]
        found = there(value)
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tobytes() == value.tobytes()


class TestMasked:
    @pytest.mark.parametrize(
        "value",
        [
            np.ma.array(np.arange(1000.0), mask=np.arange(1000) % 2),
            np.ma.array(np.arange(1000)),
            np.ma.array([1.0, 2.0], mask=True, fill_value=-5, hard_mask=True),
            np.ma.array(np.zeros((3, 4), order="F"), mask=np.eye(3, 4)),
            np.ma.array(np.zeros(3, "i4, f8"), mask=[(0, 1), (1, 0), (0, 0)]),
            np.ma.array(np.arange(10).view("M8[s]"), mask=np.arange(10) % 2)[::2],
            np.ma.array(5, mask=True),
        ],
        ids=["mask", "no mask", "hard", "Fortran", "records", "dates, strided", "no dimensions"],
    )
    def test_they_come_out_as_they_went_in(self, value: Any) -> None:
        found = there(value)
        assert (type(found), found.dtype, found.shape) == (np.ma.MaskedArray, value.dtype, value.shape)
        np.testing.assert_array_equal(found.data, value.data)
        np.testing.assert_array_equal(np.ma.getmaskarray(found), np.ma.getmaskarray(value))
        assert (found.mask is np.ma.nomask) is (value.mask is np.ma.nomask)
        assert (found._fill_value, found.hardmask) == (value._fill_value, value.hardmask)
        np.testing.assert_array_equal(found.fill_value, value.fill_value)
        found.soften_mask()
        found[...] = np.zeros((), value.dtype)
        assert not np.ma.getmaskarray(found).view("?").any()

    def test_their_bytes_stand_beside_the_stream(self) -> None:
        assert outside(np.ma.array(np.zeros(1000), mask=np.zeros(1000))) == 9000

    def test_what_somebody_noted_goes_along(self) -> None:
        value = np.ma.array([1, 2])
        value._optinfo["note"] = "mine"
        assert there(value)._optinfo == {"note": "mine"}

    def test_one_over_another_class_is_left_to_numpy(self) -> None:
        value = np.ma.array(np.zeros(3).view(np.recarray))
        found = there(value)
        assert found.baseclass is value.baseclass
        np.testing.assert_array_equal(found, value)


class TestViews:
    @pytest.mark.parametrize(
        "value",
        [
            memoryview(b"abc"),
            memoryview(bytearray(b"abc")),
            memoryview(array.array("d", [1.0, 2.0])),
            memoryview(np.arange(12).reshape(3, 4)),
            memoryview(np.arange(10, dtype="i2"))[::2],
            memoryview(np.zeros((3, 4), order="F")),
            memoryview((ctypes.c_int * 3)(1, 2, 3)),
            memoryview(np.array(5.0)),
            memoryview(b""),
            memoryview(np.zeros((0, 3), "f4")),
            memoryview(np.zeros(3, "?")),
            memoryview(b"abc").cast("c"),
        ],
    )
    def test_they_arrive_as_views_of_the_same_items(self, value: memoryview) -> None:
        found = there(value)
        assert type(found) is memoryview
        assert (found.shape, found.readonly) == (value.shape, value.readonly)
        assert found.tolist() == np.asarray(value).tolist()

    def test_their_memory_is_not_copied(self) -> None:
        owner = bytearray(100_000)
        buffer = np.frombuffer(serialize.pack(memoryview(owner))[1], "u1")
        assert np.shares_memory(buffer, np.frombuffer(owner, "u1"))


class TestBytes:
    LARGE = bytes(range(256)) * 1024

    @pytest.mark.parametrize(
        "make",
        [
            lambda large: large,
            bytearray,
            lambda large: (1, large, "x"),
            lambda large: {"a": [large, bytearray(large)], "b": b"small"},
            lambda large: [large, large, bytearray(large)],
        ],
    )
    def test_they_come_out_as_they_went_in(self, make: Any) -> None:
        value = make(self.LARGE)
        found = there(value)
        assert found == value
        assert _types(found) == _types(value)
        assert outside(value) >= len(self.LARGE)

    def test_the_same_bytes_go_once_and_are_one_object(self) -> None:
        owner = bytearray(self.LARGE)
        assert outside([owner, owner, {"again": owner}]) == len(owner)
        one, two, rest = there([owner, owner, {"again": owner}])
        assert one is two is rest["again"]

    def test_a_received_bytearray_is_not_copied_again(self) -> None:
        packed = arrived(serialize.pack(bytearray(self.LARGE)))
        assert serialize.unpack(packed) is packed[1]

    def test_bytes_in_read_only_buffers(self) -> None:
        stream, *rest = serialize.pack([self.LARGE, bytearray(self.LARGE), np.zeros(5)])
        data, text, array = serialize.unpack([stream, *map(bytes, rest)])
        assert (type(data), type(text)) == (bytes, bytearray)
        assert not array.flags.writeable

    def test_arguments_and_results_alike(self) -> None:
        packed, _, _ = serialize.pack_arguments("f", (self.LARGE,), {"k": bytearray(self.LARGE)})
        args, kwargs = serialize.unpack(arrived(packed))
        assert (args, kwargs) == ((self.LARGE,), {"k": bytearray(self.LARGE)})
        assert sum(memoryview(each).nbytes for each in packed[1:]) == 2 * len(self.LARGE)

    @pytest.mark.parametrize(
        "value",
        [
            b"x" * (buffers.LARGE_BYTES - 1),
            [[[b"x" * buffers.LARGE_BYTES]]],
            [b"x" * buffers.LARGE_BYTES] * 100,
            types.SimpleNamespace(data=b"x" * buffers.LARGE_BYTES),
        ],
        ids=["small", "deep", "many", "an attribute"],
    )
    def test_those_that_nobody_looks_for_stay_in_the_stream(self, value: Any) -> None:
        packed = serialize.pack(value)
        assert len(packed) == 1
        assert pickle.loads(packed[0]) == value

    def test_a_value_may_refer_to_itself(self) -> None:
        value: list[Any] = [self.LARGE]
        value.append(value)
        found = there(value)
        assert found[0] == self.LARGE
        assert found[1] is found


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _types(each) for key, each in value.items()}
    return [_types(each) for each in value] if isinstance(value, list | tuple) else type(value)


class TestPackages:
    def test_pandas(self) -> None:
        pandas = needs("pandas")
        count = 10_000
        frame = pandas.DataFrame(
            {
                "number": np.arange(count),
                "real": np.linspace(0, 1, count),
                "when": pandas.date_range("2020", periods=count, freq="s"),
                "where": pandas.date_range("2020", periods=count, freq="s", tz="UTC"),
                "long": pandas.timedelta_range("1s", periods=count, freq="s"),
                "kind": pandas.Categorical(np.arange(count) % 5),
                "whole": pandas.array(np.arange(count), dtype="Int64"),
                "flag": np.arange(count) % 2 == 0,
            }
        )
        for value in (frame, frame.iloc[::2], frame.set_index("when")):
            found = there(value)
            pandas.testing.assert_frame_equal(found, value)
            found.loc[found.index[0], "real"] = 5.0
            assert outside(value) > 40 * len(value)
        pandas.testing.assert_series_equal(there(frame["when"]), frame["when"])

    def test_arrow(self) -> None:
        arrow = needs("pyarrow")
        table = arrow.table({"a": np.arange(10_000), "s": [f"t{n}" for n in range(10_000)]})
        for value in (table, table.slice(10, 20), table["a"], arrow.array(np.arange(1000.0))):
            assert there(value).equals(value)
            assert outside(value) >= 8000
