"""What cannot travel, kind by kind: what it is, and what to do instead.

A kind is known by the names of its types, so that nothing is imported to recognize it. `REFUSED` kinds are refused
whatever pickle thinks of them: some pickle silently and mean nothing elsewhere (a text file goes as its whole content, a
CUDA stream as a number), others fail deep inside themselves, where nobody would look. The rest is told only when it failed.

Guarantees: a class that says how it travels (`__reduce__`, `__getstate__`, `copyreg`) is never refused for what it inherits.
"""

from __future__ import annotations

import copyreg
import pickle
import types
from typing import Any, NamedTuple

from plover.errors import NotSerializable
from plover.pickling.named import SCRIPT

__all__ = [
    "GENERAL",
    "MAIN_ONLY",
    "MODULE",
    "TOO_DEEP",
    "UNNATURAL",
    "VIEW",
    "Kind",
    "Refused",
    "kind_of",
    "says_how",
    "type_name",
]


class Kind(NamedTuple):
    """A kind of thing that cannot travel: a sentence about it; what to do where it is captured or passed; and where it was
    returned, having been made inside the function already.
    """

    what: str
    remedy: str
    returned: str
    refused: bool = True


class Refused(NotSerializable, pickle.PicklingError):
    """Raised while pickling by what must not travel; who asked for the pickling says where it stands."""

    kind: Kind | None = None


_FILE = Kind(
    "an open file belongs to the process and the machine that opened it",
    "Open it inside the function: pass its path if the worker sees the same file system, else its content (.read())",
    "Return its content (.read()), or its path if both sides see the same file system",
)
_SOCKET = Kind(
    "a socket belongs to the process that opened it",
    "Pass host and port and connect inside the function, or better: fetch the data here and pass it",
    "Return the data that came through it",
)
_LOCK = Kind(
    "a lock of one process locks nothing in another",
    "Create it inside the function, or leave it out of what its owner pickles (__getstate__)",
    "Return what it protects, or leave it out of what its owner pickles (__getstate__)",
)
_GENERATOR = Kind(
    "a generator or coroutine is code under way, which cannot be copied",
    "Pass its items (list(…)), or make it inside the function",
    "Return its items: list(…)",
)
_THREAD = Kind(
    "threads, processes, pools and what waits for them belong to the process that made them",
    "Start them inside the function, and pass data or results (.result()) instead",
    "Wait for them inside the function, and return data or results (.result())",
)
_STREAM = Kind(
    "a CUDA stream or event belongs to the context that it was made in",
    "Create it inside the function, on the worker's device",
    "Synchronize it inside the function, and return the arrays",
)
_DEVICE_ARRAY = Kind(
    "a device array lies in the memory of one machine's GPU",
    "Pass a NumPy array (cupy.asnumpy(x), x.copy_to_host()) and copy it to the device there, or create it inside the "
    "function",
    "Return a NumPy array (cupy.asnumpy(x), x.copy_to_host())",
)
_POINTER = Kind(
    "a pointer, a mapping or a foreign library means nothing in another process",
    "Pass the data it points to (bytes, or numpy.ctypeslib.as_array), and load libraries inside the function",
    "Return the data it points to (bytes, or numpy.ctypeslib.as_array)",
)
_WEAK = Kind(
    "a weak reference dies with the object that it refers to, which stays behind",
    "Pass the object itself, or leave the reference out of what its owner pickles (__getstate__)",
    "Return the object itself, or leave the reference out of what its owner pickles (__getstate__)",
)
_DATABASE = Kind(
    "a connection to a database or a service belongs to the process that opened it",
    "Fetch the data here and pass them, or pass the address and connect inside the function",
    "Fetch the data inside the function, and return them",
    refused=False,
)
_FRAME = Kind(
    "frames and tracebacks hold the running program",
    "Pass their text instead (traceback.format_tb)",
    "Return their text instead (traceback.format_tb)",
)
_CONTEXT = Kind(
    "a context variable has its value in one thread alone",
    "Pass its value (.get())",
    "Return its value (.get())",
)
_SESSION = Kind(
    "Plover's own sessions and futures belong to the process that made them",
    "Wait here and pass the result (.result()); a gpu_function can be called inside another, and runs right there",
    "Wait inside the function, and return the result (.result())",
)
_UFUNC = Kind(
    "a ufunc that was made from a Python function has no name to be found by",
    "Make it inside the function (numpy.frompyfunc), or use numba.vectorize",
    "Return the Python function that it was made from",
    refused=False,
)

#: Told by those who find them out, not by a type's name.
MODULE = Kind(
    "this module has no source that could be imported elsewhere: it was made by hand (types.ModuleType)",
    "Put the code into a file, or pass the objects in it that the function needs",
    "Put the code into a file, or return the objects in it",
)
MAIN_ONLY = Kind(
    "it travels as the name of a global of __main__, and the worker's __main__ is not this script",
    "Give its class a __reduce__ that says how to make it anew, or define it in a module",
    "Give its class a __reduce__ that says how to make it anew, or define it in a module",
)
VIEW = Kind(
    "its items have no form that another process could make again, or it was released",
    "Pass a NumPy array (numpy.asarray(view)) or bytes(view)",
    "Return a NumPy array (numpy.asarray(view)) or bytes(view)",
)
TOO_DEEP = Kind(
    "it is nested too deeply to be pickled, or its __reduce__ makes another of its own kind without end",
    "Pass it in a flat form (a list, an array), or mend its __reduce__",
    "Return it in a flat form (a list, an array), or mend its __reduce__",
)
UNNATURAL = Kind(
    "its own pickling failed",
    "Mend its __reduce__ or __getstate__, or leave it out of what its owner pickles",
    "Mend its __reduce__ or __getstate__, or leave it out of what its owner pickles",
)
GENERAL = Kind(
    "",
    "Create it inside the function, or pass what it is made from",
    "Return what it is made from: numbers, texts, arrays, objects of your own classes",
)


