"""Log records and warnings of a call, handed to this process's own logging and warning filters.

Guarantees: levels, handlers and filters of this process decide what is seen, as if the function had been called here: a
warning is one of the module that raised it there (``__main__`` is this process's own), and counts with those that were
raised in it here. Whatever they raise does not reach the connection. Assumes: as `plover.wire.records` reads them.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any, assert_never

from plover.exceptions import own_file
from plover.wire.records import Logged, Record, Warned

__all__ = ["emit"]

#: What Python keeps in a module to know which warnings were seen, for modules that are not imported here.
_registries: dict[str, dict[Any, Any]] = {}


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
    category, path = _category(*record.category), own_file(record.path)
    module = record.module or path.removesuffix(".py")  # as `warn_explicit` does it
    try:
        warnings.warn_explicit(record.text, category, path, record.line, module, _registry(module))
    except Warning as error:  # the filters here make it an error, and the function goes on somewhere else: it is shown
        print(warnings.formatwarning(error, category, path, record.line), end="", file=sys.stderr)


def _registry(module: str) -> dict[Any, Any]:
    imported = sys.modules.get(module)
    if imported is None:
        return _registries.setdefault(module, {})
    found: dict[Any, Any] = vars(imported).setdefault("__warningregistry__", {})
    return found


def _category(module: str, name: str) -> type[Warning]:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, Warning) else UserWarning
