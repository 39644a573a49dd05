"""Where a module's files lie, which of them travel, and how they are read: directories, single files, zip archives.

A portion is one place that a module comes from. `scan` lists its files as entries, which compare unequal when a file may
have changed: ``(size, mtime, inode, ctime, location)``.

Guarantees: a scan opens no file but a zip archive. Links are followed, loops are not. What is read is what the file was at
one moment, or `NotSerializable` says that it kept changing.
"""

from __future__ import annotations

import functools
import os
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence

import msgspec

from plover.bundles.format import LIMIT_BYTES, LIMIT_FILES
from plover.errors import NotSerializable, PayloadTooLarge

__all__ = [
    "INSIDE",
    "YOUNG_NS",
    "Budget",
    "DirectoryPortion",
    "Entry",
    "FilePortion",
    "Listing",
    "Portion",
    "ZipPortion",
    "read_file",
    "read_members",
    "read_steadily",
]

#: (size, mtime in ns, inode, ctime in ns, where it is).
Entry = tuple[int, int, int, int, str]
Reader = Callable[[str], bytes]

_SKIPPED = frozenset({"__pycache__", "__pypackages__", "CVS", "dist-packages", "node_modules", "site-packages"})
_SKIPPED_ENDS = (".pyc", ".pyo", ".egg-info", ".dist-info", "~")
_NATIVE_ENDS = (".so", ".pyd", ".dylib", ".dll")
#: A directory that holds one of these is an environment, whatever its name.
_MARKS_OF_ENVIRONMENTS = frozenset({"pyvenv.cfg", "conda-meta"})
#: A time stamp that is younger than this does not prove that a file is unchanged: within one tick of a file system's
#: clock (2 s on FAT, 4 ms on ext4) a second edit leaves no trace.
YOUNG_NS = 2_000_000_000
#: So often a file that changes while it is read is read again.
_READ_ATTEMPTS = 5


_SKIP, _NATIVE, _TRAVELS = range(3)


@functools.lru_cache(maxsize=1 << 16)
def _kind(name: str) -> int:
    """What becomes of a directory entry of this name."""
    if not name or name[0] == "." or name in _SKIPPED or name.endswith(_SKIPPED_ENDS):
        return _SKIP
    return _NATIVE if name.endswith(_NATIVE_ENDS) or ".so." in name else _TRAVELS


class Listing:
    """What a scan found.

    Attributes:
        files: entries by their path in the bundle.
        left_out: paths of native code, which does not travel.
    """

    __slots__ = ("files", "left_out")

    def __init__(self) -> None:
        self.files: dict[str, Entry] = {}
        self.left_out: list[str] = []


class Budget:
    """How much may be looked at and read, so that a module whose directory is a whole disk is refused soon."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES, limit_files: int = LIMIT_FILES) -> None:
        self.limit_bytes = limit_bytes
        self.limit_files = limit_files
        self._seen = 0

    def spend(self, entries: int, root: str) -> None:
        """So many more directory entries were seen below `root`."""
        self._seen += entries
        if self._seen > self.limit_files:
            raise PayloadTooLarge(
                f"the module at {root} has more than {self.limit_files} files in its directory, a client's limit, and all of "
                "them would travel: move data and results out of it, or install the module in the worker's environment",
                size_bytes=None,
                limit_bytes=self.limit_bytes,
            )

    def check(self, files: dict[str, Entry], what: str) -> None:
        """Refuse files that are too large together, or too many."""
        size = sum([entry[0] for entry in files.values()])
        if size > self.limit_bytes:
            largest = sorted(files.values(), reverse=True)[:3]
            named = ", ".join(f"{os.path.normpath(entry[4])} ({_mebibytes(entry[0])})" for entry in largest)
            raise PayloadTooLarge(
                f"{what} would send {_mebibytes(size)} of files, and a client's limit for an author's modules is "
                f"{_mebibytes(self.limit_bytes)}. The largest: {named}. Move data out of the package and pass it as an "
                "argument, or install the module in the worker's environment",
                size_bytes=size,
                limit_bytes=self.limit_bytes,
            )
        if len(files) > self.limit_files:
            raise PayloadTooLarge(
                f"{what} would send {len(files)} files, and a client's limit for an author's modules is {self.limit_files}: "
                "move data out of the packages, or install them in the worker's environment",
                size_bytes=size,
                limit_bytes=self.limit_bytes,
            )


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


# -- portions ----------------------------------------------------------------------------------------------------------


class FilePortion(msgspec.Struct, frozen=True):
    """A module that is one file, whatever else lies beside it. `name` is its path in the bundle, without ``.py``."""

    path: str
    name: str

    @property
    def where(self) -> str:
        """The file to look for, when the module is not found."""
        return self.path

    def scan(self, listing: Listing, budget: Budget) -> None:
        """Add the file, if it is there."""
        try:
            found = os.stat(self.path)
        except OSError:
            return
        listing.files[f"{self.name}.py"] = _entry(found, self.path)


class DirectoryPortion(msgspec.Struct, frozen=True):
    """A package's directory, or one of several. `name` is its path in the bundle."""

    path: str
    name: str

    @property
    def where(self) -> str:
        """The directory to look for, when the package is not found."""
        return self.path

    def scan(self, listing: Listing, budget: Budget) -> None:
        """Add everything below it that travels. Written for speed: it runs over all files twice a second."""
        files, status = listing.files, _status
        todo: list[tuple[str, str, tuple[str, ...]]] = [(self.path, self.name, (os.path.realpath(self.path),))]
        while todo:
            directory, inside, chain = todo.pop()
            try:
                with os.scandir(directory) as listed:
                    entries = list(listed)
            except OSError:  # gone meanwhile, or nobody may read it: then no import could either
                continue
            budget.spend(len(entries), self.path)
            if not _MARKS_OF_ENVIRONMENTS.isdisjoint([entry.name for entry in entries]):
                continue
            for entry in entries:
                kind = _kind(entry.name)
                if kind == _SKIP:
                    continue
                path = f"{inside}/{entry.name}"
                try:
                    if entry.is_dir():
                        below = _follow(entry, chain)
                        if below is not None:
                            todo.append((entry.path, path, below))
                        continue
                    found = status(entry)
                except OSError:  # a link to nothing, or gone meanwhile
                    continue
                if not stat.S_ISREG(found.st_mode):
                    continue
                if kind == _NATIVE:
                    listing.left_out.append(path)
                else:
                    files[path] = (found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns, entry.path)


