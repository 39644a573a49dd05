"""Keys: who a client is to a daemon on another machine, and a daemon to its clients.

Each user has a client key, each daemon a server key, both made when they are first needed, each in a file of this user's own
configuration directory. Users and operators exchange *lines*: ``plover-client:NAME:KEY:CHECK`` and
``plover-daemon:NAME:ADDRESS:KEY:CHECK``, in which nothing is secret. The operator's side keeps the lines that it trusts, each
with its tenant, in one readable file.

Guarantees: a key file that others can read is refused, with the command that mends it. A line that was cut or changed is
noticed. Keys are 32 bytes, written as 52 letters and digits everywhere (base32, lower case). Assumes: where the system has no
unix modes (Windows), the user's own directory is private by itself.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import socket
import stat
from pathlib import Path

import msgspec

from plover.errors import AccessDenied, PloverError

__all__ = [
    "ClientLine",
    "DaemonLine",
    "KeyPair",
    "check_private",
    "client_key",
    "client_line",
    "config_directory",
    "daemon_key",
    "has_client_key",
    "host_name",
    "make_key",
    "make_private_directory",
    "parse_line",
    "public_bytes",
    "write_private",
]

_CLIENT_FILE = "client.key"
_DAEMON_FILE = "daemon.key"
_KEY = r"[a-z2-7]{52}"
_CHECK_LETTERS = 8  # 40 bits: against accidents; who wants to deceive writes a line of their own
_NAME = r"[A-Za-z0-9_.@-]{1,64}"
_ENDS = rf"(?P<key>{_KEY}):(?P<check>[a-z2-7]{{{_CHECK_LETTERS}}})"
_CLIENT_LINE = re.compile(rf"plover-client:(?P<name>{_NAME}):{_ENDS}")
_DAEMON_LINE = re.compile(rf"plover-daemon:(?P<name>{_NAME}):(?P<address>tcp://[^\s'\"]+):{_ENDS}")


class KeyPair(msgspec.Struct, frozen=True):
    """A CURVE key pair, as text. It never shows its secret."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"<key {self.public}>"


class ClientLine(msgspec.Struct, frozen=True):
    """What a user gives to an operator: a name for people, and the key."""

    name: str
    key: str

    def __str__(self) -> str:
        return _with_check(f"plover-client:{self.name}:{self.key}")


class DaemonLine(msgspec.Struct, frozen=True):
    """What an operator gives back: the host's name, the address, and the key that the daemon there proves."""

    name: str
    address: str
    key: str

    def __str__(self) -> str:
        return _with_check(f"plover-daemon:{self.name}:{self.address}:{self.key}")


# -- lines -------------------------------------------------------------------------------------------------------------


def parse_line(text: str) -> ClientLine | DaemonLine:
    """The line that somebody pasted; blanks and line ends that a mail put in do no harm.

    Raises:
        ValueError: it is none, or was cut or changed.
    """
    line = "".join(text.split()).strip("'\"`")
    client, daemon = _CLIENT_LINE.fullmatch(line), _DAEMON_LINE.fullmatch(line)
    found = client or daemon
    if found is None and not line.startswith(("plover-client:", "plover-daemon:")):
        raise ValueError(
            f"{text[:40]!r} is not a line of Plover's keys: copy the whole line that `plover keys show` printed on the "
            "client's machine, or `plover keys trust` on the daemon's, from `plover-` to its last letter"
        )
    if found is None or _with_check(line.rpartition(":")[0]) != line:
        raise ValueError(
            "this line is not whole: it was cut or changed on its way, and its check does not fit. "
            "Copy it once more, from `plover-` to its last letter, and put it between quotes"
        )
    if client is not None:
        return ClientLine(found["name"], found["key"])
    return DaemonLine(found["name"], found["address"], found["key"])


def _with_check(line: str) -> str:
    digest = hashlib.sha256(line.encode()).digest()
    return f"{line}:{base64.b32encode(digest).decode().lower()[:_CHECK_LETTERS]}"


def client_line(pair: KeyPair) -> ClientLine:
    """This user's line."""
    import getpass

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in the system's list: a container, often
        user = "user"
    return ClientLine(_as_name(f"{user}@{socket.gethostname()}"), pair.public)


def host_name() -> str:
    """This machine's name as others know it, for lines."""
    return _as_name(socket.gethostname()) or "daemon"


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.@-]", "-", text)[:64]


