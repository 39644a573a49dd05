"""Where daemons are: addresses, the directories of their sockets, and the secret that lies beside each.

An address is ``ipc:///path/of/a/socket`` on this machine, ``tcp://host:port`` (with CURVE keys, see `plover.keys`), or
``ssh://[user@]host[:port][/path/of/a/socket]`` (see `plover.tunnel`).

A daemon's ipc socket lies in a directory of its own that only its owner can enter. The secret in it proves that a peer
may: libzmq gives no credentials of a unix peer, and the directory's mode alone says nothing inside a container that it
might be mounted into.

Guarantees: a directory that others can enter is refused, on both sides. Assumes: a local file system with unix modes.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from plover.errors import AccessDenied, DaemonUnreachable, PloverError

__all__ = [
    "EXAMPLES",
    "SOCKET_NAME",
    "Ipc",
    "Plugged",
    "Ssh",
    "Tcp",
    "borrowing_path",
    "default_directory",
    "free_socket",
    "is_alive",
    "listener",
    "make_directory",
    "own_sockets",
    "parse",
    "parse_bind",
    "read_secret",
    "secret_for",
    "socket_path",
]

SOCKET_NAME = "daemon.sock"
#: Beside it, for a daemon that was given no socket and found that one taken: with its pid.
_BESIDE = "daemon-{}.sock"
_SECRET_NAME = "secret"  # noqa: S105  (a file's name)
#: sockaddr_un holds 108 bytes, the last of them 0 (unix(7)).
_PATH_LIMIT = 107


#: What addresses look like, for errors.
EXAMPLES = "ipc:///path/of/a/socket, tcp://host:7707 and ssh://user@host"

_HOST = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+"
_TCP = re.compile(rf"(?P<host>{_HOST}|\*):(?P<port>\d{{1,5}}|\*)")
#: A host's or user's name never begins with a dash, which ssh would take for an option.
_SSH = re.compile(
    rf"(?:(?P<user>[A-Za-z0-9_.][A-Za-z0-9_.+-]*)@)?(?P<host>(?!-)(?:{_HOST}))(?::(?P<port>\d{{1,5}}))?(?P<path>/.*)?"
)


class Plugged(str):
    """An address that connects a socket by itself, with keys or through a tunnel. For people it is the address."""

    __slots__ = ("plug",)
    plug: Callable[[Any], None]  #: takes a fresh DEALER

    def __new__(cls, address: str, plug: Callable[[Any], None]) -> Plugged:
        """The address, and what connects a socket to it."""
        made = super().__new__(cls, address)
        made.plug = plug
        return made


class Ipc(msgspec.Struct, frozen=True):
    """A socket of this machine."""

    path: Path


class Tcp(msgspec.Struct, frozen=True):
    """A port of a host; port 0 of one that is to be bound is any free one."""

    host: str
    port: int


class Ssh(msgspec.Struct, frozen=True):
    """A host to log in to. None for what ssh decides itself; `socket` None for the daemon's default one there."""

    host: str
    user: str | None = None
    port: int | None = None
    socket: str | None = None


def parse(address: str) -> Ipc | Tcp | Ssh:
    """An address in its parts.

    Raises:
        ValueError: it is none.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or not rest:
        raise ValueError(f"{address!r} is not an address: {EXAMPLES} are")
    match scheme:
        case "ipc":
            return Ipc(_checked_path(address, rest))
        case "tcp":
            tcp = _parse_tcp(address, rest)
            if tcp.host == "*" or not tcp.port:
                raise ValueError(
                    f"{address!r} is where a daemon listens; to connect, name the host and its port: tcp://host:7707"
                )
            return tcp
        case "ssh":
            return _parse_ssh(address, rest)
        case _:
            raise ValueError(f"{address!r}: there is no such kind of address; {EXAMPLES} are")


def parse_bind(address: str) -> Ipc | Tcp:
    """An address to listen at, where a tcp host may be ``*``, and a port 0 or ``*``, any free one.

    Raises:
        ValueError: it is none.
    """
    if address.startswith("tcp://"):
        return _parse_tcp(address, address[6:])
    parsed = parse(address)
    if isinstance(parsed, Ssh):
        raise ValueError(
            f"{address!r}: nothing listens at an ssh address. Bind ipc://…, to which a client's ssh://user@host leads"
        )
    return parsed


def _parse_tcp(address: str, rest: str) -> Tcp:
    found = _TCP.fullmatch(rest)
    if found is None:
        raise ValueError(f"{address!r} is not a tcp address: tcp://host:7707 is one, and tcp://[::1]:7707")
    return Tcp(found["host"].strip("[]"), _port(address, found["port"]))


def _parse_ssh(address: str, rest: str) -> Ssh:
    found = _SSH.fullmatch(rest)
    if found is None:
        raise ValueError(
            f"{address!r} is not an ssh address: ssh://user@host is one, ssh://user@host:22/path/of/a/socket too"
        )
    port = _port(address, found["port"]) if found["port"] else None
    path = found["path"] if found["path"] not in (None, "/") else None
    return Ssh(found["host"].strip("[]"), found["user"], port, path)


def _port(address: str, text: str) -> int:
    port = 0 if text == "*" else int(text)
    if port > 65535:
        raise ValueError(f"{address!r}: a port is at most 65535")
    return port


def socket_path(address: str) -> Path:
    """The socket of an ``ipc://`` address.

    Raises:
        ValueError: it is another kind of address, or its path is too long for a socket.
    """
    parsed = parse(address)
    if not isinstance(parsed, Ipc):
        raise ValueError(f"{address!r} is no socket of this machine; ipc:///path/of/a/socket is one")
    return parsed.path


def borrowing_path(socket_file: Path) -> Path | None:
    """Where clients of this host borrow segments from the daemon with this socket; None where that name is too long."""
    beside = socket_file.with_name(f"{socket_file.name}.segments")
    return beside if len(os.fsencode(beside)) <= _PATH_LIMIT else None


def _checked_path(address: str, rest: str) -> Path:
    path = Path(rest)
    if not path.is_absolute():
        raise ValueError(f"{address!r}: the path of a socket begins with a slash, as in ipc:///run/plover/daemon.sock")
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise ValueError(f"{address!r}: a socket's path has at most {_PATH_LIMIT} bytes, and this has more")
    return path


def default_directory() -> Path:
    """Where this user's daemon of this machine has its socket."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "plover"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"plover-{user}"


