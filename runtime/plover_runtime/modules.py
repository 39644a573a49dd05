"""The author's own modules in a worker: bundles as directories in the tenant's cache, imported in the normal way.

`Modules.activate` is called with a call's bundle set before its function is loaded. A bundle becomes a directory
``<cache>/<name>-<digest>`` that is put at the front of `sys.path`; from there on the import system does everything.

Guarantees: a directory is complete when it has its name, whoever else writes it at the same time, and is checked before
it is used. It is not removed while a worker uses it (a shared lock on the directory itself, which ends with the
process). A set is taken whole or not at all. A name means one thing in a worker, from its first mention on.

Assumes: Linux; the cache directory is this tenant's alone and on one file system; the worker's main thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import msgspec

from plover.bundles.format import Buffer, Bundle, BundleSet, World, decode, name_fault
from plover.errors import WireError

__all__ = ["CACHE_LIMIT_BYTES", "BundlesAbsent", "Cache", "Modules", "ModulesConflict"]

#: How large the bundles of a tenant's cache may be together; beyond it the least recently used go, unless in use.
CACHE_LIMIT_BYTES = 2 << 30

#: In each bundle's directory: the sizes of its files, as MessagePack. No bundle has a hidden file of its own.
_SIZES = ".plover-sizes"
_TEMPORARY = ".tmp-"
#: A temporary directory this old was left by a crash.
_LEFTOVER_S = 3600.0
_DIGEST_BYTES = 32
#: So often a bundle is written that is gone again, or not whole, when it is to be used.
_ATTEMPTS = 4


class BundlesAbsent(Exception):
    """Bundles of the set are neither in the cache nor came along: send the call again with them.

    Attributes:
        digests: those that are needed.
    """

    def __init__(self, digests: Sequence[bytes]) -> None:
        super().__init__(f"{len(digests)} bundles are neither in the cache nor came along")
        self.digests = tuple(digests)


class ModulesConflict(Exception):
    """This worker cannot take the set: a name already means something else here.

    Attributes:
        module: the name.
        final: a fresh worker could not take it either, so that the call fails with this text.
    """

    def __init__(self, text: str, module: str, *, final: bool) -> None:
        super().__init__(text)
        self.module = module
        self.final = final


class Modules:
    """What this worker has of the author's modules.

    Args:
        directory: the tenant's cache of bundles; made if it is not there.
        limit_bytes: as for `Cache`.

    Invariant: what `_at_start` has was imported before any user code ran, so every other worker has it too.
    """

    def __init__(self, directory: str | os.PathLike[str], limit_bytes: int = CACHE_LIMIT_BYTES) -> None:
        self.directory = os.fspath(directory)
        self._cache = Cache(directory, limit_bytes)
        self._world = World()
        self._at_start: frozenset[str] | None = None  # set by the first call of `activate`
        self._finder = _LastFinder()
        sys.meta_path.append(self._finder)

    def __repr__(self) -> str:
        return f"<modules {self._world!r}>"

    @property
    def world(self) -> World:
        """What names mean here. The daemon's books can have the same, since it follows from the sets alone."""
        return self._world

    def activate(self, wanted: BundleSet, bundles: Mapping[bytes, Buffer]) -> bool:
        """Make a set's modules importable; to be called before each call's function is loaded, also with an empty set.

        Args:
            wanted: the call's set.
            bundles: encoded bundles by digest, as far as they came along.

        Returns:
            Whether anything was added.

        Raises:
            BundlesAbsent: some of them must be sent.
            ModulesConflict: another worker is needed, or no worker will do.
            WireError: the set or a bundle is not one that a client would send.
            OSError: the cache cannot be written.
        """
        if self._world.holds(wanted):
            return False
        if self._at_start is None:
            self._at_start = frozenset(sys.modules)
            self._finder.missed.clear()
        _check_set(wanted)
        fresh = self._world.fresh(wanted)
        self._check_conflicts(wanted, fresh)
        absent = [digest for name, digest in fresh if digest not in bundles and not self._cache.has(name, digest)]
        if absent:
            raise BundlesAbsent(absent)
        places = {name: str(self._cache.obtain(name, digest, bundles.get(digest))) for name, digest in fresh}
        for name, place in places.items():
            if name in sys.modules and not _is_namespace_in(place, name):
                raise self._taken(name)
        sys.path[:0] = [place for place in places.values() if place not in sys.path]
        self._finder.own.update(places)
        importlib.invalidate_caches()
        self._world.take(wanted)
        return bool(fresh)

    def _check_conflicts(self, wanted: BundleSet, fresh: Sequence[tuple[str, bytes]]) -> None:
        known = self._world.conflict(wanted)
        if known is not None:
            raise ModulesConflict(
                f"in this worker {known!r} is another version of the module, or the environment's", known, final=False
            )
        for name, _ in fresh:
            # A namespace package that is imported already takes further portions.
            if name in sys.modules and not _is_namespace(sys.modules[name]):
                raise self._taken(name)
            if name in self._finder.missed:
                raise ModulesConflict(f"this worker has looked for a module {name!r} in vain", name, final=False)

    def _taken(self, name: str) -> ModulesConflict:
        """Another module of that name is imported here; in every worker, if it was so at the start."""
        if self._at_start is None or name not in self._at_start:
            return ModulesConflict(f"this worker has already imported another module {name!r}", name, final=False)
        where = getattr(sys.modules.get(name), "__file__", None) or "without a file"
        text = (
            f"your module {name!r} has the name of a module that every worker has imported before your code runs "
            f"({where}): give yours another name"
        )
        return ModulesConflict(text, name, final=True)


