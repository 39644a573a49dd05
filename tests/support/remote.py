"""Hosts and users of remote daemons for tests: a daemon that listens at a tcp port, a user with keys, and a bad network.

Guarantees: keys and profiles lie in directories of the test's own, never the developer's. Nothing sleeps; waits are bounded.
Assumes: this process plays the user; the host is a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from plover import keys
from plover.wire import curve
from plover.wire import messages as m
from tests.support.daemons import PATIENCE_S, Daemon, RawPeer
from tests.support.daemons import plover as command

_PROGRAM = """
import os, resource, sys
if {open_files}:
    resource.setrlimit(resource.RLIMIT_NOFILE, ({open_files}, {open_files}))
os.environ["XDG_CONFIG_HOME"] = os.path.dirname(sys.argv[2]) + "/host"
from plover.cli.main import main
start = ["start", "--devices", "simulated:1", "--state-dir", sys.argv[2], "--bind", sys.argv[1]]
sys.exit(main([*start, "--bind", "tcp://{listen}:{port}"]))
"""


@contextlib.contextmanager
def configuration(directory: Path) -> Iterator[None]:
    """Commands and connections use this configuration directory meanwhile."""
    before = os.environ.get("XDG_CONFIG_HOME")
    os.environ["XDG_CONFIG_HOME"] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CONFIG_HOME"]
        else:
            os.environ["XDG_CONFIG_HOME"] = before


def run(*arguments: str) -> str:
    """What a command that must succeed prints on stdout."""
    code, out, errors = command(*arguments)
    assert code == 0, errors
    return out.strip()


class Host(Daemon):
    """A daemon with an ipc and a tcp address, and its operator's configuration.

    Args:
        port: to listen at; 0 for any.
        listen: the host part of the tcp address.
        open_files: its limit of descriptors; 0 for this process's own.
    """

    def __init__(self, port: int = 0, listen: str = "127.0.0.1", open_files: int = 0, **options: Any) -> None:
        program = _PROGRAM.replace("{port}", str(port)).replace("{listen}", listen)
        super().__init__(program=program.replace("{open_files}", str(open_files)), **options)
        self.configuration = self.mark.directory / "host"
        self.tcp = self.ready_line.rstrip().rpartition(" ")[2]
        self.port = int(self.tcp.rpartition(":")[2])

    def trust(self, line: str, *options: str) -> str:
        """The operator trusts a user's line, and gets the one to give back."""
        with configuration(self.configuration):
            return run("keys", "trust", line, "--address", self.tcp, *options)

    def revoke(self, which: str) -> None:
        """The operator trusts somebody no more."""
        with configuration(self.configuration):
            run("keys", "revoke", which)

    @property
    def key(self) -> str:
        """The key that it proves."""
        with configuration(self.configuration):
            return keys.daemon_key().public


@contextlib.contextmanager
def host(**options: Any) -> Iterator[Host]:
    """A host of the test's own."""
    running = Host(**options)
    try:
        yield running
    finally:
        running.close()


class User:
    """Somebody with a configuration directory."""

    def __init__(self, directory: Path) -> None:
        self.configuration = directory

    def line(self, name: str | None = None) -> str:
        """The line for an operator, under another name if one is given."""
        with configuration(self.configuration):
            line = keys.client_line(keys.client_key())
        return str(line if name is None else keys.ClientLine(name, line.key))

    def enrol(self, host: Host, tenant: str, *, name: str = "gpu1", address: str | None = None) -> None:
        """The whole exchange."""
        back = host.trust(self.line(), "--tenant", tenant)
        elsewhere = ["--address", address] if address else []
        with configuration(self.configuration):
            run("keys", "trust", back, "--name", name, *elsewhere)


