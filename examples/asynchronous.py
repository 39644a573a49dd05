"""Calls from asyncio: several at once, the first that is done first, and one that takes too long."""

import asyncio

import numpy as np

import plover
from plover import gpu_function


@gpu_function
def norm(x, seconds=0.0):
    import time

    import cupy as cp

    time.sleep(seconds)
    return float(cp.linalg.norm(cp.asarray(x)))


async def main():
    arrays = [np.full(n, 2.0) for n in (1, 4, 9)]
    print("together:", await asyncio.gather(*(norm.aio(x) for x in arrays)))

    futures = [norm.submit(x) for x in arrays]
    print("as futures:", [await future for future in futures])

    try:
        await norm.options(timeout=0.2).aio(arrays[0], seconds=60)
    except plover.CallTimeout as error:
        print("too slow:", error.phase)

    task = asyncio.create_task(norm.aio(arrays[0], seconds=60))
    await asyncio.sleep(0)
    task.cancel()  # cancels the call, too
    print("cancelled:", isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError))


if __name__ == "__main__":
    asyncio.run(main())
