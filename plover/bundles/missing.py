"""Why a worker could not import something, as far as the client can tell.

Guarantees: a text is about the module that the error names, says what to do, and is for `add_note`; `None` where the client
has nothing to add to what the error says. Assumes: the error came from a worker, with its `name`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from plover.bundles.locate import Environments, Located, Own, Unsendable, gone
from plover.bundles.trees import Tree

__all__ = ["explain"]

_NOT_IMPORTED = re.compile(r"cannot import name '(\w+)' from ")


def explain(error: BaseException, trees: Mapping[str, Tree], locate: Callable[[str], Located]) -> str | None:
    """A note for an ImportError, or for an OSError about a library that was left out.

    Args:
        error: what the worker raised.
        trees: the own modules known here, by name.
        locate: as `plover.bundles.locate.locate`.
    """
    if isinstance(error, ImportError):
        if not error.name:
            return None
        found = _NOT_IMPORTED.match(str(error))
        module = f"{error.name}.{found[1]}" if found else error.name
        top = module.partition(".")[0]
        tree, located = trees.get(top), locate(top)
        if tree is not None and isinstance(located, Own):
            return _of_own(module, tree)
        if tree is not None and isinstance(located, Environments) and located.why == "missing":
            where = tree.own.portions[0].where
            return None if os.path.exists(where) else _of_others(module, gone(top, where))
        return None if found else _of_others(module, located)
    if isinstance(error, OSError):
        text = str(error)
        for tree in trees.values():
            for path in tree.left_out:
                if os.path.basename(path) in text:
                    return _about_native(path, tree.own.name)
    return None


def _of_own(module: str, tree: Tree) -> str | None:
    place = module.replace(".", "/")
    for path in tree.left_out:
        if path.partition(".")[0] == place:
            return _about_native(path, tree.own.name)
    if module == tree.own.name:
        return (
            f"plover: {module!r} is a module of yours, but nothing that this call mentions by name imports it: write "
            f"`import {module}` in the function or in a module that it uses, so that it travels"
        )
    return None


def _about_native(path: str, name: str) -> str:
    return (
        f"plover: {path} is native code, which does not travel with the sources: install {name!r} in the worker's "
        "environment, where its extension modules will be found"
    )


def _of_others(module: str, located: Located) -> str | None:
    match located:
        case Environments(why="installed"):
            return (
                f"plover: {located.name!r} is installed here, and not in the worker's environment: install it there, or "
                "choose an environment that has it"
            )
        case Environments(why="extension"):
            return (
                f"plover: {located.name!r} is an extension module ({located.where}), which does not travel: install it in "
                "the worker's environment"
            )
        case Unsendable():
            return f"plover: {located.text()}"
        case Environments():
            return None  # missing here, too: the error says it all
        case _:
            return (
                f"plover: {module!r} is a module of yours, but nothing that this call mentions by name imports it: write "
                f"`import {located.name}` in the function or in a module that it uses, so that it travels"
            )