def public_bytes(key: str) -> bytes:
    """A key's 32 bytes, as ZeroMQ takes them.

    Raises:
        ValueError: the text is not a key.
    """
    if not re.fullmatch(_KEY, key):
        raise ValueError(f"{key[:60]!r} is not a key: a key is 52 of the letters a-z and the digits 2-7")
    return base64.b32decode(key.upper() + "====")


def key_text(key: bytes) -> str:
    """A key's 32 bytes as text."""
    return base64.b32encode(key).decode().lower().rstrip("=")


# -- files -------------------------------------------------------------------------------------------------------------


def config_directory() -> Path:
    """Where this user's keys and profiles are: ``$XDG_CONFIG_HOME/plover``, else ``~/.config/plover`` (on Windows in
    ``%APPDATA%``).

    Raises:
        PloverError: this process has no home directory.
    """
    given = os.environ.get("XDG_CONFIG_HOME") or (os.environ.get("APPDATA") if os.name == "nt" else None)
    if given:
        return Path(given) / "plover"
    try:
        return Path.home() / ".config" / "plover"
    except RuntimeError:
        raise PloverError(
            "this process has no home directory to keep keys and profiles in: set $XDG_CONFIG_HOME to a directory"
        ) from None


def client_key() -> KeyPair:
    """This user's key, made now if there is none.

    Raises:
        AccessDenied: others can read it.
        PloverError: its file cannot be read, or is not one.
    """
    return _key(config_directory() / _CLIENT_FILE)


def has_client_key() -> bool:
    """Whether this user has a key already."""
    return (config_directory() / _CLIENT_FILE).exists()


def daemon_key() -> KeyPair:
    """The key that the daemon of this user proves itself by, made now if there is none; raises like `client_key`."""
    return _key(config_directory() / _DAEMON_FILE)


def make_key(*, of_daemon: bool, replace: bool) -> KeyPair:
    """A new key.

    Raises:
        PloverError: there is one, and it is not to be replaced.
    """
    path = config_directory() / (_DAEMON_FILE if of_daemon else _CLIENT_FILE)
    if path.exists() and not replace:
        whom = "its clients know this daemon" if of_daemon else "daemons know you"
        raise PloverError(
            f"there is a key in {path} already, by which {whom}. With --replace it is lost, and everybody who "
            "trusted it must be given the new one's line"
        )
    return _write_key(path)


def _key(path: Path) -> KeyPair:
    import tomllib

    try:
        check_private(path)
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        pair = KeyPair(content["public"], content["secret"])
        public_bytes(pair.public), public_bytes(pair.secret)
    except FileNotFoundError:
        return _write_key(path)
    except (KeyError, TypeError, ValueError) as error:  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise PloverError(
            f"{path} is not a key file ({what}): put back what was there, or make a new key with "
            f"`plover keys new --replace{' --daemon' if path.name == _DAEMON_FILE else ''}`"
        ) from None
    except PermissionError:
        raise AccessDenied(f"{path} cannot be read by this user: it is somebody else's, or chmod 600 {path}") from None
    return pair


def _write_key(path: Path) -> KeyPair:
    import zmq
    from zmq.utils import z85

    public, secret = zmq.curve_keypair()
    pair = KeyPair(key_text(z85.decode(public)), key_text(z85.decode(secret)))
    make_private_directory(path.parent)
    whose = "A Plover daemon proves itself" if path.name == _DAEMON_FILE else "Plover's daemons know this user"
    write_private(
        path, f'# {whose} by this key. Give it to nobody.\npublic = "{pair.public}"\nsecret = "{pair.secret}"\n'
    )
    return pair


def make_private_directory(path: Path) -> None:
    """The configuration directory, made if need be, in which nobody else may write."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o022:
        raise AccessDenied(f"others can write into {path}, where Plover's keys lie: close it with `chmod go-w {path}`")


def write_private(path: Path, text: str) -> None:
    """Write a file of this user's own, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def check_private(path: Path) -> None:
    """Refuse a file that others can read or write.

    Raises:
        AccessDenied: so it is.
        FileNotFoundError: it is not there.
    """
    status = path.stat()
    if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
        raise AccessDenied(
            f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):o}): close it with `chmod 600 {path}`. "
            "If somebody may have read a key in it, make another one with `plover keys new --replace`"
        )
