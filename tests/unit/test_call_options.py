"""Options: each is taken, and each refusal names it."""

from __future__ import annotations

from typing import Any

import pytest

from plover.options import _NOT_YET, parse_options, with_environment
from plover.wire.messages import CallOptions


def parse(**given: Any) -> CallOptions:
    return parse_options(CallOptions(), given)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (False, None),
        (True, ("", 1)),
        (2, ("", 2)),
        ("H100", ("H100", 1)),
        (" H100 ", ("H100", 1)),
        ("H100:2", ("H100", 2)),
        ("NVIDIA A100-SXM4-80GB:8", ("NVIDIA A100-SXM4-80GB", 8)),
    ],
)
def test_gpu(value: Any, expected: tuple[str, int] | None) -> None:
    assert parse(gpu=value).gpu == expected


@pytest.mark.parametrize("value", [0, -1, "H100:0", "H100:-1", "H100:two", 1.5, ["H100"]])
def test_a_gpu_that_makes_no_sense(value: Any) -> None:
    with pytest.raises(ValueError, match='gpu is a model such as "H100" or "H100:2", True, or a number') as caught:
        parse(gpu=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", ["timeout", "queue_timeout"])
@pytest.mark.parametrize(("value", "expected"), [(None, None), (5, 5.0), (0.25, 0.25)])
def test_durations(name: str, value: Any, expected: float | None) -> None:
    assert getattr(parse(**{name: value}), f"{name}_s") == expected


@pytest.mark.parametrize("name", ["timeout", "queue_timeout"])
@pytest.mark.parametrize("value", [0, -1, True, "5", float("nan")])
def test_durations_that_make_no_sense(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is a number of seconds above 0, not ") as caught:
        parse(**{name: value})
    assert repr(value) in str(caught.value)


def test_whole_numbers() -> None:
    assert parse(retries=0, priority=-5) == CallOptions(retries=0, priority=-5)
    assert parse(retries=3, priority=7) == CallOptions(retries=3, priority=7)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("retries", -1, 0),
        ("retries", True, 0),
        ("retries", 1.0, 0),
        ("retries", 1 << 31, 0),
        ("priority", "high", -(1 << 31)),
        ("priority", -(1 << 31) - 1, -(1 << 31)),
    ],
)
def test_whole_numbers_that_make_no_sense(name: str, value: Any, least: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} is a whole number from {least} to 2147483647, not "):
        parse(**{name: value})


def test_require_gpu_and_environment() -> None:
    assert parse(require_gpu=1, environment="torch") == CallOptions(require_gpu=True, environment="torch")


@pytest.mark.parametrize("value", ["", None, 5])
def test_an_environment_that_is_no_name(value: Any) -> None:
    with pytest.raises(ValueError, match="environment is the name of an environment, not "):
        parse(environment=value)


@pytest.mark.parametrize("name", sorted(_NOT_YET))
def test_what_is_not_built_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"the option '{name}' is not built yet \\({_NOT_YET[name]}\\)"):
        parse(**{name: None})


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="there is no option 'time_out'"):
        parse(time_out=5)


def test_what_was_not_given_stays() -> None:
    base = CallOptions(timeout_s=5.0, retries=2)
    changed = parse_options(base, {"retries": 1})
    assert changed == CallOptions(timeout_s=5.0, retries=1)
    assert base.retries == 2


@pytest.mark.parametrize(("value", "required"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_the_environment_can_require_a_gpu(value: str | None, required: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("PLOVER_REQUIRE_GPU", raising=False)
    else:
        monkeypatch.setenv("PLOVER_REQUIRE_GPU", value)
    assert with_environment(CallOptions()).require_gpu is required
    assert with_environment(CallOptions(require_gpu=True)).require_gpu is True
