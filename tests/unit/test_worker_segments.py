"""What a worker does with segments, beside a daemon's lending with real sockets and real memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plover import serialize
from plover.errors import WireError
from plover.mappings import Mapping
from plover.wire import codec
from plover.wire import messages as m
from plover_runtime.device import Device
from plover_runtime.segments import WorkerSegments
from tests.unit.daemon.test_daemon_lending import CLIENT, Rig

COUNT = 1 << 17


class PinningDevice:
    """Says what it was asked to pin."""

    def __init__(self, works: bool) -> None:
        self.pinned: dict[int, int] = {}
        self.asked = 0
        self._works = works

    def pin(self, address: int, size_bytes: int) -> None:
        self.asked += 1
        if not self._works:
            raise RuntimeError("cudaErrorNotSupported")
        assert address not in self.pinned
        self.pinned[address] = size_bytes

    def unpin(self, address: int) -> None:
        del self.pinned[address]


class Worker:
    """A worker's segments, with a thread for the daemon's loop."""

    def __init__(self, directory: Path, device: Any) -> None:
        self.rig = Rig(directory)
        self.client = self.rig.client()
        self.device: Device = device
        self.segments = WorkerSegments(self.rig.lending.open(1, "default"), self.device)
        self.rig.borrowers.append(self.segments)

    def run(self, array: Any, use: int = 0, private: bool = False) -> Any:
        """An attempt's argument, as its function gets it."""
        stream, buffer = serialize.pack(array)
        entry = self.rig.borrow(self.client, len(buffer))
        assert entry is not None
        entry.mapping.array()[: len(buffer)] = np.frombuffer(buffer, np.uint8)
        body = codec.Body()
        packed: Any = (body.add(stream), m.Segment(entry.id, 0, len(buffer), use))  # type: ignore[arg-type]
        self.rig.lending.claim(CLIENT, packed, entry.id)
        pieces = self.rig.lending.to_worker(1, entry.id, 1, packed)
        run = m.Run(entry.id, 1, "c", "f", b"", tuple(pieces), private=private, shares=True)  # type: ignore[arg-type]
        incoming = codec.TO_WORKER.read(codec.write(run, 1, body))
        self.last = entry
        return serialize.unpack(self.segments.take(incoming))

    def end(self) -> None:
        """The attempt is over."""
        self.segments.settle()
        self.rig.lending.attempt_ended(1, self.last.id, 1, self.rig.now)
        self.rig.lending.release(self.last.id, self.rig.now)

    def turning(self) -> Any:
        """Turn the loop on a thread until the context is left."""
        return _Turning(self.rig)


class _Turning:
    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            for fd, _ in self._rig.loop._epoll.poll(0.01):
                self._rig.loop._watched[fd]()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(params=[True, False], ids=["pins", "cannot pin"])
def worker(request: Any, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path, PinningDevice(request.param))
    yield made
    made.rig.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path, PinningDevice(True))
    yield made
    made.rig.close()


def test_a_mapping_is_pinned_once_and_not_for_longer_than_it_is_there(worker: Worker) -> None:
    device: Any = worker.device
    for _ in range(3):
        x = worker.run(np.ones(COUNT))
        assert x.sum() == COUNT
        del x
        worker.end()
        worker.client.give_back((worker.last,))
        worker.rig.loop.settle()
    assert device.asked == 1
    kept = worker.run(np.full(COUNT, 2.0))
    worker.end()  # it is kept: other memory is there now
    assert device.pinned == {}
    worker.last.mapping.array()[:] = 0
    assert np.all(kept == 2)
    worker.client.give_back((worker.last,))
    worker.rig.loop.settle()
    x = worker.run(np.full(COUNT, 3.0))
    assert np.all(x == 3)
    del x
    worker.end()
    assert device.asked == 2  # it is mapped anew
    for entry in list(worker.segments.entries.values()):
        entry.close()
    assert device.pinned == {}


def test_read_only_and_writable_arguments(plain: Worker) -> None:
    assert plain.run(np.ones(COUNT)).flags.writeable
    plain.end()
    x = plain.run(np.ones(COUNT), use=1)
    assert not x.flags.writeable
    del x
    plain.end()
    out = plain.run(np.ones(COUNT), use=2, private=True)
    out[:] = 4
    assert plain.last.mapping.array()[: 8 * COUNT].view("f8").max() == 4
    del out
    plain.end()


def test_what_may_be_tried_again_is_written_to_in_private(plain: Worker) -> None:
    for number in range(2):  # a used segment shows nothing of before
        x = plain.run(np.full(COUNT, float(number)), private=True)
        assert np.all(x == number)
        x[:] = 9
        assert plain.last.mapping.array()[: 8 * COUNT].view("f8").max() == number
        del x
        plain.end()
        plain.client.give_back((plain.last,))
        plain.rig.loop.settle()
    kept = plain.run(np.full(COUNT, 5.0), private=True)
    plain.end()
    plain.last.mapping.array()[:] = 0
    assert np.all(kept == 5)


