"""The files of one own module as they are now: listed again when asked, read only where they changed.

Guarantees: `look` opens nothing but what changed since it was read, or was written so recently that its time stamp proves
nothing. A bundle's contents were each a file's content at one moment. After an exception the tree is as it was before.

Assumes: one thread at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import marshal
import warnings
from collections.abc import Callable, Sequence
from types import CodeType

import msgspec

from plover.bundles import metadata
from plover.bundles.files import INSIDE, YOUNG_NS, Budget, Entry, Listing, Reader, read_members, read_steadily
from plover.bundles.format import LIMIT_BYTES, LIMIT_FILES, Bundle, digest_of, path_fault
from plover.bundles.locate import Own
from plover.bundles.references import Import, absolute, imports_of
from plover.errors import NotSerializable

__all__ = ["Edit", "Tree"]

_PYC_HEADER = 16


class Edit(msgspec.Struct, frozen=True):
    """A source that changed: its path in the bundle, and the SHA-256 of its new content."""

    path: str
    content: bytes


class _Content:
    """A file that was read. `sure`: its entry would not be the same if it had changed since."""

    __slots__ = ("data", "digest", "entry", "imports", "sure")

    def __init__(self, entry: Entry, data: bytes, sure: bool) -> None:
        self.entry = entry
        self.data = data
        self.digest = hashlib.sha256(data).digest()
        self.sure = sure
        self.imports: tuple[Import, ...] | None = None  # filled when they are asked for


class Tree:
    """An own module's files.

    Args:
        own: the module, and where it lies.
        read: reads a path.
        wall_ns: the clock of the file system, in nanoseconds.
        limit_bytes: of all files together.
        limit_files: how many they may be.

    Attributes:
        generation: grows when the bundle may be another one than before.
        looked_at: when `look` last succeeded, in seconds of its caller's clock; `-inf` before the first time.
        left_out: paths of native code in it, which does not travel.
    """

    def __init__(
        self,
        own: Own,
        read: Reader,
        wall_ns: Callable[[], int],
        limit_bytes: int = LIMIT_BYTES,
        limit_files: int = LIMIT_FILES,
    ) -> None:
        self.own = own
        self.generation = 0
        self.looked_at = float("-inf")
        self.left_out: list[str] = []
        self._read_path = read
        self._wall_ns = wall_ns
        self._limits = (limit_bytes, limit_files)
        self._files: dict[str, Entry] = {}
        self._contents: dict[str, _Content] = {}  # of files in `_files`, each read when it is first needed
        self._is_settled = False  # if so, all that was read is sure, and is what `_files` says
        self._bundle: Bundle | None = None  # of this generation
        self._metadata: dict[str, bytes] | None = None

    def __repr__(self) -> str:
        return f"<tree of {self.own.name!r}: {len(self._files)} files, generation {self.generation}>"

    # -- what is there -------------------------------------------------------------------------------------------------

    def look(self, now: float) -> list[Edit]:
        """List the files again, and read again those that were read before and may have changed.

        Returns:
            Sources whose content is another one than before.

        Raises:
            PayloadTooLarge, NotSerializable: what is there now cannot be sent.
        """
        files, left_out = self._list()
        if files == self._files and self._is_settled:
            self.left_out, self.looked_at = left_out, now
            return []
        contents: dict[str, _Content] = {}
        doubtful: list[str] = []
        for path, known in self._contents.items():
            entry = files.get(path)
            if entry is not None and known.sure and entry == known.entry:
                contents[path] = known
            elif entry is not None:
                doubtful.append(path)
        fresh = self._read(files, doubtful)
        for path in doubtful:
            if path not in fresh:
                del files[path]
        contents |= fresh
        edits = [
            Edit(path, content.digest)
            for path, content in fresh.items()
            if path.endswith(".py") and content.digest != self._contents[path].digest
        ]
        if self._is_other(files, contents):
            self.generation += 1
            self._bundle = None
        self._files, self._contents, self.left_out, self.looked_at = files, contents, left_out, now
        self._is_settled = all(content.sure for content in contents.values())
        return edits

    def _is_other(self, files: dict[str, Entry], contents: dict[str, _Content]) -> bool:
        if files == self._files and contents == self._contents:
            return False
        if files.keys() != self._files.keys():
            return True
        for path, entry in files.items():
            known, fresh = self._contents.get(path), contents.get(path)
            if known is None or fresh is None:
                if entry != self._files[path]:
                    return True
            elif fresh.digest != known.digest:
                return True
        return False

    def _list(self) -> tuple[dict[str, Entry], list[str]]:
        """All portions merged as the import system would see them: the first that has a name wins."""
        budget = Budget(*self._limits)
        files: dict[str, Entry] = {}
        left_out: list[str] = []
        modules: set[str] = set()
        for portion in self.own.portions:
            listing = Listing()
            portion.scan(listing, budget)
            left_out += listing.left_out
            if len(self.own.portions) == 1:
                files = listing.files
                break
            fresh = {path: at for path, at in listing.files.items() if path not in files and _stem(path) not in modules}
            files |= fresh
            modules |= {_stem(path) for path in fresh if _is_module(path)}
        if files != self._files:
            for path in files.keys() - self._files.keys():
                fault = path_fault(path)
                if fault is not None:
                    at = files[path][4]
                    raise NotSerializable(
                        f"the file {at!r} of the module {self.own.name!r} {fault}: rename it, or move it out of the "
                        "package's directory",
                        path=at,
                    )
            budget.check(files, f"the module {self.own.name!r}")
        return files, left_out

    @property
    def files(self) -> dict[str, Entry]:
        """Entries by path, as of the last look."""
        return self._files

    def module_path(self, module: str) -> str | None:
        """The path of a module's source, given its dotted name; None if it has none here."""
        path = module.replace(".", "/")
        for candidate in (f"{path}/__init__.py", f"{path}.py"):
            if candidate in self._files:
                return candidate
        return None

    def submodules(self, package: str) -> list[str]:
        """The modules right inside a package, by their dotted names."""
        start = package.replace(".", "/") + "/"
        found = []
        for path in self._files:
            if path.startswith(start):
                first, _, rest = path[len(start) :].partition("/")
                if rest == "__init__.py" or (not rest and first.endswith(".py") and first != "__init__.py"):
                    found.append(f"{package}.{first.removesuffix('.py')}")
        return found

    # -- what is in it -------------------------------------------------------------------------------------------------

    def imports(self, module: str) -> set[str]:
        """The dotted names that a module's source may import; empty where it has no source here, or none that compiles."""
        path = self.module_path(module)
        content = None if path is None else self._content(path)
        if path is None or content is None:
            return set()
        if content.imports is None:
            content.imports = _imports_in(content, path)
        package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
        return absolute(content.imports, package)

    def content_digest(self, path: str) -> bytes | None:
        """SHA-256 of a file, if it was read."""
        content = self._contents.get(path)
        return None if content is None else content.digest

    def bundle(self) -> Bundle:
        """Everything as a bundle, the same object while nothing changes.

        Raises:
            NotSerializable: a file cannot be read, or not while it holds still.
        """
        if self._bundle is None:
            files = {path: content for path in sorted(self._files) if (content := self._content(path)) is not None}
            data = {path: content.data for path, content in files.items()}
            parts = [(path, len(content.data), content.digest) for path, content in files.items()]
            if any(metadata.asks(content) for path, content in data.items() if path.endswith(".py")):
                if self._metadata is None:
                    self._metadata = metadata.of_editable(self.own)
                data |= self._metadata
                parts += [(path, len(text), hashlib.sha256(text).digest()) for path, text in self._metadata.items()]
            name = self.own.name
            self._bundle = Bundle(name, dict(sorted(data.items())), digest_of(name, sorted(parts)))
        return self._bundle

    def _content(self, path: str) -> _Content | None:
        """A file that is read now if it was not; None if it is gone since the look, which the next one will say."""
        content = self._contents.get(path)
        if content is None:
            archive = _archive_of(self._files[path])
            # Opening an archive is what costs, and a bundle needs all that is in it.
            wanted = [path] if not archive else [each for each, at in self._files.items() if _archive_of(at) == archive]
            self._contents |= self._read(self._files, wanted)
            self._is_settled = False
            content = self._contents.get(path)
        return content

    def _read(self, files: dict[str, Entry], paths: Sequence[str]) -> dict[str, _Content]:
        """Read files; those that are gone are left out, and those that are as they were stay the same objects."""
        found: dict[str, tuple[Entry, bytes]] = {}
        archives: dict[str, list[str]] = {}
        for path in paths:
            archive = _archive_of(files[path])
            if archive:
                archives.setdefault(archive, []).append(path)
                continue
            with contextlib.suppress(FileNotFoundError):
                found[path] = read_steadily(files[path], self._read_path)
        for archive, members in archives.items():
            entries = [files[path] for path in members]
            found.update(zip(members, zip(entries, read_members(archive, entries), strict=True), strict=True))
        return {path: self._kept(path, entry, data) for path, (entry, data) in found.items()}

    def _kept(self, path: str, entry: Entry, data: bytes) -> _Content:
        known, sure = self._contents.get(path), self._is_sure(entry)
        if known is None or data != known.data:
            return _Content(entry, data, sure)
        known.entry, known.sure = entry, sure
        return known

    def _is_sure(self, entry: Entry) -> bool:
        return self._wall_ns() - max(entry[1], entry[3]) > YOUNG_NS


