"""Many calls of one function: Monte Carlo estimates of pi in CuPy, with a progress bar."""

import sys

import numpy as np

from plover import gpu_function


@gpu_function
def inside(seed, points):
    import cupy as cp

    random = cp.random.RandomState(seed)
    x, y = random.random_sample(points), random.random_sample(points)
    return int((x * x + y * y < 1).sum())


if __name__ == "__main__":
    rounds, points = 32, 100_000
    hits = list(inside.map(range(rounds), [points] * rounds, progress=sys.stderr.isatty()))
    estimates = 4 * np.array(hits) / points
    print(f"pi is {estimates.mean():.4f} ± {estimates.std() / rounds**0.5:.4f}, from {rounds} calls")
