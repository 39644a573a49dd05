"""The smallest program: a CuPy function that runs on a GPU worker, called like any other."""

import numpy as np

from plover import gpu_function


@gpu_function
def saxpy(a, x, y):
    import cupy as cp  # imported where it runs: the caller needs no CuPy

    return a * cp.asarray(x) + cp.asarray(y)  # a device array comes home as a NumPy array


if __name__ == "__main__":
    x = np.arange(4.0)
    print(saxpy(2.0, x, np.ones(4)))  # [1. 3. 5. 7.]
