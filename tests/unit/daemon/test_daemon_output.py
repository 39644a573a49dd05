"""stdout and stderr of a worker: the right bytes to the right call, wherever the pipe cuts them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from plover.daemon.output import Piece, WorkerOutput
from plover.wire import markers
from plover.wire.page import pack

WORD = b"0123456789abcdef"


class Worker:
    """The worker's side of the pipes."""

    def __init__(self, limit: int = 1000, last: int = 20) -> None:
        self.output = WorkerOutput(WORD, limit, last)
        self.fds = {1: os.dup(self.output.stdout_fd), 2: os.dup(self.output.stderr_fd)}
        self.output.close_worker_side()

    def write(self, data: bytes, stream: int = 1) -> None:
        os.write(self.fds[stream], data)

    def end(self, call: int, attempt: int = 1) -> None:
        for fd in self.fds.values():
            os.write(fd, markers.make(WORD, pack(call, attempt)))

    def leave(self, *streams: int) -> None:
        for stream in streams or tuple(self.fds):
            os.close(self.fds.pop(stream))

    def read(self, stream: int = 1) -> tuple[list[Piece], bool]:
        return self.output.read(self.output.pipes[stream - 1].fd)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.leave()
    made.output.close()


def joined(pieces: list[Piece]) -> dict[tuple[tuple[int, int], int], bytes]:
    found: dict[tuple[tuple[int, int], int], bytes] = {}
    for attempt, stream, data in pieces:
        found[attempt, stream] = found.get((attempt, stream), b"") + data
    return found


