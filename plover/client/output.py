"""What a call writes, put where the caller's own code would put it: `print`'s streams, logging, warnings; or captured.

Guarantees: a character whose bytes come in two messages is shown whole; what is no UTF-8 is shown with backslashes. It
is shown in the context of who made the call, so that a notebook puts it where the caller's own `print` would go, whichever
thread shows it: under the cell that began the call, from a bare thread under the one that runs. A stream, handler or filter
of the user's that raises is told on stderr, and fails no call.

Assumes: whoever holds the connection's socket calls it, one at a time.
"""

from __future__ import annotations

import codecs
import contextlib
import contextvars
import sys
import traceback

import msgspec

from plover.client.records import emit
from plover.wire.messages import Output, Receipt
from plover.wire.records import Reader, Record

__all__ = ["CallOutput"]

_decoder = codecs.getincrementaldecoder("utf-8")


class CallOutput:
    """One call's output.

    Args:
        captured: it goes on the receipt instead of being shown.
        context: of who made the call.
    """

    __slots__ = ("_captured", "_context", "_decoders", "_reader", "_records", "_texts")

    def __init__(self, captured: bool, context: contextvars.Context) -> None:
        self._captured = captured
        self._context = context
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._reader = Reader()
        self._texts = {1: "", 2: ""}
        self._records: list[Record] = []

    def take(self, message: Output) -> None:
        """The call wrote this."""
        if message.stream == 3:
            for record in self._reader.feed(message.data):
                if self._captured:
                    self._records.append(record)
                else:
                    self._show(emit, record)
            return
        decoder = self._decoders.get(message.stream)
        if decoder is None:
            decoder = self._decoders[message.stream] = _decoder("backslashreplace")
        self._write(message.stream, decoder.decode(message.data))

    def end(self, receipt: Receipt) -> Receipt:
        """The call writes nothing any more; returns its receipt, with what was captured."""
        for stream, decoder in self._decoders.items():
            self._write(stream, decoder.decode(b"", final=True))
        if not self._captured:
            return receipt
        return msgspec.structs.replace(
            receipt, stdout=self._texts[1], stderr=self._texts[2], records=tuple(self._records)
        )

    def _write(self, number: int, text: str) -> None:
        if self._captured:
            self._texts[number] += text
        elif text:
            self._show(_print, number, text)

    def _show(self, how: object, *what: object) -> None:
        try:
            self._context.run(how, *what)  # type: ignore[arg-type]
        except Exception:
            with contextlib.suppress(Exception):
                traceback.print_exc()


def _print(number: int, text: str) -> None:
    stream = sys.stdout if number == 1 else sys.stderr
    with contextlib.suppress(OSError, ValueError):  # the caller closed it
        stream.write(text)
        stream.flush()
