"""Many calls at once: from threads, pipelined, on several devices, from several processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from tests.support.daemons import PATIENCE_S, Daemon, Fifo

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """With several devices."""
    running = Daemon("simulated:3")
    yield running
    running.close()


def test_eight_threads_each_get_what_is_theirs() -> None:
    @gpu_function
    def work(x: Any, number: int) -> Any:
        return x * number, number

    def many(thread: int) -> list[bool]:
        right = []
        for number in range(50):
            got, echoed = work(np.full(10 + thread, float(thread)), number)
            right.append(
                echoed == number and got.shape == (10 + thread,) and bool(np.all(got == float(thread) * number))
            )
        return right

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(many, range(8), timeout=60))
    assert [len(right) for right in results] == [50] * 8
    assert all(all(right) for right in results)


def test_two_thousand_pipelined_calls_none_lost() -> None:
    @gpu_function
    def same(x: int) -> int:
        return x

    futures = [same.submit(number) for number in range(2000)]
    assert [future.result(60) for future in futures] == list(range(2000))
    assert len({future.call_id for future in futures}) == 2000


def test_a_thousand_awaited_at_once() -> None:
    @gpu_function
    def same(x: int) -> int:
        return x

    async def main() -> list[int]:
        return list(await asyncio.wait_for(asyncio.gather(*(same.aio(number) for number in range(1000))), 60))

    assert asyncio.run(main()) == list(range(1000))


def test_threads_and_many_large_arrays() -> None:
    @gpu_function
    def negate(x: Any) -> Any:
        return -x

    def many(thread: int) -> bool:
        arrays = [np.full(100_000, thread * 100 + number) for number in range(6)]
        futures = [negate.submit(array) for array in arrays]
        return all(np.array_equal(f.result(60), -array) for f, array in zip(futures, arrays, strict=True))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(many, range(4), timeout=60)) == [True] * 4


def test_devices_run_calls_in_parallel(fifos: list[Fifo]) -> None:
    """Each call waits until all three have begun: one at a time they would never end."""

    @gpu_function
    def meet(number: int, begun: str, gate: str) -> str:
        with open(begun, "w") as fifo:
            fifo.write(f"{number}\n")
        with open(gate) as fifo:
            fifo.readline()
        return plover.current_call().device

    futures = [meet.options(timeout=PATIENCE_S).submit(n, fifos[0].path, fifos[1].path) for n in range(3)]
    assert sorted(fifos[0].wait() for _ in range(3)) == ["0", "1", "2"]
    for future in futures:
        assert not future.done()
    running = list(futures)
    # A buffered reader may take more than its own line: one line for each call, when the one before has taken its own.
    while running:
        fifos[1].say()
        done, _ = concurrent.futures.wait(running, PATIENCE_S, concurrent.futures.FIRST_COMPLETED)
        assert done
        running = [future for future in running if future not in done]
    assert sorted(future.result() for future in futures) == ["simulated:0", "simulated:1", "simulated:2"]


def test_calls_from_callbacks_and_threads_at_once() -> None:
    same = gpu_function(lambda x: x)
    chained: list[concurrent.futures.Future[int]] = [concurrent.futures.Future() for _ in range(50)]

    def follow(number: int, future: Any) -> None:
        chained[number].set_result(same(future.result() + 1000))

    for number in range(50):
        same.submit(number).add_done_callback(lambda future, number=number: follow(number, future))
    assert [future.result(PATIENCE_S) for future in chained] == [number + 1000 for number in range(50)]