class TestReading:
    def test_an_empty_pipe_does_not_block(self, worker: Worker) -> None:
        assert worker.read() == ([], True)

    def test_output_belongs_to_the_attempt_that_runs(self, worker: Worker) -> None:
        worker.output.expect(7, 2)
        worker.write(b"out")
        worker.write(b"err", 2)
        assert worker.read(1) == ([((7, 2), 1, b"out")], True)
        assert worker.read(2) == ([((7, 2), 2, b"err")], True)

    def test_output_between_calls_belongs_to_nobody(self, worker: Worker) -> None:
        worker.write(b"imports say hello")
        assert worker.read() == ([], True)
        worker.output.expect(1, 1)
        worker.end(1)
        worker.write(b"a thread goes on")
        assert worker.read() == ([], True)

    def test_what_follows_a_marker_is_the_next_calls(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.output.expect(2, 1)
        worker.write(b"one")
        worker.end(1)
        worker.write(b"two")
        assert worker.read()[0] == [((1, 1), 1, b"one"), ((2, 1), 1, b"two")]

    def test_a_marker_passes_over_an_attempt_that_never_wrote_its_own(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.output.expect(2, 1)
        worker.end(2)
        worker.write(b"nobody's")
        assert worker.read()[0] == []

    def test_a_marker_of_an_unknown_attempt_ends_none(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.end(9)
        worker.write(b"one")
        assert worker.read()[0] == [((1, 1), 1, b"one")]

    def test_the_end_of_a_pipe_is_told(self, worker: Worker) -> None:
        worker.leave(1)
        assert worker.read() == ([], False)

    @pytest.mark.parametrize("cut", range(len(b"before") + markers.SIZE + len(b"after") + 1))
    def test_reads_may_cut_anywhere(self, worker: Worker, cut: int) -> None:
        worker.output.expect(1, 1)
        worker.output.expect(2, 1)
        data = b"before" + markers.make(WORD, pack(1, 1)) + b"after"
        pieces = []
        for part in (data[:cut], data[cut:]):
            worker.write(part)
            pieces += worker.read()[0]
        assert joined(pieces) == {((1, 1), 1): b"before", ((2, 1), 1): b"after"}

    def test_one_byte_at_a_time(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.output.expect(2, 1)
        pieces = []
        for byte in b"a\x00\x1eb" + markers.make(WORD, pack(1, 1)) + b"c":
            worker.write(bytes([byte]))
            pieces += worker.read()[0]
        assert joined(pieces) == {((1, 1), 1): b"a\x00\x1eb", ((2, 1), 1): b"c"}


class TestCompletion:
    def test_all_output_of_both_streams_comes_before_the_result(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.write(b"out")
        worker.write(b"err", 2)
        worker.end(1)
        assert worker.output.complete(1, 1) == [((1, 1), 1, b"out"), ((1, 1), 2, b"err")]
        assert worker.output.complete(1, 1) == []

    def test_a_call_that_wrote_nothing(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.end(1)
        assert worker.output.complete(1, 1) == []
        assert all(not pipe.attempts for pipe in worker.output.pipes)
        worker.write(b"nobody's")
        assert worker.read()[0] == []

    def test_what_was_read_before_is_not_told_again(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.write(b"early ")
        assert worker.read()[0] == [((1, 1), 1, b"early ")]
        worker.write(b"late")
        worker.end(1)
        assert worker.output.complete(1, 1) == [((1, 1), 1, b"late")]

    def test_a_marker_of_which_the_beginning_was_read_before(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        marker = markers.make(WORD, pack(1, 1))
        worker.write(b"x" + marker[:5])
        worker.read()
        worker.write(marker[5:])
        worker.write(marker, 2)
        assert worker.output.complete(1, 1) == []
        assert all(not pipe.attempts for pipe in worker.output.pipes)

    def test_a_missing_marker_is_not_waited_for(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.write(b"out")
        assert worker.output.complete(1, 1) == [((1, 1), 1, b"out")]
        assert all(not pipe.attempts for pipe in worker.output.pipes)

    def test_a_stdout_that_was_closed_does_not_take_stderr_with_it(self, worker: Worker) -> None:
        """As after `os.close(1)` in the user's code."""
        worker.output.expect(1, 1)
        worker.leave(1)
        worker.write(b"err", 2)
        worker.write(markers.make(WORD, pack(1, 1)), 2)
        assert worker.output.complete(1, 1) == [((1, 1), 2, b"err")]

    def test_the_next_calls_output_in_the_same_read_is_kept(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.output.expect(2, 1)
        worker.end(1)
        worker.write(b"two")
        assert worker.output.complete(1, 1) == [((2, 1), 1, b"two")]

    def test_a_forgotten_attempt_gets_no_output(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.output.expect(2, 1)
        worker.output.forget(1, 1)
        worker.output.forget(9, 9)
        worker.write(b"two")
        assert worker.read()[0] == [((2, 1), 1, b"two")]


class TestLimits:
    @pytest.fixture
    def small(self) -> Iterator[Worker]:
        made = Worker(limit=10, last=4)
        yield made
        made.leave()
        made.output.close()

    TOLD = b"\nplover: this call wrote more than 10 bytes; the rest is not shown\n"

    def test_output_up_to_the_limit_is_shown_whole(self, small: Worker) -> None:
        small.output.expect(1, 1)
        small.write(b"0123456789")
        assert small.read()[0] == [((1, 1), 1, b"0123456789")]

    def test_output_past_it_is_cut_with_one_line(self, small: Worker) -> None:
        small.output.expect(1, 1)
        pieces = []
        for _ in range(4):
            small.write(b"012345")
            pieces += small.read()[0]
        assert joined(pieces) == {((1, 1), 1): b"0123450123" + self.TOLD}

    def test_each_stream_and_each_call_has_its_own(self, small: Worker) -> None:
        small.output.expect(1, 1)
        small.output.expect(2, 1)
        small.write(b"x" * 11)
        small.write(b"y" * 10, 2)
        small.end(1)
        small.write(b"z" * 10)
        found = joined(small.output.complete(1, 1) + small.read()[0])
        assert found == {((1, 1), 1): b"x" * 10 + self.TOLD, ((1, 1), 2): b"y" * 10, ((2, 1), 1): b"z" * 10}

    def test_the_last_bytes_are_kept_past_the_limit(self, small: Worker) -> None:
        small.output.expect(1, 1)
        small.write(b"x" * 50 + b"last")
        small.read()
        assert small.output.last == b"last"

    def test_the_last_bytes_of_a_call_go_with_it(self, small: Worker) -> None:
        small.output.expect(1, 1)
        small.write(b"text")
        small.end(1)
        small.output.complete(1, 1)
        assert small.output.last == b""


class TestDeath:
    def test_what_is_left_in_the_pipes_is_the_running_calls(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.write(b"out")
        worker.write(b"err", 2)
        worker.leave()
        assert joined(worker.output.drain()) == {((1, 1), 1): b"out", ((1, 1), 2): b"err"}
        assert worker.output.last == b"outerr"

    def test_pipes_that_a_grandchild_holds_open_are_not_waited_for(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        worker.write(b"out")
        assert worker.output.drain() == [((1, 1), 1, b"out")]

    def test_a_marker_that_was_never_finished_is_output(self, worker: Worker) -> None:
        worker.output.expect(1, 1)
        half = markers.make(WORD, pack(1, 1))[:9]
        worker.write(b"out" + half)
        worker.leave()
        assert joined(worker.output.drain()) == {((1, 1), 1): b"out" + half}
        assert worker.output.drain() == []

    def test_more_than_one_read_is_drained(self) -> None:
        worker = Worker(limit=1 << 20)
        worker.output.expect(1, 1)
        worker.write(b"x" * 60_000)
        pieces = worker.read()[0]
        worker.write(b"y" * 60_000)
        worker.leave()
        pieces += worker.output.drain()
        assert joined(pieces) == {((1, 1), 1): b"x" * 60_000 + b"y" * 60_000}
        worker.output.close()