class RawGuest(RawPeer):
    """A peer with a user's keys that speaks in frames of its own making.

    Args:
        routing_id: that it claims; None for one of libzmq's.
    """

    def __init__(self, host: Host, user: User, routing_id: bytes | None = None, secret: bytes = b"") -> None:
        with configuration(user.configuration):
            pair = keys.client_key()
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        self._secret = secret
        self.address = host.tcp
        self.incarnation = 0
        self.client = secrets.token_bytes(16)
        server, public, own = (keys.public_bytes(key) for key in (host.key, pair.public, pair.secret))
        with _claiming(routing_id):
            curve.connect(self.socket, host.tcp, server=server, public=public, secret=own)

    def hello(self, pid: int = 0, started: int = 0) -> m.Welcome:
        """Shake hands as a guest, of a process that may be another."""
        from plover.versions import versions

        self.say(m.Hello(self.client, self._secret, versions(), pid, started), 0)
        welcome = self.hear()
        assert isinstance(welcome, m.Welcome), welcome
        self.incarnation = welcome.incarnation
        return welcome


@contextlib.contextmanager
def _claiming(routing_id: bytes | None) -> Iterator[None]:
    """A hostile client sets the routing id that it likes."""
    if routing_id is None:
        yield
        return
    made = curve.secrets.token_bytes
    curve.secrets.token_bytes = lambda _=None: routing_id[1:]
    try:
        yield
    finally:
        curve.secrets.token_bytes = made


class Proxy:
    """A network between a client and a port: it counts, cuts, closes and stalls.

    Attributes:
        from_client: every byte that clients sent.
        connections: how many were made.
        leads_to: the port at the other end, of connections that are made from now on.
    """

    def __init__(self, port: int) -> None:
        self.from_client = bytearray()
        self.connections = 0
        self.leads_to = port
        self._closed = False
        self._flows = threading.Event()  # set while connections that are made from now on move bytes
        self._flows.set()
        self._cut_after: int | None = None
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._came = threading.Condition(self._lock)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                if self._closed:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.leads_to))
                except OSError:
                    client.close()
                    continue
                self._live |= {client, server}
                for source, target, recorded in ((client, server, True), (server, client, False)):
                    what = (source, target, recorded, self._flows)
                    thread = threading.Thread(target=self._pump, args=what, daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, recorded: bool, flows: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                flows.wait()
                with self._lock:
                    if recorded:
                        self.from_client += data
                        self._came.notify_all()
                    must_cut = self._cut_after is not None and len(self.from_client) >= self._cut_after
                    if must_cut:
                        self._cut_after = None
                if must_cut:
                    self.cut()
                target.sendall(data)
        self._drop({source, target})

    def wait_for_bytes(self, count: int) -> None:
        """Until clients have sent so many in all."""
        with self._lock:
            assert self._came.wait_for(lambda: len(self.from_client) >= count, PATIENCE_S)

    def stall(self) -> threading.Event:
        """No byte moves over the connections that there are, until the event is set."""
        with self._lock:
            stalled, self._flows = self._flows, threading.Event()
            self._flows.set()
        stalled.clear()
        return stalled

    def cut_after(self, count: int) -> None:
        """Cut once, when clients have sent so many more bytes."""
        with self._lock:
            self._cut_after = len(self.from_client) + count

    def cut(self) -> None:
        """End all connections, wherever their bytes are; new ones can be made."""
        with self._lock:
            live = set(self._live)
        self._drop(live)

    def close_the_line(self) -> None:
        """End all connections, and whatever is made from now on."""
        with self._lock:
            self._closed = True
        self.cut()

    def open_the_line(self) -> None:
        """Connections can be made again."""
        with self._lock:
            self._closed = False

    def _drop(self, ends: set[socket.socket]) -> None:
        with self._lock:
            mine = ends & self._live
            self._live -= mine
        for end in mine:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
            end.close()

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_the_line()
        for thread in self._threads:
            thread.join(PATIENCE_S)


@contextlib.contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """A proxy of the test's own."""
    running = Proxy(port)
    try:
        yield running
    finally:
        running.close()
