"""What calls write, put where the caller's own `print` would put it.

Guarantees: a character whose bytes come in two messages is shown whole; what is no UTF-8 is shown with backslashes.
Assumes: whoever holds the connection's socket calls it, one at a time.
"""

from __future__ import annotations

import codecs
import contextlib
import sys

from plover.wire.messages import Output

__all__ = ["Outputs"]

_decoder = codecs.getincrementaldecoder("utf-8")


class Outputs:
    """The output of all pending calls. Invariant: `_begun` has a decoder only for calls that wrote something."""

    def __init__(self) -> None:
        self._begun: dict[int, dict[int, codecs.IncrementalDecoder]] = {}

    def show(self, message: Output) -> None:
        """A call wrote this."""
        decoders = self._begun.setdefault(message.submission, {})
        decoder = decoders.get(message.stream)
        if decoder is None:
            decoder = decoders[message.stream] = _decoder("backslashreplace")
        _write(message.stream, decoder.decode(message.data))

    def end(self, submission: int) -> None:
        """The call writes nothing any more."""
        decoders = self._begun.pop(submission, None)
        if decoders is not None:
            for stream, decoder in decoders.items():
                _write(stream, decoder.decode(b"", final=True))


def _write(number: int, text: str) -> None:
    stream = sys.stdout if number == 1 else sys.stderr
    if text:
        with contextlib.suppress(OSError, ValueError):  # the caller closed it
            stream.write(text)
            stream.flush()
