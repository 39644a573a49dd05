"""What goes wrong in a call, each by its name: the user's own exceptions, deaths, timeouts, cancelling, refusals."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import plover
from plover import gpu_function
from plover.wire import codec
from plover.wire import messages as m
from tests.support.blocking import blocker
from tests.support.daemons import PATIENCE_S, Daemon, Fifo, RawPeer, daemon, run_script

pytestmark = pytest.mark.usefixtures("session")

THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def _works() -> bool:
    return bool(gpu_function(lambda: "works")() == "works")


# -- the user's own ----------------------------------------------------------------------------------------------------


def test_an_exception_arrives_as_its_own_type_with_cause_notes_and_attributes() -> None:
    class Odd(Exception):
        def __init__(self, code: int, why: str) -> None:
            super().__init__(f"{code}-{why}")
            self.code = code

    @gpu_function
    def fail() -> None:
        try:
            {}["key"]  # type: ignore[index]
        except KeyError as error:
            told = Odd(7, "why")
            told.add_note("a note")
            raise told from error

    with pytest.raises(Odd) as caught:
        fail()
    assert (caught.value.code, str(caught.value)) == (7, "7-why")
    assert caught.value.__notes__ == ["a note"]
    assert type(caught.value.__cause__) is KeyError
    assert "fail" in [entry.name for entry in caught.traceback]


def test_exception_groups_arrive_whole() -> None:
    @gpu_function
    def fail() -> None:
        raise ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [KeyError("k")])])

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    assert [type(error) for error in caught.value.exceptions] == [ValueError, ExceptionGroup]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_what_would_end_a_process_ends_only_the_call(kind: type[BaseException]) -> None:
    @gpu_function
    def leave() -> tuple[int, int]:
        raise kind(3)

    @gpu_function
    def pid() -> int:
        return os.getpid()

    @gpu_function
    def stop() -> None:
        class Stop(BaseException):
            pass

        raise BaseExceptionGroup("both", [Stop("mine"), ValueError()])

    before = pid()
    with pytest.raises(kind):
        leave()
    with pytest.raises(BaseExceptionGroup) as caught:
        stop()
    assert [type(each).__name__ for each in caught.value.exceptions] == ["Stop", "ValueError"]
    assert pid() == before


def test_an_own_module_that_nothing_names_is_explained_in_a_note() -> None:
    name = "test_system_errors"

    @gpu_function
    def imports() -> None:
        __import__(name)

    with pytest.raises(ModuleNotFoundError) as caught:
        imports()
    assert caught.value.__notes__ == [
        "plover: 'test_system_errors' is a module of yours, but nothing that this call mentions by name imports it: write "
        "`import test_system_errors` in the function or in a module that it uses, so that it travels"
    ]


_TRACEBACK = """
import sys, plover
plover.connect(sys.argv[1])

def deeper(x):
    return 1 / x  # a line of the user's

@plover.gpu_function
def fail(x):
    return deeper(x)

