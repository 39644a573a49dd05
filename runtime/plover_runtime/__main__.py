"""The first process of a nest: ``python -m plover_runtime``, with where and who in its environment.

It takes what the launcher put there out of the environment, so that user code and what it starts never see it, forks
itself into keeper and zygote, and becomes the zygote.

Guarantees: the zygote's BLAS has one thread (more would make forks unsafe, and OpenBLAS starts its own at import); the
author's own settings are kept for the workers. Assumes: it is started by a launcher, as the first thing in its process.
"""

from __future__ import annotations

import os
import resource
import sys

from plover_runtime.keeper import fork_under_keeper

#: OpenBLAS starts its threads when it is loaded. OpenMP and MKL start theirs in the first parallel region, which a
#: zygote never reaches, so theirs stay as they are.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS",)


def main() -> None:
    """Become a nest's zygote; returns only if this was not started by a launcher."""
    try:
        address = os.environ.pop("PLOVER_ZYGOTE_SOCKET")
        token = bytes.fromhex(os.environ.pop("PLOVER_ZYGOTE_TOKEN"))
    except (KeyError, ValueError):
        print("plover_runtime is started by a Plover daemon, not by hand: see `plover start --help`", file=sys.stderr)
        sys.exit(2)
    daemon = int(os.environ.pop("PLOVER_DAEMON_PID", "0"))
    _limit_open_files(os.environ.pop("PLOVER_OPEN_FILES", None))
    fork_under_keeper(daemon)
    kept = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))

    # Only now: the keeper stays small, and nothing reads the settings before they are made.
    from plover_runtime.zygote import Zygote

    Zygote(address, token, kept).run()


def _limit_open_files(most: str | None) -> None:
    """Have the limit that the daemon was started with: it raised its own, and user code may call select()."""
    if most is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(most), hard))


if __name__ == "__main__":
    main()
