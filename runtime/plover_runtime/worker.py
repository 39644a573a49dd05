"""A worker: one process, one open device, one call at a time on its main thread.

It was forked from its zygote with stdout, stderr, a status page and a line to the daemon, all made by the daemon. It opens
the device, says hello, and then runs what it is sent until it is killed, its device breaks, or the daemon hangs up.

Guarantees: a call's output is complete, and marked as such in both pipes, before its result is sent. An interrupt is raised
only in the attempt that it is meant for. A worker whose device or interpreter is broken says so and ends without
destructors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any, NoReturn

import msgspec

from plover import context
from plover.versions import versions
from plover.wire import codec, markers
from plover.wire import messages as m
from plover.wire.page import StatusPage, pack
from plover.wire.stream import HungUp, Stream
from plover_runtime import fitness, segments, tidy
from plover_runtime.admission import Unfit
from plover_runtime.device import open_device
from plover_runtime.heap import Heap
from plover_runtime.invoke import Interrupted, Invoker, PayloadAbsent
from plover_runtime.modules import BundlesAbsent, Modules
from plover_runtime.records import Records

#: After a call a worker waits awake for so long, yielding to whoever has work. Where idle cores sleep, a caller's next call
#: is answered up to a third sooner (benchmarks/calls.py); with a call every 10 ms it costs a twentieth of a core.
_EAGER_S = 0.0005
_exit = os._exit


def main(prepare: m.Prepare, fork: m.Fork, records_fd: int, page_fd: int, line_fd: int, segments_fd: int) -> NoReturn:
    """Be a worker, until the daemon or the device ends it."""
    context.enter_worker()
    tidy.without_terminal()
    page = StatusPage(page_fd)
    os.close(page_fd)
    signal.signal(signal.SIGINT, _interrupter(page))
    started = time.monotonic()
    heap = Heap()
    device = open_device(prepare.device_kind, prepare.devices)
    output = _Output(fork.marker)
    records = Records(records_fd)
    limit_bytes = prepare.payload_limit_bytes + codec.HEADER_LIMIT
    line = Stream(socket.socket(fileno=line_fd), "daemon", limit_bytes, codec.FRAMES_LIMIT + 1, _EAGER_S)
    line.send(codec.write(m.WorkerHello(os.getpid(), versions(), time.monotonic() - started)))
    shared = segments.of_worker(socket.socket(fileno=segments_fd), device)
    invoker = Invoker(device, page, prepare.payload_limit_bytes, Modules(prepare.cache_directory), shared)
    tidy.remember()
    while True:
        try:
            frames = line.receive()
        except HungUp:
            _exit(0)  # the daemon is gone, or does not want this worker any more
        assert frames is not None, "a line that blocks gives whole messages"
        incoming = codec.TO_WORKER.read(frames)
        run = incoming.message
        records.begin(pack(run.call, run.attempt), run.log_level)
        try:
            finished, body = invoker.run(incoming)
        except PayloadAbsent:
            line.send(codec.write(m.PayloadMissing(run.call, run.attempt), incoming.incarnation))
            continue
        except BundlesAbsent as absent:
            missing = m.BundlesMissing(run.call, run.attempt, absent.digests)
            line.send(codec.write(missing, incoming.incarnation))
            continue
        except Unfit as unfit:
            _leave(line, codec.write(m.Unwell(str(unfit)), incoming.incarnation))
        try:
            output.complete(pack(run.call, run.attempt))
            if records.used:
                finished = msgspec.structs.replace(finished, records=True)
            line.send(codec.write(finished, incoming.incarnation, body))
            output.restore()
            tidy.put_back()
        except HungUp:
            _exit(0)
        except Exception as error:
            _say_why(run, error)
            _exit(1)
        unwell = invoker.unwell or _harm(run, finished, invoker.harm)
        if unwell is not None:
            _leave(line, codec.write(m.Unwell(unwell), incoming.incarnation))
        del frames, incoming, finished, body
        heap.trim()


def _harm(run: m.Run, finished: m.Finished, harm: str | None) -> str | None:
    """What a call did to its worker's interpreter that makes another worker necessary."""
    if harm is None:
        harm = fitness.damage()
    if harm is None and finished.status != "succeeded":
        harm = fitness.test()
    return f"{run.name} ({run.call_id}) took apart what its worker needs: {harm}" if harm is not None else None


def _say_why(run: m.Run, error: Exception) -> None:
    """The last line of a worker that cannot hand over a result, for `WorkerLost`; past `sys.stderr`, which may be gone."""
    how = (
        "closed descriptors that are its worker's" if getattr(error, "errno", 0) == errno.EBADF else "broke its worker"
    )
    text = f"plover: {run.name} ({run.call_id}) {how}: no result can be sent ({type(error).__name__}: {error}). "
    text += "Close only what the function itself opened (no os.closerange), and leave the standard library as it is\n"
    with contextlib.suppress(Exception):
        os.write(2, text.encode(errors="replace"))


def _leave(line: Stream, last: list[Any]) -> NoReturn:
    """Say why this worker is of no more use, and end."""
    with contextlib.suppress(Exception):
        line.send(last)
    _exit(1)  # destructors of a broken context hang


def _interrupter(page: StatusPage):  # type: ignore[no-untyped-def]
    def handle(signum: int, frame: FrameType | None) -> None:
        if page.running_is_cancelled():
            raise Interrupted

    return handle


class _Output:
    """The worker's end of its output pipes (private duplicates, which a user's `dup2` does not reach), and its directory."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self._fds = (os.dup(1), os.dup(2))
        self._streams = [sys.stdout, sys.stderr]
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY)
        self._libc = ctypes.CDLL(None)

    def complete(self, attempt: int) -> None:
        """Everything that the attempt wrote is in the pipes, and its marker behind it."""
        for stream in {id(each): each for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)}.values():
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):  # closed by the user's code: then there is nothing to flush
                continue
        self._libc.fflush(None)
        marker = markers.make(self._word, attempt)
        for fd in self._fds:
            os.write(fd, marker)

    def restore(self) -> None:
        """The next attempt writes where this one was to, and begins where it began, whatever this one closed or changed."""
        os.fchdir(self._directory)
        for index, (fd, name) in enumerate(zip(self._fds, ("stdout", "stderr"), strict=True)):
            os.dup2(fd, index + 1)
            if self._streams[index].closed:
                self._streams[index] = io.TextIOWrapper(
                    open(index + 1, "wb", buffering=0, closefd=False),  # noqa: SIM115  (for the process's life)
                    encoding="utf-8",
                    errors="backslashreplace",
                    line_buffering=True,
                    write_through=True,
                )
            setattr(sys, name, self._streams[index])
