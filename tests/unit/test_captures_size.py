"""The warning of a function that captures much data."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from plover import gpu_function, serialize
from plover.pickling.large import LargeCapture

BIG = serialize.LARGE_CAPTURE_BYTES


def script(source: str, **names: Any) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, scope)
    return scope


def test_the_object_is_named_with_its_size() -> None:
    scope = script("def f(): return W, small", W=np.zeros(BIG, "u1"), small=[1])
    with pytest.warns(LargeCapture) as caught:
        serialize.pack_function(scope["f"])
    (warning,) = caught
    assert str(warning.message).startswith(
        "f → global 'W' takes 10.0 MiB (numpy.ndarray) along with the function: pass it as an argument. "
    )
    assert warning.filename == __file__


@pytest.mark.filterwarnings("error")
def test_below_the_limit_nothing_is_said() -> None:
    serialize.pack_function(script("def f(): return W", W=np.zeros(BIG - 10_000, "u1"))["f"])


@pytest.mark.filterwarnings("error")
def test_arguments_may_be_large() -> None:
    serialize.pack_arguments("f", (np.zeros(2 * BIG, "u1"), bytes(2 * BIG)), {})


def test_once_for_a_function_and_an_object() -> None:
    scope = script("def f(): return W, n\ndef g(): return W", W=np.zeros(BIG, "u1"), n=0)
    remote = gpu_function(scope["f"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for scope["n"] in range(3):
            remote._pack()
        assert len(caught) == 1
        scope["W"] = np.ones(BIG, "u1")
        remote._pack()
        assert len(caught) == 2
        serialize.pack_function(scope["g"])
        assert [each.category for each in caught] == [LargeCapture] * 3


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("def h(): return W\ndef f(): return h()", "f → global 'h' → global 'W'"),
        ("T = {'a': {'w': W}, 'b': 1}\ndef f(): return T", "f → global 'T' → ['a'] → ['w']"),
        ("class M: pass\nm = M()\nm.w = [W]\ndef f(): return m", "f → global 'm' → .w → [0]"),
        ("def f(x=W): return x", "f → default of 'x'"),
        (
            "def o(w):\n    def f(): return w\n    return f\nf = o(W)",
            "o.<locals>.f → closure 'w'".partition(".<locals>.")[2],
        ),
    ],
)
def test_it_is_found_where_it_is(source: str, path: str) -> None:
    scope = script(source, W=b"x" * BIG)
    with pytest.warns(LargeCapture, match="takes 10.0 MiB") as caught:
        serialize.pack_function(scope["f"])
    assert str(caught[0].message).startswith(f"{path} takes 10.0 MiB (bytes)")


def test_data_in_many_places() -> None:
    scope = script("def f(): return rows", rows=[np.zeros(BIG // 10, "u1") for _ in range(20)])
    with pytest.warns(LargeCapture) as caught:
        serialize.pack_function(scope["f"])
    assert str(caught[0].message).startswith("f → global 'rows' takes 20.0 MiB (list)")
    names = {f"part{n}": np.zeros(BIG // 4, "u1") for n in range(5)}
    scope = script(f"def f(): return {', '.join(names)}", **names)
    with pytest.warns(LargeCapture) as caught:
        serialize.pack_function(scope["f"])
    assert str(caught[0].message).startswith("f captures 12.5 MiB in all")


def test_a_method_is_warned_of_once_too() -> None:
    scope = script(
        "class M:\n    def __init__(self): self.w = W\n    def run(self): ...\nm = M()", W=np.zeros(BIG, "u1")
    )
    with pytest.warns(LargeCapture, match=r"M.run → self → .w takes"):
        serialize.pack_function(scope["m"].run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        serialize.pack_function(scope["m"].run)


def test_as_an_error_it_stops_the_call() -> None:
    scope = script("def f(): return W", W=np.zeros(BIG, "u1"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(LargeCapture):
                serialize.pack_function(scope["f"])


def test_whatever_can_be_called() -> None:
    scope = script("class C:\n    __slots__ = ('w',)\n    def __call__(self): ...\nc = C()")
    scope["c"].w = np.zeros(BIG, "u1")
    with pytest.warns(LargeCapture, match=r"C → .w takes"):
        serialize.pack_function(scope["c"])