class ZipPortion(msgspec.Struct, frozen=True):
    """A module inside a zip archive. `inside` is the path there, of a package's directory or of a single file."""

    archive: str
    inside: str
    name: str

    @property
    def where(self) -> str:
        """The file to look for, when the module is not found."""
        return self.archive

    def scan(self, listing: Listing, budget: Budget) -> None:
        """Add the archive's members that travel; their entries change with the archive."""
        try:
            status, members = _members(self.archive)
        except (OSError, zipfile.BadZipFile):
            return
        if self.inside.endswith(".py"):
            top, members = f"{self.name}.py", [member for member in members if member.filename == self.inside]
        else:
            top, members = self.name, [member for member in members if member.filename.startswith(f"{self.inside}/")]
        budget.spend(len(members), os.path.join(self.archive, self.inside))
        for member in members:
            path = top + member.filename[len(self.inside) :]
            kinds = [_kind(part) for part in path.split("/") if part != ".."]  # what leads out is refused, not skipped
            if member.is_dir() or _SKIP in kinds:
                continue
            if kinds[-1] == _NATIVE:
                listing.left_out.append(path)
                continue
            location = f"{self.archive}{INSIDE}{member.filename}"
            listing.files[path] = (member.file_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns, location)


#: What archives hold, by path, while they do not change: reading a directory of members takes milliseconds.
_directories: dict[str, tuple[tuple[int, ...], list[zipfile.ZipInfo]]] = {}


def _members(archive: str) -> tuple[os.stat_result, list[zipfile.ZipInfo]]:
    status = os.stat(archive)
    stamp = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
    known = _directories.get(archive)
    if known is None or known[0] != stamp or time.time_ns() - max(stamp[1], stamp[3]) < YOUNG_NS:
        with zipfile.ZipFile(archive) as opened:
            known = _directories[archive] = stamp, opened.infolist()
    return status, known[1]


Portion = FilePortion | DirectoryPortion | ZipPortion

#: Between an archive's path and a member's in an entry's location; no normal path has it.
INSIDE = f"{os.sep}.{os.sep}"


def _entry(status: os.stat_result, location: str) -> Entry:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns, location


#: What a directory says of its files has no inode on Windows, and lags behind while they are open.
_status: Callable[[os.DirEntry[str]], os.stat_result] = os.stat if os.name == "nt" else os.DirEntry.stat


def _follow(entry: os.DirEntry[str], chain: tuple[str, ...]) -> tuple[str, ...] | None:
    """The real paths that lead into a directory, one a link; None where a link leads back up."""
    if not entry.is_symlink():
        return (*chain[:-1], f"{chain[-1]}{os.sep}{entry.name}")
    target = os.path.realpath(entry.path)
    if any(f"{place}{os.sep}".startswith(f"{target}{os.sep}") for place in chain):
        return None
    return (*chain, target)


# -- reading -----------------------------------------------------------------------------------------------------------


def read_file(path: str) -> bytes:
    """The content of a file."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def read_steadily(entry: Entry, read: Reader) -> tuple[Entry, bytes]:
    """A file's content as it was at one moment, and its entry then.

    Args:
        entry: the file as it was when it was listed.
        read: reads a path.

    Raises:
        FileNotFoundError: it is gone.
        NotSerializable: it changed each time that it was read, or cannot be read.
    """
    path = entry[4]
    for _ in range(_READ_ATTEMPTS):
        try:
            data = read(path)
            now = _entry(os.stat(path), path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unreadable(path, error) from error
        if now == entry and len(data) == now[0]:
            return now, data
        entry = now
    raise _unsteady(path)


def read_members(archive: str, entries: Sequence[Entry]) -> list[bytes]:
    """The contents of an archive's members, all of one moment.

    Raises:
        NotSerializable: the archive is not what was listed, or cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            contents = [opened.read(entry[4].partition(INSIDE)[2]) for entry in entries]
        now = os.stat(archive)
    except (OSError, RuntimeError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(archive, error) from error
    if any((now.st_mtime_ns, now.st_ino, now.st_ctime_ns) != entry[1:4] for entry in entries):
        raise _unsteady(archive)
    return contents


def _unreadable(path: str, error: Exception) -> NotSerializable:
    return NotSerializable(
        f"cannot read {path}, which belongs to a module that the function needs: {type(error).__name__}: {error}. "
        "Make it readable, or move it out of the package's directory",
        path=path,
    )


def _unsteady(path: str) -> NotSerializable:
    return NotSerializable(
        f"{path} belongs to a module that the function needs, and changed whenever it was read: keep logs and results "
        "out of the package's directory, or call again when nothing writes there",
        path=path,
    )
