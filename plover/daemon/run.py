"""A daemon from its configuration to its end: what `plover start` and the embedded default both call.

Guarantees: whatever keeps it from starting is a `PloverError` or an OSError with a readable text, raised before anything was
started. SIGTERM stops, SIGINT drains and then stops, the parent's death stops. Assumes: it is called on the main thread.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from plover import addresses
from plover.daemon import descriptors
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


def serve(
    config: DaemonConfig,
    on_ready: Callable[[], None] = lambda: None,
    on_bound: Callable[[tuple[str, ...]], None] = lambda _: None,
) -> None:
    """Run a daemon until it has been told to end, and has.

    Args:
        config: how it is to run.
        on_ready: called once, when clients can connect.
        on_bound: called just before, with the addresses; tcp ones with the ports that they got.

    Raises:
        AccessDenied: a socket's directory is not private, another daemon serves there, or a key file is open to others.
        DeviceError: the devices that were asked for cannot be had.
        PloverError: the launcher is not built yet, a tcp address cannot be bound, or too few files may be open.
    """
    if config.launcher != "process":
        raise PloverError(f"the launcher {config.launcher!r} is not built yet: start with `--launcher process`")
    config = _with_own_socket(config)
    devices = find_devices(config.devices, config.simulated_memory_bytes)
    soft, hard = descriptors.raise_limit()
    budget = descriptors.budget(hard, len(devices), config.limits.connections)
    directories = _socket_directories(config)
    addresses.make_directory(config.state_dir)
    lock = _lock(config.state_dir)
    secret = addresses.secret_for(directories)
    scheduler = Scheduler(
        SchedulerConfig(devices=devices, environments=(Environment("default", PYTHON),), limits=config.scheduler_limits)
    )
    launcher = ProcessLauncher(config.state_dir, open_files=soft)
    try:
        shell = Shell(config, devices, scheduler, launcher, secret, budget)
    except BaseException:
        launcher.close()
        raise
    shell.config = config = msgspec.structs.replace(config, addresses=_for_clients(shell, config))
    try:
        shell.lending.listen(_socket_paths(config))
        _let_guests_in(shell)
        _listen_to_signals(shell)
        if config.parent_fd is not None:
            shell.watch(config.parent_fd, shell.leave)
        log.info(
            "daemon %d serves %s on %s", os.getpid(), ", ".join(config.addresses), ", ".join(d.id for d in devices)
        )
        on_bound(config.addresses)
        on_ready()
        shell.run()
    finally:
        shell.close()
        os.close(lock)
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
    shutil.rmtree(path, ignore_errors=True)  # its parent does so too, if it still can


def _with_own_socket(config: DaemonConfig) -> DaemonConfig:
    """Who started a daemon operates it by a socket, without keys: it has one whether or not it was given any."""
    if any(isinstance(addresses.parse_bind(each), addresses.Ipc) for each in config.addresses):
        return config
    own = f"ipc://{addresses.free_socket()}"
    return msgspec.structs.replace(config, addresses=(*config.addresses, own))


def _for_clients(shell: Shell, config: DaemonConfig) -> tuple[str, ...]:
    """What is bound, without the workers' address, which comes last."""
    return shell.post.addresses[: len(config.addresses)]


def _let_guests_in(shell: Shell) -> None:
    """Who comes over tcp is asked for a key, and whose key is revoked leaves at once."""
    gate = shell.post.gate
    if gate is None:
        return
    shell.watch(gate.zap.fileno(), gate.answer)

    def reread() -> None:
        for guest in shell.post.forget_distrusted():
            log.info("a guest of tenant %s is not trusted any more; its calls are cancelled", guest.tenant)
            shell.happen(e.ClientGone(tenant=guest.tenant, client=guest.client))

    shell.watch(gate.changes, reread)


def _lock(directory: Path) -> int:
    """Be the only daemon with this state directory, for as long as the returned descriptor is open.

    Raises:
        AccessDenied: another one has it.
        PloverError: it cannot be written.
    """
    path = directory / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise addresses.cannot_write(path, error) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise AccessDenied(
            f"the state directory {directory} is used by the daemon with pid {owner}: stop that one with `plover stop`, "
            "or give this one another with --state-dir"
        ) from None
    try:
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
    except OSError as error:
        os.close(fd)
        raise addresses.cannot_write(path, error) from None
    return fd


def _socket_paths(config: DaemonConfig) -> list[Path]:
    return [addresses.socket_path(each) for each in config.addresses if each.startswith("ipc://")]


def _socket_directories(config: DaemonConfig) -> list[Path]:
    """The directories of the sockets that are to be bound, each once, private to this user.

    Raises:
        AccessDenied: a directory is not private, a daemon serves there, or something else lies where a socket is to be.
    """
    directories: list[Path] = []
    for address in config.addresses:
        if isinstance(addresses.parse_bind(address), addresses.Tcp):
            continue
        path = addresses.socket_path(address)
        addresses.make_directory(path.parent)
        if path.exists() and addresses.is_alive(path):
            raise AccessDenied(
                f"a daemon serves {address} already: stop it with `plover stop`, or bind another address"
            )
        if path.exists() and not path.is_socket():
            raise AccessDenied(f"{path} exists and is no socket: bind another path, or move that file away")
        directories.append(path.parent)
    return list(dict.fromkeys(directories))


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
