"""Profiles: daemons by a name of the user's own, in ``config.toml`` in the configuration directory::

    default = "gpu1"                  # for calls, where neither plover.connect nor $PLOVER_ADDRESS says another

    [profiles.gpu1]
    address = "tcp://gpu1:7707"
    server_key = "…52 letters…"       # from the line that the operator gave; tcp needs one

    [profiles.lab]
    address = "ssh://me@lab"
    command = "/opt/plover/bin/plover"    # where plover is on that machine; default: plover

Guarantees: whatever is wrong with the file is said with its path, the line, and the key. What is added goes to the file's
end, what is removed is one table: comments and everything else stay. A file that others may write is refused.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from plover import addresses, keys
from plover.errors import AccessDenied, PloverError
from plover.keys import DaemonLine

__all__ = ["Config", "Profile", "Target", "add", "configured", "find", "load", "path", "remove"]

_FILE = "config.toml"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_HEADER = re.compile(r"\s*\[+\s*([^\]#]+?)\s*\]")


class Profile(msgspec.Struct, frozen=True):
    """A daemon that the user has a name for."""

    name: str
    address: str
    server_key: str | None = None
    command: str = "plover"


class Config(msgspec.Struct, frozen=True):
    """What the file says."""

    file: Path
    profiles: Mapping[str, Profile] = {}
    default: str | None = None


class Target(msgspec.Struct, frozen=True):
    """A daemon that is to be reached, and who said so.

    Attributes:
        address: ``ipc://``, ``tcp://`` or ``ssh://``.
        server_key: what a tcp daemon must prove to have; None where nobody said.
        command: how plover is called on an ssh host.
        source: where the address stands, for errors; empty where the caller gave it.
    """

    address: str
    server_key: str | None = None
    command: str = "plover"
    source: str = ""


def path() -> Path:
    """The file."""
    return keys.config_directory() / _FILE


# -- which daemon ------------------------------------------------------------------------------------------------------


def find(given: str, source: str = "") -> Target:
    """The daemon of an address or of a profile's name.

    Args:
        given: either.
        source: who gave it, for errors.

    Raises:
        ValueError: it is neither.
        PloverError, AccessDenied: the file with the profiles is not in order.
    """
    by = f" (from {source})" if source else ""
    if "://" not in given:
        config = load()
        profile = config.profiles.get(given)
        if profile is None:
            if not _NAME.fullmatch(given):
                raise ValueError(
                    f"{given!r}{by} is not an address, nor a profile's name: {addresses.EXAMPLES} are addresses"
                )
            raise ValueError(f"there is no profile {given!r}{by} in {config.file}: {_others(given, config)}")
        return _target(profile, config, source)
    addresses.parse(given)
    if not given.startswith("ipc://"):
        config = load()
        for profile in config.profiles.values():
            if profile.address == given:
                return _target(profile, config, source)
    return Target(given, source=source)


def configured() -> Target | None:
    """The daemon that ``$PLOVER_ADDRESS`` or the default profile names; raises like `find`."""
    given = os.environ.get("PLOVER_ADDRESS")
    if given:
        return find(given, "$PLOVER_ADDRESS")
    config = load()
    return _target(config.profiles[config.default], config) if config.default is not None else None


def _target(profile: Profile, config: Config, source: str = "") -> Target:
    said = f"{source}{', ' if source else ''}profile {profile.name} in {config.file}"
    return Target(profile.address, profile.server_key, profile.command, said)


def _others(given: str, config: Config) -> str:
    if not config.profiles:
        return f"it has no profiles. An address is one of {addresses.EXAMPLES}; `plover keys trust` makes a profile"
    from difflib import get_close_matches

    near = get_close_matches(given, config.profiles, 1)
    names = ", ".join(config.profiles)
    return f"did you mean {near[0]!r}?" if near else f"it has {names}. An address is one of {addresses.EXAMPLES}"


# -- reading -----------------------------------------------------------------------------------------------------------


def load() -> Config:
    """What the file says; nothing where there is none.

    Raises:
        PloverError: something in it is wrong.
        AccessDenied: others can write it, or this user cannot read it.
    """
    file = path()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config(file)
    except PermissionError:
        raise AccessDenied(f"{file} cannot be read by this user") from None
    except UnicodeDecodeError as error:
        raise PloverError(f"{file} is not UTF-8 (byte {error.start}), as TOML must be") from None
    if os.name == "posix" and mode & 0o022:
        raise AccessDenied(
            f"others can write {file} (mode {mode:o}), and so decide where your functions go: `chmod go-w {file}`"
        )
    return _parse(file, text)


def _parse(file: Path, text: str) -> Config:
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # says the line itself
        raise PloverError(f"{file} is not TOML: {error}") from None
    reader = _Reader(file, text)
    reader.check_keys(content, {"default", "profiles"}, "")
    tables = content.get("profiles", {})
    if not isinstance(tables, dict):
        raise reader.wrong("profiles", "is a table of profiles: [profiles.NAME]")
    profiles = {name: reader.profile(name, table) for name, table in tables.items()}
    default = content.get("default")
    if default is not None and default not in profiles:
        raise reader.wrong("default", f"is {default!r}, and there is no [profiles.{default}]")
    return Config(file, profiles, default)


class _Reader:
    """Takes what the file says, and words what is wrong with it."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._lines = text.splitlines()

    def profile(self, name: str, table: Any) -> Profile:
        where = f"profiles.{name}"
        if not isinstance(table, dict):
            raise self.wrong(where, f"is a table: [{where}]")
        if not _NAME.fullmatch(name):
            raise self.wrong(where, "has a name that is none: letters, digits, and the characters - _ . @")
        self.check_keys(table, {"address", "server_key", "command"}, where + ".")
        for key, value in table.items():
            if not isinstance(value, str) or not value:
                raise self.wrong(f"{where}.{key}", "is a text between quotes")
        if "address" not in table:
            raise self.wrong(where, f"has no address: one of {addresses.EXAMPLES}")
        try:
            addresses.parse(table["address"])
        except ValueError as error:
            raise self.wrong(f"{where}.address", str(error)) from None
        if "server_key" in table:
            try:
                keys.public_bytes(table["server_key"])
            except ValueError as error:
                raise self.wrong(f"{where}.server_key", str(error)) from None
        return Profile(name, table["address"], table.get("server_key"), table.get("command", "plover"))

    def check_keys(self, table: Mapping[str, Any], known: set[str], prefix: str) -> None:
        for key in table:
            if key not in known:
                from difflib import get_close_matches

                near = get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"{', '.join(sorted(known))} do"
                raise self.wrong(prefix + key, f"means nothing here: {hint}")

    def wrong(self, key: str, what: str) -> PloverError:
        number = self._line_of(key)
        where = f", line {number}" if number else ""
        return PloverError(f"{self._file}{where}: {key} {what}")

    def _line_of(self, key: str) -> int | None:
        """The line of a key, or else of its table: tomllib does not say, and files of this kind are plain."""
        table, _, last = key.rpartition(".")
        header = found = None
        for number, line in enumerate(self._lines, 1):
            opened = _HEADER.match(line)
            if opened:
                header = _key_of(opened)
                if header == key:
                    return number
                if header == table:
                    found = number
            elif (header or "") == table and re.match(rf"\s*\"?{re.escape(last)}\"?\s*=", line):
                return number
        return found


