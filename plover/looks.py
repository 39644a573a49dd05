"""What futures, maps, sessions, receipts, functions and kernels look like: a line for `repr`, a small table for notebooks.

Guarantees: looking does no I/O and waits for nobody; a `repr` runs no code of the user's but the `repr` of defaults. Every
text is escaped. The tables bring no style, script or colour of their own, so that they look right on dark and on light.

Assumes: imported by the first look at something, and by nothing else. It reads what futures keep for themselves.
"""

from __future__ import annotations

import html
import inspect
import reprlib
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from plover.wire.messages import CallOptions, HostDevices, Receipt
from plover.wire.records import Record

if TYPE_CHECKING:
    from plover.client.connection import Connection
    from plover.client.futures import Future

__all__ = [
    "devices_text",
    "function_html",
    "function_text",
    "future_html",
    "future_text",
    "map_text",
    "receipt_html",
    "receipt_text",
    "session_html",
    "session_text",
    "several_html",
    "several_text",
    "table",
]

Rows = list[tuple[str, Any]]

_STAGES = {
    "unsent": "waiting to be sent",
    "sent": "queued or running",  # the daemon does not tell which, unless somebody waits for an answer
    "begun": "running",
}
#: So much of an error's text is shown in a table.
_ERROR_CHARACTERS = 300
#: So much of what a call wrote is shown in a receipt's line.
_TEXT_CHARACTERS = 60


def table(title: str, rows: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """A small table as HTML: a title, and a name and a value a row."""
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    left = "style='text-align:left'"
    body = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(str(value))}</td></tr>"
        for name, value in pairs
    )
    return f"<table><caption {left}><b>{html.escape(title)}</b></caption>{body}</table>"


def seconds(value: float) -> str:
    """A duration in people's units."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"


# -- receipts ----------------------------------------------------------------------------------------------------------


def receipt_text(receipt: Receipt) -> str:
    """``Receipt(queue_s=0.0012, …, stdout='the first of it'… (1,200,000 characters), stderr='', records=3 of them)``."""
    return f"Receipt({', '.join(f'{name}={_value(value)}' for name, value in msgspec.structs.asdict(receipt).items())})"


def _value(value: Any) -> str:
    """What a call wrote may be megabytes, and a line of it is for looking at the rest."""
    if isinstance(value, str) and len(value) > _TEXT_CHARACTERS:
        return f"{value[:_TEXT_CHARACTERS]!r}… ({len(value):,} characters)"
    if isinstance(value, tuple) and len(value) > 0 and isinstance(value[0], Record):
        return f"{len(value):,} of them"
    return repr(value)


def receipt_html(receipt: Receipt) -> str:
    """A receipt as a table: times in people's units, and only what was measured."""
    return table("receipt", _receipt_rows(receipt))


def _receipt_rows(receipt: Receipt) -> Rows:
    rows: Rows = [
        (name.removesuffix("_s"), seconds(value))
        for name in ("queue_s", "transfer_s", "load_s", "run_s")
        if (value := getattr(receipt, name)) is not None
    ]
    rows.append(("on", _devices(receipt)))
    rows += [("worker", receipt.worker)] if receipt.worker else []
    rows += [("warm", "yes" if receipt.warm else "no")] if receipt.warm is not None else []
    rows += [("attempt", receipt.attempt)] if receipt.attempt > 1 else []
    return rows


def _devices(receipt: Receipt) -> str:
    return ", ".join(receipt.devices) + (" (simulated)" if receipt.simulated else "")


# -- futures -----------------------------------------------------------------------------------------------------------


def future_text(future: Future[Any]) -> str:
    """``<future of saxpy, call 0123456789ab-1: done in 1.20 ms on simulated:0 (simulated)>``."""
    state, receipt, details = _state(future), future.receipt, ""
    if not future.has_ended():
        details = f" for {seconds(time.monotonic() - future._made_at)}{_where(future)}"
    elif receipt is not None and receipt.run_s is not None:
        details = f" in {seconds(receipt.run_s)} on {_devices(receipt)}"
    error = future._exception if future._sealed is None else None  # packed until somebody asks for it
    if state == "failed" and error is not None:
        details += f": {type(error).__qualname__}"
    of = f" of {future._function}" if future._function else ""
    return f"<future{of}, call {future.call_id}: {state}{details}>"


def future_html(future: Future[Any]) -> str:
    """A future as a table; it shows how things are now, and does not change by itself."""
    state = _state(future)
    rows: Rows = [("call", future.call_id), ("state", state)]
    if not future.has_ended():
        rows.append(("for", seconds(time.monotonic() - future._made_at)))
        rows += [("at", where.removeprefix(" at "))] if (where := _where(future)) else []
    if state == "failed":
        rows.append(("error", _error(future)))
    if future.receipt is not None:
        rows += _receipt_rows(future.receipt)
    return table(f"future of {future._function}" if future._function else "future", rows)


def _state(future: Future[Any]) -> str:
    if future.cancelled():
        return f"cancelled ({tier})" if (tier := _tier(future)) else "cancelled"
    if future.has_ended():
        return "done" if future._exception is None else "failed"
    connection = future._connection
    return _STAGES[connection.stage(future._submission) if connection is not None else "unsent"]


def _tier(future: Future[Any]) -> str | None:
    return future._cancelled_as.tier if future._cancelled_as is not None else None


def _where(future: Future[Any]) -> str:
    return f" at {future._connection.address}" if future._connection is not None else ""


def _error(future: Future[Any]) -> str:
    error = (
        future.exception()
    )  # here it is unpickled, if nobody asked before; the call has ended, so nothing is waited for
    text = "".join(inspect.cleandoc(str(error))) if error is not None else ""
    text = text if len(text) <= _ERROR_CHARACTERS else text[:_ERROR_CHARACTERS] + "…"
    return f"{type(error).__qualname__}: {text}" if text else type(error).__qualname__


