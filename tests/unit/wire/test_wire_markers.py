"""Output markers: found whole, wherever reads cut them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plover.wire import markers

WORD = b"0123456789abcdef"


def test_a_marker_is_of_the_size_that_it_says() -> None:
    assert len(markers.make(WORD, 2**64 - 1)) == markers.SIZE == 26


def test_a_marker_between_two_outputs() -> None:
    data = b"before" + markers.make(WORD, 9) + b"after"
    assert markers.split(data, WORD) == (b"before", 9, b"after")


def test_only_the_first_of_two_markers_is_split_off() -> None:
    second = markers.make(WORD, 2)
    assert markers.split(markers.make(WORD, 1) + second, WORD) == (b"", 1, second)


def test_output_without_a_marker_passes_whole() -> None:
    assert markers.split(b"plain\x00text", WORD) == (b"plain\x00text", None, b"")
    assert markers.split(b"", WORD) == (b"", None, b"")


def test_a_marker_with_another_word_is_output() -> None:
    data = markers.make(b"x" * 16, 1)
    assert markers.split(data, WORD) == (data, None, b"")


def test_every_beginning_of_a_marker_is_kept_back() -> None:
    marker = markers.make(WORD, 513)
    for cut in range(1, markers.SIZE):
        before, attempt, rest = markers.split(b"text" + marker[:cut], WORD)
        assert (before, attempt, rest) == (b"text", None, marker[:cut])
        assert markers.split(rest + marker[cut:] + b"!", WORD) == (b"", 513, b"!")


def test_a_false_beginning_goes_through_with_what_follows() -> None:
    _, _, kept = markers.split(b"text\x00", WORD)
    assert kept == b"\x00"
    assert markers.split(kept + b"no marker", WORD) == (b"\x00no marker", None, b"")


@given(
    outputs=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=30),
    tail=st.integers(0, 17),
)
def test_reads_of_any_size_give_the_same_pieces(outputs: list[bytes], cuts: list[int], tail: int) -> None:
    """What looks like a marker cannot stand in the output: its word is random."""
    outputs = [output.replace(WORD, b"") for output in outputs]
    data = b"".join(output + markers.make(WORD, number) for number, output in enumerate(outputs))
    data += markers.make(WORD, 99)[:tail]
    found: list[bytes] = [b""]
    kept, at, turn = b"", 0, 0
    while at < len(data):
        step = cuts[turn % len(cuts)]
        kept, at, turn = kept + data[at : at + step], at + step, turn + 1
        while True:
            before, attempt, kept = markers.split(kept, WORD)
            found[-1] += before
            if attempt is None:
                break
            assert attempt == len(found) - 1
            found.append(b"")
    assert found == [*outputs, b""]
    assert kept == markers.make(WORD, 99)[:tail]
