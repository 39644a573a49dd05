"""More connections than the daemon has descriptors for: it lives, serves whom it knows, and lets others in afterwards."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import plover
from plover.daemon import descriptors
from tests.support.daemons import PATIENCE_S, Daemon
from tests.support.fake_daemon import wait_until
from tests.support.remote import Host, host

#: No more than a daemon with one device needs for that no flood can end it.
LIMIT = descriptors.OWN + descriptors.PER_DEVICE_AT_MOST + descriptors.OVERRUN + 300
FLOOD = 1500
_TWO_SECONDS = struct.pack("@ll", 2, 0)


def echo(x: int) -> int:
    return x


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """This process floods, and needs as many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def small() -> Iterator[Host]:
    with host(open_files=LIMIT) as running:
        yield running


@contextlib.contextmanager
def flood(family: int, address: object) -> Iterator[None]:
    """Connections that say nothing, until the daemon lets no more in or there are enough."""
    with contextlib.ExitStack() as ends:
        for _ in range(FLOOD):
            end = ends.enter_context(socket.socket(family))
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TWO_SECONDS)
            try:
                end.connect(address)
            except BlockingIOError:
                break  # the kernel takes no more
            except ConnectionRefusedError:
                continue  # just then the door was shut or opened
        yield


def test_strangers_at_the_port_keep_nobody_out_of_the_socket(small: Host) -> None:
    with plover.connect(small.address) as session:
        assert session.submit(echo, 1).result(PATIENCE_S) == 1
        with flood(socket.AF_INET, ("127.0.0.1", small.port)):
            wait_until(lambda: small.status()["full"] == [small.tcp], "the port lets nobody in")
            assert session.submit(echo, 2).result(PATIENCE_S) == 2
        wait_until(lambda: not small.status()["full"], "the port lets clients in again")
        with socket.create_connection(("127.0.0.1", small.port), PATIENCE_S) as guest:
            assert guest.recv(1) == b"\xff"  # ZeroMQ's greeting
    assert "lets nobody in for a while" in small.log()


def test_a_flood_of_the_socket_ends_and_who_waited_gets_in(small: Host) -> None:
    with plover.connect(small.address) as session, ThreadPoolExecutor(1) as pool:
        assert session.submit(echo, 1).result(PATIENCE_S) == 1
        before = small.socket.stat().st_ino
        with flood(socket.AF_UNIX, str(small.socket)):
            wait_until(lambda: small.socket.stat().st_ino != before, "another socket lies at the path")
            assert session.submit(echo, 2).result(PATIENCE_S) == 2
            waiting = pool.submit(small.status)
        assert waiting.result(PATIENCE_S)["pid"] == small.pid
        assert small.socket.stat().st_ino == before
        assert {path.name for path in small.socket.parent.iterdir() if path.is_socket()} == {
            "d.sock",
            "d.sock.segments",
        }


def test_a_daemon_of_a_socket_alone_has_any_number_of_visitors_in_its_life() -> None:
    """More than libzmq's thread tells of in advance: it goes on to the next only when it is heard."""
    daemon = Daemon()
    try:
        for _ in range(descriptors.OVERRUN + 100):
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.settimeout(PATIENCE_S)
                visitor.connect(daemon.address.removeprefix("ipc://"))
                assert visitor.recv(1) == b"\xff"  # ZeroMQ's greeting
        with plover.connect(daemon.address) as session:
            assert session.submit(echo, 1).result(PATIENCE_S) == 1
    finally:
        daemon.close()


def test_a_daemon_that_ends_while_its_doors_are_shut_leaves_nothing(small: Host) -> None:
    with flood(socket.AF_UNIX, str(small.socket)):
        wait_until(lambda: "d.sock lets nobody in" in small.log(), "the socket lets nobody in")
        small.process.terminate()
        assert small.wait() == 0


def test_a_worker_that_cannot_be_started_is_tried_again() -> None:
    """And why it could not is in the log and in the status."""
    with host() as daemon, plover.connect(daemon.address) as session:
        assert session.submit(echo, 1).result(PATIENCE_S) == 1
        (worker,) = daemon.status()["pids"].values()
        hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (8, hard))
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: "had no means to start it: Too many open files" in daemon.log(), "the start fails")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert session.submit(echo, 2).result(PATIENCE_S) == 2
        (device,) = daemon.status()["scheduler"]["devices"]
        assert (device["state"], device["failures"]) == ("healthy", 0)
        assert "Too many open files" in device["last_failure"]


def test_workers_have_the_limit_that_the_daemon_was_started_with() -> None:
    """select() cannot take a descriptor from 1024 on."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, hard))
    try:
        daemon = Daemon()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        with plover.connect(daemon.address) as session:
            limits = session.submit(resource.getrlimit, resource.RLIMIT_NOFILE).result(PATIENCE_S)
            assert limits == (900, hard)
    finally:
        daemon.close()
