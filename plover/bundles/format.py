"""What a bundle is, how it is written in bytes, and which sets of bundles fit together.

A bundle holds the files of one top-level module, under paths relative to an entry of `sys.path` (``mypkg/__init__.py``,
``helper.py``). In bytes it is a MessagePack array: the number of this format, the name, a map of paths to contents.

Guarantees: a digest is of the name, the paths, the lengths and the contents, so it is the same in every process and on
every machine. `decode` executes nothing and returns only what is safe to write below a directory; every refusal is a
`WireError`. Assumes: nothing but the standard library and msgspec, so that the worker can use it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from plover.errors import WireError

__all__ = [
    "ENVIRONMENTS_OWN",
    "LIMIT_BYTES",
    "LIMIT_FILES",
    "METADATA_FILES",
    "Buffer",
    "Bundle",
    "BundleSet",
    "World",
    "decode",
    "digest_of",
    "name_fault",
    "path_fault",
]

#: How large the files of all modules that one call needs may be together.
LIMIT_BYTES = 64 << 20
#: How many files they may be.
LIMIT_FILES = 10_000

_FORMAT = 1
_PATH_LIMIT_BYTES = 1024
_COMPONENT_LIMIT_BYTES = 255  # what Linux's file systems take

#: Names that are never an author's own: Plover, and what workers have imported before they see a bundle. Wherever these
#: lie at the client, a worker has its own.
ENVIRONMENTS_OWN = frozenset(
    {
        "builtins",
        "cloudpickle",
        "cupy",
        "cupy_backends",
        "cupyx",
        "llvmlite",
        "msgspec",
        "numba",
        "numba_cuda",
        "numpy",
        "plover",
        "plover_runtime",
        "sys",
        "zmq",
    }
)

#: Files of a distribution's metadata that travel with an editable install.
METADATA_FILES = ("METADATA", "entry_points.txt", "top_level.txt")

Buffer = bytes | bytearray | memoryview


class Bundle(msgspec.Struct, frozen=True):
    """The files of one top-level module.

    Attributes:
        name: the module's name, without dots.
        files: contents by path, sorted by path; paths have slashes on every platform.
        digest: `digest_of` these.
    """

    name: str
    files: dict[str, bytes]
    digest: bytes

    @classmethod
    def of(cls, name: str, files: Mapping[str, bytes]) -> Bundle:
        """A bundle of these files."""
        ordered = {path: files[path] for path in sorted(files)}
        parts = [(path, len(data), hashlib.sha256(data).digest()) for path, data in ordered.items()]
        return cls(name, ordered, digest_of(name, parts))

    @property
    def size_bytes(self) -> int:
        """The contents of all files together."""
        return sum(map(len, self.files.values()))

    def encode(self) -> bytes:
        """The bundle in bytes; what `decode` reads."""
        return _encoder.encode(_Written(_FORMAT, self.name, self.files))


def digest_of(name: str, files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A bundle's digest, from (path, size in bytes, SHA-256 of the content) of its files, sorted by path.

    By the digests of the files, so that who knows them need not read 64 MiB again because one file changed.
    """
    state = hashlib.sha256(_sized(name.encode()))
    for path, size, content in files:
        state.update(_sized(path.encode()) + size.to_bytes(8, "little") + content)
    return state.digest()


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


class _Written(msgspec.Struct, frozen=True, array_like=True):
    version: int
    name: str
    files: dict[str, bytes]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Written)

# -- reading what came over the wire -----------------------------------------------------------------------------------