def _archive_of(entry: Entry) -> str:
    """The archive that an entry is a member of; empty for a file."""
    archive, inside, _ = entry[4].partition(INSIDE)
    return archive if inside else ""


def _stem(path: str) -> str:
    """Which module of the package a file belongs to, or what else it is called."""
    parts = path.split("/", 2)
    return parts[1].removesuffix(".py") if len(parts) > 1 else path


def _is_module(path: str) -> bool:
    parts = path.split("/")
    return (len(parts) == 2 and path.endswith(".py")) or (len(parts) == 3 and parts[2] == "__init__.py")


# -- the imports in a source -------------------------------------------------------------------------------------------


def _imports_in(content: _Content, path: str) -> tuple[Import, ...]:
    code = _cached_code(content) if content.sure else None
    if code is None:
        try:
            with warnings.catch_warnings():  # the worker's import will warn, where somebody looks for it
                warnings.simplefilter("ignore")
                code = compile(content.data, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the worker's import says it with its place
            return ()
    return imports_of(code)


def _cached_code(content: _Content) -> CodeType | None:
    """The bytecode that the import system left beside a source, if it is this source's: 25 times as fast as compiling."""
    size, mtime_ns, _, _, location = content.entry
    try:
        with open(importlib.util.cache_from_source(location), "rb") as file:
            data = file.read()
        words = [int.from_bytes(data[at : at + 4], "little") for at in (4, 8, 12)]
        fits = words == [0, mtime_ns // 1_000_000_000 & 0xFFFFFFFF, size & 0xFFFFFFFF]
        if data[:4] != importlib.util.MAGIC_NUMBER or not fits:
            return None
        code = marshal.loads(data[_PYC_HEADER:])  # noqa: S302  (what an import of the module would load, too)
    except (OSError, NotImplementedError, EOFError, ValueError, TypeError):
        return None
    return code if isinstance(code, CodeType) else None
