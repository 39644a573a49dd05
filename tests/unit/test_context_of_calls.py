"""Where we are: in a client, or inside a call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import plover
from plover import context


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test says about this process is forgotten afterwards."""
    monkeypatch.setattr(context, "_current", None)
    monkeypatch.setattr(context, "_in_worker", False)
    return


def test_a_client_has_no_current_call() -> None:
    assert not context.in_worker()
    with pytest.raises(RuntimeError, match="no call runs here: .* works inside a function that a worker runs"):
        plover.current_call()


def test_a_worker_has_one_only_while_it_runs() -> None:
    context.enter_worker()
    assert context.in_worker()
    call = context.CurrentCall("c-1", 2, "saxpy", "simulated:0", True, {})
    context.set_current(call)
    assert plover.current_call() is call
    context.set_current(None)
    with pytest.raises(RuntimeError):
        plover.current_call()


def test_a_call_shows_what_it_is() -> None:
    call = context.CurrentCall("c-1", 2, "saxpy", "simulated:0", True, {"kept": 1})
    assert repr(call) == "<call c-1 of saxpy, attempt 2, on simulated:0>"
    assert call.cache == {"kept": 1}
