"""What a call may not leave behind in its worker's interpreter, and what it looks for in vain there."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

import plover
from plover import gpu_function
from plover_runtime import tidy

pytestmark = pytest.mark.usefixtures("session")


@gpu_function(timeout=20)
def replaces(name: str, how: str) -> Any:
    import builtins
    import os

    def other(*args: Any, **kwargs: Any) -> Any:
        if how == "raises":
            raise RuntimeError("this is not the built-in function")
        return 0

    if how == "deletes":
        delattr(builtins, name)
    else:
        setattr(builtins, name, other)
    if how == "fails":
        raise ValueError("its own")
    return os.getpid()


@gpu_function
def uses_them() -> tuple[int, int, bool, list[int]]:
    import os

    return os.getpid(), len("four"), isinstance(1, int), sorted(map(abs, [3, -1]))


@pytest.mark.parametrize(
    "name", ["len", "isinstance", "type", "memoryview", "map", "tuple", "getattr", "__import__", "print"]
)
@pytest.mark.parametrize("how", ["raises", "lies", "fails", "deletes"])
def test_a_built_in_function_that_a_call_replaces_is_the_workers_own_again(name: str, how: str) -> None:
    if how == "fails":
        with pytest.raises(ValueError, match="its own"):
            replaces(name, how)
    else:
        pid = replaces(name, how)
        assert uses_them() == (pid, 4, True, [1, 3])
    assert uses_them()[1:] == (4, True, [1, 3])


def test_one_that_is_not_looked_at_comes_back_with_one_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    own = builtins.hash
    for name in ("len", "hash"):
        monkeypatch.setattr(builtins, name, lambda *_: 0)
    monkeypatch.setattr(builtins, "added", 1, raising=False)
    tidy.restore()
    assert (len("xyz"), builtins.hash is own, builtins.added) == (3, True, 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("which", ["breakpoint", "input", "pdb"])
def test_who_asks_for_a_terminal_is_told_of_debug(which: str) -> None:
    @gpu_function
    def asks() -> Any:
        if which == "breakpoint":
            breakpoint()
        elif which == "input":
            return input("your name? ")
        else:
            import pdb

            pdb.set_trace()
        return None

    with pytest.raises(Exception) as caught:
        asks()
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert "plover.debug(" in told
    assert "asks, …) runs the call in yours, where input() and debuggers work" in told
    if which == "breakpoint":
        assert isinstance(caught.value, plover.PloverError)


def test_an_end_of_a_file_of_its_own_is_not_explained() -> None:
    @gpu_function
    def reads() -> None:
        raise EOFError("of my own")

    with pytest.raises(EOFError) as caught:
        reads()
    assert not hasattr(caught.value, "__notes__")


def test_another_debugger_that_the_environment_names_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys, "breakpointhook", "as it was")
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    tidy.without_terminal()
    assert sys.breakpointhook == "as it was"
    monkeypatch.delenv("PYTHONBREAKPOINT")
    tidy.without_terminal()
    with pytest.raises(plover.PloverError, match=r"plover.debug\(function, …\)"):
        sys.breakpointhook()
