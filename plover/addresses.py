"""Where daemons are: addresses, the directories of their sockets, and the secret that lies beside each.

A daemon's ipc socket lies in a directory of its own that only its owner can enter. The secret in it proves that a peer
may: libzmq gives no credentials of a unix peer, and the directory's mode alone says nothing inside a container that it
might be mounted into.

Guarantees: a directory that others can enter is refused, on both sides. Assumes: a local file system with unix modes.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from plover.errors import AccessDenied, DaemonUnreachable

__all__ = ["SOCKET_NAME", "default_directory", "is_alive", "make_directory", "new_secret", "read_secret", "socket_path"]

SOCKET_NAME = "daemon.sock"
_SECRET_NAME = "secret"  # noqa: S105  (a file's name)
#: sockaddr_un holds 108 bytes, the last of them 0 (unix(7)).
_PATH_LIMIT = 107


def socket_path(address: str) -> Path:
    """The socket of an ``ipc://`` address.

    Raises:
        ValueError: it is another kind of address, or its path is too long for a socket.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or not rest:
        raise ValueError(f"{address!r} is not an address: ipc:///path/of/a/socket is one")
    if scheme in ("tcp", "ssh"):
        raise ValueError(
            f"{address!r}: {scheme} is not built yet, for it needs keys; only ipc://… on the daemon's own machine is"
        )
    if scheme != "ipc":
        raise ValueError(f"{address!r}: there is no such kind of address; ipc:///path/of/a/socket is one")
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


def make_directory(path: Path) -> None:
    """A directory that only this user can enter, made or checked.

    Raises:
        AccessDenied: it is somebody else's, or open to others.
    """
    missing = [path, *path.parents]
    for directory in reversed([each for each in missing if not each.exists()]):
        directory.mkdir(mode=0o700, exist_ok=True)  # with parents=True these would be open to others
    _check_private(path)


def _check_private(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.getuid():
        raise AccessDenied(f"{path} belongs to user {status.st_uid}: a daemon's socket needs a directory of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise AccessDenied(
            f"{path} can be entered by others (mode {stat.S_IMODE(status.st_mode):o}): "
            f"give the socket a directory of its own, or close this one with `chmod 700 {path}`"
        )


def new_secret(directories: Iterable[Path]) -> bytes:
    """A fresh secret, written into private directories; a client that knows an earlier one is not let in."""
    secret = secrets.token_bytes(32)
    for directory in directories:
        path = directory / _SECRET_NAME
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secret)
    return secret


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
    """Whether somebody listens at a socket; one that a dead daemon left behind says no."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_file))
        except OSError:
            return False
        return True
