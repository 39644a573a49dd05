"""The shell's records of its workers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from plover.daemon.config import DaemonLimits
from plover.daemon.launchers.base import WorkerSpec
from plover.daemon.workers import WorkerRecord, Workers
from plover.wire.page import StatusPage, pack


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(DaemonLimits())
    yield made
    for record in list(made):
        made.remove(record.number)
        record.close()


class FakeLauncher:
    """Takes copies of what it is handed, as a real one does before it returns."""

    def __init__(self) -> None:
        self.specs: list[WorkerSpec] = []
        self.pages: list[StatusPage] = []

    def start_worker(self, spec: WorkerSpec) -> None:
        self.specs.append(spec)
        self.pages.append(StatusPage(spec.page_fd))
        os.fstat(spec.stdout_fd)
        os.fstat(spec.stderr_fd)


def launched(workers: Workers, number: int = 1) -> tuple[WorkerRecord, Any]:
    launcher = FakeLauncher()
    record = workers.add(number, nest=5)
    record.launch(launcher, socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX))  # type: ignore[arg-type]
    return record, launcher


def test_a_launch_hands_over_and_keeps_nothing_of_the_workers(workers: Workers) -> None:
    record, launcher = launched(workers)
    (spec,) = launcher.specs
    assert (spec.worker, spec.nest, spec.marker) == (1, 5, record.word)
    for fd in (spec.stdout_fd, spec.stderr_fd, spec.records_fd, spec.page_fd, spec.line_fd, spec.segments_fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    launcher.pages[0].close()


def test_words_are_never_the_same(workers: Workers) -> None:
    one, two = launched(workers, 1)[0], launched(workers, 2)[0]
    assert one.word != two.word


def test_it_is_found_by_number(workers: Workers) -> None:
    one, two = launched(workers, 1)[0], launched(workers, 2)[0]
    assert (workers.find(1), workers.find(2), workers.find(3)) == (one, two, None)
    assert list(workers) == [one, two]
    assert len(workers) == 2


def test_a_worker_whose_end_was_told_is_known_no_more(workers: Workers) -> None:
    record, _ = launched(workers)
    assert workers.remove(1) is record
    assert workers.remove(1) is None
    record.close()


def test_a_result_counts_once_and_only_of_what_was_sent(workers: Workers) -> None:
    record, _ = launched(workers)
    record.sent = [(1, 1), (2, 1)]
    assert record.finished(1, 2) is False
    assert record.finished(1, 1) is True
    assert record.finished(1, 1) is False
    assert record.sent == [(2, 1)]


def test_the_page_says_which_call_had_begun(workers: Workers) -> None:
    record, launcher = launched(workers)
    (page,) = launcher.pages
    record.expect(1, 1)
    record.expect(2, 1)
    assert record.last_begun(time.monotonic()) is None
    page.begin(1, 1)
    assert record.last_begun(time.monotonic()) == (1, 1)
    page.end()
    assert record.last_begun(time.monotonic()) == (1, 1)  # ended, but its result never came
    record.finished(1, 1)
    assert record.last_begun(time.monotonic()) is None
    page.begin(2, 1)
    assert record.last_begun(time.monotonic()) == (2, 1)
    page.close()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (4, 0),  # all over it
        (0, pack(9, 1)),  # runs what it was never sent
        (1, 1 << 63),  # begins in times to come
        (3, pack(9, 1)),  # ended what it was never sent
    ],
)
def test_a_page_that_was_overwritten_says_nothing(workers: Workers, word: int, value: int) -> None:
    record, launcher = launched(workers)
    (page,) = launcher.pages
    assert record.has_sound_page(time.monotonic())
    assert record.last_begun(time.monotonic()) is None
    record.expect(1, 1)
    record.expect(2, 1)
    page.begin(1, 1)
    now = time.monotonic()
    assert record.has_sound_page(now)
    if word == 3:
        page.end()
    page._words[word] = value
    assert not record.has_sound_page(now)
    assert record.last_begun(now) == (2, 1), "any that was sent may have begun"
    page.close()


def test_its_name_for_people(workers: Workers) -> None:
    record, _ = launched(workers)
    assert record.name == "worker 1"
    record.pid, record.sent = 77, [(3, 1)]
    assert record.name == "worker 1 (pid 77)"
    assert repr(record) == "<worker 1 (pid 77) pid=77 sent=[(3, 1)]>"
