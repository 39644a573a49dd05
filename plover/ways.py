"""The way to a daemon: from what its address says to what a connection needs.

For ``ipc://`` that is the secret beside the socket. For ``tcp://`` it is keys, and a look before the lasting connection:
whether the name resolves, the port answers, the daemon there proves itself and takes our key; ZeroMQ by itself would try
again for ever without a word. For ``ssh://`` it is a tunnel (`plover.tunnel`).

Guarantees: each thing that can be wrong has a text of its own that says what to do. Nothing but a handshake is sent before
the daemon proved itself. Assumes: a way is closed when its connection is.
"""

from __future__ import annotations

import contextlib
import socket as sockets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from plover import addresses, keys
from plover.addresses import Plugged
from plover.errors import AccessDenied, DaemonUnreachable
from plover.profiles import Target
from plover.versions import versions
from plover.wire import curve

if TYPE_CHECKING:
    from plover.client.connection import Connection

__all__ = ["Look", "Plug", "Way", "open_way"]

#: Takes a fresh DEALER and connects it.
Plug = Callable[[zmq.Socket[bytes]], None]

#: How long a host may take to answer, and then a daemon to prove itself.
_ANSWER_S = 5.0
_PROVE_S = 10.0


class Look(msgspec.Struct, frozen=True):
    """What a look at a tcp daemon found: where its name led, and how long the network and the keys took."""

    endpoint: str
    connect_s: float
    prove_s: float


class Way:
    """A way that is open.

    Attributes:
        secret: what the handshake says; empty where keys have proved enough.
        plug: connects a fresh DEALER; None where the address does.
        look: what was found at a tcp address.
    """

    def __init__(
        self,
        secret: bytes,
        plug: Plug | None = None,
        look: Look | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.secret = secret
        self.plug = plug
        self.look = look
        self.close = close

    def connect(self, address: str) -> Connection:
        """The lasting connection; raises as `Connection` does."""
        from plover.client.connection import Connection

        return Connection(Plugged(address, self.plug) if self.plug is not None else address, self.secret, versions())


def open_way(target: Target) -> Way:
    """The way to a daemon.

    Raises:
        DaemonUnreachable: nobody is there; the text says why.
        AccessDenied: somebody is, and does not let us in, or is not who was expected.
    """
    match addresses.parse(target.address):
        case addresses.Ipc(path):
            secret = addresses.read_secret(path)
            if not addresses.is_alive(path):
                raise _nobody_listens(path)
            return Way(secret)
        case addresses.Tcp() as tcp:
            return _by_keys(target, tcp)
        case addresses.Ssh() as ssh:
            from plover.tunnel import Tunnel

            tunnel = Tunnel(target.address, ssh, target.command)
            return Way(tunnel.secret, tunnel.plug, close=tunnel.close)


def _nobody_listens(path: Path) -> DaemonUnreachable:
    left = " (its socket is still there: it was killed, or its machine went down)" if path.exists() else ""
    return DaemonUnreachable(
        f"no daemon runs at ipc://{path}{left}: start one with `plover start --bind ipc://{path}`",
        address=f"ipc://{path}",
    )


# -- tcp ---------------------------------------------------------------------------------------------------------------


def _by_keys(target: Target, tcp: addresses.Tcp) -> Way:
    own = keys.client_key()
    if target.server_key is None:
        raise AccessDenied(
            f"the key of the daemon at {target.address} is not known here, so it could be anybody. Give its operator "
            f"this line: {keys.client_line(own)}  They run `plover keys trust` with it and give a line back; run "
            "`plover keys trust` with that"
        )
    server = keys.public_bytes(target.server_key)
    public, secret = keys.public_bytes(own.public), keys.public_bytes(own.secret)
    began = time.monotonic()
    endpoint = _reach(target.address, tcp)
    connected = time.monotonic()

    def plug(socket: zmq.Socket[bytes]) -> None:
        curve.connect(socket, endpoint, server=server, public=public, secret=secret)

    _prove(target, plug, own)
    return Way(b"", plug, Look(endpoint, connected - began, time.monotonic() - connected))


def _reach(address: str, tcp: addresses.Tcp) -> str:
    """The endpoint of the first of a host's addresses at which the port answers."""
    try:
        with sockets.create_connection((tcp.host, tcp.port), _ANSWER_S) as found:
            peer = found.getpeername()
    except sockets.gaierror as error:
        raise DaemonUnreachable(
            f"{address}: there is no host {tcp.host!r} ({error.strerror or error}): see whether the name is right, "
            "and whether this machine is in the network where it is known",
            address=address,
        ) from None
    except ConnectionRefusedError:
        raise DaemonUnreachable(
            f"{address}: the host is there, and nobody listens at port {tcp.port}: its operator starts a daemon with "
            f"`plover start --bind tcp://*:{tcp.port}`",
            address=address,
        ) from None
    except TimeoutError:
        raise DaemonUnreachable(
            f"{address}: nothing answered within {_ANSWER_S:g} s: the host is down or elsewhere, or a firewall keeps "
            f"port {tcp.port} closed",
            address=address,
        ) from None
    except OSError as error:
        raise DaemonUnreachable(f"{address} cannot be reached: {error.strerror or error}", address=address) from None
    return f"tcp://[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"tcp://{peer[0]}:{peer[1]}"


def _prove(target: Target, plug: Plug, own: keys.KeyPair) -> None:
    """A short connection that says nothing: both sides show their keys."""
    from zmq.utils.monitor import recv_monitor_message  # imports asyncio, which no client of this host needs

    with _watched_dealer() as (socket, monitor):
        plug(socket)
        deadline = time.monotonic() + _PROVE_S
        while monitor.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            match recv_monitor_message(monitor)["event"]:
                case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    return
                case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    raise AccessDenied(
                        f"the daemon at {target.address} does not trust this user's key. Give its operator this line, "
                        f"who runs `plover keys trust` with it: {keys.client_line(own)}"
                    )
                case _:
                    raise AccessDenied(
                        f"what answers at {target.address} did not prove that it is the daemon whose key is expected"
                        f"{f' ({target.source})' if target.source else ''}: nothing was sent. It is another program, or "
                        "a daemon with another key: then ask its operator for its line, and run "
                        "`plover keys trust --replace` with that"
                    )
    raise DaemonUnreachable(
        f"the daemon at {target.address} was reached, and did not answer within {_PROVE_S:g} s: it hangs, or its "
        "host is overloaded. Its operator sees more with `plover status`",
        address=target.address,
    )


@contextlib.contextmanager
def _watched_dealer() -> Iterator[tuple[zmq.Socket[bytes], Any]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        events = (
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_DISCONNECTED
        )
        yield socket, socket.get_monitor_socket(events)
        socket.disable_monitor()
    finally:
        context.destroy(linger=0)
