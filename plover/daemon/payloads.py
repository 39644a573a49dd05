"""Functions and bundles that clients sent, by tenant and digest, bounded.

Guarantees: at most `limit_bytes` a tenant, the least recently used go first; what a call that is not done still needs is
never dropped. Nothing here is ever unpickled. Assumes: one thread.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence

from plover.serialize import Buffer

__all__ = ["FunctionStore"]

_Key = tuple[str, bytes]


class FunctionStore:
    """Payloads by tenant and digest.

    Args:
        limit_bytes: how much a tenant's payloads may take that no call needs.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._payloads: OrderedDict[_Key, tuple[Sequence[Buffer], int]] = OrderedDict()
        self._sizes: Counter[str] = Counter()  # of all payloads of a tenant
        self._users: defaultdict[_Key, int] = defaultdict(int)  # calls that may still need it; no zeros are kept

    def __repr__(self) -> str:
        return f"<{len(self._payloads)} functions, {sum(self._sizes.values())} bytes>"

    def __len__(self) -> int:
        return len(self._payloads)

    def holds(self, tenant: str, digest: bytes) -> bool:
        """Whether a function is here."""
        return (tenant, digest) in self._payloads

    def put(self, tenant: str, digest: bytes, payload: Sequence[Buffer], size_bytes: int) -> None:
        """Keep a function; one that is here already stays as it is."""
        if (tenant, digest) not in self._payloads:
            self._payloads[tenant, digest] = payload, size_bytes
            self._sizes[tenant] += size_bytes
        self._payloads.move_to_end((tenant, digest))
        self._shrink(tenant)

    def get(self, tenant: str, digest: bytes) -> Sequence[Buffer]:
        """A function that a call holds on to."""
        self._payloads.move_to_end((tenant, digest))
        return self._payloads[tenant, digest][0]

    def hold(self, tenant: str, *digests: bytes) -> None:
        """One more call may need these."""
        for digest in digests:
            self._users[tenant, digest] += 1

    def release(self, tenant: str, *digests: bytes) -> None:
        """One call does not need these any more."""
        for digest in digests:
            self._users[tenant, digest] -= 1
            if not self._users[tenant, digest]:
                del self._users[tenant, digest]
                self._shrink(tenant)

    def _shrink(self, tenant: str) -> None:
        if self._sizes[tenant] <= self._limit:
            return
        for key in [key for key in self._payloads if key[0] == tenant and key not in self._users]:
            self._sizes[tenant] -= self._payloads.pop(key)[1]
            if self._sizes[tenant] <= self._limit:
                return
