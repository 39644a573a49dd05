"""Whose a top-level module is: the author's own, with the places it comes from, or the environment's.

Guarantees: the answer is the import system's own (`sys.modules` first, as the client runs with that, then `find_spec`), and
nothing is imported for it. Installed is what lies, by its real path, in the standard library, in `site-packages` or in
`dist-packages`; the rest is own, editable installs too.

Assumes: finders answer `find_spec` without side effects that matter.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    BuiltinImporter,
    FrozenImporter,
    ModuleSpec,
)
from typing import Any, Literal

import msgspec

from plover.bundles.files import DirectoryPortion, FilePortion, Portion, ZipPortion
from plover.bundles.format import ENVIRONMENTS_OWN
from plover.errors import NotSerializable

__all__ = ["Environments", "Located", "Own", "Unsendable", "gone", "locate"]


class Own(msgspec.Struct, frozen=True):
    """The author's own module. Portions in the order in which the import system asks them."""

    name: str
    portions: tuple[Portion, ...]


class Environments(msgspec.Struct, frozen=True):
    """Left to the environment, because it is installed here, or not to be found here."""

    name: str
    why: Literal["reserved", "installed", "extension", "missing"]
    where: str = ""


class Unsendable(msgspec.Struct, frozen=True):
    """Own, but there is no source to send. `reason` and `remedy` complete the error's text."""

    name: str
    reason: str
    remedy: str

    def text(self) -> str:
        """What is wrong with the module, and what to do."""
        return f"the module {self.name!r} {self.reason}: {self.remedy}"

    def error(self) -> NotSerializable:
        """For a pickle that refers to the module."""
        return NotSerializable(f"cannot send what refers to a module without source; {self.text()}", path=self.name)


Located = Own | Environments | Unsendable

_MOVE = "move what the function needs from it into a module of its own"
_NEVER_BUNDLED = {
    "__main__": ("is the script itself", _MOVE),
    "__mp_main__": ("is the script itself, as a child process of multiprocessing sees it", _MOVE),
    "conftest": ("is pytest's own", _MOVE),
}
_BY_VALUE = "call cloudpickle.register_pickle_by_value(sys.modules[{name!r}]) to send its content with each function"


def locate(name: str) -> Located:
    """Find out whose a top-level module is.

    Args:
        name: without dots.
    """
    if name in _NEVER_BUNDLED:
        return Unsendable(name, *_NEVER_BUNDLED[name])
    if name in ENVIRONMENTS_OWN or name in sys.builtin_module_names:
        return Environments(name, "reserved")
    if name not in sys.modules:
        spec = _find_spec(name)
        return Environments(name, "missing") if spec is None else _by_spec(name, spec, spec.submodule_search_locations)
    module: Any = sys.modules[name]
    if module is None:  # how an import is forbidden
        return Environments(name, "missing")
    spec = getattr(module, "__spec__", None)
    path = getattr(module, "__path__", None)
    if isinstance(spec, ModuleSpec):
        return _by_spec(name, spec, path)
    file = getattr(module, "__file__", None)  # executed by something else than the import system
    return _by_spec(name, ModuleSpec(name, None, origin=file if isinstance(file, str) else None), path)


def _find_spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except Exception:  # whatever a finder of somebody else's raises: an import would fail with it on the worker too
        return None


def _by_spec(name: str, spec: ModuleSpec, path: Any) -> Located:
    loader: Any = spec.loader
    origin = spec.origin
    if loader is BuiltinImporter or loader is FrozenImporter or origin in ("built-in", "frozen"):
        if name in sys.stdlib_module_names:
            return Environments(name, "installed", "the standard library")
        return Unsendable(name, "is frozen into this program", "run the program from its source")
    if path is not None:
        return _package(name, origin, [each for each in path if isinstance(each, str)])
    if origin is None:
        return Unsendable(name, "was made at run time and has no source", _BY_VALUE.format(name=name))
    if is_installed(origin):
        return Environments(name, "installed", origin)
    if origin.endswith(tuple(EXTENSION_SUFFIXES)):
        return Environments(name, "extension", origin)
    if origin.endswith(tuple(BYTECODE_SUFFIXES)):
        return _only_bytecode(name, origin)
    if origin.endswith(tuple(SOURCE_SUFFIXES)):
        if os.path.isfile(origin):
            return Own(name, (FilePortion(os.path.abspath(origin), name),))
        found = _split_archive(origin)
        if found is not None:
            return Own(name, (ZipPortion(*found, name),))
        if os.path.isabs(origin):
            return gone(name, origin)
    return Unsendable(name, f"comes from {origin}, which is no file", _BY_VALUE.format(name=name))