_BY_NAME: dict[str, Kind] = {
    **dict.fromkeys(
        (
            "_io._IOBase",
            "tempfile._TemporaryFileWrapper",
            "zipfile.ZipFile",
            "tarfile.TarFile",
            "posix.ScandirIterator",
        ),
        _FILE,
    ),
    **dict.fromkeys(
        ("_socket.socket", "socket.socket", "zmq.sugar.socket.Socket", "zmq.sugar.context.Context", "_ssl._SSLContext"),
        _SOCKET,
    ),
    **dict.fromkeys(
        (
            "_thread.lock",
            "_thread.RLock",
            "threading._RLock",
            "threading.Condition",
            "threading.Event",
            "threading.Semaphore",
            "threading.Barrier",
            "multiprocessing.synchronize.SemLock",
        ),
        _LOCK,
    ),
    **dict.fromkeys(
        ("builtins.generator", "builtins.coroutine", "builtins.async_generator", "builtins.coroutine_wrapper"),
        _GENERATOR,
    ),
    **dict.fromkeys(
        (
            "threading.Thread",
            "_thread._local",
            "queue.Queue",
            "_queue.SimpleQueue",
            "concurrent.futures._base.Future",
            "concurrent.futures._base.Executor",
            "subprocess.Popen",
            "multiprocessing.process.BaseProcess",
            "multiprocessing.pool.Pool",
            "_asyncio.Future",
            "_asyncio.Task",
            "asyncio.events.AbstractEventLoop",
        ),
        _THREAD,
    ),
    **dict.fromkeys(
        (
            "cupy.cuda.stream._BaseStream",
            "cupy.cuda.stream.Event",
            "numba.cuda.cudadrv.driver.Stream",
            "numba.cuda.cudadrv.driver.Event",
            "numba.cuda.simulator.api.stream",
            "numba.cuda.simulator.api.Event",
        ),
        _STREAM,
    ),
    **dict.fromkeys(
        (
            "cupy._core.core._ndarray_base",
            "cupy.ndarray",
            "numba.cuda.cudadrv.devicearray.DeviceNDArrayBase",
            "numba.cuda.simulator.cudadrv.devicearray.FakeCUDAArray",
        ),
        _DEVICE_ARRAY,
    ),
    **dict.fromkeys(
        ("_ctypes._Pointer", "_ctypes.CFuncPtr", "ctypes.c_void_p", "ctypes.c_char_p", "ctypes.CDLL", "mmap.mmap"),
        _POINTER,
    ),
    **dict.fromkeys(
        (
            "weakref.ReferenceType",
            "weakref.ProxyType",
            "weakref.CallableProxyType",
            "weakref.WeakKeyDictionary",
            "weakref.WeakValueDictionary",
        ),
        _WEAK,
    ),
    **dict.fromkeys(("builtins.frame", "builtins.traceback"), _FRAME),
    **dict.fromkeys(("_contextvars.ContextVar", "_contextvars.Context", "_contextvars.Token"), _CONTEXT),
    **dict.fromkeys(("plover.session.Session", "plover.client.futures.Future"), _SESSION),
    **dict.fromkeys(
        ("sqlite3.Connection", "sqlite3.Cursor", "sqlalchemy.engine.base.Engine", "sqlalchemy.engine.base.Connection"),
        _DATABASE,
    ),
    "numpy.ufunc": _UFUNC,
}
#: In-memory "files" pickle their content, and are meant to.
_IN_MEMORY = frozenset({"_io.StringIO", "_io.BytesIO"})
#: A class of another package whose name ends so is taken for a database's, once it has failed.
_DATABASE_SUFFIXES = ("Connection", "Cursor", "Engine", "Client")

#: Names that people know these types by.
_SHOWN = {
    "_thread.lock": "threading.Lock",
    "_thread.RLock": "threading.RLock",
    "_io._IOBase": "io.IOBase",
    "_socket.socket": "socket.socket",
    "_ctypes._Pointer": "ctypes pointer",
    "weakref.ReferenceType": "weakref.ref",
}


def _full_name(cls: type) -> str:
    return f"{getattr(cls, '__module__', '?')}.{cls.__qualname__}"


def type_name(cls: type) -> str:
    """A type's name as people write it."""
    name = _full_name(cls)
    if name in _SHOWN:
        return _SHOWN[name]
    module, _, rest = name.partition(".")
    if "<locals>." in name:
        name = f"{cls.__module__}.{name.rpartition('<locals>.')[2]}"
    if module in ("builtins", *SCRIPT):
        return rest.rpartition("<locals>.")[2]
    return name.removeprefix("_") if module in ("_io", "_queue", "_asyncio", "_contextvars") else name


def kind_of(cls: type) -> Kind | None:
    """The kind that instances of a class belong to, unless the class says itself how they travel."""
    for base in cls.__mro__:
        name = _full_name(base)
        if name in _IN_MEMORY:
            return None
        kind = _BY_NAME.get(name)
        if kind is not None:
            return None if kind.refused and cls in copyreg.dispatch_table else kind
        if says_how(base):
            return None
    if cls.__module__ not in ("builtins", *SCRIPT) and cls.__name__.endswith(_DATABASE_SUFFIXES):
        return _DATABASE
    return None


def says_how(cls: type) -> bool:
    """Whether the class has a way of its own, written in Python: C types have methods that only refuse."""
    own: Any = cls.__dict__
    return any(
        isinstance(own.get(name), types.FunctionType) for name in ("__reduce__", "__reduce_ex__", "__getstate__")
    )
