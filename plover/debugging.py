"""`plover.debug`: one call in a foreground worker that has the terminal, so that `breakpoint()` and `print` work in it.

Guarantees: the call is packed, loaded, run and brought back as any other, in a fresh process of this machine, on a simulated
device or on its GPU; only daemon and sockets are left out, and time limits. Nothing is left of the process.

Assumes: Linux; `plover_runtime` is installed here, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from plover import serialize
from plover.bundles.format import BundleSet
from plover.bundles.needed import needed
from plover.errors import WorkerLost
from plover.tracebacks import leave_out_ours
from plover.wire.messages import Receipt

if TYPE_CHECKING:
    from plover.client.futures import Future
    from plover.remote import CallRequest

__all__ = ["DebugCall", "DebugOutcome", "debug"]

P = ParamSpec("P")
R = TypeVar("R")


class DebugCall(msgspec.Struct, frozen=True):
    """What the foreground worker is given, as MessagePack: the packed function and arguments, their name, and the author's
    own modules.
    """

    name: str
    function: list[bytes]
    arguments: list[bytes]
    cuda: bool
    modules: BundleSet = BundleSet()
    bundles: dict[bytes, bytes] = {}


class DebugOutcome(msgspec.Struct, frozen=True):
    """What it leaves: a packed value, or a packed exception."""

    failed: bool
    packed: list[bytes]
    receipt: Receipt


def debug(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function, or launch a kernel, in a foreground worker that has this terminal.

    ``breakpoint()`` opens pdb there, in functions and in simulated kernels; what is printed appears as it is written.

    Args:
        function: a `gpu_function`, a kernel with its launch configuration, or a plain function.
        *args: its own.
        **kwargs: its own.

    Returns:
        What a call returns.

    Raises:
        BaseException: what the function raised.
        NotSerializable: it, or an argument, cannot travel: here as in any other call.
        WorkerLost: the process ended without an outcome.

    Example:
        ``plover.debug(add[1, 32], x, y, out)``
    """
    from plover.session import remote

    future: Future[R] | None = None
    try:
        future = remote(function)._begin(args, kwargs, waits=True, session=_Foreground())
        return future.result()
    except BaseException as error:
        leave_out_ours(error, (future,) if future is not None else ())
        raise


class _Foreground:
    """Takes a call in place of a session, and runs it to its end."""

    def send(self, request: CallRequest, /) -> Future[Any]:
        from plover.client.futures import Future

        payload, options = request.payload, request.options
        buffers, classes, names = serialize.pack_arguments(payload.name, request.args, request.kwargs)
        asked = options.gpu is not None or options.require_gpu
        call = DebugCall(payload.name, _plain(payload.buffers), _plain(buffers), asked)
        modules = needed(payload.names, names)
        if modules is not None:
            bundles = {digest: bundle.encode() for digest, bundle in modules.bundles.items()}
            call = msgspec.structs.replace(call, modules=modules.wanted, bundles=bundles)
        outcome = _run(call)
        future: Future[Any] = Future("debug")
        future._keep = (payload.classes, classes)
        future._finish = request.finish
        packed: list[serialize.Buffer] = [outcome.packed[0], *map(bytearray, outcome.packed[1:])]
        future.deliver(outcome.failed, packed, outcome.receipt)
        return future


def _plain(buffers: list[Any]) -> list[bytes]:
    return [bytes(buffer) for buffer in buffers]


def _run(call: DebugCall) -> DebugOutcome:
    import subprocess  # 15 ms with what they import, and few programs come here
    import tempfile

    with tempfile.TemporaryDirectory(prefix="plover-debug-") as directory:
        path = Path(directory)
        (path / "call").write_bytes(msgspec.msgpack.encode(call))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        code = "import sys; sys.path += sys.argv.pop(1).split('|'); from plover_runtime.debug import main; main(sys.argv[1])"
        with _terminal_is_the_childs():
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, "|".join(_import_paths()), directory], env=environment
            )
            status = process.wait()
        try:
            return msgspec.msgpack.decode((path / "outcome").read_bytes(), type=DebugOutcome)
        except FileNotFoundError:
            raise WorkerLost(
                f"the foreground worker of {call.name} ended without an outcome, with status {status}: "
                "it was killed, or left by quit() in the debugger",
                exit_code=status if status >= 0 else None,
                signal=-status if status < 0 else None,
            ) from None


@contextlib.contextmanager
def _terminal_is_the_childs() -> Iterator[None]:
    """Ctrl-C is for the debugger, not for who waits for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _import_paths() -> list[str]:
    from plover.embedded import import_paths

    return import_paths()
