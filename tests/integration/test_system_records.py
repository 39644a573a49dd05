"""A call's log records and warnings are the caller's own: levels, handlers, filters; live, complete, and each its call's."""

from __future__ import annotations

import logging
import threading

import pytest

import plover
from plover import gpu_function
from tests.support.daemons import PATIENCE_S, Fifo

pytestmark = pytest.mark.usefixtures("session")


@gpu_function
def telling(number: int) -> int:
    import logging
    import threading
    import warnings

    logging.getLogger("my.lib").info("number %d", number)
    logging.getLogger("my.lib").debug("not wanted")
    warnings.warn(f"careful with {number}", RuntimeWarning, stacklevel=1)
    thread = threading.Thread(target=lambda: logging.warning("from a thread of %d", number))
    thread.start()
    thread.join()
    try:
        [][number]
    except IndexError:
        logging.exception("lost")
    print("printed", number)
    return number


def test_log_records_and_warnings_come_to_this_process_own(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with caplog.at_level(logging.INFO):
        assert telling(5) == 5
    texts = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert texts == [
        ("my.lib", "INFO", "number 5"),
        ("root", "WARNING", "from a thread of 5"),
        ("root", "ERROR", "lost"),
    ]
    assert "IndexError" in str(caplog.records[-1].exc_text)
    assert caplog.records[0].pathname == __file__
    (warned,) = recwarn.list
    assert (warned.category, str(warned.message), warned.filename) == (RuntimeWarning, "careful with 5", __file__)


def test_under_concurrency_each_record_is_its_calls() -> None:
    futures = [telling.options(output="capture").submit(number) for number in range(20)]
    for number, future in enumerate(futures):
        assert future.result(PATIENCE_S) == number
        receipt = future.receipt
        assert receipt is not None
        assert (receipt.stdout, receipt.stderr) == (f"printed {number}\n", "")
        texts = [record.text for record in receipt.records]
        assert texts == [f"careful with {number}", f"from a thread of {number}", "lost"]


def test_what_a_call_logs_lives_when_it_dies(caplog: pytest.LogCaptureFixture) -> None:
    @gpu_function
    def dies() -> None:
        import logging
        import os
        import signal

        logging.warning("the last word")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(plover.WorkerLost):
        dies()
    assert [record.getMessage() for record in caplog.records] == ["the last word"]


def test_a_running_calls_records_come_before_its_end(fifos: list[Fifo], caplog: pytest.LogCaptureFixture) -> None:
    @gpu_function
    def waits(path: str) -> None:
        import logging

        logging.warning("begun")
        with open(path) as fifo:
            fifo.readline()

    seen = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: seen.set()  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        future = waits.submit(fifos[0].path)
        assert seen.wait(PATIENCE_S)
        assert not future.done()
        fifos[0].say()
        future.result(PATIENCE_S)
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_flood_of_records_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    @gpu_function
    def floods() -> str:
        import logging

        for _ in range(400):
            logging.warning("x" * 60_000)
        return "done"

    future = floods.options(output="capture").submit()
    assert future.result(PATIENCE_S) == "done"
    assert future.receipt is not None
    assert 100 < len(future.receipt.records) < 200  # 10 MiB
    assert telling(1) == 1
