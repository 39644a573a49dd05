"""Whom a daemon lets in from other machines: a file with a line for each key, ``TENANT plover-client:NAME:KEY:CHECK``.

The operator's commands write it, the daemon reads it, and both may be done by hand. Empty lines and lines that begin with
``#`` mean nothing.

Guarantees: a line that is not whole trusts nobody, and is named with its number. The file is replaced as a whole. Assumes:
two commands do not write it in the same moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from plover import keys
from plover.errors import AccessDenied, PloverError
from plover.keys import ClientLine

__all__ = ["Trusted", "TrustedKeys", "default_tenant", "path", "read", "revoke", "trust"]

_FILE = "trusted-clients"
_HEAD = "# Whom this daemon lets in over tcp, a line each: TENANT and what `plover keys show` printed.\n"
_TENANT = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
#: The tenant of this machine's own user, who needs no key.
_OWN_TENANT = "default"


class Trusted(msgspec.Struct, frozen=True):
    """A key that is let in: as which tenant, and whose it is for people."""

    tenant: str
    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.tenant} {ClientLine(self.name, self.key)}"


class TrustedKeys(msgspec.Struct, frozen=True):
    """What the file says: by key, in its order, and what is wrong with it, a text each."""

    by_key: Mapping[str, Trusted] = {}
    problems: tuple[str, ...] = ()


def path() -> Path:
    """The file."""
    return keys.config_directory() / _FILE


def read(file: Path) -> TrustedKeys:
    """What the file says; nobody is trusted where there is none.

    Raises:
        AccessDenied: others can read or write it, or this user cannot read it.
    """
    try:
        keys.check_private(file)
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return TrustedKeys()
    except PermissionError:
        raise AccessDenied(f"{file} cannot be read by this user: it is somebody else's, or chmod 600 {file}") from None
    by_key: dict[str, Trusted] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            found = _parse(line)
        except ValueError as error:
            problems.append(f"{file}, line {number}, trusts nobody: {error}")
            continue
        by_key[found.key] = found
    return TrustedKeys(by_key, tuple(problems))


def _parse(line: str) -> Trusted:
    tenant, _, rest = line.strip().partition(" ")
    check_tenant(tenant)
    said = keys.parse_line(rest)
    if not isinstance(said, ClientLine):
        raise ValueError("it is a daemon's line, and only clients are trusted here")
    return Trusted(tenant, said.name, said.key)


def check_tenant(tenant: str) -> None:
    """Raises a ValueError for what cannot be a tenant's name."""
    if not _TENANT.fullmatch(tenant):
        raise ValueError(f"{tenant[:70]!r} is not a tenant's name: 1 to 64 letters, digits, and the characters _ . @ -")


def default_tenant(line: ClientLine, known: Mapping[str, Trusted]) -> str:
    """The tenant of a key when the operator names none: the user's name that the line says, if that is nobody's yet.

    Raises:
        PloverError: it is somebody's; whether they are one person only the operator knows.
    """
    tenant = line.name.partition("@")[0] or line.name
    others = [each for each in known.values() if each.tenant == tenant and each.key != line.key]
    if others:
        raise PloverError(
            f"tenant {tenant!r} has another key already, of {others[0].name}: if both are the same person's, say "
            f"`--tenant {tenant}` (they will share workers and data), otherwise give this one another name by --tenant"
        )
    if tenant == _OWN_TENANT:
        raise PloverError(f"{tenant!r} is the tenant of this machine's own user: choose a name by --tenant")
    return tenant


def trust(file: Path, line: ClientLine, tenant: str | None) -> Trusted:
    """Let a key in from now on. One that is trusted already keeps its tenant unless another is named."""
    content = read(file)
    _refuse_problems(content)
    known = content.by_key.get(line.key)
    if tenant is not None:
        check_tenant(tenant)
    elif known is not None:
        tenant = known.tenant
    else:
        tenant = default_tenant(line, content.by_key)
    entry = Trusted(tenant, line.name, line.key)
    if known is None:
        keys.make_private_directory(file.parent)
        text = file.read_text(encoding="utf-8") if file.exists() else _HEAD
        if text and not text.endswith("\n"):
            text += "\n"
        keys.write_private(file, f"{text}{entry}\n")
    elif known != entry:
        _rewrite(file, known.key, entry)
    return entry


def revoke(file: Path, which: str) -> Trusted | None:
    """Do not let a key in any more; None where nothing fits.

    Args:
        file: of trusted keys.
        which: a tenant, a name, a key, or the beginning of a key (6 letters at least).

    Raises:
        PloverError: it fits several.
    """
    content = read(file)
    _refuse_problems(content)
    fitting = [
        each
        for each in content.by_key.values()
        if which in (each.tenant, each.name) or (len(which) >= 6 and each.key.startswith(which))
    ]
    if len(fitting) > 1:
        which_ones = ", ".join(f"{each.key[:12]}… ({each.name}, tenant {each.tenant})" for each in fitting)
        raise PloverError(
            f"{which!r} fits {len(fitting)} keys: {which_ones}. Revoke them by the beginning of their keys"
        )
    if not fitting:
        return None
    _rewrite(file, fitting[0].key, None)
    return fitting[0]


def _refuse_problems(content: TrustedKeys) -> None:
    if content.problems:
        raise PloverError(f"{content.problems[0]}. Mend or remove that line first")


def _rewrite(file: Path, key: str, entry: Trusted | None) -> None:
    """Replace or remove one key's lines; comments and all others stay as they are."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if f":{key}:" not in line or line.lstrip().startswith("#"):
            lines.append(line)
        elif entry is not None:
            lines.append(str(entry))
            entry = None
    keys.write_private(file, "".join(f"{line}\n" for line in lines))
