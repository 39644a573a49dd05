"""Whether a payload that was made with other versions can be loaded here. See docs/adr/0015.

Guarantees: what is refused is refused before anything of it is unpickled, with both versions and what to do. Where no
version differs nothing is looked at. Assumes: pickles as protocol 4 and later write names (STACK_GLOBAL).
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from plover.errors import VersionMismatch
from plover.versions import of_stamp, read_stamp

__all__ = ["check", "differences", "references"]

_log = logging.getLogger("plover")
_own = functools.cache(of_stamp)

Names = frozenset[tuple[str, str]]


def check(payload: Sequence[Any], name: str) -> str | None:
    """Look at a payload's stamp.

    Args:
        payload: its buffers.
        name: the function's, for people.

    Returns:
        What differs and does no harm, for a note if it does after all; None where nothing does.

    Raises:
        VersionMismatch: it cannot be loaded here.
    """
    theirs, ours = read_stamp(payload), _own()
    if theirs is None or theirs == ours:
        return None
    differ = differences(theirs, ours)
    if not differ:
        return None
    refusal = refused(theirs, ours, references(bytes(payload[0])))
    if refusal is not None:
        package, what, remedy = refusal
        client, worker = f"{package} {theirs[package]}", f"{package} {ours[package]}"
        raise VersionMismatch(
            f"{name} was made with {client}, the worker has {worker}, and {what}: {remedy}",
            client=client,
            daemon=worker,
        )
    told = f"{name} was made with other versions than the worker has: {', '.join(differ)}"
    _log.debug("%s; nothing that it holds depends on them", told)
    return told


def differences(theirs: dict[str, str], ours: dict[str, str]) -> list[str]:
    """Of what both sides have, what differs."""
    both = [name for name in theirs if name in ours and theirs[name] != ours[name]]
    return [f"{name} {theirs[name]} and here {ours[name]}" for name in both]


def refused(theirs: dict[str, str], ours: dict[str, str], names: Names) -> tuple[str, str, str] | None:
    """The package because of which a payload cannot be loaded here, what of it is there, and what to do."""
    for package, what in _conflicts(theirs, ours, names):
        if package == "python":
            return package, what, "use the same minor version on both sides, or an environment that has it"
        major = ours[package].split(".")[0]
        return (
            package,
            what,
            f"install the same major version on both sides (here with pip install '{package}=={major}.*'), use an "
            "environment that has it, or make these objects inside the function",
        )
    return None


def _conflicts(theirs: dict[str, str], ours: dict[str, str], names: Names) -> Iterator[tuple[str, str]]:
    def majors(package: str) -> tuple[int, int]:
        both = [_major(side[package]) if package in theirs and package in ours else 0 for side in (theirs, ours)]
        return both[0], both[1]

    def differ(package: str) -> bool:
        client, worker = majors(package)
        return client != worker

    def holds(*modules: str) -> bool:
        return any(module == each or module.startswith(f"{each}.") for module, _ in names for each in modules)

    if theirs.get("python", ours["python"]) != ours["python"]:
        yield "python", "bytecode does not cross minor versions"
    if differ("cloudpickle") and holds("cloudpickle"):
        yield "cloudpickle", "it goes by value"
    client, worker = majors("numpy")
    if client > worker and holds("numpy.random"):
        yield "numpy", "it holds a random generator"
    if client > worker and holds("numpy._core") and importlib.util.find_spec("numpy._core") is None:
        yield "numpy", "it holds arrays or types of it"
    if differ("numba-cuda") and (("plover.kernels", "_make_dispatcher") in names or holds("numba.cuda")):
        yield "numba-cuda", "it holds a kernel"
    if differ("numba") and holds("numba"):
        yield "numba", "it holds compiled functions or types of it"
    if differ("cupy") and holds("cupy", "cupyx"):
        yield "cupy", "it holds objects of it"


def _major(version: str) -> int:
    first = version.split(".")[0]
    return int(first) if first.isdecimal() else 0


def references(stream: bytes) -> Names:
    """The names that a pickle refers to, each with its module."""
    import pickletools  # 10 ms, and most workers never need it

    found: set[tuple[str, str]] = set()
    pushed: list[Any] = [None, None]  # the last two texts, None for anything else
    memo: list[Any] = []
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "STACK_GLOBAL":
                module, name = pushed[-2:]
                if isinstance(module, str) and isinstance(name, str):
                    found.add((module, name))
                pushed.append(None)
            case "GLOBAL":
                module, _, name = str(argument).partition(" ")
                found.add((module, name))
                pushed.append(None)
            case "MEMOIZE":
                memo.append(pushed[-1])
            case "BINGET" | "LONG_BINGET":
                pushed.append(memo[int(argument or 0)])
            case "FRAME":
                pass
            case _:
                pushed.append(argument if isinstance(argument, str) else None)
    return frozenset(found)
