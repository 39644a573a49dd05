"""Log records, warnings and text of a call, as this process's own configuration wants them."""

from __future__ import annotations

import contextvars
import logging
import sys
import warnings
from typing import Any

import pytest

from plover.client.output import CallOutput
from plover.client.records import emit
from plover.wire.messages import Output, Receipt
from plover.wire.records import Logged, Warned, write

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


def logged(**changes: Any) -> Logged:
    fields = {"name": "my.lib", "level": 30, "text": "half full", "path": "/w/f.py", "line": 3, "function": "f"}
    return Logged(**{**fields, "created": 1.5, "thread": "T", **changes})


def output(captured: bool = False) -> CallOutput:
    return CallOutput(captured, contextvars.copy_context())


def test_a_log_record_goes_to_the_logger_of_its_name(caplog: pytest.LogCaptureFixture) -> None:
    emit(logged(exception="Traceback …\nKeyError: 1", stack="Stack", extra={"user": "ada", "levelno": 7}))
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("my.lib", 30, "half full")
    assert (record.pathname, record.lineno, record.funcName, record.threadName) == ("/w/f.py", 3, "f", "T")
    assert (record.created, record.msecs, record.user) == (1.5, 500.0, "ada")  # type: ignore[attr-defined]
    text = logging.Formatter("%(message)s").format(record)
    assert text == "half full\nTraceback …\nKeyError: 1\nStack"


def test_levels_of_this_process_decide(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("my.lib").setLevel(logging.ERROR)
    try:
        emit(logged())
        emit(logged(name="root", text="to the root"))
    finally:
        logging.getLogger("my.lib").setLevel(logging.NOTSET)
    assert [(each.name, each.getMessage()) for each in caplog.records] == [("root", "to the root")]


def test_a_warning_is_one_of_this_process(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("default")
    for _ in range(2):  # once a place
        emit(Warned(("builtins", "RuntimeWarning"), "mind", "/w/f.py", 7))
        emit(Warned(("builtins", "RuntimeWarning"), "mind", "/w/f.py", 7, "no.such.module"))
    seen, _ = recwarn.list  # once for each module
    assert (seen.category, str(seen.message), seen.filename, seen.lineno) == (RuntimeWarning, "mind", "/w/f.py", 7)


def test_a_warning_of_a_module_counts_with_those_that_it_raises_here(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("default")
    line = test_a_warning_of_a_module_counts_with_those_that_it_raises_here.__code__.co_firstlineno + 3
    warnings.warn("the same", RuntimeWarning, stacklevel=1)
    emit(Warned(("builtins", "RuntimeWarning"), "the same", __file__, line, __name__))
    emit(Warned(("builtins", "RuntimeWarning"), "another", __file__, line, __name__))
    assert [str(each.message) for each in recwarn.list] == ["the same", "another"]


@pytest.mark.parametrize("category", [("no.such", "Thing"), ("builtins", "int"), ("plover", "NoCapacity")])
def test_a_category_that_is_none_here_is_a_user_warning(
    category: tuple[str, str], recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter("always")
    emit(Warned(category, "what", "f.py", 1))
    assert recwarn.pop().category is UserWarning


def test_a_filter_that_makes_it_an_error_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        emit(Warned(("builtins", "UserWarning"), "as an error", "/w/f.py", 7))
    assert "/w/f.py:7: UserWarning: as an error" in capsys.readouterr().err


def test_text_is_decoded_over_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    call = output()
    data = "grün".encode()
    for piece in (data[:3], data[3:], b"\xff\n", b"\xc3"):
        call.take(Output(1, 1, piece))
    assert call.end(receipt := Receipt(attempt=1)) is receipt
    assert capsys.readouterr().out == "grün\\xff\n\\xc3"


def test_it_is_shown_in_the_context_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    class Stream:
        def write(self, text: str) -> None:
            seen.append((where.get(), text))

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stderr", Stream())
    where.set("cell 7")
    call = output()
    contextvars.Context().run(call.take, Output(1, 2, b"text"))
    assert seen == [("cell 7", "text")]


def test_a_stream_that_raises_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def write(self, text: str) -> None:
            raise RuntimeError("no paper")

    monkeypatch.setattr(sys, "stdout", Broken())
    output().take(Output(1, 1, b"text"))
    assert "RuntimeError: no paper" in capsys.readouterr().err


def test_captured_it_goes_on_the_receipt(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    call = output(captured=True)
    call.take(Output(1, 1, b"one "))
    call.take(Output(1, 2, b"err"))
    call.take(Output(1, 1, "zwölf".encode()[:3]))
    call.take(Output(1, 3, write(logged(), 1)))
    receipt = call.end(Receipt(attempt=2))
    assert (receipt.attempt, receipt.stdout, receipt.stderr) == (2, "one zw\\xc3", "err")
    assert receipt.records == (logged(),)
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