def _check_set(wanted: BundleSet) -> None:
    for name, digest in wanted.members:
        fault = name_fault(name)
        if fault is None and len(digest) != _DIGEST_BYTES:
            fault = f"has a digest of {len(digest)} bytes"
        if fault is not None:
            raise WireError(f"the client sent a set with the module {name!r}, which {fault}", fault="client")


def _is_namespace(module: Any) -> bool:
    return getattr(module, "__path__", None) is not None and getattr(module, "__file__", None) is None


def _is_namespace_in(place: str, name: str) -> bool:
    return not os.path.exists(f"{place}/{name}/__init__.py") and not os.path.exists(f"{place}/{name}.py")


class _LastFinder:
    """Asked for what nobody else finds: notes it, and looks for extension modules of own packages in the environment.

    An own package that was sent without its extension modules hides the environment's copy of the package; only its
    extension modules are taken from there, never a source that the author has removed.

    Attributes:
        own: the directory of each own module, by name.
        missed: top-level names that were looked for in vain, or in which something was.
    """

    def __init__(self) -> None:
        self.own: dict[str, str] = {}
        self.missed: set[str] = set()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As the import system asks."""
        top, _, rest = fullname.partition(".")
        if top not in self.own:
            self.missed.add(top)
            return None
        if not rest:
            return None
        inside = fullname.rpartition(".")[0].replace(".", os.sep)
        ours = set(self.own.values())
        places = [os.path.join(entry, inside) for entry in sys.path if isinstance(entry, str) and entry not in ours]
        spec = PathFinder.find_spec(fullname, places)
        return spec if spec is not None and isinstance(spec.loader, ExtensionFileLoader) else None


# -- bundles as directories --------------------------------------------------------------------------------------------


class Cache:
    """A tenant's bundles on disk, shared by its workers.

    Args:
        directory: made if it is not there.
        limit_bytes: beyond it, bundles that nobody uses are removed when another one is written.
    """

    def __init__(self, directory: str | os.PathLike[str], limit_bytes: int = CACHE_LIMIT_BYTES) -> None:
        self._directory = Path(os.path.abspath(directory))
        self._limit = limit_bytes
        #: Descriptors of the directories in use, each with a shared lock; for the process's life.
        self._held: dict[Path, int] = {}

    def __repr__(self) -> str:
        return f"<bundles in {self._directory}, {len(self._held)} in use>"

    def place(self, name: str, digest: bytes) -> Path:
        """Where a bundle lies, if it is there."""
        return self._directory / f"{name}-{digest.hex()}"

    def has(self, name: str, digest: bytes) -> bool:
        """Whether a bundle is there and whole; it may be gone by the time that it is obtained, if nobody uses it."""
        return _is_whole(self.place(name, digest))

    def obtain(self, name: str, digest: bytes, buffer: Buffer | None) -> Path:
        """A bundle's directory, written now if it is not there, and in use from now on.

        Raises:
            BundlesAbsent: it is not there, and there is no buffer to write it from.
            WireError: the buffer is not this bundle.
            OSError: it cannot be written.
        """
        place = self.place(name, digest)
        for _ in range(_ATTEMPTS):
            if self._hold(place):
                return place
            if buffer is None:
                raise BundlesAbsent([digest])
            bundle = decode(buffer)
            if (bundle.name, bundle.digest) != (name, digest):
                raise WireError(
                    f"the client sent a bundle of {bundle.name!r} ({bundle.digest.hex()[:12]}) as that of {name!r} "
                    f"({digest.hex()[:12]})",
                    fault="client",
                )
            self._write(place, bundle)
        raise OSError(f"a module written to {place} does not stay there: look at who else writes to this directory")

    def _hold(self, place: Path) -> bool:
        """Use a directory from now on, if it is there and whole. One that is not whole is taken away."""
        if place in self._held:
            return True
        with contextlib.ExitStack() as undo:
            try:
                fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            undo.callback(os.close, fd)
            _lock(fd, fcntl.LOCK_SH)
            if not _is_same(place, fd):  # taken away between the two
                return False
            if not _is_whole(place):
                self._take_away(place, fd)
                return False
            with contextlib.suppress(OSError):
                os.utime(place)  # when it was last used
            undo.pop_all()
        self._held[place] = fd
        return True

    def _take_away(self, place: Path, fd: int) -> None:
        if not _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise OSError(
                f"the cached copy of a module at {place} is damaged, and other workers may be using it: remove it by hand"
            )
        if _is_same(place, fd):
            self._remove(place)

    def _remove(self, place: Path) -> None:
        """Out of sight at once, then away; what is left by a crash in between is temporary like any other."""
        grave = self._directory / f"{_TEMPORARY}{os.getpid()}-{os.urandom(6).hex()}"
        os.rename(place, grave)
        shutil.rmtree(grave, ignore_errors=True)

    def _write(self, place: Path, bundle: Bundle) -> None:
        """Write a bundle beside its place, then put it there; if somebody else was faster, theirs is as good."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room(bundle.size_bytes)
        made = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._directory))
        try:
            sizes = {path: len(data) for path, data in bundle.files.items()}
            for directory in sorted({os.path.dirname(path) for path in bundle.files}):
                os.makedirs(made / directory, exist_ok=True)
            for path, data in (*bundle.files.items(), (_SIZES, msgspec.msgpack.encode(sizes))):
                _write_file(f"{made}/{path}", data)
            with contextlib.suppress(FileExistsError):
                _rename_to_new(made, place)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _make_room(self, size_bytes: int) -> None:
        """Remove what crashes left, and then what was used longest ago, as far as nobody uses it."""
        ages: list[tuple[float, Path, int]] = []
        for path in self._directory.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.startswith("."):
                    ages.append((path.stat().st_mtime, path, sum(_sizes(path).values())))
                elif path.name.startswith(_TEMPORARY) and time.time() - path.stat().st_mtime > _LEFTOVER_S:
                    shutil.rmtree(path, ignore_errors=True)
        total = size_bytes + sum(size for _, _, size in ages)
        for _, path, size in sorted(ages):
            if total <= self._limit:
                return
            with contextlib.suppress(OSError), _exclusively(path) as is_mine:
                if is_mine:
                    self._remove(path)
                    total -= size


