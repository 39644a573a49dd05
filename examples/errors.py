"""What can go wrong, and how it looks: a function's own exception, a worker that dies, a call that takes too long."""

import traceback

import plover
from plover import gpu_function


@gpu_function
def mean(values):
    import cupy as cp

    return float(cp.asarray(values).sum()) / len(values)


@gpu_function
def dies():
    import os
    import signal

    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@gpu_function(timeout=0.2)
def slow():
    while True:
        pass


if __name__ == "__main__":
    try:
        mean([])
    except ZeroDivisionError as error:  # its own type, with the remote line in the traceback
        print(traceback.extract_tb(error.__traceback__)[-1].line)

    try:
        dies()
    except plover.WorkerLost as error:
        print(f"signal {error.signal}, last output {error.output!r}")

    try:
        slow()
    except plover.CallTimeout as error:
        print(f"stopped in its {error.phase} after {error.limit_s} s")

    with open(__file__) as file:
        try:
            gpu_function(lambda: file.read())()
        except plover.NotSerializable as error:
            print(error.path)
    print("and the next call works:", mean([1, 2, 3]))
