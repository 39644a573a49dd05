"""Values as bytes and back: cloudpickle for code, pickle protocol 5 with out-of-band buffers for arrays.

A value becomes a list of buffers: the pickle stream, then every array's own bytes, which are not copied. The same in both
directions, for functions, arguments, results and exceptions.

Guarantees:
  * Array bytes never stand inside a pickle stream, and arrays come out writable when the buffers are.
  * A function's bytes are the same in every process where its content is: classes that travel by value get an id made
    of their name, not a random one. (Sets of strings still differ: their order is the process's own.)
  * A class of the client's ``__main__`` comes home as itself: a worker writes only its id into a result, and never its
    state, which would overwrite the client's own class.
  * In a worker each function has its own `ClassNamespace`: one function's version of a class is not another's.

Assumes: both sides have the same minor version of Python and the same cloudpickle major version; the daemon sees to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import pickle
import threading
import types
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _internals

from plover import kernels
from plover.errors import NotSerializable

__all__ = [
    "ClassNamespace",
    "Packer",
    "as_is",
    "digest",
    "fingerprint",
    "pack",
    "pack_arguments",
    "pack_function",
    "unpack",
]

Buffer = bytes | bytearray | memoryview

#: Class ids that a client made begin with this; a worker sends those home as ids.
_HOME = "plover/"


class Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles one value. `classes` are those that went by value: who waits for an answer must keep them alive.

    Args:
        reducers: each is asked about every object that is not a plain built-in one, and answers with what
            `__reduce__` may return, or `NotImplemented`.
    """

    def __init__(self, reducers: Sequence[Callable[[Any], Any]] = ()) -> None:
        self._stream = io.BytesIO()
        self._buffers: list[Buffer] = []
        self._reducers = reducers
        self.classes: list[type] = []
        super().__init__(self._stream, protocol=5, buffer_callback=self._out_of_band)

    def pack(self, value: Any) -> list[Buffer]:
        """The pickle stream and its buffers."""
        self.dump(value)
        return [self._stream.getvalue(), *self._buffers]

    def _out_of_band(self, buffer: pickle.PickleBuffer) -> None:
        self._buffers.append(buffer.raw())

    def reducer_override(self, obj: Any) -> Any:
        for reduce in self._reducers:
            reduced = reduce(obj)
            if reduced is not NotImplemented:
                return reduced
        if isinstance(obj, type) and obj.__module__ != "builtins" and not _internals._should_pickle_by_reference(obj):
            _name_class(obj)
            self.classes.append(obj)
        return super().reducer_override(obj)


def pack(value: Any, reducers: Sequence[Callable[[Any], Any]] = ()) -> list[Buffer]:
    """A value as buffers."""
    return Packer(reducers).pack(value)


def unpack(buffers: Sequence[Buffer]) -> Any:
    """The value that `pack` was given. Arrays are views of the buffers, writable where these are."""
    return pickle.loads(buffers[0], buffers=buffers[1:])


def as_is(value: Any) -> Any:
    """What a reduced device array is made of on arrival, at a client that knows no device: the NumPy array itself."""
    return value


def digest(buffers: Sequence[Buffer]) -> bytes:
    """The name of a payload: SHA-256 over its buffers, each with its length before it."""
    state = hashlib.sha256()
    for buffer in buffers:
        state.update(len(buffer).to_bytes(8, "little"))
        state.update(buffer)
    return state.digest()


def pack_function(function: Callable[..., Any]) -> tuple[list[Buffer], list[type]]:
    """A function with everything it captures, and the classes that go with it by value.

    Raises:
        NotSerializable: something that it captures cannot travel; the message names it.
    """
    packer = Packer((kernels.reduce,))
    try:
        return packer.pack(function), packer.classes
    except Exception as error:
        raise _explain(f"function {_name_of(function)!r}", _captures(function), error) from error


#: Objects of these types never change: the same object has the same content.
_ATOMIC = (types.ModuleType, type(None), bool, int, float, complex, str, bytes)
_ABSENT = object()