# -- maps --------------------------------------------------------------------------------------------------------------


def map_text(name: str, done: int, read: int, total: int | None, closed: bool) -> str:
    """``<map of saxpy: 5 of 10 done, 3 read>``."""
    of = f" of {total}" if total is not None else ""
    return f"<map of {name}: {done}{of} done, {read} read{', closed' if closed else ''}>"


# -- sessions ----------------------------------------------------------------------------------------------------------


def session_text(address: str | None, connection: Connection | None, closed: bool) -> str:
    """``<session with ipc:///run/d.sock: Plover 0.1.0, Python 3.11, pid 42, 1 x H100 (cuda), 2 calls pending>``."""
    where = connection.address if connection is not None else address or "the default"
    rows = dict(_session_rows(connection, closed))
    rows.pop("tenant", None)
    return f"<session with {where}: {', '.join(rows.values())}>"


def session_html(address: str | None, connection: Connection | None, closed: bool) -> str:
    """A session as a table: where its daemon is, and what the daemon said of itself."""
    where = connection.address if connection is not None else address or "the default"
    return table("session", [("address", where), *_session_rows(connection, closed)])


def _session_rows(connection: Connection | None, closed: bool) -> list[tuple[str, str]]:
    if closed:
        return [("state", "closed")]
    if connection is None:
        return [("state", "no connection yet")]
    if (trouble := _trouble(connection)) is not None:
        what_next = "the next call connects again" if connection.ended is not None else "it is being looked for"
        return [("state", f"{trouble}; {what_next}")]
    welcome, count = connection.welcome, connection.pending
    return [
        ("daemon", f"Plover {welcome.versions.plover}, Python {welcome.versions.python}, pid {welcome.pid}"),
        ("devices", devices_text(welcome.devices)),
        ("tenant", welcome.tenant),
        ("calls", f"{count or 'no'} call{'' if count == 1 else 's'} pending"),
    ]


def _trouble(connection: Connection) -> str | None:
    """What is wrong with a connection, if anything is known to be."""
    if connection.ended is not None:
        return f"lost ({type(connection.ended).__name__})"
    return None if connection.in_order else "no answer"


def several_text(members: Iterable[tuple[str, bool, Connection | None]]) -> str:
    """``<session with 2 daemons: ipc:///run/a.sock (2 pending), tcp://gpu2:7707 (lost (DaemonLost))>``."""
    words = [f"{address} ({_health(away, connection)})" for address, away, connection in members]
    return f"<session with {len(words)} daemons: {', '.join(words)}>"


def _health(away: bool, connection: Connection | None) -> str:
    if away:
        return "away"
    if connection is None:
        return "no connection yet"
    return _trouble(connection) or f"{connection.pending} pending"


def several_html(members: Iterable[tuple[str, bool, Connection | None]]) -> str:
    """A session with several daemons: a row for each, by its address, whether it is away, and its connection."""
    rows: Rows = []
    for address, away, connection in members:
        said = dict(_session_rows(connection, closed=False))
        words = [said["state"]] if "state" in said else [said["devices"], said["calls"]]
        rows.append((address, "away" if away else ", ".join(words)))
    return table(f"session with {len(rows)} daemons", rows)


def devices_text(devices: Iterable[HostDevices]) -> str:
    """``2 x NVIDIA H100 (cuda)``."""
    return ", ".join(f"{each.count} x {each.model} ({each.kind})" for each in devices) or "no devices"


# -- functions and kernels ---------------------------------------------------------------------------------------------


def function_text(
    kind: str, name: str, python: Any, options: CallOptions, launch: tuple[Any, ...] | None = None
) -> str:
    """``<gpu_function saxpy(a, x, y) timeout=5.0>``."""
    said = "".join(f" {name}={value!r}" for name, value in _options(options))
    return f"<{kind} {_signature(name, python, launch)}{said}>"


def function_html(
    kind: str, name: str, python: Any, options: CallOptions, launch: tuple[Any, ...] | None = None
) -> str:
    """A function or kernel as a table: how it is called, what it says of itself, and its options."""
    rows: Rows = [("call", _signature(name, python, launch))]
    text = inspect.getdoc(python) if python is not None else None
    rows += [("about", text.splitlines()[0])] if text else []
    rows += [(name, value) for name, value in _options(options)]
    return table(f"{kind} {name}", rows)


def _signature(name: str, python: Any, launch: tuple[Any, ...] | None) -> str:
    """A name with its parameters and their defaults; without annotations, which make a line of it that nobody reads."""
    launched = f"{name}[{', '.join(map(repr, launch))}]" if launch is not None else name
    try:
        signature = inspect.signature(python)
    except (TypeError, ValueError):  # a CuPy kernel; something of C's that has none
        return launched
    empty = inspect.Parameter.empty
    parameters = [
        each.replace(annotation=empty, default=each.default if each.default is empty else _Default(each.default))
        for each in signature.parameters.values()
    ]
    return f"{launched}{signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)}"


class _Default:
    """A default value whose `repr` is short, and no failure of its own."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return reprlib.repr(self._value)


def _options(options: CallOptions) -> Rows:
    """What is not as it is by default, as its author wrote it."""
    rows: Rows = []
    for field in msgspec.structs.fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name != "log_level":  # which is this process's, not the author's
            rows.append((field.name.removesuffix("_s"), _gpu(*value) if field.name == "gpu" else value))
    return rows


def _gpu(model: str, count: int) -> str | int:
    if not model:
        return count
    return model if count == 1 else f"{model}:{count}"
