"""Guests: clients from other machines, who come over tcp with a CURVE key that the operator trusts.

Guarantees: whom the file of trusted keys names is let in, as the tenant that it says, and nobody else. The file is read again
when it changes; `changes` is a descriptor that tells so. A guest may say what a client says, but not end the daemon, and sees
of the status what is its own tenant's, and the host's devices and limits.

Assumes: Linux (inotify); the file is changed on this machine; one thread.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import hashlib
import json
import logging
import operator
import os
import typing
from pathlib import Path
from typing import Any

import zmq

from plover import addresses, keys, trusted
from plover.errors import AccessDenied, PloverError
from plover.wire import codec, curve, sockets
from plover.wire import messages as m

__all__ = ["FROM_GUEST", "Gate", "client_of", "status_for"]

log = logging.getLogger("plover.daemon")

#: What a client may say, less what is the operator's.
_MESSAGES: Any = functools.reduce(operator.or_, set(typing.get_args(m.FromClient)) - {m.AskToEnd})
FROM_GUEST: codec.Reader[m.FromClient] = codec.Reader(_MESSAGES, "client")

#: So many refused keys are remembered, so that each is logged once and not ten times a second.
_REFUSED_LIMIT = 1000
# inotify(7)
_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
#: Modes changed, closed after writing, moved away, moved here, made, removed.
_IN_CHANGES = 0x004 | 0x008 | 0x040 | 0x080 | 0x100 | 0x200


class Gate:
    """Lets guests in.

    Args:
        context: of the socket that listens.
        refused: counts the keys that were not let in, among others.

    Attributes:
        zap: to be polled; call `answer` when it is readable.
        changes: readable when something changed beside the file; call `reread` then.

    Raises:
        AccessDenied: a key file or the list is open to others.
        PloverError: the list has a line that is not whole, or cannot be watched.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], refused: collections.Counter[str]) -> None:
        self._secret = keys.public_bytes(keys.daemon_key().secret)
        self._file = trusted.path()
        keys.make_private_directory(self._file.parent)
        self._content = trusted.read(self._file)
        if self._content.problems:
            raise PloverError(self._content.problems[0])
        if not self._content.by_key:
            log.info("no key is trusted yet, so nobody gets in over tcp: `plover keys trust` lets one in")
        self._refused = refused
        self._said: dict[bytes, None] = {}
        self.changes = _watch(self._file.parent)
        self.zap: sockets.Socket = context.socket(zmq.REP)
        self.zap.setsockopt(zmq.LINGER, 0)
        self.zap.bind(curve.ZAP_ADDRESS)

    def bind(self, socket: sockets.Socket, address: str) -> str:
        """Listen at a tcp address; returns it with its port.

        Raises:
            AccessDenied: somebody has it already.
            PloverError: it cannot be bound.
        """
        parsed = addresses.parse_bind(address)
        assert isinstance(parsed, addresses.Tcp)
        host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        try:
            return curve.bind(socket, f"tcp://{host}:{parsed.port or '*'}", self._secret)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise AccessDenied(
                    f"{address}: this port is taken, perhaps by another daemon; bind another one"
                ) from None
            raise PloverError(
                f"{address} cannot be bound ({error}): HOST is an address or an interface of this machine, or * for all"
            ) from None

    def answer(self) -> None:
        """Say whether keys are let in."""
        curve.answer(self.zap, self._admits)

    def _admits(self, key: bytes, peer: str) -> str | None:
        text = keys.key_text(key)
        if self.tenant_of(text) is not None:
            return text
        self._refused["untrusted key"] += 1
        if key not in self._said:
            log.warning("a client at %s with the key %s is not trusted, and was refused", peer, text)
            self._said[key] = None
            if len(self._said) > _REFUSED_LIMIT:
                del self._said[next(iter(self._said))]
        return None

    def tenant_of(self, key: str) -> str | None:
        """Whose a key is; None if it is not trusted. As of the last `reread`."""
        entry = self._content.by_key.get(key)
        return None if entry is None else entry.tenant

    def reread(self) -> bool:
        """Read the list again; whether it says something else now. What cannot be read trusts nobody."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.changes, 65536):
                pass
        before = self._content
        try:
            self._content = trusted.read(self._file)
        except (PloverError, OSError) as error:
            log.error("nobody is let in over tcp until this is mended: %s", error)
            self._content = trusted.TrustedKeys()
        if self._content == before:
            return False
        for problem in self._content.problems:
            log.error("%s", problem)
        log.info("%d keys are trusted now", len(self._content.by_key))
        self._said.clear()
        return True

    def close(self) -> None:
        """Give the socket and the descriptor back."""
        self.zap.close(0)
        os.close(self.changes)


def _watch(directory: Path) -> int:
    """A descriptor that becomes readable when a file in a directory changes. Python has no name for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK))
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(directory), _IN_CHANGES) >= 0:
        return fd
    error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if fd >= 0:
        os.close(fd)
    raise PloverError(
        f"{directory} cannot be watched for keys that are revoked ({error.strerror}): raise "
        "fs.inotify.max_user_instances with sysctl, or bind no tcp address"
    )


def client_of(key: str, client: bytes) -> bytes:
    """The id by which the daemon knows a guest's client. The key goes into it, so no guest can say another's; the first
    bytes are the client's own, which people see in call ids.
    """
    return client[:6] + hashlib.blake2b(client, key=key.encode(), digest_size=10).digest()


def status_for(tenant: str, document: bytes) -> bytes:
    """The status as a guest sees it: nothing of other tenants but how much there is, and no addresses of processes."""
    content = json.loads(document)
    scheduler = content["scheduler"]
    nests = [nest for nest in scheduler["nests"] if nest["tenant"] == tenant]
    numbers = {nest["nest"] for nest in nests}
    scheduler["nests"] = nests
    scheduler["workers"] = [worker for worker in scheduler["workers"] if worker["nest"] in numbers]
    scheduler["queued"] = {name: count for name, count in scheduler["queued"].items() if name == tenant}
    scheduler["clients"] = [client for client in scheduler["clients"] if client["tenant"] == tenant]
    for device in scheduler["devices"]:
        if device["nest"] not in numbers:
            device["nest"] = device["last_failure"] = None
    own = {str(worker["worker"]) for worker in scheduler["workers"]}
    content["pids"] = {number: pid for number, pid in content["pids"].items() if number in own}
    content["refused_messages"] = {}
    return json.dumps(content).encode()