def gone(name: str, where: str) -> Unsendable:
    """For a module whose source was there, and is not any more, while this process may still have it in memory."""
    return Unsendable(
        name, f"came from {where}, which is gone", "put it back, or import the module from where it is now"
    )


def _only_bytecode(name: str, origin: str) -> Unsendable:
    return Unsendable(
        name, f"is there only as bytecode ({origin})", "put its source beside it, or install it in the environment"
    )


def _package(name: str, origin: str | None, path: Iterable[str]) -> Located:
    """A package: regular where it has an `__init__`, else a namespace package, whose own portions alone travel."""
    places = list(dict.fromkeys(os.path.abspath(each) for each in path))
    if origin is not None:
        if origin.endswith(tuple(EXTENSION_SUFFIXES)):
            return Environments(name, "extension", origin)
        if origin.endswith(tuple(BYTECODE_SUFFIXES)) and not is_installed(origin):
            return _only_bytecode(name, origin)
        first = os.path.dirname(os.path.abspath(origin))
        places = [first, *(place for place in places if place != first)]
    own = [place for place in places if not is_installed(place)]
    portions = tuple(portion for place in own if (portion := _portion(name, place)) is not None)
    portions += tuple(_mapped(name))
    if origin is not None and is_installed(origin):
        # Installed, and extended by an own directory: that can stand in for it only with an `__init__` that finds the rest.
        if not any(os.path.isfile(os.path.join(place, "__init__.py")) for place in own):
            return Environments(name, "installed", origin)
    elif not portions and own != places:
        return Environments(name, "installed", places[0])
    if portions:
        return Own(name, portions)
    if places:
        return gone(name, places[0])
    return Unsendable(name, "is a package of which no directory exists", _BY_VALUE.format(name=name))


def _portion(name: str, place: str) -> Portion | None:
    if os.path.isdir(place):
        return DirectoryPortion(place, name)
    found = _split_archive(place)
    return None if found is None else ZipPortion(*found, name)


def _mapped(name: str) -> Iterator[Portion]:
    """Parts of a package that setuptools' import hook for editable installs maps one by one.

    Where a project maps parts of a namespace package, nothing but the table in the hook's module knows of them.
    """
    for finder in sys.meta_path:
        table = getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", None)
        if not isinstance(table, dict):
            continue
        for module, place in sorted(table.items()):
            if module.startswith(f"{name}."):
                inside = module.replace(".", "/")
                if os.path.isdir(place):
                    yield DirectoryPortion(os.path.abspath(place), inside)
                elif os.path.isfile(f"{place}.py"):
                    yield FilePortion(os.path.abspath(f"{place}.py"), inside)


def _split_archive(path: str) -> tuple[str, str] | None:
    """A path into a zip archive, as the archive's path and the one inside."""
    above = os.path.dirname(path)
    while above != os.path.dirname(above):
        if os.path.isfile(above):
            return os.path.abspath(above), path[len(above) + 1 :].replace(os.sep, "/")
        above = os.path.dirname(above)
    return None


# -- installed or not --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)  # resolving a path costs more than all the rest, and places do not move
def is_installed(path: str) -> bool:
    """Whether a file or directory belongs to this Python's installation, by its real path."""
    real = os.path.normcase(os.path.realpath(path))
    parts = real.split(os.sep)
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return f"{real}{os.sep}".startswith(_roots())


@functools.cache
def _roots() -> tuple[str, ...]:
    """Where the standard library and installed packages lie, each with a separator at its end."""
    paths = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    archive = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    paths += [entry for entry in sys.path if os.path.basename(entry) == archive]
    return tuple({os.path.normcase(os.path.realpath(path)) + os.sep for path in paths if path})
