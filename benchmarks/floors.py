"""The floors: what pyzmq itself costs, for the paths that a call can take.

Each has a client, perhaps a relay, and workers, all processes of their own; a message is an opcode with what belongs to it.
The relay with a Poller is the one that everything else is a multiple of: three processes and two hops over ipc, like
Plover's, and what anybody would write first. Large frames are sent and received without a copy where pyzmq offers that.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import zmq
import zmq.backend

_NO_OP = b"0" * 64
_ECHO = b"1" * 64
_NAP = b"2"
_FUNCTION = b"3"
_READY = b"4"


def _socket(context: zmq.Context, kind: int) -> Any:
    socket = context.socket(kind)
    for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
        socket.setsockopt(option, 0)
    return socket


def _receive(socket: Any) -> list[Any]:
    """As `recv_multipart`; what follows the opcode is not copied."""
    parts = [socket.recv()]
    while socket.getsockopt(zmq.RCVMORE):
        parts.append(socket.recv(copy=parts[-1] != _ECHO))
    return parts


def _send(socket: Any, parts: list[Any]) -> None:
    if isinstance(parts[-1], zmq.Frame):
        socket.send_multipart(parts[:-1], zmq.SNDMORE)
        socket.send(parts[-1], copy=False)
    else:
        socket.send_multipart(parts)


# -- processes ---------------------------------------------------------------------------------------------------------


def _relay(directory: str, workers: int) -> None:
    """A ROUTER on either side and a Poller; workers take turns."""
    context = zmq.Context()
    front, back = _socket(context, zmq.ROUTER), _socket(context, zmq.ROUTER)
    front.bind(f"ipc://{directory}/front")
    back.bind(f"ipc://{directory}/back")
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    names = [back.recv_multipart()[0] for _ in range(workers)]
    turn = 0
    while True:
        ready = dict(poller.poll())
        if front in ready:
            turn = (turn + 1) % workers
            _send(back, [names[turn], *_receive(front)])
        if back in ready:
            _send(front, _receive(back)[1:])


def _tuned_relay(directory: str, workers: int) -> None:
    """One ROUTER for both sides, no Poller, pyzmq's compiled core alone, plain integers: as fast as a C proxy."""
    socket = _socket(zmq.Context(), zmq.ROUTER)
    socket.bind(f"ipc://{directory}/front")
    send, receive, get = zmq.backend.Socket.send, zmq.backend.Socket.recv, zmq.backend.Socket.get
    more, has_more = int(zmq.SNDMORE), int(zmq.RCVMORE)
    names: list[bytes] = []
    early = []  # clients that were faster than the last worker
    while len(names) < workers:
        name, *rest = socket.recv_multipart()
        if rest == [_READY]:
            names.append(name)
        else:
            early.append([name, *rest])
    for message in early:
        socket.send_multipart([names[0], *message])
    known = set(names)
    turn = 0
    while True:
        sender = receive(socket, 0, True, False)
        parts = [receive(socket, 0, True, False)]
        while get(socket, has_more):
            parts.append(receive(socket, 0, parts[-1] != _ECHO, False))
        if sender not in known:
            turn = (turn + 1) % workers
            parts = [names[turn], sender, *parts]
        last = parts.pop()
        for part in parts:
            send(socket, part, more, True, False)
        send(socket, last, 0, not isinstance(last, zmq.Frame), False)