def fingerprint(function: Any) -> list[Any] | None:
    """What decides a plain function's bytes, to be compared by identity; None where only pickling it again can tell.

    It can for functions that capture nothing but modules and constants, which is what most GPU functions are.
    """
    if type(function) is not types.FunctionType or function.__closure__ or function.__dict__:
        return None
    if function.__defaults__ or function.__kwdefaults__:
        return None
    found: list[Any] = [function.__code__]
    for name in _internals._extract_code_globals(function.__code__):
        value = function.__globals__.get(name, _ABSENT)
        if value is not _ABSENT and not isinstance(value, _ATOMIC):
            return None
        found.append(value)
    return found


def pack_arguments(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Buffer], list[type]]:
    """A call's arguments, and the classes that go with them by value.

    Raises:
        NotSerializable: an argument cannot travel; the message names it.
    """
    packer = Packer((kernels.reduce,))
    try:
        return packer.pack((args, kwargs)), packer.classes
    except Exception as error:
        parts = itertools.chain(
            ((f"argument {i}", value) for i, value in enumerate(args)),
            ((f"argument {name!r}", value) for name, value in kwargs.items()),
        )
        raise _explain(f"a call of {function!r}", parts, error) from error


# -- naming the culprit ------------------------------------------------------------------------------------------------


def _captures(function: Any) -> Iterator[tuple[str, Any]]:
    function = getattr(function, "py_func", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):
            yield f"closure {name!r}", cell.cell_contents
    for name in _internals._extract_code_globals(code):
        if name in function.__globals__:
            yield f"global {name!r}", function.__globals__[name]
    for number, value in enumerate(function.__defaults__ or ()):
        yield f"default {number}", value


def _explain(whole: str, parts: Any, error: Exception) -> NotSerializable:
    for name, value in parts:
        try:
            Packer((kernels.reduce,)).pack(value)
        except Exception as cause:
            path = f"{whole} → {name} → {type(value).__module__}.{type(value).__qualname__}"
            return NotSerializable(
                f"cannot send {path}: {cause}. Create it inside the function, or pass what it is made from.", path=path
            )
    return NotSerializable(f"cannot send {whole}: {type(error).__name__}: {error}", path=whole)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or getattr(function, "name", None) or type(function).__name__)


# -- classes -----------------------------------------------------------------------------------------------------------

_name_counters: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)


def _name_class(cls: type) -> None:
    """Give a class that goes by value an id of its name and its number among the classes of that name here."""
    with _internals._DYNAMIC_CLASS_TRACKER_LOCK:
        if cls not in _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS:
            name = f"{_HOME}{cls.__module__}.{cls.__qualname__}"
            identity = f"{name}#{next(_name_counters[name])}"
            _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls] = identity
            _internals._DYNAMIC_CLASS_TRACKER_BY_ID[identity] = cls


def _class_at_home(identity: str) -> type:
    """Found at the client: the class that it sent under this id."""
    try:
        return _internals._DYNAMIC_CLASS_TRACKER_BY_ID[identity]  # type: ignore[no-any-return]
    except KeyError:
        name = identity.removeprefix(_HOME).rpartition("#")[0]
        raise pickle.UnpicklingError(f"the class {name!r} of this result no longer exists in this process") from None


class ClassNamespace:
    """The classes that one function brought to a worker, by id.

    While it is entered, cloudpickle finds and keeps its classes here instead of in its tables for the whole process.
    Assumes: one thread at a time enters a namespace (the worker's main thread).
    """

    def __init__(self) -> None:
        self._by_id: Any = weakref.WeakValueDictionary()
        self._by_class: Any = weakref.WeakKeyDictionary()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Cloudpickle's own tables, exchanged for these."""
        outer = _internals._DYNAMIC_CLASS_TRACKER_BY_ID, _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS
        with _exchange_lock:
            _internals._DYNAMIC_CLASS_TRACKER_BY_ID = self._by_id
            _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS = self._by_class
        try:
            yield
        finally:
            _internals._DYNAMIC_CLASS_TRACKER_BY_ID, _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS = outer

    def reduce(self, obj: Any) -> Any:
        """A reducer for results: a class that came from the client goes back as its id."""
        if isinstance(obj, type):
            identity = self._by_class.get(obj)
            if identity is not None and identity.startswith(_HOME):
                return _class_at_home, (identity,)
        return NotImplemented


_exchange_lock = threading.Lock()
