"""The one line that an author is told when a module on disk is no longer the one that the client itself runs.

Guarantees: a line a module and version. No line where the module was loaded again after the edit (`importlib.reload`,
IPython's autoreload), and none for an edit that restores what the client runs.

Assumes: a module that was loaded again has another `__spec__`. What was edited before the file was first read is not known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from plover.bundles.trees import Edit, Tree

__all__ = ["Notices"]


class Notices:
    """Compares what changes with what this process has imported."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: dict[str, tuple[Any, bytes]] = {}  # module → its spec, and the content that it was loaded from
        self._said: set[tuple[str, bytes]] = set()
        self._seen: dict[str, tuple[int, int]] = {}  # tree → what says that there may be something new to remember

    def edited(self, edits: Iterable[Edit]) -> None:
        """These sources have other contents than at the last look."""
        for edit in edits:
            module = _module_of(edit.path)
            spec, content = self._running.get(module, (None, b""))
            if spec is None or spec is not _spec_of(module) or content == edit.content:
                continue
            if (module, edit.content) not in self._said:
                self._said.add((module, edit.content))
                self._say(
                    f"plover: {module} changed on disk; workers use the new version, this process still runs the old one"
                )

    def remember(self, tree: Tree) -> None:
        """Note what this process has imported of a tree meanwhile, with the contents of now."""
        now = (len(sys.modules), tree.generation)
        if self._seen.get(tree.own.name) == now:
            return
        self._seen[tree.own.name] = now
        unread = False
        for path in tree.files:
            if path.endswith(".py"):
                module = _module_of(path)
                if module in sys.modules:
                    spec, content = _spec_of(module), tree.content_digest(path)
                    if content is None:
                        unread = True
                    elif self._running.get(module, (None, b""))[0] is not spec:
                        self._running[module] = spec, content
        if unread:
            del self._seen[tree.own.name]


def _module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _spec_of(module: str) -> Any:
    return getattr(sys.modules.get(module), "__spec__", None)
