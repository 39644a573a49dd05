"""Which versions this process has: for both sides of a handshake, and for what a payload was made with. See docs/adr/0015.

Guarantees: reading them imports none of the packages, and happens once a process.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import msgspec

from plover.wire.messages import Versions

__all__ = ["PLOVER", "PYTHON", "of_packages", "read_stamp", "stamp", "versions"]

#: The minor version of Python: bytecode does not cross it.
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

try:
    PLOVER = metadata.version("plover-gpu")
except metadata.PackageNotFoundError:  # run from a source tree that is not installed
    PLOVER = "0+unknown"

#: What decides whether a function made in one place can run in another: distributions, and what they are all called.
_PACKAGES = {
    "numpy": "numpy",
    "cloudpickle": "cloudpickle",
    "numba": "numba",
    "numba-cuda": "numba-cuda",
    "cupy": "cupy",
    "cupy-cuda12x": "cupy",
    "cupy-cuda13x": "cupy",
}
#: A payload's last buffer begins with it.
_STAMP = b"plover versions\0"


@functools.cache
def of_packages() -> dict[str, str]:
    """The installed versions of the distributions that matter; reads files, imports nothing."""
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


def of_stamp() -> dict[str, str]:
    """What a stamp made here says: Python's version, and those of packages by their common names."""
    return {"python": PYTHON} | {_PACKAGES[name]: version for name, version in of_packages().items()}


@functools.cache
def stamp() -> bytes:
    """What goes along as the last buffer of a payload that is made here."""
    return _STAMP + msgspec.msgpack.encode(of_stamp())


def read_stamp(payload: Sequence[Any]) -> dict[str, str] | None:
    """What a payload was made with; None where it does not say."""
    last = bytes(memoryview(payload[-1])[:1024])
    return msgspec.msgpack.decode(last[len(_STAMP) :], type=dict[str, str]) if last.startswith(_STAMP) else None
