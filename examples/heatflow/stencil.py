"""The kernel."""

from numba import cuda


@cuda.jit
def spread(now, later):
    x, y = cuda.grid(2)
    if 0 < x < now.shape[0] - 1 and 0 < y < now.shape[1] - 1:
        later[x, y] = (now[x - 1, y] + now[x + 1, y] + now[x, y - 1] + now[x, y + 1]) / 4
