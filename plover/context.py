"""Where we are: in a client, or inside a call on a worker.

Guarantees: a call's context belongs to the worker's process; a process that is no worker has none. Cheap to ask.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CurrentCall", "current_call", "in_worker"]


class CurrentCall:
    """The call that runs in this worker.

    Attributes:
        call_id: the call's name, as on its future.
        attempt: 1 for the first try.
        name: the function's name.
        device: the device that it runs on, such as ``"simulated:0"``.
        simulated: whether that is a simulated one.
        cache: a dict that outlives the call, one a function in each worker.
    """

    def __init__(
        self, call_id: str, attempt: int, name: str, device: str, simulated: bool, cache: dict[Any, Any]
    ) -> None:
        self.call_id = call_id
        self.attempt = attempt
        self.name = name
        self.device = device
        self.simulated = simulated
        self.cache = cache

    def __repr__(self) -> str:
        return f"<call {self.call_id} of {self.name}, attempt {self.attempt}, on {self.device}>"


_current: CurrentCall | None = None
_in_worker = False


def current_call() -> CurrentCall:
    """The call that runs here.

    Raises:
        RuntimeError: no call runs in this process; this is not inside a function that a worker runs.

    Example:
        >>> current_call()
        Traceback (most recent call last):
            ...
        RuntimeError: no call runs here: plover.current_call() works inside a function that a worker runs
    """
    if _current is None:
        raise RuntimeError("no call runs here: plover.current_call() works inside a function that a worker runs")
    return _current


def in_worker() -> bool:
    """Whether this process is a worker (its own children included), where a `gpu_function` runs inline."""
    return _in_worker


def enter_worker() -> None:
    """This process is a worker from now on; called once by the worker."""
    global _in_worker
    _in_worker = True


def set_current(call: CurrentCall | None) -> None:
    """The worker's main loop says which call runs."""
    global _current
    _current = call