def own_sockets() -> list[Path]:
    """The sockets in the default directory at which somebody listens, the default one first."""
    directory = default_directory()
    paths = [directory / SOCKET_NAME, *sorted(directory.glob(_BESIDE.format("*")))]
    return [path for path in paths if path.exists() and is_alive(path)]


def free_socket() -> Path:
    """A path for the socket of a daemon that was given none: the default one, or beside it where another daemon has that.
    What daemons that were killed left beside it is taken away.
    """
    directory = default_directory()
    for left in directory.glob(_BESIDE.format("*")):
        if not is_alive(left):
            left.unlink(missing_ok=True)
            left.with_name(f"{left.name}.segments").unlink(missing_ok=True)
    default = directory / SOCKET_NAME
    taken = default.exists() and is_alive(default)
    return directory / _BESIDE.format(os.getpid()) if taken else default


def make_directory(path: Path) -> None:
    """A directory that only this user can enter, made or checked.

    Raises:
        AccessDenied: it is somebody else's, open to others, not to be written to, or cannot be made.
    """
    missing = [path, *path.parents]
    try:
        for directory in reversed([each for each in missing if not each.exists()]):
            directory.mkdir(mode=0o700, exist_ok=True)  # with parents=True these would be open to others
    except OSError as error:
        raise AccessDenied(
            f"the directory {path} cannot be made ({error.strerror} at {error.filename}): choose another path, where you may "
            "make one"
        ) from None
    if not path.is_dir():
        raise AccessDenied(f"{path} is a file, and a daemon needs a directory there: choose another path")
    _check_private(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise AccessDenied(f"{path} cannot be written to by you: choose another path, or `chmod u+wx` it")


def _check_private(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.getuid():
        raise AccessDenied(f"{path} belongs to user {status.st_uid}: a daemon's socket needs a directory of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise AccessDenied(
            f"{path} can be entered by others (mode {stat.S_IMODE(status.st_mode):o}): a daemon's files need a directory "
            "that only you can enter. Choose another path, in a directory that is made for it"
        )


def secret_for(directories: Iterable[Path]) -> bytes:
    """The secret of private directories, the same in all: one that lies there already, since another daemon's clients may
    need it, else a fresh one. It is replaced by whoever removes the files.

    Raises:
        AccessDenied: a file of that name is no secret of Plover's, or two of them differ.
        PloverError: it cannot be written.
    """
    paths = [directory / _SECRET_NAME for directory in directories]
    known = {path: _known_secret(path) for path in paths if path.exists()}
    if len(set(known.values())) > 1:
        names = ", ".join(map(str, known))
        raise AccessDenied(f"{names} differ, and one daemon has one secret: bind sockets in other directories")
    secret = next(iter(known.values()), None) or secrets.token_bytes(32)
    for path in paths:
        if path in known:
            continue
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(secret)
        except OSError as error:
            path.unlink(missing_ok=True)  # half a secret would be taken for somebody else's file
            raise cannot_write(path, error) from None
    return secret


def cannot_write(path: Path, error: OSError) -> PloverError:
    """A file that a daemon needs, and why it cannot be written."""
    return PloverError(
        f"{path} cannot be written ({error.strerror}): make room or mend that there, or choose another directory with "
        "--bind and --state-dir"
    )


def _known_secret(path: Path) -> bytes:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != 32 or status.st_uid != os.getuid():
        raise AccessDenied(
            f"{path} is no secret of Plover's: bind a socket in another directory, or move that file away"
        )
    return path.read_bytes()


def read_secret(socket_file: Path) -> bytes:
    """The secret beside a socket.

    Raises:
        DaemonUnreachable: there is none: no daemon was ever started there.
        AccessDenied: it cannot be read.
    """
    path = socket_file.parent / _SECRET_NAME
    try:
        _check_private(socket_file.parent)
        return path.read_bytes()
    except FileNotFoundError:
        raise DaemonUnreachable(
            f"no daemon has its socket at {socket_file}: start one with `plover start --bind ipc://{socket_file}`",
            address=f"ipc://{socket_file}",
        ) from None
    except PermissionError:
        raise AccessDenied(f"{path} cannot be read: the daemon there belongs to another user") from None


def is_alive(socket_file: Path) -> bool:
    """Whether somebody listens at a socket; one that a dead daemon left behind says no.

    A killed daemon's socket may let callers in for another moment, where it was just starting a process, which has a copy. So
    the first byte is waited for, which ZeroMQ sends at once (ZMTP 3.1, the greeting); who does not, hangs, and is alive.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_file))
            return bool(probe.recv(1))
        except (BlockingIOError, TimeoutError):
            return True
        except OSError:
            return False


def listener(socket_file: Path) -> int | None:
    """The pid of whoever listens at a socket, 0 where that cannot be told; None where nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_file))
        except (BlockingIOError, TimeoutError):
            return 0  # so many wait to be let in that the kernel takes no more: somebody listens, and does nothing
        except OSError:
            return None
        if not hasattr(socket, "SO_PEERCRED"):
            return 0
        return int(struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
