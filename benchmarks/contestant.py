"""What is measured: one way to define a contestant, whether a raw loop, Plover or a peer, and the list of all.

Guarantees: nothing is imported from Plover or a peer before `Entry.load`, so that this file works in every environment.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

__all__ = [
    "ENTRIES",
    "FLOORS",
    "PEERS",
    "PLOVER",
    "REFERENCE",
    "Contestant",
    "Entry",
    "Shares",
    "Ships",
    "nap",
    "no_op",
    "plus_one",
    "plus_one_into",
]


class Contestant(Protocol):
    """Something that runs functions in other processes."""

    def start(self, workers: int) -> None:
        """Start the service with so many workers, and connect to it."""

    def address(self) -> str:
        """Where another client process finds the service; empty if each client has to start its own."""

    def attach(self, address: str) -> None:
        """Instead of `start`: be another client of a service that runs already."""

    def call(self) -> None:
        """Run `no_op`, and wait until it is done."""

    def burst(self, count: int) -> None:
        """Run `no_op` so often, all asked for before the first is waited for."""

    def echo(self, array: np.ndarray) -> np.ndarray:
        """Run `plus_one`: the array goes there, a new one comes back."""

    def naps(self, count: int, seconds: float) -> None:
        """Run `nap` so often, on all workers."""

    def stop(self) -> None:
        """End everything that `start` started."""


@runtime_checkable
class Ships(Protocol):
    """A contestant to which a new function can be given with each call."""

    def ship(self, function: Callable[[], int]) -> int:
        """Run it, and return what it returns. Its bytes travel the first time only."""


@runtime_checkable
class Shares(Protocol):
    """A contestant that has arrays which cross without a copy."""

    def shared(self, count: int) -> np.ndarray:
        """A new one of so many float64."""

    def echo_shared(self, array: np.ndarray, out: np.ndarray) -> None:
        """As `echo`, from one of them into another."""


# -- what they run -----------------------------------------------------------------------------------------------------


def no_op() -> None:
    """Nothing: what is left is the contestant."""


def plus_one(array: Any) -> Any:
    """A new array, so that nothing can come back that was never sent."""
    return array + 1


def plus_one_into(array: Any, out: Any) -> None:
    """The same, where the caller has a place for it."""
    np.add(array, 1, out=out)


def nap(seconds: float) -> None:
    """Work that needs no core."""
    time.sleep(seconds)


# -- all of them -------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A contestant that can be started.

    Attributes:
        title: as the table calls it.
        where: its class.
        packages: what its environment needs; none for those that run in the project's.
        program: what the machine needs, and the Debian package that has it.
        environment: the directory's name; peers of one distribution share it.
    """

    title: str
    where: str
    packages: tuple[str, ...] = ()
    program: tuple[str, str] | None = None
    environment: str = ""

    def load(self) -> Contestant:
        """An instance, not started."""
        module, _, name = self.where.partition(":")
        made: Contestant = getattr(importlib.import_module(module), name)()
        return made


#: What all others are multiples of: the loop that Plover's path resembles.
REFERENCE = "relay"
PLOVER = "plover"
FLOORS = {
    "relay": Entry("raw pyzmq, relayed (two hops, Poller)", "benchmarks.floors:Relay"),
    "tuned": Entry("raw pyzmq, relayed, tuned", "benchmarks.floors:TunedRelay"),
    "direct": Entry("raw pyzmq, no relay", "benchmarks.floors:Direct"),
    "tcp": Entry("raw pyzmq, no relay, tcp", "benchmarks.floors:Tcp"),
    "curve": Entry("raw pyzmq, no relay, tcp with CURVE", "benchmarks.floors:Curve"),
}
PEERS = {
    "pool": Entry("ProcessPoolExecutor", "benchmarks.peers.pools:Pool"),
    "loky": Entry("loky", "benchmarks.peers.pools:Loky", ("loky",), None, "loky"),
    "rpyc": Entry("RPyC", "benchmarks.peers.rpyc:Rpyc", ("rpyc",), None, "rpyc"),
    "pyro5": Entry("Pyro5", "benchmarks.peers.pyro5:Pyro", ("Pyro5", "msgpack"), None, "pyro5"),
    "ray-actor": Entry("Ray, actor", "benchmarks.peers.ray:Actors", ("ray",), None, "ray"),
    "ray-task": Entry("Ray, task", "benchmarks.peers.ray:Tasks", ("ray",), None, "ray"),
    "dask": Entry("Dask (distributed)", "benchmarks.peers.dask:Dask", ("distributed",), None, "dask"),
    "ipyparallel": Entry(
        "ipyparallel", "benchmarks.peers.ipyparallel:IPyParallel", ("ipyparallel",), None, "ipyparallel"
    ),
    "parsl": Entry("Parsl (HTEX)", "benchmarks.peers.parsl:Parsl", ("parsl",), None, "parsl"),
    "celery": Entry(
        "Celery (Redis)",
        "benchmarks.peers.celery:CeleryQueue",
        ("celery[redis]",),
        ("redis-server", "redis-server"),
        "celery",
    ),
}
ENTRIES = {
    **FLOORS,
    "plover": Entry("Plover", "benchmarks.ours:Plover"),
    "plover-tcp": Entry("Plover, tcp", "benchmarks.ours:PloverTcp"),
    **PEERS,
}
