"""What a worker asks of its device.

Guarantees asked of every device: it is open when it is made, and `synchronize` raises what the device has to report of
earlier work. Assumes: one worker, one thread.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

#: What an exception says about the device: nothing, that it has no memory left, or that its context is broken for good.
Diagnosis = Literal["none", "memory", "sticky"]


class Device(Protocol):
    """One device set, open in this process."""

    names: tuple[str, ...]
    simulated: bool

    def synchronize(self) -> None:
        """Wait until everything that was launched has ended; raises what went wrong in it."""

    def diagnose(self, error: BaseException) -> Diagnosis:
        """What an exception, the user's or `synchronize`'s, says about the device."""

    def reduce(self, obj: Any) -> Any:
        """A reducer for results: an array on the device becomes a writable NumPy array."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""

    def release_memory(self) -> None:
        """Give back what pools and caches hold and nobody uses."""

    def pin(self, address: int, size_bytes: int) -> None:
        """Make transfers from and to this memory as fast as the bus; raises what keeps it from that."""

    def unpin(self, address: int) -> None:
        """This memory, pinned before, will not be there any more."""
