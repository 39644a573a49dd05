"""A user's exception as bytes and back, with the remote frames in its traceback.

The exception travels apart from its traceback, so that neither is lost when the other cannot go; causes, contexts and the
members of groups travel the same way, each with frames of its own.

Guarantees: packing never fails: what cannot be pickled is taken apart (type, arguments, attributes), and what cannot even
be that arrives as a stand-in of the same name and text. Frames show their source line at the client, also of files that
exist only on the worker. Assumes: Python 3.11's line table format (3.11 to 3.13 have the same).
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import re
from collections.abc import Callable, Sequence
from types import CodeType, TracebackType
from typing import Any

import msgspec

from plover import serialize

__all__ = ["own_file", "pack_exception", "unpack_exception"]

#: So many frames at each end of a traceback are kept; a recursion error has thousands that say the same.
_FRAMES_AT_EACH_END = 50
#: How deep causes, contexts and groups are followed.
_CHAIN_LIMIT = 20
#: So much of a text, and of a source line, is kept.
_TEXT_LIMIT = 1 << 20
_LINE_LIMIT = 2000
#: An exception that is larger than its limit travels as what fits into this.
_SMALL_BYTES = 64 * 1024
#: What a user's class may raise when it is looked at. Not every BaseException: what interrupts a call must get through.
_ANYTHING = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)

Buffer = serialize.Buffer


class _Frame(msgspec.Struct, frozen=True):
    """A remote frame: its place, its function, where that begins, and the line's text if the worker could read it.

    Attributes:
        columns: where in the line the expression stands that was evaluated, in bytes of UTF-8; None if that is not known.
    """

    filename: str
    line: int
    name: str
    first_line: int
    text: str
    columns: tuple[int, int] | None = None


class _Exception(msgspec.Struct, frozen=True):
    """A taken-apart exception. `whole` and `parts` are pickles, empty where that failed; the text always is there."""

    whole: list[bytes]
    parts: list[bytes]
    module: str
    name: str
    text: str
    notes: list[str]
    frames: list[_Frame]
    cause: _Exception | None
    context: _Exception | None
    suppress_context: bool
    members: list[_Exception]


_decoder = msgspec.msgpack.Decoder(_Exception)

# -- in the worker -----------------------------------------------------------------------------------------------------


def pack_exception(
    error: BaseException,
    reducers: Sequence[Callable[[Any], Any]] = (),
    is_ours: Callable[[str], bool] = lambda _: False,
    limit_bytes: int = 1 << 30,
) -> list[Buffer]:
    """An exception as buffers.

    Args:
        error: what the user's code raised.
        reducers: as for `serialize.Packer`.
        is_ours: whether a file is Plover's own; such frames are left out, but for one that raised below others.
        limit_bytes: what is larger travels without what makes it so.
    """
    packed = msgspec.msgpack.encode(_take_apart(error, reducers, is_ours, _CHAIN_LIMIT, set(), limit_bytes))
    if len(packed) > limit_bytes:
        small = min(_SMALL_BYTES, limit_bytes)
        packed = msgspec.msgpack.encode(_take_apart(error, reducers, is_ours, 0, set(), small))
    return [packed]


def _take_apart(
    error: BaseException,
    reducers: Sequence[Callable[[Any], Any]],
    is_ours: Callable[[str], bool],
    depth: int,
    seen: set[int],
    limit: int,
) -> _Exception:
    seen.add(id(error))

    def follow(other: BaseException | None) -> _Exception | None:
        if other is None or depth == 0 or id(other) in seen:  # once each, as traceback.TracebackException does it
            return None
        return _take_apart(other, reducers, is_ours, depth - 1, seen, limit)

    members: list[_Exception] = []
    if isinstance(error, BaseExceptionGroup):
        members = [part for member in error.exceptions if (part := follow(member)) is not None]
        whole, parts = [], _try_pack((type(error), (error.message,), _attributes(error)), reducers, limit)
    else:
        whole = _try_pack(error, reducers, limit)
        parts = _try_pack((type(error), error.args, _attributes(error)), reducers, limit)
        if not parts:
            parts = _try_pack(
                (
                    type(error),
                    tuple(map(_or_repr, error.args)),
                    {name: _or_repr(value) for name, value in _attributes(error).items()},
                ),
                reducers,
                limit,
            )
    return _Exception(
        whole=whole,
        parts=parts,
        module=str(type(error).__module__),
        name=type(error).__qualname__,
        text=_text(error)[: min(_TEXT_LIMIT, limit)],
        notes=_notes(error),
        frames=_frames(error.__traceback__, is_ours),
        cause=follow(error.__cause__),
        context=follow(error.__context__ if error.__context__ is not error.__cause__ else None),
        suppress_context=error.__suppress_context__,
        members=members,
    )


def _try_pack(value: Any, reducers: Sequence[Callable[[Any], Any]], limit: int) -> list[bytes]:
    try:
        packed = serialize.pack(value, reducers)
        if sum(memoryview(buffer).nbytes for buffer in packed) <= limit:
            return [bytes(buffer) for buffer in packed]
    except _ANYTHING:  # whatever a user's class does when it is pickled; the other ways are tried
        pass
    return []


def _attributes(error: BaseException) -> dict[str, Any]:
    return {name: value for name, value in vars(error).items() if name != "__notes__"}


def _or_repr(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | bytes | None):
        return value
    try:
        return _plain(repr(value))[:_TEXT_LIMIT]
    except _ANYTHING as failure:  # a user's __repr__
        return f"<{type(value).__name__}; its repr could not be made: {type(failure).__name__}>"


def _text(error: BaseException) -> str:
    try:
        return _plain(str(error))
    except _ANYTHING as failure:  # a user's __str__
        return f"<its text could not be made: {type(failure).__name__}>"


def _notes(error: BaseException) -> list[str]:
    """Read past the class's own `__getattr__`; anybody may have put anything there."""
    try:
        return [_plain(str(note)) for note in vars(error).get("__notes__", ())]
    except _ANYTHING as failure:
        return [f"<its notes could not be read: {type(failure).__name__}>"]