def decode(buffer: Buffer, limit_bytes: int = LIMIT_BYTES, limit_files: int = LIMIT_FILES) -> Bundle:
    """A bundle from its bytes; its digest is computed, never believed.

    Raises:
        WireError: the bytes are not a bundle, or one that could write where it must not.
    """
    try:
        written = _decoder.decode(buffer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(f"bytes that are not a bundle: {error}") from None
    if written.version != _FORMAT:
        raise _refusal(
            f"a bundle of format {written.version}, and this side reads format {_FORMAT}: "
            "install the same version of plover-gpu on both sides"
        )
    fault = name_fault(written.name)
    if fault is not None:
        raise _refusal(f"a bundle of the module {written.name!r}, which {fault}")
    if len(written.files) > limit_files:
        raise _refusal(f"a bundle of {written.name!r} with {len(written.files)} files; the limit is {limit_files}")
    size = sum(map(len, written.files.values()))
    if size > limit_bytes:
        raise _refusal(f"a bundle of {written.name!r} of {size} bytes; the limit is {limit_bytes}")
    _check_paths(written.name, written.files)
    return Bundle.of(written.name, written.files)


def _check_paths(name: str, paths: Iterable[str]) -> None:
    """Every path must be one that a client could have sent, and none may lie inside a file."""
    known = set(paths)
    for path in known:
        first, _, rest = path.partition("/")
        fault = path_fault(path)
        is_own = (first == name and rest) or path == f"{name}.py"
        if fault is None and not is_own and not _is_metadata(first, rest):
            fault = "is not the module's own"
        above = path.rpartition("/")[0]
        while fault is None and above:
            if above in known:
                fault = f"lies inside the file {above!r}"
            above = above.rpartition("/")[0]
        if fault is not None:
            raise _refusal(f"a bundle of {name!r} with the file {path!r}, which {fault}")


def _is_metadata(first: str, rest: str) -> bool:
    return first.endswith(".dist-info") and rest in METADATA_FILES


def name_fault(name: str) -> str | None:
    """What makes a name impossible for a bundle, as the end of a sentence; None if it is possible."""
    if name in ENVIRONMENTS_OWN:
        return "every worker has already"
    if "." in name or "/" in name:
        return "is not a top-level name"
    return path_fault(name)


def path_fault(path: str) -> str | None:
    """What makes a path impossible in a bundle, as the end of a sentence; None if it is possible."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    if len(encoded) > _PATH_LIMIT_BYTES:
        return f"has a path of more than {_PATH_LIMIT_BYTES} bytes"
    for part in path.split("/"):
        if part in ("", ".", "..") or "\\" in part or any(ord(each) < 32 or ord(each) == 127 for each in part):
            return "is not a plain relative path"
        if part[0] == "." or part == "__pycache__" or part.endswith((".pyc", ".pyo")):
            return "is hidden or bytecode, which does not travel"
        if len(part.encode()) > _COMPONENT_LIMIT_BYTES:
            return f"has a name of more than {_COMPONENT_LIMIT_BYTES} bytes"
    return None


def _refusal(what: str) -> WireError:
    return WireError(f"the client sent {what}", fault="client")


# -- sets --------------------------------------------------------------------------------------------------------------


class BundleSet(msgspec.Struct, frozen=True, array_like=True):
    """What a call means by each top-level name that it mentions; this travels with the call, the bundles by digest.

    Attributes:
        members: (name, digest of its bundle) of the author's own modules, sorted.
        others: names that are the environment's, sorted.
    """

    members: tuple[tuple[str, bytes], ...] = ()
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, members: Mapping[str, bytes], others: Iterable[str] = ()) -> BundleSet:
        """A set of these bundles, by their digests."""
        return cls(tuple(sorted(members.items())), tuple(sorted(others)))

    def digest(self) -> bytes:
        """Names the own modules of the set and their versions; empty where there are none."""
        if not self.members:
            return b""
        state = hashlib.sha256()
        for name, digest in self.members:
            state.update(_sized(name.encode()) + _sized(digest))
        return state.digest()


class World:
    """What a worker means by each name: everything that the sets it has taken say. Also for the daemon's books.

    Invariants: a set in `_taken` says nothing that `_names` does not; the environment's names have an empty digest.
    """

    def __init__(self) -> None:
        self._names: dict[str, bytes] = {}
        self._taken: set[BundleSet] = set()

    def __repr__(self) -> str:
        own = {name: digest.hex()[:8] for name, digest in self._names.items() if digest}
        return f"<world {own}, {len(self._names) - len(own)} names of the environment>"

    def holds(self, wanted: BundleSet) -> bool:
        """Whether this very set was taken before: the quick answer."""
        return wanted in self._taken

    def conflict(self, wanted: BundleSet) -> str | None:
        """The first name of which the set says something else; None if it fits."""
        names = self._names
        for name, digest in wanted.members:
            if names.get(name, digest) != digest:
                return name
        for name in wanted.others:
            if names.get(name):
                return name
        return None

    def fits(self, wanted: BundleSet) -> bool:
        """Whether a worker that took these sets can take this one as well, as far as the sets tell."""
        return wanted in self._taken or self.conflict(wanted) is None

    def fresh(self, wanted: BundleSet) -> list[tuple[str, bytes]]:
        """The members that are not here yet."""
        return [member for member in wanted.members if member[0] not in self._names]

    def take(self, wanted: BundleSet) -> None:
        """From now on the worker also means this. Assumes that it fits."""
        if len(self._taken) >= _TAKEN_LIMIT:
            self._taken.clear()  # only the quick answer is lost
        self._names.update(wanted.members)
        self._names.update(dict.fromkeys(wanted.others, b""))
        self._taken.add(wanted)

    def names(self) -> dict[str, bytes]:
        """Digests by name, empty for the environment's."""
        return dict(self._names)


_TAKEN_LIMIT = 1024
