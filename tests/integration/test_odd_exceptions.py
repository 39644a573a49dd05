"""What users' exceptions and results may do to a worker: each call ends by its name, and the worker goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(autouse=True)
def _same_worker() -> Iterator[None]:
    """None of it costs the worker."""
    pid = gpu_function(lambda: os.getpid())
    before = pid()
    yield
    assert pid() == before


def _odd() -> type[BaseException]:
    class Odd(BaseException):
        """Of no known kind; by value, as it is nowhere to be imported from."""

    return Odd


Odd = _odd()


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit, KeyboardInterrupt, GeneratorExit, Odd, RecursionError])
@pytest.mark.parametrize("where", ["result", "exception", "text"])
def test_a_class_that_raises_when_it_is_looked_at(kind: type[BaseException], where: str) -> None:
    class Failing(Exception):
        def __reduce__(self) -> Any:
            if where != "text":
                raise kind("in reduce")
            return Failing, ("x",)

        def __str__(self) -> str:
            if where == "text":
                raise kind("in str")
            return "its text"

    @gpu_function
    def make() -> Any:
        error = Failing("x")
        if where == "result":
            return error
        raise error

    with pytest.raises(BaseException) as caught:
        make()
    if where == "result" and issubclass(kind, Exception):
        assert isinstance(caught.value, plover.NotSerializable)
        assert "result" in str(caught.value)
    elif where == "result":
        assert type(caught.value).__name__ == kind.__name__
    elif kind is Odd:
        assert isinstance(caught.value, plover.PloverError)
        assert "raised Failing, which could not be sent: looking at it raised Odd" in str(caught.value)
    else:
        assert type(caught.value).__name__ == "Failing"
        if where == "text":
            with pytest.raises(kind):
                str(caught.value)


@pytest.mark.parametrize("where", ["result", "exception"])
def test_a_reduce_that_hangs_is_ended_by_the_timeout(where: str) -> None:
    class Hangs(Exception):
        def __reduce__(self) -> Any:
            while True:
                pass

    @gpu_function(timeout=0.5)
    def make() -> Any:
        if where == "result":
            return Hangs()
        raise Hangs

    started = time.monotonic()
    with pytest.raises(plover.CallTimeout) as caught:
        make()
    assert caught.value.phase == "run"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("answer", [5, "no.such.name", (), (1, 2), (len, (1,)), (int, ("not one",))], ids=str)
def test_a_result_whose_reduce_lies(answer: Any) -> None:
    class Lies:
        def __reduce__(self) -> Any:
            return answer

    @gpu_function
    def make() -> Any:
        return Lies()

    with pytest.raises((plover.NotSerializable, TypeError, ValueError)) as caught:
        make()
    told = [str(caught.value), *getattr(caught.value, "__notes__", ())]
    assert any("result" in text and ("make" in text or "arrived, but could not be made here" in text) for text in told)


def test_a_recursion_error_in_user_code_and_in_a_result() -> None:
    @gpu_function
    def down(n: int) -> int:
        return down.local(n + 1)

    @gpu_function
    def deep() -> Any:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        return value

    with pytest.raises(RecursionError) as caught:
        down(0)
    assert len(caught.traceback) <= 102
    with pytest.raises((RecursionError, plover.NotSerializable)):
        deep()


def test_chains_groups_and_notes_through_a_real_worker() -> None:
    @gpu_function
    def fail() -> None:
        try:
            try:
                raise KeyError("deepest")
            except KeyError as first:
                first.add_note("noted")
                raise OSError(2, "middle") from first
        except OSError as second:
            group = ExceptionGroup("all", [ValueError("a"), second])
            group.add_note("of the group")
            raise group  # noqa: B904

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    group = caught.value
    assert group.__notes__ == ["of the group"]
    first, second = group.exceptions
    assert (str(first), second.errno) == ("a", 2)
    assert second.__cause__.__notes__ == ["noted"]
    assert second.__cause__.__traceback__ is not None


def test_an_exception_with_an_array_keeps_it() -> None:
    @gpu_function
    def fail() -> None:
        raise ValueError("partial", np.arange(100_000))

    with pytest.raises(ValueError) as caught:
        fail()
    assert np.array_equal(caught.value.args[1], np.arange(100_000))