def _plain(text: str) -> str:
    """A text that UTF-8 can carry: a file name that is not UTF-8 has lone surrogates (PEP 383)."""
    return text.encode("utf-8", "backslashreplace").decode()


def _frames(tb: TracebackType | None, is_ours: Callable[[str], bool]) -> list[_Frame]:
    found: list[_Frame] = []
    while tb is not None:
        code = tb.tb_frame.f_code
        if not is_ours(code.co_filename) or (found and tb.tb_next is None):
            line = tb.tb_lineno or code.co_firstlineno  # code that a tool made may have no lines
            text = linecache.getline(code.co_filename, line).rstrip("\n")
            columns = _columns(tb, text) if len(text) <= _LINE_LIMIT else None
            place = _plain(code.co_filename), line, _plain(code.co_name), code.co_firstlineno
            found.append(_Frame(*place, _plain(text[:_LINE_LIMIT]), columns))
        tb = tb.tb_next
    if len(found) > 2 * _FRAMES_AT_EACH_END:
        found = found[:_FRAMES_AT_EACH_END] + found[-_FRAMES_AT_EACH_END:]
    return found


def _columns(tb: TracebackType, text: str) -> tuple[int, int] | None:
    """Where the failing expression stands in its first line, of which alone the client is sure to have the text."""
    positions = next(itertools.islice(tb.tb_frame.f_code.co_positions(), tb.tb_lasti // 2, None), None)
    if positions is None or None in positions:
        return None
    line, end_line, begin, end = positions
    return begin, end if end_line == line else len(text.encode("utf-8", "backslashreplace"))  # type: ignore[return-value]


# -- in the client -----------------------------------------------------------------------------------------------------


def unpack_exception(buffers: Sequence[Buffer]) -> BaseException:
    """The exception that `pack_exception` was given, or the nearest thing to it."""
    return _put_together(_decoder.decode(buffers[0]))


def _put_together(node: _Exception) -> BaseException:
    error = _rebuild(node)
    vars(error).pop("__notes__", None)  # not what its pickle made of them
    if node.notes:
        vars(error)["__notes__"] = list(node.notes)  # `add_note` asks the class's `__getattr__`
    if node.cause is not None:
        _set(error, "__cause__", _put_together(node.cause))
    if node.context is not None:
        _set(error, "__context__", _put_together(node.context))
    _set(error, "__suppress_context__", node.suppress_context)
    if isinstance(error, ImportError | OSError):
        _explain(error)
    return BaseException.with_traceback(error, _traceback(node.frames))


#: Not by the class's own `__setattr__`, which refuses in that of a frozen dataclass.
_set = BaseException.__setattr__


def _explain(error: ImportError | OSError) -> None:
    """What a failed import means can be said only here, where it is known whether the module is the author's own."""
    from plover.bundles.collect import current

    note = current().explain(error)
    if note is not None and note not in getattr(error, "__notes__", ()):
        BaseException.add_note(error, note)


def _rebuild(node: _Exception) -> BaseException:
    if node.members:
        return _rebuild_group(node)
    if node.whole:
        with contextlib.suppress(Exception, SystemExit):
            whole = serialize.unpack(node.whole)
            if isinstance(whole, BaseException):
                return whole
    if node.parts:
        with contextlib.suppress(Exception, SystemExit):
            cls, args, attributes = serialize.unpack(node.parts)
            error: BaseException = cls.__new__(cls, *args)
            _set(error, "args", args)
            if isinstance(error, OSError):
                OSError.__init__(error, *args)
            error.__dict__.update(attributes)
            return error
    stand_in: type[Exception] = type(
        node.name.rpartition(".")[2], (Exception,), {"__module__": node.module, "__qualname__": node.name}
    )
    return stand_in(node.text)


def _rebuild_group(node: _Exception) -> BaseException:
    members = [_put_together(member) for member in node.members]
    with contextlib.suppress(Exception, SystemExit):
        cls, (message,), attributes = serialize.unpack(node.parts)
        group = cls(message, members)
        group.__dict__.update(attributes)
        return group  # type: ignore[no-any-return]
    return BaseExceptionGroup(node.text, members)


# -- frames that never ran here ----------------------------------------------------------------------------------------


def _traceback(frames: list[_Frame]) -> TracebackType | None:
    tb: TracebackType | None = None
    for frame in map(_at_home, reversed(frames)):
        _remember_source(frame)
        raised = _raise_in(frame)
        tb = TracebackType(tb, raised.tb_frame, raised.tb_lasti, frame.line)
    return tb


#: Where a worker keeps the author's own modules; see plover_runtime/modules.py.
_BUNDLED = re.compile(r"[/\\](?P<name>[^/\\]+)-(?P<digest>[0-9a-f]{64})[/\\](?P<path>.+)\Z")


def _at_home(frame: _Frame) -> _Frame:
    """A frame of the author's own module, in the author's own file, where that still has the line."""
    own = own_file(frame.filename)
    if own == frame.filename or linecache.getline(own, frame.line).rstrip("\n") != frame.text:
        return frame
    return msgspec.structs.replace(frame, filename=own)


def own_file(filename: str) -> str:
    """The author's own file that a worker ran out of a bundle, if it is one and still the same; else the name as it is."""
    bundled = _BUNDLED.search(filename)
    if bundled is None:
        return filename
    from plover.bundles.collect import current

    own = current().own_file(bundled["name"], bytes.fromhex(bundled["digest"]), bundled["path"].replace("\\", "/"))
    return own or filename


def _remember_source(frame: _Frame) -> None:
    """Let the client show a line of a file that only the worker has."""
    if not frame.text or linecache.getline(frame.filename, frame.line):
        return
    known = linecache.cache.get(frame.filename)
    lines = list(known[2]) if known is not None and len(known) == 4 else []
    lines += ["\n"] * (frame.line - len(lines))
    lines[frame.line - 1] = frame.text + "\n"
    linecache.cache[frame.filename] = (sum(map(len, lines)), None, lines, frame.filename)


_TEMPLATE = compile("raise error", "<remote>", "exec")


def _raise_in(frame: _Frame) -> TracebackType:
    """The traceback entry of a frame that was made for the purpose, at the remote frame's place."""
    code = _TEMPLATE.replace(
        co_filename=frame.filename,
        co_name=frame.name,
        co_qualname=frame.name,
        co_firstlineno=frame.first_line,
        co_linetable=_line_table(_TEMPLATE, frame.line - frame.first_line, frame.columns),
    )
    try:
        exec(code, {"error": _Stop()})  # noqa: S102  (our own two words)
    except _Stop as stop:
        tb = stop.__traceback__
        assert tb is not None
        assert tb.tb_next is not None
        return tb.tb_next
    raise AssertionError("the template always raises")


class _Stop(Exception):
    """Raised only to have a frame."""


def _line_table(code: CodeType, offset: int, columns: tuple[int, int] | None) -> bytes:
    """A table that puts every instruction on one line, and at these columns: entries of CPython's Objects/locations.md,
    each for at most eight code units, with the distance from the line before; of kind 14 (which has that of the last line,
    too, and both columns, counted from 1), or 13 without columns.
    """
    table = bytearray()
    units = len(code.co_code) // 2
    while units > 0:
        length = min(units, 8)
        table.append(0x80 | (13 if columns is None else 14) << 3 | length - 1)
        table += _varint((-offset << 1 | 1) if offset < 0 else offset << 1)
        if columns is not None:
            table.append(0)
            table += _varint(columns[0] + 1) + _varint(columns[1] + 1)
        units -= length
        offset = 0
    return bytes(table)


def _varint(value: int) -> bytes:
    """A number in pieces of six bits, the lowest first."""
    made = bytearray()
    while value >= 64:
        made.append(0x40 | value & 63)
        value >>= 6
    made.append(value)
    return bytes(made)
