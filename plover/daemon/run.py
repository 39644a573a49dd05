"""A daemon from its configuration to its end: what `plover start` and the embedded default both call.

Guarantees: whatever keeps it from starting is a `PloverError` or an OSError with a readable text, raised before anything was
started. SIGTERM stops, SIGINT drains and then stops, the parent's death stops. Assumes: it is called on the main thread.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from plover import addresses
from plover.daemon.config import DaemonConfig
from plover.daemon.devices import find_devices
from plover.daemon.launchers.process import ProcessLauncher
from plover.daemon.scheduler import events as e
from plover.daemon.scheduler.config import Environment, SchedulerConfig
from plover.daemon.scheduler.scheduler import Scheduler
from plover.daemon.shell import Shell
from plover.errors import AccessDenied, PloverError
from plover.versions import PYTHON

__all__ = ["embedded", "serve"]

log = logging.getLogger("plover.daemon")


def serve(config: DaemonConfig, on_ready: Callable[[], None] = lambda: None) -> None:
    """Run a daemon until it has been told to end, and has.

    Args:
        config: how it is to run.
        on_ready: called once, when clients can connect.

    Raises:
        AccessDenied: a socket's directory is not private, or another daemon serves there.
        DeviceError: the devices that were asked for cannot be had.
        PloverError: the launcher is not built yet.
    """
    if config.launcher != "process":
        raise PloverError(f"the launcher {config.launcher!r} is not built yet: start with `--launcher process`")
    devices = find_devices(config.devices, config.simulated_memory_bytes)
    addresses.make_directory(config.state_dir)
    secret = _claim(config)
    scheduler = Scheduler(
        SchedulerConfig(devices=devices, environments=(Environment("default", PYTHON),), limits=config.scheduler_limits)
    )
    launcher = ProcessLauncher(config.state_dir)
    shell = Shell(config, devices, scheduler, launcher, secret)
    try:
        _listen_to_signals(shell)
        if config.parent_fd is not None:
            shell.watch(config.parent_fd, shell.leave)
        log.info(
            "daemon %d serves %s on %s", os.getpid(), ", ".join(config.addresses), ", ".join(d.id for d in devices)
        )
        on_ready()
        shell.run()
    finally:
        shell.close()
        log.info("daemon %d has ended", os.getpid())


def embedded(directory: str, parent_fd: str, ready_fd: str) -> None:
    """The embedded daemon's main function; its arguments come from `plover.embedded`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    ready = int(ready_fd)
    os.set_inheritable(ready, False)
    os.set_inheritable(int(parent_fd), False)
    path = Path(directory)
    config = DaemonConfig(
        addresses=(f"ipc://{path / addresses.SOCKET_NAME}",),
        state_dir=path,
        devices=os.environ.get("PLOVER_DEVICES") or None,
        parent_fd=int(parent_fd),
    )

    def say(**what: str) -> None:
        os.write(ready, json.dumps(what).encode() + b"\n")
        os.close(ready)

    try:
        serve(config, on_ready=lambda: say(ok="yes"))
    except (PloverError, OSError) as error:
        say(error=str(error))
        sys.exit(1)


def _claim(config: DaemonConfig) -> bytes:
    """Make the sockets' directories private to this user, and write a fresh secret into each."""
    directories: list[Path] = []
    for address in config.addresses:
        path = addresses.socket_path(address)
        addresses.make_directory(path.parent)
        if path.exists() and addresses.is_alive(path):
            raise AccessDenied(
                f"a daemon serves {address} already: stop it with `plover stop`, or bind another address"
            )
        directories.append(path.parent)
    return addresses.new_secret(dict.fromkeys(directories))


def _listen_to_signals(shell: Shell) -> None:
    """Signals become events on the loop."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)  # for the rest of the process's life

    def take() -> None:
        for number in reading.recv(64):
            shell.happen(e.StopRequested() if number == signal.SIGTERM else e.DrainRequested())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    shell.watch(reading.fileno(), take)
