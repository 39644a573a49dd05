"""Log records and warnings of a call, handed to this process's own logging and warning filters.

Guarantees: levels, handlers and filters of this process decide what is seen; whatever they raise does not reach the
connection. Assumes: as `plover.wire.records` reads them.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any, assert_never

from plover.wire.records import Logged, Record, Warned

__all__ = ["emit"]

#: What Python keeps in a module to know which warnings were seen: one for all that came from workers.
_registry: dict[Any, Any] = {}


def emit(record: Record) -> None:
    """A record as if the call had been here."""
    match record:
        case Logged():
            _log(record)
        case Warned():
            _warn(record)
        case _:
            assert_never(record)


def _log(record: Logged) -> None:
    logger = logging.getLogger(None if record.name == "root" else record.name)
    if not logger.isEnabledFor(record.level):
        return
    made = logging.LogRecord(
        record.name, record.level, record.path, record.line, record.text, None, None, record.function, record.stack
    )
    made.created, made.msecs = record.created, record.created % 1 * 1000
    made.threadName = record.thread
    made.exc_text = record.exception
    for name, value in record.extra.items():
        made.__dict__.setdefault(name, value)
    logger.handle(made)


def _warn(record: Warned) -> None:
    category = _category(*record.category)
    try:
        warnings.warn_explicit(record.text, category, record.path, record.line, registry=_registry)
    except Warning as error:  # the filters here make it an error, and the function is somewhere else: it is shown
        print(warnings.formatwarning(error, category, record.path, record.line), end="", file=sys.stderr)


def _category(module: str, name: str) -> type[Warning]:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, Warning) else UserWarning
