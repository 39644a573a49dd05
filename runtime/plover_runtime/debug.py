"""The foreground worker of `plover.debug`: one call, with the terminal.

Guarantees: the same device, classes and reducers as in a worker of a daemon. SIGINT is Python's own, so that it stops the
call, or is the debugger's. Leaving the debugger ends the call, in one line.

Assumes: it was started by `plover.debugging`, with a directory that holds the call.
"""

from __future__ import annotations

import bdb
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

import plover
from plover import context
from plover.debugging import DebugCall, DebugOutcome
from plover.errors import CallCancelled
from plover.exceptions import pack_exception
from plover.serialize import ClassNamespace, pack_result, unpack
from plover.wire.messages import Receipt
from plover_runtime import debugger
from plover_runtime.admission import admit
from plover_runtime.device import Device, open_device, preload
from plover_runtime.modules import Modules

_SIMULATED_BYTES = 8 << 30
_OURS = (str(Path(__file__).parent) + os.sep, str(Path(plover.__file__).parent) + os.sep)


def main(directory: str) -> None:
    """Run the call that lies in a directory, and leave its outcome there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent ignores it
    path = Path(directory)
    call = msgspec.msgpack.decode((path / "call").read_bytes(), type=DebugCall)
    cuda = call.cuda or bool(os.environ.get("PLOVER_DEVICES", "").startswith("cuda"))
    preload("cuda" if cuda else "simulated", _SIMULATED_BYTES)
    device = open_device("cuda" if cuda else "simulated", ("cuda:0",) if cuda else ("simulated:0",))
    context.enter_worker()
    debugger.install(_is_ours)
    outcome = _outcome(call, device, Modules(path / "modules"))
    sys.stdout.flush()
    part = path / "outcome.part"
    part.write_bytes(msgspec.msgpack.encode(outcome))
    part.rename(path / "outcome")


def _outcome(call: DebugCall, device: Device, modules: Modules) -> DebugOutcome:
    classes = ClassNamespace()
    times = [time.monotonic()] * 3
    failed = False
    try:
        refusal = admit(modules, call.modules, call.bundles)
        if refusal is not None:
            raise refusal
        with classes.entered():
            target = unpack([call.function[0], *map(bytearray, call.function[1:])])
            args, kwargs = unpack([call.arguments[0], *map(bytearray, call.arguments[1:])])
        context.set_current(context.CurrentCall("debug", 1, call.name, ", ".join(device.names), device.simulated, {}))
        times[1] = time.monotonic()
        try:
            value = target(*args, **kwargs)
        except bdb.BdbQuit:
            raise CallCancelled(f"{call.name} was left in the debugger, before it had ended") from None
        finally:
            sys.settrace(None)  # a debugger that goes step by step has no business beyond the user's function
        device.synchronize()
        times[2] = time.monotonic()
        with classes.entered():
            packed = pack_result(call.name, value, (device.reduce, classes.reduce))
    except BaseException as error:
        failed = True
        with classes.entered():
            packed = pack_exception(_alone(error), (device.reduce, classes.reduce), _is_ours)
    receipt = Receipt(
        load_s=times[1] - times[0],
        run_s=max(0.0, times[2] - times[1]),
        worker=f"foreground worker (pid {os.getpid()})",
        devices=device.names,
        attempt=1,
        warm=False,
        simulated=device.simulated,
    )
    return DebugOutcome(failed, [bytes(buffer) for buffer in packed], receipt)


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)


def _alone(error: BaseException) -> BaseException:
    """An error that this file raised says all in its text."""
    return error.with_traceback(None) if isinstance(error, CallCancelled) else error
