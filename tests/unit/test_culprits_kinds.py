"""What cannot travel: what is said to do, kind by kind, each for the real thing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import copyreg
import ctypes
import io
import logging
import mmap
import os
import pickle
import queue
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plover
from plover import serialize
from plover.client.futures import Future
from plover.errors import NotSerializable
from plover.pickling import advice
from tests.support.preconditions import needs_module


def told(function: Any) -> NotSerializable:
    """What is said about a function that cannot travel."""
    with pytest.raises(NotSerializable) as caught:
        serialize.pack_function(function)
    error = caught.value
    assert error.path is not None
    assert str(error).startswith(f"cannot send {error.path}: ")
    assert isinstance(error.__context__, Exception)
    return error


def script(source: str, **names: Any) -> dict[str, Any]:
    """The globals of a script: what is defined in it goes by value."""
    scope: dict[str, Any] = {"__name__": "__main__", "threading": threading, **names}
    exec(textwrap.dedent(source), scope)
    return scope


def told_of_result(value: Any) -> str:
    try:
        serialize.pack_result("f", value, ())
    except NotSerializable as error:
        return str(error)
    raise AssertionError("it can be sent")


def using(value: Any) -> Any:
    return script("def f(): return thing", thing=value)["f"]


def _generator() -> Iterator[int]:
    yield 1


async def _coroutine() -> None: ...


def _closed(coroutine: Any) -> Any:
    coroutine.close()
    return coroutine


def _foreign(name: str, cls: str) -> Any:
    """An instance of a class that cannot be made without a device."""
    __import__(name)
    found: Any = getattr(sys.modules[name], cls)
    return object.__new__(found) if found.__flags__ & (1 << 9) and "cupy" not in name else found.__new__(found)


def _registered() -> types.ModuleType:
    module = types.ModuleType("made_by_hand")
    sys.modules["made_by_hand"] = module
    return module


class Single:
    def __reduce__(self) -> str:
        return "SINGLE"


class Silent:
    """Says itself how it travels, and cannot."""

    def __reduce__(self) -> Any:
        raise ValueError("no way")


def _nested() -> Any:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    return value


_FILE, _SOCKET, _LOCK, _THREAD = "Open it inside", "connect inside", "locks nothing", "Start them inside"
_ON_DEVICE, _NUMPY, _POINTER, _WEAK = (
    "on the worker's device",
    "Pass a NumPy array",
    "the data it points to",
    "the object itself",
)
KINDS: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: open(os.devnull), "io.TextIOWrapper", _FILE),
    (lambda: open(os.devnull, "rb"), "io.BufferedReader", _FILE),
    (lambda: open(os.devnull, "wb", buffering=0), "io.FileIO", _FILE),
    (tempfile.NamedTemporaryFile, "tempfile._TemporaryFileWrapper", _FILE),
    (lambda: os.scandir("/"), "posix.ScandirIterator", _FILE),
    (socket.socket, "socket.socket", _SOCKET),
    (threading.Lock, "threading.Lock", _LOCK),
    (threading.RLock, "threading.RLock", _LOCK),
    (threading.Condition, "threading.Condition", _LOCK),
    (threading.Event, "threading.Event", _LOCK),
    (lambda: threading.Barrier(2), "threading.Barrier", _LOCK),
    (_generator, "generator", "Pass its items"),
    (lambda: _closed(_coroutine()), "coroutine", "Pass its items"),
    (lambda: threading.Thread(target=print), "threading.Thread", _THREAD),
    (threading.local, "_thread._local", _THREAD),
    (queue.Queue, "queue.Queue", _THREAD),
    (queue.SimpleQueue, "queue.SimpleQueue", _THREAD),
    (concurrent.futures.Future, "concurrent.futures._base.Future", _THREAD),
    (lambda: concurrent.futures.ThreadPoolExecutor(1), "concurrent.futures.thread.ThreadPoolExecutor", _THREAD),
    (lambda: subprocess.Popen(["true"]), "subprocess.Popen", _THREAD),
    (asyncio.new_event_loop, "asyncio.unix_events._UnixSelectorEventLoop", _THREAD),
    (lambda: _foreign("cupy.cuda.stream", "Event"), "cupy.cuda.stream.Event", _ON_DEVICE),
    (lambda: _foreign("numba.cuda.cudadrv.driver", "Stream"), "numba.cuda.cudadrv.driver.Stream", _ON_DEVICE),
    (lambda: _foreign("numba.cuda.cudadrv.driver", "Event"), "numba.cuda.cudadrv.driver.Event", _ON_DEVICE),
    (
        lambda: _foreign("numba.cuda.cudadrv.devicearray", "DeviceNDArray"),
        "numba.cuda.cudadrv.devicearray.DeviceNDArray",
        _NUMPY,
    ),
    (lambda: ctypes.pointer(ctypes.c_int(1)), "LP_c_int", _POINTER),
    (lambda: ctypes.c_void_p(1), "ctypes.c_void_p", _POINTER),
    (lambda: ctypes.CFUNCTYPE(None)(print), "CFunctionType", _POINTER),
    (lambda: ctypes.CDLL(None), "ctypes.CDLL", _POINTER),
    (lambda: mmap.mmap(-1, 10), "mmap.mmap", _POINTER),
    (lambda: weakref.ref(Single), "weakref.ref", _WEAK),
    (lambda: weakref.WeakValueDictionary(), "weakref.WeakValueDictionary", _WEAK),
    (lambda: sqlite3.connect(":memory:"), "sqlite3.Connection", "Fetch the data here"),
    (lambda: sqlite3.connect(":memory:").cursor(), "sqlite3.Cursor", "Fetch the data here"),
    (sys._getframe, "frame", "traceback.format_tb"),
    (lambda: contextvars.ContextVar("v"), "contextvars.ContextVar", "Pass its value"),
    (contextvars.copy_context, "contextvars.Context", "Pass its value"),
    (lambda: plover.session.Session(), "plover.session.Session", "Wait here and pass the result"),
    (lambda: Future("c-1"), "plover.client.futures.Future", "Wait here and pass the result"),
    (lambda: np.frompyfunc(abs, 1, 1), "numpy.ufunc", "numba.vectorize"),
    (_registered, "module 'made_by_hand'", "Put the code into a file"),
    (lambda: memoryview(np.zeros(3, "V8")), "memoryview", "numpy.asarray(view)"),
    (Silent, "test_culprits_kinds.Silent", "Mend its __reduce__"),
    (_nested, "list", "Pass it in a flat form"),
    (lambda: type("Shut", (), {"__slots__": (), "__getstate__": None})(), "Shut", "Create it inside the function"),
]


class TestKinds:
    """Every advice is given for the real thing, or for an instance of its real class where that takes a device."""

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(("make", "name", "remedy"), KINDS, ids=[f"{n}-{k[1]}" for n, k in enumerate(KINDS)])
    def test_what_is_said(self, make: Callable[[], Any], name: str, remedy: str) -> None:
        value = make()
        try:
            error = told(using(value))
            assert error.path is not None
            assert error.path.endswith(name) or error.path.endswith(f".{name}"), error.path
            assert remedy in str(error)
            returned = told_of_result([value])
            assert returned.startswith("cannot send f → result → [0] → ")
            kinds = [kind for kind in vars(advice).values() if isinstance(kind, advice.Kind)]
            assert any(returned.endswith(f". {kind.returned}.") for kind in kinds if remedy in f"{kind}")
        finally:
            sys.modules.pop("made_by_hand", None)
            if hasattr(value, "close"):
                value.close()
            if isinstance(value, subprocess.Popen):
                value.wait()

    def test_no_result_is_to_be_passed_or_created_inside(self) -> None:
        for kind in vars(advice).values():
            if isinstance(kind, advice.Kind):
                assert "Pass" not in kind.returned
                assert "reate it inside" not in kind.returned

    def test_every_kind_has_its_test(self) -> None:
        said = {kind.remedy for kind in vars(advice).values() if isinstance(kind, advice.Kind)}
        tested = {remedy for remedy in said for _, _, known in KINDS if known in remedy}
        assert said - tested == {advice.MAIN_ONLY.remedy}  # the next test

    def test_a_global_of_the_script_by_name_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        main = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", main)
        monkeypatch.setattr(Single, "__module__", "__main__")
        main.SINGLE = Single()  # type: ignore[attr-defined]
        error = told(using([main.SINGLE]))  # type: ignore[attr-defined]
        assert error.path == "f → global 'thing' → [0] → Single"
        assert "Give its class a __reduce__" in str(error)

    def test_a_stream_of_cupy(self) -> None:
        cupy = needs_module("cupy")
        error = told(using(cupy.cuda.Stream.null))
        assert error.path == "f → global 'thing' → cupy.cuda.stream.Stream"
        kind = advice.kind_of(cupy.ndarray)  # none can be made without a GPU
        assert kind is not None
        assert _NUMPY in kind.remedy

    def test_device_arrays_of_numbas_simulator(self) -> None:
        source = """
            import numpy as np
            from numba import cuda
            from plover import NotSerializable, serialize
            for make in (lambda: cuda.to_device(np.ones(3)), cuda.stream, cuda.event):
                try:
                    serialize.pack_arguments("f", (make(),), {})
                except NotSerializable as error:
                    print(error)
        """
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(source)],
            env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        array, stream, event = done.stdout.splitlines()
        assert "argument 0 → numba.cuda.simulator.cudadrv.devicearray.FakeCUDAArray: a device array" in array
        assert "Pass a NumPy array" in array
        assert all("a CUDA stream or event" in line for line in (stream, event))

    def test_a_text_file_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.txt"
        path.write_text("secret")
        with path.open() as file, pytest.raises(NotSerializable):
            serialize.pack(file)

    def test_what_means_the_same_elsewhere_travels(self) -> None:
        value = [sys.stdout, io.StringIO("text"), io.BytesIO(b"bytes"), logging.getLogger("x"), memoryview(b"abc")]
        out, text, data, logger, view = serialize.unpack(serialize.pack(value))
        assert out is sys.stdout
        assert (text.getvalue(), data.getvalue(), logger, bytes(view)) == ("text", b"bytes", value[3], b"abc")

    def test_a_class_that_says_how_it_travels_is_asked(self) -> None:
        class Job(threading.Thread):
            def __reduce__(self) -> Any:
                return str, ("a job",)

        class Handle(io.FileIO):
            pass

        assert serialize.unpack(serialize.pack(Job())) == "a job"
        copyreg.pickle(Handle, lambda handle: (str, ("a handle",)))  # type: ignore[arg-type,return-value]
        try:
            with Handle(os.devnull) as handle:
                assert serialize.unpack(serialize.pack(handle)) == "a handle"
        finally:
            del copyreg.dispatch_table[Handle]

    def test_a_refusal_is_an_error_of_pickles_and_of_plovers(self) -> None:
        with pytest.raises(pickle.PicklingError) as caught:
            serialize.pack(threading.Lock())
        assert isinstance(caught.value, NotSerializable)
        assert caught.value.path == "threading.Lock"
