"""What one warm call of nothing costs, counted: messages, system calls, memory. No clock is looked at, so a slow machine
changes nothing. The bounds are what it costs today, with a little room where chance plays a part: a change that costs more
raises them on purpose, one that costs less lowers them.
"""

from __future__ import annotations

import collections
import gc
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from plover.client.calls import _REMEMBERED
from plover.wire import codec, sockets
from tests.support.daemons import Daemon, Fifo, Mark, daemon_with

CALLS = 1000
#: What chance may add over all calls: acknowledgements and wake-ups of a client that was kept waiting, a garbage collection.
BY_CHANCE = 100
ARRAY_BYTES = 64 << 20

#: In the daemon: everything is counted, and told to whoever asks through a named pipe.
COUNTING = """
import collections, gc, json, os, select, socket, threading
from plover.wire import codec, sockets

counts = collections.Counter()

def counted(owner, name, as_what):
    inner = getattr(owner, name)
    def outer(*args, **kwargs):
        counts[as_what] += 1
        return inner(*args, **kwargs)
    setattr(owner, name, outer)

for name in ("send", "sendmsg", "recv_into"):
    counted(socket.socket, name, "line: " + name)
counted(os, "read", "pipe: read")
counted(sockets, "_send", "zmq: frames out")
counted(sockets, "_recv", "zmq: frames in")

class Epoll:
    def __init__(self):
        self._epoll = made()
    def poll(self, *args):
        counts["waits"] += 1
        return self._epoll.poll(*args)
    def __getattr__(self, name):
        return getattr(self._epoll, name)

made, select.epoll = select.epoll, Epoll
write, read = codec.write, codec.Reader.read

def counted_write(message, *args):
    counts["out: " + type(message).__name__] += 1
    return write(message, *args)

def counted_read(self, frames):
    incoming = read(self, frames)
    counts["in: " + type(incoming.message).__name__] += 1
    return incoming

codec.write, codec.Reader.read = counted_write, counted_read

def tell():
    ask, answer = (os.open(os.path.dirname(sys.argv[2]) + name, os.O_RDWR) for name in ("/ask", "/answer"))
    while True:
        os.readv(ask, [bytearray(64)])
        gc.collect()
        told = dict(counts) | {"blocks": sys.getallocatedblocks()}
        os.write(answer, json.dumps(told).encode() + b"\\n")

threading.Thread(target=tell, daemon=True).start()
"""


@gpu_function
def nothing() -> None:
    pass


@gpu_function
def look() -> dict[str, int]:
    """What the worker's process has done so far."""
    gc.collect()
    with open("/proc/self/io") as lines:
        counts = dict(line.split(": ") for line in lines.read().splitlines())
    return {"reads": int(counts["syscr"]), "writes": int(counts["syscw"]), "blocks": sys.getallocatedblocks()}


@gpu_function
def plus_one(array: np.ndarray) -> np.ndarray:
    return array + 1


@gpu_function
def size(array: np.ndarray) -> int:
    return array.nbytes


@gpu_function
def pid() -> int:
    return os.getpid()


class Counted:
    """A daemon that counts."""

    def __init__(self) -> None:
        self._mark = Mark()
        self._pipes = [Fifo(self._mark.directory / name) for name in ("ask", "answer")]
        self.daemon = Daemon(mark=self._mark, program=daemon_with(COUNTING, devices="simulated:1"))

    def counts(self) -> collections.Counter[str]:
        self._pipes[0].say()
        return collections.Counter(json.loads(self._pipes[1].wait()))

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        self.daemon.close()


@pytest.fixture(scope="module")
def counted() -> Iterator[Counted]:
    running = Counted()
    try:
        with plover.connect(running.daemon.address):
            for _ in range(200):
                nothing()
            yield running
    finally:
        running.close()


