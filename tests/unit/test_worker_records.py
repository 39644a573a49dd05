"""A worker's records: what is taken, what is left to the user's own handling, and that logging never fails a call."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest

from plover.wire.records import LIMIT, Logged, Reader, Record, Warned
from plover_runtime.records import Records

Taken = Callable[[], list[Record]]


class _NotPytests(list[logging.Handler]):
    """Root handlers without those that pytest adds around each test."""

    def append(self, handler: logging.Handler) -> None:
        if not type(handler).__module__.startswith("_pytest"):
            super().append(handler)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Taken]:
    """Installed in this process, with nobody else's handlers; what came so far."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.set_blocking(writing, True)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads while a test writes
    monkeypatch.setattr(logging.root, "handlers", _NotPytests())
    level = logging.root.level
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("default")
        records = Records(writing)
        records.begin(7 << 16 | 1, logging.INFO)
        reader = Reader()

        def take() -> list[Record]:
            found: list[Record] = []
            while True:
                try:
                    found += reader.feed(os.read(reading, 1 << 16))
                except BlockingIOError:
                    return found

        yield take
    logging.root.setLevel(level)
    os.close(reading)
    os.close(writing)


def test_log_records_from_the_callers_level_on(taken: Taken) -> None:
    log = logging.getLogger("my.lib")
    log.debug("no")
    log.info("%d of %d", 1, 2, extra={"user": "ada", "thing": object(), "big": 1 << 80})
    (record,) = taken()
    assert isinstance(record, Logged)
    assert (record.name, record.level, record.text) == ("my.lib", logging.INFO, "1 of 2")
    assert (record.path, record.function, record.thread) == (__file__, log_test_name(), "MainThread")
    assert record.extra == {"user": "ada"}


def log_test_name() -> str:
    return "test_log_records_from_the_callers_level_on"


def test_an_exception_comes_formatted(taken: Taken) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        logging.exception("lost", stack_info=True)
    (record,) = taken()
    assert isinstance(record, Logged)
    assert "KeyError: 'gone'" in str(record.exception)
    assert "test_an_exception_comes_formatted" in str(record.stack)


def test_configuring_changes_nothing_and_handlers_last_for_a_call(taken: Taken) -> None:
    mine = io.StringIO()
    logging.basicConfig(stream=mine, level=logging.DEBUG)
    logging.root.addHandler(logging.StreamHandler(mine))
    logging.warning("in both")
    assert mine.getvalue() == "in both\n"
    assert [each.text for each in taken() if isinstance(each, Logged)] == ["in both"]
    handler = logging.root.handlers[0]
    handler._records.begin(8 << 16 | 1, logging.ERROR)  # type: ignore[attr-defined]
    assert logging.root.handlers == [handler]
    logging.warning("below")
    assert taken() == []


def test_a_message_that_its_arguments_do_not_fit_fails_nothing(
    taken: Taken, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.warning("%d", "x")
    assert taken() == []
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_warning_comes_with_its_module_each_time_it_is_raised_up_to_a_limit(taken: Taken) -> None:
    def warn() -> None:
        warnings.warn("mind the gap", PendingDeprecationWarning, stacklevel=1)

    for _ in range(103):
        warn()
    found = taken()
    line = warn.__code__.co_firstlineno + 1
    expected = Warned(("builtins", "PendingDeprecationWarning"), "mind the gap", __file__, line, __name__)
    assert found == [expected] * 100


def test_a_warning_that_names_no_running_code_has_no_module(taken: Taken) -> None:
    warnings.warn_explicit("from elsewhere", UserWarning, "elsewhere.py", 7)
    assert taken() == [Warned(("builtins", "UserWarning"), "from elsewhere", "elsewhere.py", 7)]


def test_a_warning_for_a_file_goes_there(taken: Taken) -> None:
    file = io.StringIO()
    warnings.showwarning("to a file", UserWarning, "f.py", 3, file=file)
    assert "f.py:3: UserWarning: to a file" in file.getvalue()
    assert taken() == []


def test_caught_warnings_stay_where_they_are_caught(taken: Taken) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("mine", stacklevel=1)
    assert len(caught) == 1
    assert taken() == []


def test_long_texts_are_cut(taken: Taken) -> None:
    logging.warning("x" * (LIMIT + 1))
    (record,) = taken()
    assert isinstance(record, Logged)
    assert record.text == "x" * LIMIT + f"… ({LIMIT + 1} characters)"


def test_threads_do_not_mix_their_records(taken: Taken) -> None:
    threads = [
        threading.Thread(target=lambda n=n: [logging.warning("%d:%s", n, "y" * 500) for _ in range(20)])  # type: ignore[misc]
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [each.text for each in taken() if isinstance(each, Logged)]
    assert sorted(texts) == sorted(f"{n}:{'y' * 500}" for n in range(4) for _ in range(20))


def test_a_pipe_that_nobody_reads_any_more_fails_nothing(taken: Taken) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    Records(writing).put(Warned(("builtins", "UserWarning"), "x", "f.py", 1))
    os.close(writing)