def _write_file(path: str, data: bytes) -> None:
    """A file that is read only: what user code writes into it by accident would be every later worker's."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
    with open(fd, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


def _rename_to_new(made: Path, place: Path) -> None:
    """Raises FileExistsError if there is a directory at the place already."""
    try:
        os.rename(made, place)
    except OSError:
        if place.is_dir():
            raise FileExistsError(place) from None
        raise


def _sizes(place: Path) -> dict[str, int]:
    """The sizes that a bundle's files should have; empty if that cannot be read."""
    try:
        return _sizes_decoder.decode((place / _SIZES).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


_sizes_decoder = msgspec.msgpack.Decoder(dict[str, int])


def _is_whole(place: Path) -> bool:
    """Whether every file is there with its size: a power cut may leave empty ones behind, user code may remove some."""
    sizes = _sizes(place)
    try:
        return bool(sizes) and all(os.stat(f"{place}/{path}").st_size == size for path, size in sizes.items())
    except OSError:
        return False


def _is_same(place: Path, fd: int) -> bool:
    """Whether a path still leads to an open directory."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(place), os.fstat(fd))
    return False


def _lock(fd: int, how: int) -> bool:
    """Whether the lock was had; on a file system without locks nobody has one, and nothing is ever removed."""
    try:
        fcntl.flock(fd, how)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _exclusively(place: Path) -> Iterator[bool]:
    """Whether a directory is in nobody's use, and is kept so inside."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_same(place, fd)
    finally:
        os.close(fd)