def test_messages_and_system_calls_of_the_daemon(counted: Counted) -> None:
    before = counted.counts()
    for _ in range(CALLS):
        nothing()
    after = counted.counts()
    used = after - before
    left = used.pop("blocks", 0)
    exactly = {"in: Submit": 1, "out: Run": 1, "in: Finished": 1, "out: Outcome": 1}
    assert {name: used[name] for name in exactly} == {name: count * CALLS for name, count in exactly.items()}
    others = {name for name in used if name.startswith(("in: ", "out: "))} - exactly.keys()
    assert others <= {"in: Acknowledge"}, used
    at_most = {
        "zmq: frames in": 2,  # the sender's name and the message
        "zmq: frames out": 2,
        "line: send": 1,
        "line: sendmsg": 0,
        "line: recv_into": 1,
        "pipe: read": 2,  # a marker each
        "waits": 4,
    }
    assert {name: used[name] for name, count in at_most.items() if used[name] > count * CALLS + BY_CHANCE} == {}
    assert left <= BY_CHANCE, "the daemon keeps memory of calls that have ended"


def test_frames_of_the_client(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: collections.Counter[str] = collections.Counter()

    def count(module: Any, name: str) -> None:
        inner = getattr(module, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, name, outer)

    for name in ("_send", "_recv", "poll"):
        count(sockets, name)
    count(codec, "relay")
    for _ in range(CALLS):
        nothing()
    at_most = {"_send": 1, "_recv": 2, "poll": 2, "relay": 1}  # the second receive finds that there is no more
    assert {name: counts[name] for name, each in at_most.items() if counts[name] > each * CALLS + BY_CHANCE} == {}
    assert counts["_send"] >= CALLS


def test_system_calls_and_memory_of_the_worker(counted: Counted) -> None:
    look()
    before = look()
    for _ in range(CALLS):
        nothing()
    used = {name: count - before[name] for name, count in look().items()}
    assert used["writes"] <= 2 * CALLS + BY_CHANCE  # a marker in each pipe
    assert used["reads"] <= BY_CHANCE  # what comes through the line is received, not read
    assert used["blocks"] <= BY_CHANCE, "the worker keeps memory of calls that have ended"


def test_the_client_keeps_nothing_of_calls_that_have_ended(counted: Counted) -> None:
    for future in [nothing.submit() for _ in range(_REMEMBERED + BY_CHANCE)]:
        future.result()  # so many numbers it does keep, and no more
    del future
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(CALLS):
        nothing()
    gc.collect()
    assert sys.getallocatedblocks() - before <= BY_CHANCE


def test_copies_of_a_large_argument_and_result_in_python(counted: Counted) -> None:
    array = np.zeros(ARRAY_BYTES, "u1")
    plus_one(array)
    tracemalloc.start()
    try:
        size(array)
        _, sent = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = plus_one(array)
        _, received = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result[0] == 1
    assert sent <= ARRAY_BYTES * 0.01, "an argument is copied before it is sent"
    assert received <= ARRAY_BYTES * 1.01, "a result is copied more than once"


class Peak:
    """How much more memory a process has held at one time than it holds now."""

    def __init__(self, process: int) -> None:
        self._path = Path(f"/proc/{process}")
        (self._path / "clear_refs").write_text("5")  # the highest so far is forgotten
        self._before = self._size("VmRSS")

    def _size(self, name: str) -> int:
        for line in (self._path / "status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name} in {self._path}/status")

    def copies(self) -> float:
        return (self._size("VmHWM") - self._before) / ARRAY_BYTES


def test_copies_of_a_large_argument_in_each_process(counted: Counted) -> None:
    array = np.ones(ARRAY_BYTES, "u1")
    size(array)
    worker = pid()
    nothing()
    peaks = {
        name: Peak(number)
        for name, number in (("client", os.getpid()), ("daemon", counted.daemon.pid), ("worker", worker))
    }
    assert size(array) == ARRAY_BYTES
    copies = {name: peak.copies() for name, peak in peaks.items()}
    at_most = {"client": 0.1, "daemon": 1.1, "worker": 1.1}
    assert {name: count for name, count in copies.items() if count > at_most[name]} == {}, copies
