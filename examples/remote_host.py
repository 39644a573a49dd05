"""The same program on a GPU host elsewhere: its address, and what the host says of itself.

    python examples/remote_host.py tcp://gpu1:7707      # keys were exchanged once, see `plover keys`
    python examples/remote_host.py ssh://user@gpu1      # goes through the system's ssh
    python examples/remote_host.py gpu1                 # a profile's name
    PLOVER_ADDRESS=gpu1 python examples/remote_host.py

Without any of these it runs here.
"""

import sys

import numpy as np

import plover
from plover import gpu_function


@gpu_function
def solve(a, b):
    import cupy as cp

    return cp.linalg.solve(cp.asarray(a), cp.asarray(b))


@gpu_function
def host():
    import platform

    return platform.node()


def main(address=None):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(200, 200)), random.normal(size=200)
    try:
        with plover.connect(address) as session:  # calls go there until the end of this block
            future = solve.submit(a, b)
            x = future.result()
            print(session)
            print(f"solved on {host()}, {', '.join(future.receipt.devices)}; the residue is {abs(a @ x - b).max():.0e}")
    except (plover.DaemonUnreachable, plover.AccessDenied, ValueError) as error:  # each says what to do
        sys.exit(f"{address or 'the default'}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
