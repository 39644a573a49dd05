"""Clients' processes: when one dies without a word, its calls are of no use any more, and that is known at once.

A client of this machine says which process it is (`plover.wire.identity`), and a pidfd tells of that one's end. Where the
daemon cannot see it (another PID namespace, another machine behind a tunnel), there is the client's lease, as for guests.

Guarantees: what is watched is the very process that said hello. Nothing is ever signalled. Assumes: one thread; who knows the
socket's secret is this user, so a false number harms its own calls only.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from plover.daemon.lines import Watcher
from plover.daemon.peers import ClientPeer
from plover.wire import identity

__all__ = ["Lives"]

Process = tuple[int, int]  # its number, and when it began


class Lives:
    """The processes of this machine's clients.

    Args:
        watcher: the loop.
        ended: takes a process's number and its clients, when it has ended.
    """

    def __init__(self, watcher: Watcher, ended: Callable[[int, list[ClientPeer]], None]) -> None:
        self._watcher = watcher
        self._ended = ended
        self._pidfds: dict[Process, int] = {}
        self._clients: dict[Process, dict[bytes, ClientPeer]] = {}  # of the same processes; never empty
        self._process_of: dict[bytes, Process] = {}

    def __len__(self) -> int:
        return len(self._pidfds)

    def greet(self, peer: ClientPeer, pid: int, started: int) -> None:
        """A client said hello, and which process it is."""
        process = (pid, started)
        if process not in self._pidfds and not self._watch(process):
            return
        self._clients.setdefault(process, {})[peer.client] = peer
        self._process_of[peer.client] = process

    def _watch(self, process: Process) -> bool:
        pid, started = process
        if pid <= 0 or not started:
            return False
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        if identity.started(pid) != started:  # looked at behind the pidfd, which keeps meaning the same one
            os.close(pidfd)
            return False
        self._pidfds[process] = pidfd
        self._watcher.watch(pidfd, functools.partial(self._died, process))
        return True

    def forget(self, client: bytes) -> None:
        """A client said goodbye."""
        process = self._process_of.pop(client, None)
        if process is not None:
            del self._clients[process][client]
            if not self._clients[process]:
                self._unwatch(process)

    def _died(self, process: Process) -> None:
        clients = list(self._clients[process].values())
        for peer in clients:
            del self._process_of[peer.client]
        self._unwatch(process)
        self._ended(process[0], clients)

    def _unwatch(self, process: Process) -> None:
        del self._clients[process]
        pidfd = self._pidfds.pop(process)
        self._watcher.unwatch(pidfd)
        os.close(pidfd)

    def close(self) -> None:
        """Give the descriptors back."""
        for process in list(self._pidfds):
            self._unwatch(process)
