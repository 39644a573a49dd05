"""A call's log records and warnings are the caller's own: levels, handlers, filters; live, complete, and each its call's."""

from __future__ import annotations

import logging
import threading

import pytest

import plover
from plover import gpu_function
from tests.support.daemons import PATIENCE_S, Daemon, Fifo, script

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


_WARNS = """
import sys, warnings
import plover
plover.connect(sys.argv[1])

def warns():
    import warnings
    for _ in range(2):
        warnings.warn("old", DeprecationWarning)
    warnings.warn("not yet", PendingDeprecationWarning)
    warnings.warn("mind", RuntimeWarning)
    exec("import warnings; warnings.warn('of a library', DeprecationWarning)", {"__name__": "library"})

remote = plover.gpu_function(warns)
print("--- a call", file=sys.stderr, flush=True)
for call in (remote, warns)[:: int(sys.argv[2])]:
    call()
    print("--- again", file=sys.stderr, flush=True)
for action in ("always", "ignore", "once"):
    for call in (warns, remote):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            call()
        print(action, [(each.category.__name__, str(each.message), each.lineno) for each in caught])
"""


@pytest.mark.parametrize("order", ["1", "-1"])
def test_a_scripts_own_warnings_are_filtered_as_if_it_had_called_its_function_itself(
    daemon: Daemon, order: str
) -> None:
    """Whichever of both is called first warns, by Python's own default filters, and the other one not again."""
    with script(_WARNS, daemon.address, order, environment={"PYTHONWARNINGS": ""}) as running:
        status, out = running.wait()
        assert status == 0, running.stderr()
        lines = running.stderr().splitlines()
    lines = lines[lines.index("--- a call") :]
    path = running.path
    assert [line for line in lines if not line.startswith(" ")] == [
        "--- a call",
        f"{path}:9: DeprecationWarning: old",
        f"{path}:11: RuntimeWarning: mind",
        "--- again",
        "--- again",
    ]
    told = out.splitlines()
    for here, there in zip(told[::2], told[1::2], strict=True):
        assert here == there
    assert told[0].count("'old'") == 2


def test_a_filter_that_makes_errors_shows_the_warning_and_the_call_goes_on(
    daemon: Daemon,
) -> None:
    source = """
import sys, warnings
import plover
plover.connect(sys.argv[1])
@plover.gpu_function
def warns():
    import warnings
    warnings.warn("mind", RuntimeWarning)
    return "went on"
print(warns())
"""
    with script(source, daemon.address) as running:  # it has PYTHONWARNINGS=error
        assert running.wait() == (0, "went on\n")
        assert f"{running.path}:8: RuntimeWarning: mind" in running.stderr()
