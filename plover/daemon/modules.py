"""What the daemon does about the author's own modules: bundles kept beside functions, and calls told apart by their sets.

Guarantees: bundles are by tenant and digest in the function store, within its bounds; nothing of them is read here. Assumes:
one thread; a digest is checked by the worker, where a bundle becomes files.
"""

from __future__ import annotations

import functools
import hashlib

import msgspec

from plover.bundles.format import BundleSet
from plover.daemon.payloads import FunctionStore
from plover.wire import codec
from plover.wire import messages as m

__all__ = ["EMPTY", "digests", "function_key", "keep", "missing", "pack", "size_bytes"]

#: The set of a call that mentions no module.
EMPTY = BundleSet()
_encoder = msgspec.msgpack.Encoder()


def function_key(function: bytes, modules: BundleSet) -> bytes:
    """What the scheduler takes for one function: the same payload means another thing with another set."""
    return function if modules is EMPTY else function + _digest(modules)


@functools.lru_cache(maxsize=1024)
def _digest(modules: BundleSet) -> bytes:
    return hashlib.sha256(_encoder.encode(modules)).digest()


def digests(modules: BundleSet) -> tuple[bytes, ...]:
    """The bundles that a set names."""
    return tuple([digest for _, digest in modules.members])


def size_bytes(bundles: m.Bundles) -> int:
    """How many bytes the bundles of a message have."""
    return codec.size_bytes(tuple([data for _, data in bundles]))


def keep(store: FunctionStore, tenant: str, incoming: codec.Incoming[m.FromClient], bundles: m.Bundles) -> None:
    """Keep what came along."""
    for digest, data in bundles:
        store.put(tenant, digest, incoming.take((data,)), data.size)


def missing(store: FunctionStore, tenant: str, modules: BundleSet) -> tuple[bytes, ...]:
    """The bundles of a set that are not here."""
    return tuple([digest for _, digest in modules.members if not store.holds(tenant, digest)])


def pack(store: FunctionStore, tenant: str, modules: BundleSet, body: codec.Body) -> m.Bundles:
    """All bundles of a set, into a message for a worker. Assumes that a call holds on to them."""
    return tuple([(digest, body.add(store.get(tenant, digest)[0])) for _, digest in modules.members])
