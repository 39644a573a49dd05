"""Which modules a pickle and a piece of code mention by name.

`References` is filled while something is pickled: with the modules of what goes by reference, and with the functions that
go by value, whose code is searched for imports. `imports_of` does the same for the code of a module.

Guarantees: nothing is imported or executed. Only imports that stand in the code with a literal name are found:
``import``, ``from … import``, ``importlib.import_module("name")`` and ``__import__("name")``, at any depth.

Assumes: CPython's instruction IMPORT_NAME with its level and its list of names loaded right before it (3.11 to 3.14).
"""

from __future__ import annotations

import dis
import weakref
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

import msgspec

from plover.bundles.format import ENVIRONMENTS_OWN

__all__ = ["NO_NAMES", "Import", "Names", "References", "absolute", "imports_of", "package_of"]

_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
_IMPORTERS = frozenset({"import_module", "__import__"})


class Import(msgspec.Struct, frozen=True):
    """One import as it is written: ``from ..name import names`` has level 2. Without names it is ``import name``."""

    name: str
    level: int
    names: tuple[str, ...]


class Names(msgspec.Struct, frozen=True):
    """What a payload mentions: modules with their dots. Compares and hashes by content.

    Attributes:
        referred: whatever the pickle itself refers to: without these it cannot be loaded.
        imported: what functions that go by value would import, or what is likely needed.
    """

    referred: frozenset[str] = frozenset()
    imported: frozenset[str] = frozenset()


#: What most payloads mention: nothing but what every worker has. There is this one only, so that `is` tells.
NO_NAMES = Names()

#: Modules of `ENVIRONMENTS_OWN` that were met. All of them together are a few hundred.
_never_own: set[str] = set()


class References:
    """Gathers names while one value is pickled; a `Packer` calls `refer`, `touch` and `use`."""

    __slots__ = ("_imported", "_referred")

    def __init__(self) -> None:
        self._referred: set[str] = set()
        self._imported: set[str] = set()

    def refer(self, module: str) -> None:
        """A class, function or other object of this module, or the module itself, is pickled by reference."""
        self._referred.add(module)

    def touch(self, module: Any) -> None:
        """An object says that it belongs to this module, but may be pickled without it (any `__module__` will do)."""
        if type(module) is str:
            self._imported.add(module)

    def use(self, function: FunctionType) -> None:
        """A function is pickled by value: what its code imports will be needed."""
        found = _imports_of_code(function.__code__)
        if found:
            self._imported.update(absolute(found, package_of(function.__globals__)))

    def names(self) -> Names:
        """What was gathered, but for what is never an author's own."""
        for module in (self._referred | self._imported) - _never_own:
            if module.partition(".")[0] in ENVIRONMENTS_OWN:
                _never_own.add(module)
        referred, imported = self._referred - _never_own, self._imported - _never_own
        return Names(frozenset(referred), frozenset(imported)) if referred or imported else NO_NAMES


#: Searching takes longer than pickling, and the same function may be pickled at each call.
_searched: weakref.WeakKeyDictionary[CodeType, tuple[Import, ...]] = weakref.WeakKeyDictionary()


def _imports_of_code(code: CodeType) -> tuple[Import, ...]:
    found = _searched.get(code)
    if found is None:
        found = _searched[code] = imports_of(code)
    return found


def imports_of(code: CodeType) -> tuple[Import, ...]:
    """All imports with a literal name in a code object and in those inside it."""
    found: dict[Import, None] = {}
    todo = [code]
    while todo:
        part = todo.pop()
        todo += [value for value in part.co_consts if isinstance(value, CodeType)]
        # Every other byte is an instruction: most code has no import, and need not be taken apart.
        if _IMPORT_NAME in part.co_code[::2] or not _IMPORTERS.isdisjoint(part.co_names + part.co_freevars):
            found.update(dict.fromkeys(_in_one(part)))
    return tuple(found)


def _in_one(code: CodeType) -> Iterable[Import]:
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "PUSH_NULL")]
    for index, step in enumerate(steps):
        if step.opname == "IMPORT_NAME" and index >= 2:
            level, names = steps[index - 2].argval, steps[index - 1].argval
            yield Import(
                str(step.argval), level if type(level) is int else 0, names if isinstance(names, tuple) else ()
            )
        elif step.argval in _IMPORTERS and step.opname.startswith("LOAD_") and index + 1 < len(steps):
            name = steps[index + 1].argval
            if steps[index + 1].opname == "LOAD_CONST" and isinstance(name, str) and name.strip("."):
                stripped = name.lstrip(".")
                yield Import(stripped, len(name) - len(stripped), ())


def absolute(imports: Iterable[Import], package: str | None) -> set[str]:
    """The dotted names that imports may load, among them some that turn out to be attributes.

    Args:
        imports: as they are written.
        package: what relative ones start from; without it they are left out, as they would fail.

    Returns:
        Names such as ``a.b``; ``a.b.*`` where everything of a package may be loaded.
    """
    found: set[str] = set()
    for each in imports:
        base = each.name
        if each.level:
            above = (package or "").rsplit(".", each.level - 1)
            if not package or len(above) < each.level:
                continue
            base = f"{above[0]}.{base}" if base else above[0]
        found.add(base)
        found.update(f"{base}.{name}" for name in each.names)
    return found


def package_of(namespace: dict[str, Any]) -> str | None:
    """The package that relative imports start from in code with these globals, as the import system finds it."""
    package = namespace.get("__package__")
    if isinstance(package, str):
        return package or None
    spec = namespace.get("__spec__")
    if spec is not None:
        return getattr(spec, "parent", None) or None
    name = namespace.get("__name__")
    if not isinstance(name, str):
        return None
    return name if "__path__" in namespace else name.rpartition(".")[0] or None
