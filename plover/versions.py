"""Which versions this process has, as both sides of a handshake say it."""

from __future__ import annotations

import sys
from importlib import metadata

from plover.wire.messages import Versions

__all__ = ["PLOVER", "PYTHON", "of_packages", "versions"]

#: The minor version of Python: bytecode does not cross it.
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

try:
    PLOVER = metadata.version("plover-gpu")
except metadata.PackageNotFoundError:  # run from a source tree that is not installed
    PLOVER = "0+unknown"

#: What decides whether a function made in one place can run in another.
_PACKAGES = ("numpy", "cloudpickle", "numba", "numba-cuda", "cupy-cuda12x", "cupy-cuda13x")


def of_packages() -> dict[str, str]:
    """The installed versions of the packages that matter; reads files, imports nothing."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def versions() -> Versions:
    """What this process runs with."""
    return Versions(plover=PLOVER, python=PYTHON, packages=of_packages())
