"""The third pipe: records go to the attempt that each of them names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from plover.daemon.output import WorkerOutput
from plover.daemon.records import RecordPipe
from plover.wire.page import pack
from plover.wire.records import HEAD, LARGEST, Warned, write

Write = Callable[[bytes], None]


def record(text: str, call: int = 1) -> bytes:
    return write(Warned(("builtins", "UserWarning"), text, "f.py", 1), pack(call, 1))


@pytest.fixture
def pipe() -> Iterator[RecordPipe]:
    pipe = RecordPipe(limit_bytes=200)
    yield pipe
    os.close(pipe.worker_fd)
    pipe.close()


def test_whole_records_by_attempt_however_they_are_cut(pipe: RecordPipe) -> None:
    data = record("a", 1) + record("b", 2)
    os.write(pipe.worker_fd, data[:5])
    assert pipe.read() == ([], True)
    os.write(pipe.worker_fd, data[5:-3])
    assert pipe.read() == ([((1, 1), record("a", 1))], True)
    os.write(pipe.worker_fd, data[-3:])
    assert pipe.read() == ([((2, 1), record("b", 2))], True)


def test_what_is_beyond_a_calls_limit_is_thrown_away(pipe: RecordPipe) -> None:
    os.write(pipe.worker_fd, record("x" * 100) * 3 + record("y", 2))
    assert [whose for whose, _ in pipe.read()[0]] == [(1, 1), (2, 1)]
    pipe.end(pack(1, 1))
    os.write(pipe.worker_fd, record("x" * 100))
    assert len(pipe.read()[0]) == 1


def test_what_nobody_wrote_is_nobodys(pipe: RecordPipe) -> None:
    os.write(pipe.worker_fd, write(Warned(("a", "b"), "", "", 0), 0) + record("mine"))
    assert pipe.read()[0] == [((1, 1), record("mine"))]


def test_what_is_no_record_ends_the_reading_and_fills_nothing(pipe: RecordPipe) -> None:
    os.write(pipe.worker_fd, record("a") + HEAD.pack(LARGEST + 1, pack(1, 1)) + bytes(1000))
    assert len(pipe.read()[0]) == 1
    os.write(pipe.worker_fd, record("b"))
    assert pipe.read() == ([], True)


def test_the_end_of_the_worker_is_seen() -> None:
    pipe = RecordPipe(1000)
    os.write(pipe.worker_fd, record("last"))
    os.close(pipe.worker_fd)
    assert pipe.read() == ([((1, 1), record("last"))], False)
    pipe.close()


def test_records_come_with_the_result_and_with_the_death() -> None:
    output = WorkerOutput(b"w" * 16, 1000, 100)
    writing = os.dup(output.records.worker_fd)
    output.close_worker_side()
    output.expect(1, 1)
    os.write(writing, record("a"))
    assert output.complete(1, 1, with_records=True) == [((1, 1), 3, record("a"))]
    os.write(writing, record("b", 2))
    assert output.read(output.records.fd) == ([((2, 1), 3, record("b", 2))], True)
    os.write(writing, record("c", 3))
    assert output.drain() == [((3, 1), 3, record("c", 3))]
    os.close(writing)
    output.close()