def test_what_only_a_cycle_keeps_is_collected_rather_than_copied(plain: Worker) -> None:
    gc.disable()
    try:
        cycle: list[Any] = [plain.run(np.ones(COUNT))]
        cycle.append(cycle)
        del cycle
        entry = plain.segments.entries[plain.last.id]
        plain.end()
        assert entry.is_mapped
    finally:
        gc.enable()


def test_results_go_into_a_segment_from_a_threshold_on(plain: Worker) -> None:
    with plain.turning():
        small, large = np.ones(1000), np.arange(float(COUNT))
        pieces = plain.segments.place(serialize.pack([small, large]), True)
        assert [type(each) for each in pieces[1:]] == [memoryview, m.Segment]
        assert isinstance(pieces[2], m.Segment)
        entry = plain.segments.entries[pieces[2].id]
        assert np.array_equal(entry.mapping.array()[: 8 * COUNT].view("f8"), large)
        assert not entry.held
        for value in (small, large[: COUNT // 2]):
            pieces = plain.segments.place(serialize.pack(value), True)
            assert not any(isinstance(each, m.Segment) for each in pieces)
        pieces = plain.segments.place(serialize.pack(large), False)
        assert not any(isinstance(each, m.Segment) for each in pieces)
    assert plain.rig.lending.accept(1, (m.Segment(entry.id, 0, 8),), None, 0.0)


def test_arrays_born_here_go_where_they_lie_and_are_given_back_when_nobody_has_them(plain: Worker) -> None:
    with plain.turning():
        one, two = plain.segments.allocate(8 * COUNT), plain.segments.allocate(8 * COUNT)
        assert one is not None
        assert two is not None
        one[:] = 1
        two[:] = 2
        stream, *buffers = serialize.pack(one[64:])
        (piece,) = plain.segments.place([stream, *buffers], True)[1:]
        assert piece == m.Segment(next(iter(plain.segments._born)), 64, 8 * COUNT - 64)
        del two, stream, buffers
        plain.segments.settle()
        one[:] = 3  # kept: its own now
        shown = plain.segments.entries[piece.id].mapping.array()
        assert shown[64] == 1
        assert plain.rig.lending.accept(1, (piece,), None, 0.0)
        kept = plain.segments.allocate(8 * COUNT)
        plain.segments.settle()
        assert kept is not None
        kept[:] = 7
        assert list(plain.segments._born) != []
        del kept
        plain.segments.settle()
        assert not plain.segments._born


def test_a_segment_that_was_never_handed_over_is_refused(plain: Worker) -> None:
    run = m.Run(1, 1, "c", "f", b"", (m.Segment(5, 0, 8),))
    with pytest.raises(WireError, match="mentions bytes of segment 5 that it never handed over"):
        plain.segments.take(codec.TO_WORKER.read(codec.write(run, 1)))
    x = plain.run(np.ones(COUNT))
    del x
    beyond = m.Run(1, 1, "c", "f", b"", (m.Segment(plain.last.id, 8 * COUNT, 8),))
    plain.end()
    with pytest.raises(WireError, match="never handed over"):
        plain.segments.take(codec.TO_WORKER.read(codec.write(beyond, 1)))


def test_a_mapping_that_cannot_be_had_says_so() -> None:
    with pytest.raises(OSError, match="shared memory could not be mapped"):
        Mapping(-1, 4096)


def test_where_the_daemon_is_gone_there_are_no_segments(plain: Worker) -> None:
    end = plain.rig.lending._workers[1].socket
    assert end is not None
    plain.rig.lending._hang_up(plain.rig.lending._workers[1])
    assert plain.segments.allocate(8 * COUNT) is None
    pieces = plain.segments.place(serialize.pack(np.ones(COUNT)), True)
    assert not any(isinstance(each, m.Segment) for each in pieces)


def test_the_heap_keeps_what_was_freed_up_to_a_bound() -> None:
    source = (
        "import numpy as np\n"
        "from plover_runtime.heap import KEPT_BYTES, Heap\n"
        "heap = Heap()\n"
        "blocks, pegs = [], []\n"
        "for _ in range(12):\n"
        "    blocks.append(np.ones(8 << 20))\n"  # 64 MiB each
        "    pegs.append(np.ones(1 << 18))\n"  # what keeps glibc from taking the end away
        "del blocks\n"
        "def resident():\n"
        "    with open('/proc/self/statm') as file: return int(file.read().split()[1]) * 4096\n"
        "before = resident()\n"
        "assert heap.free_bytes() > 2 * KEPT_BYTES, heap.free_bytes()\n"
        "heap.trim()\n"
        "assert resident() < before - KEPT_BYTES, (before, resident())\n"
        "heap.trim()\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True, cwd=Path(__file__).parents[2] / "runtime", timeout=60)