def _key_of(header: re.Match[str]) -> str:
    return header[1].replace('"', "").replace(" ", "")


# -- writing -----------------------------------------------------------------------------------------------------------


def add(line: DaemonLine, *, name: str | None = None, address: str | None = None, replace: bool = False) -> Profile:
    """Keep a daemon's address and key as a profile.

    Args:
        line: what the operator gave.
        name: of the profile; default: that of the profile with this address, else the host's, as the line says.
        address: another way to the same daemon than the line's.
        replace: a profile of this name, or of this address, may be another daemon's.

    Raises:
        PloverError: there is one, and it is not to be replaced.
    """
    config = load()
    address = address or line.address
    addresses.parse(address)
    if name is None:
        name = next((each.name for each in config.profiles.values() if each.address == address), line.name)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a profile's name: letters, digits, and the characters - _ . @")
    profile = Profile(name, address, line.key)
    text = config.file.read_text(encoding="utf-8") if config.file.exists() else ""
    for known in [each for each in config.profiles.values() if each.name == name or each.address == address]:
        if known == profile:
            return profile
        if not replace:
            key = "the same key" if known.server_key == profile.server_key else "another key"
            raise PloverError(
                f"profile {known.name!r} in {config.file} is {known.address} with {key}: if this is to be in its place, "
                "say --replace; if it is another daemon, give it another name by --name"
            )
        text = _without(config, text, known.name)
        if config.default == known.name != name:
            text = _without_default(text)
    keys.make_private_directory(config.file.parent)
    header = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
    table = f'[profiles.{header}]\naddress = "{address}"\nserver_key = "{line.key}"\n'
    text = text.rstrip("\n") + "\n\n" + table if text.strip() else table
    _parse(config.file, text)
    keys.write_private(config.file, text)
    return profile


def remove(name: str) -> bool:
    """Forget a profile; False if there is none of this name.

    Raises:
        PloverError: its table cannot be taken out by itself.
    """
    config = load()
    if name not in config.profiles:
        return False
    text = _without(config, config.file.read_text(encoding="utf-8"), name)
    keys.write_private(config.file, _without_default(text) if config.default == name else text)
    return True


def _without(config: Config, text: str, name: str) -> str:
    """The file's text without a profile's table."""
    import tomllib

    kept: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        opened = _HEADER.match(line)
        if opened:
            inside = _key_of(opened) == f"profiles.{name}"
        if not inside:
            kept.append(line)
    before, after = tomllib.loads(text)["profiles"], tomllib.loads("".join(kept)).get("profiles", {})
    if after != {other: table for other, table in before.items() if other != name}:
        raise PloverError(
            f"profile {name!r} in {config.file} has no table of its own, [profiles.{name}]: take it out by hand"
        )
    return "".join(kept)


def _without_default(text: str) -> str:
    return re.sub(r"(?m)^\s*default\s*=.*\n?", "", text, count=1)
