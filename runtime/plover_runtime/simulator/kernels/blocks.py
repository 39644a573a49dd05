"""Running the threads of a grid's blocks.

`run_in_turn` runs thread after thread in the calling host thread: for kernels whose threads never wait. `Block` gives
each CUDA thread of a block a host thread of its own, but hands one baton round, so that exactly one of them runs until
it waits, ends or spins; the order is fixed, so a run can be repeated.

Guarantees: nothing hangs. A barrier that a thread has passed by, or that threads wait for at different places, warp
operations that do not meet, and threads that only spin are errors that say which threads are where. A thread that
left the kernel by a ``return`` that stands before the barrier does not count for it, as on GPUs since Volta.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Final

import numpy as np

from .state import WARP_SIZE, blockIdx, running, threadIdx

Dim = tuple[int, int, int]

#: So many turns a thread may only spin, all others being unable to do more, until it counts as stuck.
SPIN_LIMIT: Final = 1000


class DivergentBarrier(RuntimeError):
    """Threads of a block wait for each other at different places, or for one that will never come."""


class _Abandoned(BaseException):
    """Unwinds a thread whose block has failed."""


def points(extent: Dim) -> Iterator[Dim]:
    """All (x, y, z) of a grid or block, x fastest, as the hardware numbers them."""
    for z in range(extent[2]):
        for y in range(extent[1]):
            for x in range(extent[0]):
                yield x, y, z


def annotate(error: BaseException) -> None:
    """Say in an exception which thread of which block it came from."""
    error.add_note(
        f"in CUDA thread ({threadIdx.x}, {threadIdx.y}, {threadIdx.z}) "
        f"of block ({blockIdx.x}, {blockIdx.y}, {blockIdx.z})"
    )


def run_in_turn(function: Callable[..., Any], args: tuple[Any, ...], grid: Dim, block: Dim) -> None:
    """Run all threads of all blocks one after another, here."""
    tid, width, rows, layers = threadIdx, range(block[0]), range(block[1]), range(block[2])
    try:
        for bx, by, bz in points(grid):
            blockIdx.set(bx, by, bz)
            running.shared.clear()
            for tz in layers:
                tid.z = tz
                for ty in rows:
                    tid.y = ty
                    for tx in width:
                        tid.x = tx
                        function(*args)
    except Exception as error:
        annotate(error)
        raise


class Wait:
    """What a thread waits for: ``kind`` and ``mask`` must agree among those who meet, ``place`` at a barrier too."""

    __slots__ = ("kind", "mask", "place", "value")

    def __init__(self, kind: str, value: Any, place: Any = None, mask: int | None = None) -> None:
        self.kind, self.value, self.place, self.mask = kind, value, place, mask


class Lane:
    """One CUDA thread of the block. ``wait`` is set exactly while it waits; ``left_at`` once it has ended."""

    __slots__ = ("done", "index", "left_at", "number", "result", "turn", "wait")

    def __init__(self, number: int, index: Dim) -> None:
        self.number, self.index = number, index
        self.turn = threading.Lock()
        self.turn.acquire()
        self.reset()

    def reset(self) -> None:
        self.done, self.left_at, self.result = False, -1, None
        self.wait: Wait | None = None


class Block:
    """The threads of one block after another, each in a host thread, one of them at a time."""

    def __init__(
        self, function: Callable[..., Any], code: CodeType, args: tuple[Any, ...], grid: Dim, block: Dim
    ) -> None:
        self._function, self._code, self._args = function, code, args
        self.grid = grid
        self._blocks = points(grid)
        self.lanes = [Lane(number, index) for number, index in enumerate(points(block))]
        self.lane = self.lanes[0]  #: the one that has the baton
        self._finished = False
        self._failure: BaseException | None = None
        self._spins = 0  #: turns since a thread last did more than spin
        self._over = threading.Lock()

    def run(self) -> None:
        self._over.acquire()
        hosts: list[threading.Thread] = []
        try:
            for lane in self.lanes:
                host = threading.Thread(target=self._live, args=(lane,), daemon=True, name=f"cuda-{lane.number}")
                host.start()
                hosts.append(host)
        except RuntimeError as error:
            self._finished = True
            for lane in self.lanes[: len(hosts)]:
                lane.turn.release()
            raise RuntimeError(
                f"this kernel's threads wait for each other and need {len(self.lanes)} host threads, "
                f"of which only {len(hosts)} could be started"
            ) from error
        self._next_block()
        self.lane.turn.release()
        try:
            self._over.acquire()
        except BaseException as interrupt:  # Ctrl-C or a cancelled call: the threads end at their next wait
            self._failure = interrupt
            self._over.acquire(timeout=5)
        for host in hosts:
            host.join(timeout=5)
        if self._failure is not None:
            raise self._failure

    # --- one thread's life ------------------------------------------------------------------------------------------
    def _live(self, lane: Lane) -> None:
        code = self._code

        def note_return(frame: FrameType, event: str, arg: Any) -> None:
            if event == "return" and frame.f_code is code:
                lane.left_at = frame.f_lasti

        with np.errstate(all="ignore"):
            lane.turn.acquire()
            while not self._finished:
                self._enter(lane)
                sys.setprofile(note_return)  # the only way to learn by which return a thread left
                try:
                    self._function(*self._args)
                except _Abandoned:
                    pass
                except BaseException as error:
                    sys.setprofile(None)
                    self._fail(error)
                sys.setprofile(None)
                lane.done = True
                self._spins = 0
                self._pass_on(lane)
                lane.turn.acquire()

    def _enter(self, lane: Lane) -> None:
        self.lane = lane
        threadIdx.set(*lane.index)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            annotate(error)
            self._failure = error

    def meet(self, wait: Wait) -> Any:
        """Wait, in the running thread, until all who must meet it do; returns what the meeting gives this thread."""
        lane = self.lane
        lane.wait = wait
        self._spins = 0
        self._yield(lane)
        return lane.result

    def spin(self) -> None:
        """Let the other threads run: this one has just failed to get on."""
        self._spins += 1
        if self._spins > SPIN_LIMIT * len(self.lanes):
            raise RuntimeError(
                "the threads only spin: they wait for a value that no thread of their block will write "
                "(blocks run one after another on a simulated device)"
            )
        self._yield(self.lane)

    def _yield(self, lane: Lane) -> None:
        self._pass_on(lane)
        lane.turn.acquire()
        if self._failure is not None:
            raise _Abandoned
        self._enter(lane)

    def place(self, frame: FrameType | None) -> tuple[tuple[CodeType, int], ...]:
        """Where a call stands: from its own frame out to the kernel's."""
        found = []
        while frame is not None:
            found.append((frame.f_code, frame.f_lasti))
            if frame.f_code is self._code:
                break
            frame = frame.f_back
        return tuple(found)

    # --- who is next ------------------------------------------------------------------------------------------------
    def _pass_on(self, lane: Lane) -> None:
        """Give the baton to the next thread that can run; called by the one that has it."""
        chosen = self._runnable(lane.number)
        if chosen is None and self._failure is None:
            try:
                self._settle()
            except Exception as error:
                self._failure = error
            chosen = self._runnable(-1)
        if chosen is None:
            if self._failure is not None or not self._next_block():
                self._finished = True
                for other in self.lanes:
                    if other is not lane:
                        other.turn.release()
                self._over.release()
                lane.turn.release()
                return
            chosen = self.lanes[0]
        chosen.turn.release()

    def _runnable(self, after: int) -> Lane | None:
        lanes, count = self.lanes, len(self.lanes)
        failed = self._failure is not None  # then all who wait are woken, to unwind
        for step in range(1, count + 1):
            lane = lanes[(after + step) % count]
            if not lane.done and (failed or lane.wait is None):
                return lane
        return None

    def _next_block(self) -> bool:
        for index in self._blocks:
            blockIdx.set(*index)
            running.shared.clear()
            running.static_bytes = 0
            for lane in self.lanes:
                lane.reset()
            self.lane = self.lanes[0]
            return True
        return False

    # --- meetings ---------------------------------------------------------------------------------------------------
    def _settle(self) -> None:
        """All threads have ended or wait: bring together those who have met. Raises if nobody has."""
        waiting = [lane for lane in self.lanes if not lane.done]
        if not waiting:
            return
        met = self._settle_warps(waiting)
        if not met:
            self._settle_barrier(waiting)

    def _settle_warps(self, waiting: list[Lane]) -> bool:
        from .warps import OPERATIONS

        met = False
        for lane in waiting:
            wait = lane.wait
            if wait is None or wait.mask is None:
                continue
            first = lane.number // WARP_SIZE * WARP_SIZE
            warp = self.lanes[first : first + WARP_SIZE]
            group = [other for other in warp if wait.mask >> (other.number - first) & 1 and not other.done]
            if any(
                other.wait is None or (other.wait.kind, other.wait.mask) != (wait.kind, wait.mask) for other in group
            ):
                continue
            values = {other.number - first: other.wait.value for other in group if other.wait is not None}
            for other in group:
                other.result = OPERATIONS[wait.kind](other.number - first, values)
                other.wait = None
            met = True
        return met

    def _settle_barrier(self, waiting: list[Lane]) -> None:
        first = waiting[0].wait
        for lane in waiting:
            wait = lane.wait
            if wait is None or first is None or (wait.kind, wait.place, wait.mask) != (first.kind, first.place, None):
                raise DivergentBarrier(self._divergence(waiting))
        barrier_at = first.place[-1][1]  # type: ignore[union-attr]
        passed = [lane for lane in self.lanes if lane.done and lane.left_at > barrier_at]
        if passed:
            raise DivergentBarrier(
                f"divergent barrier: {len(waiting)} threads wait at {_where(first)}, but thread "
                f"{passed[0].index} ended without stopping there; a barrier must be reached by all threads of "
                "a block or by none"
            )
        values = [lane.wait.value for lane in waiting if lane.wait is not None]
        result = BARRIERS[first.kind](values)  # type: ignore[union-attr]
        for lane in waiting:
            lane.wait, lane.result = None, result

    def _divergence(self, waiting: list[Lane]) -> str:
        places: dict[str, list[Dim]] = {}
        for lane in waiting:
            places.setdefault(_where(lane.wait), []).append(lane.index)
        parts = [f"{len(indices)} at {place} (thread {indices[0]} for one)" for place, indices in places.items()]
        return "divergent barrier: threads of a block wait at different places: " + ", ".join(parts)


def _where(wait: Wait | None) -> str:
    if wait is None:
        return "nothing"
    code, offset = wait.place[0]
    lines = [line for start, end, line in code.co_lines() if start <= offset < end]
    mask = "" if wait.mask is None else f" with mask {wait.mask:#010x}"
    return f"{wait.kind}{mask} in line {lines[0] if lines else '?'} of {code.co_name}"


BARRIERS: dict[str, Callable[[list[Any]], Any]] = {
    "syncthreads": lambda values: None,
    "syncthreads_count": lambda values: sum(1 for value in values if value),
    "syncthreads_and": lambda values: 1 if all(values) else 0,
    "syncthreads_or": lambda values: 1 if any(values) else 0,
    "grid.sync": lambda values: None,
}
