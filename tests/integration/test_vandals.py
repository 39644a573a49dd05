"""A call that takes its worker apart harms nobody else's: what it changed is put back, or its worker is replaced."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from tests.support.daemons import Daemon, daemon


def empties_modules() -> None:
    import sys

    sys.modules.clear()


def rebinds_modules() -> None:
    import sys

    sys.modules = {}


def replaces_a_module() -> None:
    import sys

    sys.modules["pickle"] = None  # type: ignore[assignment]


def deletes_dumps() -> None:
    import pickle

    del pickle.dumps  # type: ignore[attr-defined]


def deletes_loads() -> None:
    import pickle

    del pickle.loads  # type: ignore[attr-defined]


def replaces_a_clock() -> None:
    import time

    time.monotonic = None  # type: ignore[assignment]


def deletes_write() -> None:
    import os

    del os.write, os._exit  # type: ignore[attr-defined]


def empties_finders() -> None:
    import sys

    sys.meta_path.clear()


def spoils_the_packer() -> str:
    import cloudpickle

    cloudpickle.Pickler.dump = None  # nothing looks at this; the call's own failure shows it
    raise ValueError("of its own")


def makes_the_packer_lie() -> str:
    import cloudpickle

    own = cloudpickle.Pickler.dump
    cloudpickle.Pickler.dump = lambda self, obj: own(self, {**obj, "text": []} if isinstance(obj, dict) else obj)
    raise ValueError("of its own")


def no_len() -> None:
    import builtins

    builtins.len = None  # type: ignore[assignment]


def no_streams() -> None:
    import sys

    sys.stdout = sys.stderr = sys.__stdout__ = sys.stdin = None  # type: ignore[assignment,misc]


def no_directory() -> None:
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)


def shallow() -> list[int]:
    import sys

    sys.setrecursionlimit(50)
    return [1]


def ignores_signals() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def sets_an_alarm() -> None:
    import signal

    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})


def breaks_hooks() -> None:
    import sys
    import threading

    threading.excepthook = None  # type: ignore[assignment]
    sys.excepthook = sys.unraisablehook = None  # type: ignore[assignment]
    sys.settrace(lambda *_: 1 / 0)  # type: ignore[arg-type,return-value]


def collects_no_garbage() -> None:
    import gc

    gc.disable()


def empties_the_environment() -> None:
    import os

    os.environ.clear()


def masks_everything() -> None:
    import os

    os.umask(0o777)


def silences_logging() -> None:
    import logging

    logging.disable(logging.CRITICAL)


def closes_descriptors() -> None:
    import os

    os.closerange(3, 1000)


@gpu_function(timeout=30)
def looks(array: Any) -> dict[str, Any]:
    """What a call can expect to find, and to be able to do."""
    import fractions
    import gc
    import importlib
    import logging
    import os
    import pickle
    import signal
    import subprocess
    import sys
    import threading
    import time

    logging.warning("logged")
    print("printed")
    with open("/dev/null") as file:
        file.read()
    mask = os.umask(0o22)
    os.umask(mask)

    def deep(n: int) -> int:
        return n and deep(n - 1)

    importlib.reload(fractions)
    return {
        "sum": float(array.sum()) + len("four") + deep(200),
        "modules": sys.modules["pickle"] is pickle and len(sys.modules) > 100,
        "pickle": pickle.loads(pickle.dumps([1])),
        "time": time.monotonic() > 0,
        "directory": os.getcwd() != "",
        "signals": callable(signal.getsignal(signal.SIGINT)) and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "hooks": callable(threading.excepthook) and callable(sys.excepthook),
        "gc": gc.isenabled(),
        "environment": "PATH" in os.environ,
        "umask": mask,
        "child": subprocess.run(["false"], check=False).returncode,
        "array": array * 2,
    }


VANDALS: list[Callable[[], Any]] = [
    value for name, value in list(globals().items()) if callable(value) and getattr(value, "__module__", "") == __name__
]
VANDALS.remove(looks)  # type: ignore[arg-type]
#: Those whose worker is put in order; that of the others is replaced.
MENDED = {
    no_len,
    no_streams,
    no_directory,
    shallow,
    ignores_signals,
    sets_an_alarm,
    breaks_hooks,
    collects_no_garbage,
    empties_the_environment,
    masks_everything,
    silences_logging,
}


def _told(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "array"}


@pytest.fixture(scope="module")
def own() -> Iterator[Daemon]:
    with daemon() as running, plover.connect(running.address):
        yield running


@pytest.mark.parametrize("vandal", VANDALS, ids=lambda vandal: vandal.__name__)
def test_the_next_call_works(
    vandal: Callable[[], Any],
    own: Daemon,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = gpu_function(os.getpid)
    expected = _told(looks(np.arange(4.0)))
    before = worker()
    with contextlib.suppress(Exception):  # its own call may fail, and says how in the tests below
        gpu_function(vandal, timeout=30)()
    capsys.readouterr()
    caplog.clear()
    log = own.log()
    after = looks(np.arange(4.0))
    assert _told(after) == expected
    assert after["array"].tolist() == [0.0, 2.0, 4.0, 6.0]
    assert capsys.readouterr() == ("printed\n", "")
    assert [record.getMessage() for record in caplog.records] == ["logged"]
    assert (worker() == before) is (vandal in MENDED)
    assert "Traceback" not in own.log()[len(log) :]


@pytest.mark.parametrize(
    ("vandal", "reason"),
    [
        (deletes_loads, r"deletes_loads \(.*\) took apart what its worker needs: it deleted or replaced pickle.loads"),
        (empties_modules, "it emptied sys.modules, or replaced what is in there"),
        (empties_finders, "it emptied sys.meta_path, so that nothing can be imported"),
        (spoils_the_packer, "since then sending a value fails with TypeError: 'NoneType'"),
        (makes_the_packer_lie, "since then what is sent arrives changed"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_the_daemons_log_says_why_a_worker_was_replaced(vandal: Callable[[], Any], reason: str, own: Daemon) -> None:
    already = len(own.log())
    with contextlib.suppress(Exception):
        gpu_function(vandal)()
    looks(np.arange(4.0))
    assert re.search(reason, own.log()[already:]), own.log()[already:]


def test_a_worker_whose_descriptors_were_closed_says_so(own: Daemon) -> None:
    with pytest.raises(plover.WorkerLost) as lost:
        gpu_function(closes_descriptors)()
    assert "closes_descriptors" in lost.value.output
    assert "closed descriptors that are its worker's: no result can be sent (OSError" in str(lost.value)
    assert "Close only what the function itself opened (no os.closerange)" in str(lost.value)
    assert "Traceback" not in str(lost.value)


def test_a_worker_that_cannot_send_says_so(own: Daemon) -> None:
    def breaks() -> None:
        import os

        os.dup2 = None  # type: ignore[assignment]
        import msgspec

        msgspec.structs.replace = None  # type: ignore[assignment]
        import logging

        logging.warning("a record, of which the result says that it is there")

    with pytest.raises(plover.WorkerLost, match="broke its worker: no result can be sent") as lost:
        gpu_function(breaks)()
    assert "leave the standard library as it is" in str(lost.value)
    assert looks(np.arange(4.0))["sum"] == 10.0
