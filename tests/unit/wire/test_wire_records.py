"""Log records and warnings as bytes, cut anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plover.wire import records
from plover.wire.records import Logged, Reader, Record, Warned

LOGGED = Logged(
    "my.lib", 30, "half full", "/home/a/f.py", 3, "f", 1.5, "MainThread", "Traceback …", None, {"user": "a"}
)
WARNED = Warned(("builtins", "UserWarning"), "mind the gap", "/home/a/f.py", 7)

_extra = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text())
_logged = st.builds(
    Logged, st.text(), st.integers(0, 100), st.text(), st.text(), st.integers(0, 10**6), st.text(),
    st.floats(allow_nan=False), st.text(), st.none() | st.text(), st.none() | st.text(), _extra,
)  # fmt: skip
_warned = st.builds(Warned, st.tuples(st.text(), st.text()), st.text(), st.text(), st.integers(0, 10**6))


@given(st.lists(_logged | _warned, max_size=5), st.lists(st.integers(1, 40), max_size=20))
def test_whatever_the_pieces_the_records_come_whole_and_in_order(sent: list[Record], sizes: list[int]) -> None:
    data = b"".join(records.write(each, 1 << 16 | 1) for each in sent)
    reader, found = Reader(), []
    for size in sizes:
        found += reader.feed(data[:size])
        data = data[size:]
    assert found + reader.feed(data) == sent


@given(st.binary())
def test_what_is_no_record_ends_the_reading(data: bytes) -> None:
    reader = Reader()
    found = reader.feed(records.write(WARNED, 1) + data)
    assert found[0] == WARNED
    reader.feed(records.write(LOGGED, 1))


def test_a_length_beyond_all_sense_is_not_waited_for() -> None:
    reader = Reader()
    assert reader.feed(b"\xff\xff\xff\xff" + bytes(100)) == []
    assert reader.feed(records.write(LOGGED, 1)) == []


def test_bytes_that_are_no_text_are_no_record() -> None:
    whole = bytearray(records.write(WARNED, 1))
    whole[whole.index(b"mind")] = 0xFF
    reader = Reader()
    assert reader.feed(bytes(whole) + records.write(LOGGED, 1)) == []