def _worker(address: str, announce: bool, curve: tuple[bytes, ...] = (), told: Any = None) -> None:
    """Connects to a relay, or waits for a client itself."""
    socket = _socket(zmq.Context(), zmq.DEALER)
    if curve:
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = curve
    if announce:
        socket.connect(address)
        socket.send(_READY)
    else:
        socket.bind(address)
        told.put(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    functions: dict[bytes, Any] = {}
    while True:
        parts = _receive(socket)
        head = [parts.pop(0)] if announce else []
        opcode = parts[0]
        if opcode == _NO_OP:
            socket.send_multipart([*head, opcode])
        elif opcode == _ECHO:
            result = np.frombuffer(parts[1].buffer) + 1
            socket.send_multipart([*head, opcode], zmq.SNDMORE)
            socket.send(result, copy=False)
            del parts, result
        elif opcode[:1] == _NAP:
            time.sleep(float(opcode[1:]))
            socket.send_multipart([*head, opcode])
        else:
            if len(parts) > 1:
                functions = {opcode: pickle.loads(parts[1])}
            socket.send_multipart([*head, str(functions[opcode]()).encode()])


# -- contestants -------------------------------------------------------------------------------------------------------


class Relay:
    """Client, relay, workers."""

    _middle: Callable[[str, int], None] = staticmethod(_relay)
    _back = "back"

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="b-")
        self._spawn = multiprocessing.get_context("spawn")
        self._processes: list[Any] = []
        self._context = zmq.Context()
        self._socket = _socket(self._context, zmq.DEALER)
        self._digests: dict[Callable[[], int], bytes] = {}

    def _run(self, target: Callable[..., None], *arguments: Any) -> None:
        process = self._spawn.Process(target=target, args=arguments, daemon=True)
        process.start()
        self._processes.append(process)

    def start(self, workers: int) -> None:
        """All processes, and one call."""
        name = self._directory.name
        self._run(self._middle, name, workers)
        for _ in range(workers):
            self._run(_worker, f"ipc://{name}/{self._back}", True)
        self.attach(self.address())

    def address(self) -> str:
        """The relay's."""
        return f"ipc://{self._directory.name}/front"

    def attach(self, address: str) -> None:
        """Connect, and wait until somebody answers."""
        self._socket.connect(address)
        self.call()

    def call(self) -> None:
        """A round trip of 64 bytes."""
        self._socket.send(_NO_OP)
        self._socket.recv()

    def burst(self, count: int) -> None:
        """Everything sent, then everything received."""
        for _ in range(count):
            self._socket.send(_NO_OP)
        for _ in range(count):
            self._socket.recv()

    def echo(self, array: np.ndarray) -> np.ndarray:
        """One large frame each way; the result lies in the frame that came."""
        self._socket.send(_ECHO, zmq.SNDMORE)
        self._socket.send(array, copy=False)
        return np.frombuffer(_receive(self._socket)[1].buffer)

    def naps(self, count: int, seconds: float) -> None:
        """As a burst."""
        for _ in range(count):
            self._socket.send(_NAP + str(seconds).encode())
        for _ in range(count):
            self._socket.recv()

    def ship(self, function: Callable[[], int]) -> int:
        """By digest; pickled and sent along the first time, and unpickled there."""
        import cloudpickle

        digest = self._digests.get(function)
        if digest is None:
            payload = cloudpickle.dumps(function)
            digest = _FUNCTION + hashlib.sha256(payload).digest()
            self._digests = {function: digest}
            self._socket.send_multipart([digest, payload])
        else:
            self._socket.send(digest)
        return int(self._socket.recv())

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
            process.join()
        self._context.destroy(linger=0)
        self._directory.cleanup()


class TunedRelay(Relay):
    """The relay as fast as Python gets it."""

    _middle = staticmethod(_tuned_relay)
    _back = "front"


class Direct(Relay):
    """No relay: the client's own socket balances over the workers."""

    _keys: tuple[bytes, ...] = ()

    def _at(self, number: int) -> str:
        return f"ipc://{self._directory.name}/{number}"

    def start(self, workers: int) -> None:
        """Workers that are connected to."""
        self._addresses = []
        for number in range(workers):
            told = self._spawn.Queue()
            self._run(functools.partial(_worker, told=told), self._at(number), False, self._keys)
            self._addresses.append(told.get(timeout=60))
        self.attach(self.address())

    def address(self) -> str:
        """Those of all workers."""
        return " ".join(self._addresses)

    def attach(self, address: str) -> None:
        """Connect to all."""
        if self._keys:
            self._socket.curve_serverkey = self._keys[0]
            self._socket.curve_publickey, self._socket.curve_secretkey = zmq.curve_keypair()
        for each in address.split():
            self._socket.connect(each)
        self.call()


class Tcp(Direct):
    """Over the loopback."""

    def _at(self, number: int) -> str:
        return "tcp://127.0.0.1:*"


class Curve(Tcp):
    """Encrypted, as Plover's tcp always is."""

    def __init__(self) -> None:
        super().__init__()
        with contextlib.suppress(zmq.ZMQError):  # libzmq without it: then it is the same as Tcp
            self._keys = zmq.curve_keypair()
