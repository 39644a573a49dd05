"""What a forked child does to become a worker: nothing of the zygote's stays but its imports.

Guarantees: `run` never returns, whatever happens in it, so that no worker ever runs the zygote's loop. The process has
the worker's pipes as stdout and stderr, no other descriptors but a worker's (records, status page, line, segments),
Python's usual
signal handlers, random states of its own, no core dumps, and dies with the zygote. What is below it stays below it (it is a
subreaper).

Assumes: it is called in the child, right after the fork, in a process of one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from plover.wire import messages as m
from plover_runtime.keeper import Wakeups, become_subreaper, die_with_parent

#: Workers are what the kernel should kill for memory, rather than the zygote with all its workers.
_OOM_SCORE_ADJ = 500
_IOLBF = 1  # <stdio.h>, glibc and musl
_exit = os._exit


def run(
    zygote: int,
    wakeups: Wakeups,
    environment: dict[str, str | None],
    blas: list[Callable[[int], object]],
    prepare: m.Prepare,
    fork: m.Fork,
    descriptors: list[int],
) -> NoReturn:
    """Become a worker, run it, and exit.

    Args:
        zygote: the parent's pid.
        wakeups: the zygote's, to be taken down here.
        environment: variables to be set back, None for those that were not set.
        blas: what `blas_setters` found.
        prepare: what the nest is for.
        fork: what the worker is.
        descriptors: its stdout, its stderr, its records' pipe, its status page, its line to the daemon, and the socket over
            which it borrows segments.
    """
    status = 1
    try:
        die_with_parent(signal.SIGKILL, zygote)
        become_subreaper()
        wakeups.restore()
        own = _take_descriptors(descriptors)
        _set_limits()
        _restore(environment)
        _reseed()
        _raise_blas_threads(blas)
        from plover_runtime import worker

        worker.main(prepare, fork, *own)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        # Not sys.exit: this stack is the zygote's, and its exit handlers are not the worker's. User code may have taken apart
        # whatever is called here, so that nothing but `_exit` is relied on.
        try:
            flushes: list[Callable[[], object]] = [
                lambda: sys.stdout.flush(),
                lambda: sys.stderr.flush(),
                lambda: ctypes.CDLL(None).fflush(None),
            ]
            for flush in flushes:
                with contextlib.suppress(BaseException):
                    flush()
        finally:
            _exit(status & 0xFF)


# Streams that live as long as the process, hence no context managers.
def _take_descriptors(descriptors: list[int]) -> list[int]:
    """Put stdout and stderr in place, close what is none of the worker's, and return the others in their order."""
    stdout_fd, stderr_fd, *own = descriptors
    os.dup2(stdout_fd, 1)
    os.dup2(stderr_fd, 2)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in own:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fd)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    # Line by line, so that a SIGKILL eats no line; text that cannot be encoded must not fail a print.
    sys.stdout = open(1, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    with contextlib.suppress(Exception):  # the same for what C code prints; a libc without the symbol goes without
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
    return own


def _set_limits() -> None:
    # A core dump of some GiB delays the notice of a death by seconds. Lowered as a hard limit, user code keeps it too.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        score = int(file.read())
        file.seek(0)
        file.write(str(max(score, _OOM_SCORE_ADJ)))


def _restore(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _reseed() -> None:
    """Give NumPy's global generator a state of its own; the standard library's `random` does so itself at a fork."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def blas_setters() -> list[Callable[[int], object]]:
    """The functions that set how many threads each loaded OpenBLAS uses; to be looked for once, in the zygote.

    NumPy's wheels and SciPy's have a copy each, whose function's name ends in ``64_`` or not.
    """
    found: list[Callable[[int], object]] = []
    with contextlib.suppress(Exception), open("/proc/self/maps") as file:
        for library in {line.split(maxsplit=5)[5].rstrip("\n") for line in file if "openblas" in line}:
            loaded = ctypes.CDLL(library)
            names = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads")
            found += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return found


def _raise_blas_threads(setters: list[Callable[[int], object]]) -> None:
    """Let OpenBLAS use what the author allows, or all cores: it was loaded with one thread for the zygote's sake."""
    with contextlib.suppress(Exception):
        threads = int(os.environ.get("OPENBLAS_NUM_THREADS") or len(os.sched_getaffinity(0)))
        if threads > 1:
            for set_threads in setters:
                set_threads(threads)
