"""Doors of a real listening socket: when they are shut, what libzmq does meanwhile, and that they open again."""

from __future__ import annotations

import contextlib
import logging
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from plover.daemon import descriptors
from plover.daemon.descriptors import Budget
from plover.daemon.doors import LOOK_S, Doors
from tests.support.fake_daemon import wait_until


class House:
    """A socket that listens at a path and a port, and a number that stands for how many descriptors are open."""

    def __init__(self, directory: Path) -> None:
        self.count = 10
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket: zmq.Socket[bytes] = self.context.socket(zmq.ROUTER)
        self.doors = Doors(self.socket, self.context, Budget(base=10, full=50), lambda: self.count)
        self.path = directory / "d.sock"
        self.socket.bind(f"ipc://{self.path}")
        self.doors.add_path("the path", self.path)
        self.socket.bind("tcp://127.0.0.1:*")
        self.doors.add_port("the port")
        self.port = int(self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self.ends = contextlib.ExitStack()

    def enter(self) -> None:
        """Somebody comes in by the port, and that is noticed."""
        self.ends.enter_context(socket.create_connection(("127.0.0.1", self.port), 5.0))

    def notice(self, now: float) -> None:
        poller = zmq.Poller()
        poller.register(self.doors.fileno(), zmq.POLLIN)
        assert poller.poll(5000)
        self.doors.take(now)

    def close(self) -> None:
        self.ends.close()
        self.doors.close()
        self.socket.close(0)
        self.context.term()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    resource_before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource_before[1], resource_before[1]))
    made = House(tmp_path)
    yield made
    made.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, resource_before)


def test_the_port_is_shut_before_the_path_and_both_open_again(house: House) -> None:
    house.enter()
    house.notice(1.0)
    assert (house.doors.shut, house.doors.due()) == ([], None)
    for count, shut in ((39, []), (40, ["the port"]), (49, ["the port"]), (50, ["the port", "the path"])):
        house.count = count
        house.doors._look(2.0)
        assert house.doors.shut == shut
    assert house.doors.due() == 2.0 + LOOK_S
    house.doors.keep_time(2.0)
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", house.port), 0.2)
    with socket.socket(socket.AF_UNIX) as waits:
        waits.connect(str(house.path))
        waits.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waits.recv(1)
        house.count = 44
        house.doors.keep_time(2.0 + LOOK_S)
        assert house.doors.shut == ["the port"]
        with pytest.raises(ConnectionResetError):  # and so it connects again
            waits.recv(1)
    house.count = 36
    house.doors.keep_time(10.0)
    assert (house.doors.shut, house.doors.due()) == ([], None)
    for family, address in ((socket.AF_INET, ("127.0.0.1", house.port)), (socket.AF_UNIX, str(house.path))):
        with socket.socket(family) as comes:
            comes.settimeout(5.0)
            comes.connect(address)
            assert comes.recv(1) == b"\xff"
    assert "the port" in repr(house.doors)


def test_they_are_counted_again_only_when_as_many_came_as_there_was_room_for(house: House) -> None:
    house.enter()
    house.notice(1.0)  # room for 30 at the port, and each takes two
    house.count = 100
    for _ in range(14):
        house.enter()
        house.notice(1.0)
    assert house.doors.shut == []
    house.enter()
    house.notice(1.0)
    assert house.doors.shut == ["the path", "the port"]


def test_a_door_that_cannot_be_shut_is_tried_again(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.count = 60
    moved = house.path.parent.with_name("elsewhere")
    house.path.parent.rename(moved)
    with caplog.at_level(logging.ERROR, "plover.daemon"):
        house.doors._look(1.0)
    assert house.doors.shut == ["the port"]
    assert "the path cannot be shut or opened now: [Errno 2]" in caplog.text
    assert house.doors.due() == 1.0 + LOOK_S
    moved.rename(house.path.parent)
    house.doors.keep_time(2.0)
    assert house.doors.shut == ["the port", "the path"]
    shutil.rmtree(house.path.parent)  # the daemon's directory is taken away: it ends all the same


def test_libzmq_lets_in_no_more_than_it_may_while_the_loop_does_something_else(house: House) -> None:
    """The number on which the reserve stands."""
    before = descriptors.count_open()
    ends = []
    for _ in range(descriptors.OVERRUN + 150):
        end = socket.socket(socket.AF_UNIX)
        house.ends.enter_context(end)
        end.setblocking(False)
        ends.append(end)

    def connect() -> bool:
        """Whether all are connected, or the kernel takes no more."""
        while ends:
            try:
                ends[-1].connect(str(house.path))
            except BlockingIOError:
                return False
            ends.pop()
        return True

    def let_in() -> int:
        return descriptors.count_open() - before - descriptors.OVERRUN - 150

    wait_until(lambda: connect() or let_in() >= descriptors.OVERRUN - 10, "libzmq's thread has stopped")
    assert let_in() <= descriptors.OVERRUN
    house.doors.take(1.0)  # and goes on when it is heard
    wait_until(lambda: connect() and let_in() > descriptors.OVERRUN, "all are in")
