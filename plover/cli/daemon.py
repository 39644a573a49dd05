"""``plover start | stop | drain | status``: a daemon's life.

Guarantees: `start` without --detach runs until the daemon ends; with it, it returns when clients can connect, or with the
reason why they cannot. The others talk to the daemon at --address, $PLOVER_ADDRESS, or this machine's default; `status` also
to a default profile's. A daemon is ended on its own machine only: what comes over tcp may not.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plover import addresses
from plover.cli import reach
from plover.errors import AccessDenied, DaemonLost, DaemonUnreachable, PloverError
from plover.profiles import Target
from plover.wire import messages as m

if TYPE_CHECKING:
    from plover.daemon.config import DaemonConfig

_END_S = 60.0
#: A client with unfinished calls pings every 10 s.
_SILENT_S = 12.0
#: What a detached daemon says to the command that started it, before its addresses.
_READY = "ready "


def add_commands(commands: Any) -> None:
    """Add this group's commands to the parser."""
    start = commands.add_parser("start", help="run a daemon on this machine")
    start.add_argument(
        "--bind",
        action="append",
        metavar="ADDRESS",
        help="where clients connect: ipc:///path/of/a/socket, or tcp://HOST:PORT for those with keys (see `plover keys`); "
        "with tcp alone, a socket for yourself is added",
    )
    start.add_argument("--launcher", default="process", choices=["docker", "process"], help="how workers are started")
    start.add_argument("--devices", metavar="WHICH", help="GPUs by index or UUID, comma-separated, or simulated:N")
    start.add_argument("--state-dir", metavar="DIR", help="sockets of the workers, caches, log; private to this user")
    start.add_argument(
        "--detach", action="store_true", help="return when the daemon serves; its log is in the state dir"
    )
    start.set_defaults(run=_start)
    for name, help_text in (
        ("stop", "cancel everything and end the daemon"),
        ("drain", "finish what was accepted and end the daemon"),
        ("status", "show what runs"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument(
            "--address",
            metavar="ADDRESS",
            help="of the daemon, or a profile; default: $PLOVER_ADDRESS or this machine's",
        )
        if name == "status":
            command.add_argument("--json", action="store_true", help="everything, as JSON")
            command.set_defaults(run=_status)
        else:
            command.set_defaults(run=_end, drain=name == "drain")


# -- start -------------------------------------------------------------------------------------------------------------


def _start(arguments: argparse.Namespace) -> int:
    if not sys.platform.startswith("linux"):
        raise PloverError("a daemon runs on Linux only; this machine can be a client of one")
    from plover.daemon.config import DaemonConfig

    default = addresses.default_directory()
    config = DaemonConfig(
        addresses=tuple(arguments.bind or [f"ipc://{default / addresses.SOCKET_NAME}"]),
        state_dir=Path(arguments.state_dir).absolute() if arguments.state_dir else default / "state",
        launcher=arguments.launcher,
        devices=arguments.devices,
    )
    for address in config.addresses:
        addresses.parse_bind(address)
    return _detach(config) if arguments.detach else _serve(config, _say_ready)


def _serve(config: DaemonConfig, on_ready: Callable[[tuple[str, ...]], None]) -> int:
    from plover.daemon.run import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    serve(config, on_bound=on_ready)
    return 0


def _say_ready(bound: tuple[str, ...]) -> None:
    print(f"plover: daemon {os.getpid()} serves {', '.join(bound)}", flush=True)


def _detach(config: DaemonConfig) -> int:
    """Fork, let the child serve in a session of its own, and wait until it says how that went."""
    addresses.make_directory(config.state_dir)
    log = config.state_dir / "daemon.log"
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        if not said.startswith(_READY):
            raise PloverError(said or f"the daemon ended while it started; see {log}")
        print(f"plover: a daemon serves {said.removeprefix(_READY)}; its log is {log}")
        return 0
    status, is_awaited = 1, True
    try:
        os.close(reading)
        os.setsid()
        null, output = os.open(os.devnull, os.O_RDONLY), _open_log(log)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)

        def ready(bound: tuple[str, ...]) -> None:
            nonlocal is_awaited
            is_awaited = False
            os.write(writing, (_READY + ", ".join(bound)).encode())
            os.close(writing)

        status = _serve(config, ready)
    except BaseException as error:
        if is_awaited and isinstance(error, (PloverError, OSError)):
            os.write(writing, str(error).encode())
        else:
            what = "the daemon %d ends, by a fault of its own or for what its machine does not give it"
            logging.getLogger("plover.daemon").critical(what, os.getpid(), exc_info=error)
    finally:
        os._exit(status)


def _open_log(path: Path) -> int:
    """Raises PloverError where nothing can be written to it: a daemon that says nothing is not to be had."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, f"-- plover start, process {os.getpid()}\n".encode())
    except OSError as error:
        raise addresses.cannot_write(path, error) from None
    return fd


# -- talking to one ----------------------------------------------------------------------------------------------------


def _end(arguments: argparse.Namespace) -> int:
    target = reach.find_target(arguments.address, of_this_machine=True)
    if target.address.startswith("tcp://"):
        verb = "drain" if arguments.drain else "stop"
        said = f" ({target.source})" if target.source else ""
        raise AccessDenied(
            f"{target.address}{said}: no daemon of yours on this machine listens there, and one elsewhere is ended by its "
            f"operator, on its own machine: log in there, and `plover {verb}`"
        )
    _let_go_on(target)
    with reach.connected(target) as (connection, _):
        pid = connection.welcome.pid
        gone = (
            _pidfd(pid) if target.address.startswith("ipc://") else None
        )  # elsewhere the number means another process
        try:
            answer: m.Ending = connection.ask(m.AskToEnd(arguments.drain))
        except (DaemonLost, DaemonUnreachable):
            if not _has_ended(target, gone):
                raise
        else:
            what = "draining" if arguments.drain else "stopping"
            print(f"plover: daemon {pid} is {what}; {answer.unfinished} calls are unfinished", flush=True)
    return _wait_until_gone(gone, pid, None if arguments.drain else _END_S)


def _let_go_on(target: Target) -> None:
    """A daemon that is stopped cannot end before it goes on."""
    from plover.client import silence

    if not target.address.startswith("ipc://"):
        return
    pid = addresses.listener(addresses.socket_path(target.address))
    if pid:
        if silence.is_stopped(pid):
            print(f"plover: daemon {pid} was stopped (SIGSTOP, Ctrl-Z); it goes on, so that it can end", flush=True)
        os.kill(pid, signal.SIGCONT)  # in any case: it may be about to stop


def _has_ended(target: Target, pidfd: int | None) -> bool:
    """A daemon that has nothing to finish may have gone before its answer was read."""
    from plover.ways import open_way

    if pidfd is not None:
        return bool(select.select([pidfd], [], [], 0)[0])
    try:
        open_way(target).close()
    except DaemonUnreachable:
        return True
    return False


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # it is in another pid namespace, or gone


def _wait_until_gone(pidfd: int | None, pid: int, timeout_s: float | None) -> int:
    if pidfd is None:
        return 0
    try:
        if not select.select([pidfd], [], [], timeout_s)[0]:
            print(f"plover: daemon {pid} has not ended after {timeout_s:g} s; killing it", file=sys.stderr)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return 1
    finally:
        os.close(pidfd)
    print(f"plover: daemon {pid} has ended")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    target = reach.find_target(arguments.address)
    with reach.connected(target) as (connection, _):
        if arguments.json:
            answer: m.Status = connection.ask(m.AskStatus())
            print(json.dumps(json.loads(answer.document), indent=2))
            return 0
        document, took_s = reach.round_trip(connection)
        print(_describe(document))
        if not target.address.startswith("ipc://"):
            print(f"  you: tenant {connection.welcome.tenant}, {took_s * 1e3:.2f} ms away")
    return 0


def _describe(document: dict[str, Any]) -> str:
    """The status for people: the daemon, then its devices, then its calls."""
    scheduler = document["scheduler"]
    lines = [
        f"daemon {document['pid']} at {', '.join(document['addresses'])}, "
        f"up {document['uptime_s']:.0f} s, plover-gpu {document['versions']['plover']}, "
        f"Python {document['versions']['python']}, launcher {document['launcher']}"
        + (f", {scheduler['phase']}" if scheduler["phase"] != "running" else ""),
    ]
    nests = {nest["nest"]: nest for nest in scheduler["nests"]}
    workers = {worker["worker"]: worker for worker in scheduler["workers"]}
    for device in scheduler["devices"]:
        line = f"  {device['id']}  {device['model']}  {device['memory_bytes'] / 2**30:.1f} GiB  {device['state']}"
        nest = nests.get(device["nest"])
        if nest is not None:
            line += f"  nest {nest['nest']} {nest['state']}"
            for number in nest["workers"]:
                worker = workers[number]
                pid = document["pids"].get(str(number))
                line += (
                    f"  worker {number} (pid {pid or '-'}) {worker['state']}, {worker['calls_done']} calls done, "
                    f"{worker['known_functions']} functions live"
                )
        if device["last_failure"] and device["state"] != "healthy":  # else it is over
            line += f"\n    last failure: {device['last_failure'].splitlines()[0]}"
        lines.append(line)
    queued = sum(scheduler["queued"].values())
    ended = ", ".join(f"{count} {state}" for state, count in scheduler["ended"].items() if count) or "none"
    lines.append(
        f"  calls: {queued} queued, {scheduler['calls'].get('dispatched', 0)} running; ended: {ended}; "
        f"refused: {scheduler['refused']}"
    )
    others = scheduler["clients_present"] - 1  # this command is one
    lines.append(f"  clients: {others} present, {scheduler['clients_absent']} absent")
    lines += [
        f"    {client['client']} of tenant {client['tenant']}: silent for {client['silent_s']:.0f} s, {client['calls']} "
        "calls unfinished"
        for client in scheduler["clients"]
        if client["silent_s"] > _SILENT_S
    ]
    if document["full"]:
        lines.append(f"  full: too many connections, so nobody else is let in at {', '.join(document['full'])}")
    shared = document["segments"]
    if shared["segments"] or shared["fallbacks"]:
        went = "".join(f"; {why}: {count} times" for why, count in shared["fallbacks"].items())
        what = f"{shared['bytes']} bytes in {shared['segments']} segments, {shared['free']} of them free"
        lines.append(f"  shared memory: {what}{went}")
    if document["refused_messages"]:
        what = ", ".join(f"{count} × {kind}" for kind, count in document["refused_messages"].items())
        lines.append(f"  refused messages: {what}")
    return "\n".join(lines)