fail(0)
"""


def test_a_script_prints_the_remote_frames_with_their_source(daemon: Daemon) -> None:
    status, _, errors = run_script(_TRACEBACK, daemon.address)
    assert status == 1
    for line in ("in deeper", "return 1 / x  # a line of the user's", "in fail", "return deeper(x)"):
        assert line in errors, errors
    assert errors.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "plover_runtime" not in errors


# -- deaths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "exit", "abort"])
def test_a_worker_that_dies_in_a_call_is_told_with_its_last_words_and_replaced(
    how: str, capfd: Any, daemon: Daemon
) -> None:
    @gpu_function
    def die() -> None:
        print("last words")
        sys.stdout.flush()
        if how == "exit":
            os._exit(3)
        elif how == "abort":
            ctypes.CDLL(None).abort()
        else:
            os.kill(os.getpid(), getattr(signal, how))

    future = die.submit()
    error = future.exception(PATIENCE_S)
    assert isinstance(error, plover.WorkerLost), error
    expected = {"SIGKILL": (None, 9), "SIGSEGV": (None, 11), "exit": (3, None), "abort": (None, 6)}[how]
    assert (error.exit_code, error.signal) == expected
    assert error.out_of_memory is False
    assert error.call_id == future.call_id
    assert error.output is not None
    assert error.output.splitlines()[0] == "last words"
    assert "last words" in str(error)
    assert "last words\n" in capfd.readouterr().out
    assert _works()
    said = f"exit code {error.exit_code}" if error.signal is None else f"killed by signal {error.signal} ("
    assert f" ended: {said}" in daemon.log()
    assert "None" not in daemon.log()


def test_retries_make_a_lost_call_succeed(tmp_path: Path) -> None:
    counter = str(tmp_path / "counter")

    @gpu_function(retries=2)
    def die_twice(x: Any) -> Any:
        with open(counter, "a") as file:
            file.write("x")
        x += 1  # the next attempt sees the original
        if os.path.getsize(counter) < 3:
            os._exit(1)
        return x, plover.current_call().attempt

    future = die_twice.submit(np.zeros(100_000))
    x, attempt = future.result(PATIENCE_S)
    assert (attempt, future.receipt.attempt) == (3, 3)
    assert np.all(x == 1)
    assert os.path.getsize(counter) == 3


def test_retries_end(tmp_path: Path) -> None:
    counter = str(tmp_path / "counter")

    @gpu_function(retries=1)
    def die() -> None:
        with open(counter, "a") as file:
            file.write("x")
        os._exit(1)

    with pytest.raises(plover.WorkerLost, match="It was tried 2 times and its worker died each time") as caught:
        die()
    assert "retries=" not in str(caught.value)
    assert os.path.getsize(counter) == 2


def test_a_users_exception_is_not_retried(tmp_path: Path) -> None:
    counter = str(tmp_path / "counter")

    @gpu_function(retries=5)
    def fail() -> None:
        with open(counter, "a") as file:
            file.write("x")
        raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert os.path.getsize(counter) == 1


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["loop", "sleep", "swallows"])
def test_a_run_past_its_timeout_is_stopped_and_the_device_is_free_again(how: str) -> None:
    @gpu_function(timeout=0.3)
    def spin() -> None:
        if how == "sleep":
            time.sleep(1000)
        while True:
            try:
                while True:
                    pass
            except BaseException:
                if how == "loop":
                    raise

    started = time.monotonic()
    with pytest.raises(plover.CallTimeout) as caught:
        spin()
    took = time.monotonic() - started
    assert (caught.value.phase, caught.value.limit_s) == ("run", 0.3)
    assert isinstance(caught.value, TimeoutError)
    assert 0.3 <= took < 10
    assert _works()


def test_waiting_past_the_queue_timeout_is_told_and_the_call_never_runs(fifos: list[Fifo], tmp_path: Path) -> None:
    ran = str(tmp_path / "ran")

    @gpu_function(queue_timeout=0.2)
    def touch() -> None:
        open(ran, "w").close()

    running = blocker().submit(fifos[0].path, fifos[1].path)
    fifos[0].wait()
    error = touch.submit().exception(PATIENCE_S)
    assert isinstance(error, plover.CallTimeout)
    assert (error.phase, error.limit_s) == ("queue", 0.2)
    fifos[1].say()
    assert running.result(PATIENCE_S) == "go\n"
    assert _works()
    assert not os.path.exists(ran)


# -- cancelling --------------------------------------------------------------------------------------------------------


def _await_tier(error: plover.CallCancelled) -> str | None:
    """The tier is known when the call has really ended: then the device is free, and a later call has run."""
    assert _works()
    return error.tier


def test_cancelling_what_waits_and_what_runs(fifos: list[Fifo], tmp_path: Path) -> None:
    ran = str(tmp_path / "ran")

    @gpu_function
    def touch() -> None:
        open(ran, "w").close()

    running = blocker().submit(fifos[0].path, fifos[1].path)
    fifos[0].wait()
    waiting = touch.submit()
    for future, tier in ((waiting, "queue"), (running, "interrupt")):
        assert future.cancel() is True
        assert future.cancel() is True
        assert future.cancelled()
        with pytest.raises(plover.CallCancelled) as caught:
            future.result()
        assert isinstance(caught.value, concurrent.futures.CancelledError)
        assert caught.value.call_id == future.call_id
        if future is running:
            assert _await_tier(caught.value) == tier
    assert waiting._cancelled_as.tier == "queue"
    assert not os.path.exists(ran)


def test_cancelling_what_swallows_every_exception_kills(fifos: list[Fifo]) -> None:
    @gpu_function
    def stubborn(begun: str) -> None:
        import os

        fifo = [os.open(begun, os.O_WRONLY)]
        while True:
            try:
                while fifo:  # in here, so that whatever comes from now on is swallowed
                    os.write(fifo.pop(), b"begun\n")
                while True:
                    pass
            except BaseException:
                continue

    future = stubborn.submit(fifos[0].path)
    fifos[0].wait()
    assert future.cancel()
    with pytest.raises(plover.CallCancelled) as caught:
        future.result()
    assert _await_tier(caught.value) == "kill"


def test_a_call_that_is_done_cannot_be_cancelled() -> None:
    future = gpu_function(lambda: 1).submit()
    assert future.result(PATIENCE_S) == 1
    assert future.cancel() is False
    assert not future.cancelled()


def test_cancelling_a_task_cancels_its_call(fifos: list[Fifo]) -> None:
    block = blocker()

    async def main() -> None:
        task = asyncio.ensure_future(block.aio(fifos[0].path, fifos[1].path))
        await asyncio.to_thread(fifos[0].wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert _works()  # on the one device: the call has ended


# -- what cannot be sent, or taken -------------------------------------------------------------------------------------


def test_what_cannot_travel_is_named_and_nothing_is_sent() -> None:
    lock = threading.Lock()

    @gpu_function
    def holds() -> Any:
        return lock

    @gpu_function
    def takes(*args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(plover.NotSerializable) as caught:
        holds()
    assert caught.value.path is not None
    assert "holds" in caught.value.path
    assert caught.value.path.endswith("→ closure 'lock' → threading.Lock")
    with pytest.raises(plover.NotSerializable, match="argument 1"):
        takes(1, lock)
    with pytest.raises(plover.NotSerializable, match="argument 'key'"):
        takes.submit(key=lock)
    with pytest.raises(plover.NotSerializable, match="argument 0"):
        asyncio.run(takes.aio(lock))


def test_a_result_that_cannot_travel_is_an_error_of_the_call() -> None:
    @gpu_function
    def lock() -> Any:
        import threading

        return threading.Lock()

    with pytest.raises(plover.NotSerializable) as caught:
        lock()
    assert str(caught.value) == (
        "cannot send lock → result → threading.Lock: a lock of one process locks nothing in another. "
        "Return what it protects, or leave it out of what its owner pickles (__getstate__)."
    )

    @gpu_function
    def items() -> Any:
        return (number for number in range(3))

    with pytest.raises(plover.NotSerializable, match=r"items → result → generator: .*Return its items: list\(…\)"):
        items()
    assert _works()


@pytest.mark.parametrize("options", [{"gpu": "H100"}, {"gpu": True}, {"gpu": 2}, {"require_gpu": True}])
def test_asking_for_a_gpu_where_all_is_simulated_is_refused_at_once(options: dict[str, Any], fifos: list[Fifo]) -> None:
    running = blocker().submit(fifos[0].path, fifos[1].path)
    fifos[0].wait()
    error = gpu_function(**options)(lambda: 1).submit().exception(PATIENCE_S)  # while the only device is busy
    assert isinstance(error, plover.NoCapacity)
    fifos[1].say()
    assert running.result(PATIENCE_S) == "go\n"


def test_require_gpu_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLOVER_REQUIRE_GPU", "1")
    with pytest.raises(plover.NoCapacity):
        gpu_function(lambda: 1)()
    monkeypatch.setenv("PLOVER_REQUIRE_GPU", "0")
    assert _works()


def test_an_environment_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(plover.NoCapacity, match="nowhere"):
        gpu_function(environment="nowhere")(lambda: 1)()


_SMALL = """
import sys
from pathlib import Path
from plover.daemon.config import DaemonConfig
from plover.daemon.run import serve
from plover.daemon.scheduler.config import Limits
serve(
    DaemonConfig(
        addresses=(sys.argv[1],),
        state_dir=Path(sys.argv[2]),
        devices="simulated:1",
        scheduler_limits=Limits(queued_calls_per_tenant=3),
    ),
    lambda: print("ready", flush=True),
)
"""


def test_a_full_queue_refuses_and_the_rest_goes_on(fifos: list[Fifo]) -> None:
    with daemon(program=_SMALL) as small, plover.connect(small.address):
        running = blocker().submit(fifos[0].path, fifos[1].path)
        fifos[0].wait()
        same = gpu_function(lambda x: x)
        futures = [same.submit(number) for number in range(5)]
        for future in futures[3:]:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, plover.NoCapacity)
            assert "queued_calls_per_tenant" in str(error)
        fifos[1].say()
        assert running.result(PATIENCE_S) == "go\n"
        assert [future.result(PATIENCE_S) for future in futures[:3]] == [0, 1, 2]
        assert same(6) == 6


def test_a_payload_of_another_python_is_refused_with_both_versions(daemon: Daemon) -> None:
    with RawPeer(daemon.address) as peer:
        peer.hello()
        body = codec.Body()
        arguments, payload = body.pack([b"arguments"]), body.pack([b"payload"])
        submit = m.Submit(1, b"d" * 32, "3.9", arguments, m.CallOptions(), payload, (), "f")
        peer.send(codec.write(submit, peer.incarnation, body))
        outcome = peer.hear()
    assert isinstance(outcome, m.Outcome)
    assert (outcome.status, outcome.error) == ("ended", "VersionMismatch")
    assert "3.9" in outcome.reason
    assert THIS_PYTHON in outcome.reason
    assert _works()


def test_a_payload_of_other_package_versions_is_refused_by_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import cuda

    from plover import versions

    made = versions.of_stamp()
    other = {**made, "numba-cuda": "99.1", "cupy": "99.2"}
    monkeypatch.setattr(versions, "stamp", lambda: versions._STAMP + msgspec.msgpack.encode(other))

    @gpu_function
    @cuda.jit
    def kernel(x: Any) -> None:
        x[0] = 1

    with pytest.raises(plover.VersionMismatch) as caught:
        kernel[1, 1](np.zeros(1))
    assert (caught.value.client, caught.value.daemon) == ("numba-cuda 99.1", f"numba-cuda {made['numba-cuda']}")
    assert "kernel was made with numba-cuda 99.1" in str(caught.value)
    assert "pip install 'numba-cuda==" in str(caught.value)
    assert _works()  # a function that holds no kernel, made with the same versions


def test_versions_that_do_no_harm_are_a_debug_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from plover import versions

    other = {**versions.of_stamp(), "numba-cuda": "99.1"}
    monkeypatch.setattr(versions, "stamp", lambda: versions._STAMP + msgspec.msgpack.encode(other))
    caplog.set_level("DEBUG")
    assert gpu_function(lambda: "a function of its own")() == "a function of its own"
    assert [r.levelname for r in caplog.records if "numba-cuda 99.1 and here" in r.getMessage()] == ["DEBUG"]
