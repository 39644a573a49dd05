"""What a call needs of the author's own modules, at the client: found, read, and kept up to date.

`Bundler.collect` takes the names that a payload mentions (`references.Names`) and returns the set that travels with the
call, with the bundles to send to whoever lacks them. An own module that is mentioned is followed: what its source imports,
inside functions too, is needed as well.

Guarantees: nothing is imported. A repeated call looks at no file for `RECHECK_S`; after that the files are listed again,
so that an edit is in the next call's set. Names that are not own are left to the environment. Any thread may ask.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from plover.bundles.files import Budget, Entry, Reader, read_file
from plover.bundles.format import LIMIT_BYTES, LIMIT_FILES, Bundle, BundleSet
from plover.bundles.locate import Environments, Located, Own, Unsendable, gone, locate
from plover.bundles.missing import explain
from plover.bundles.notices import Notices
from plover.bundles.references import Names
from plover.bundles.trees import Tree
from plover.errors import PloverError

__all__ = ["RECHECK_S", "Bundler", "Collected", "current"]

#: So long the files are taken to be as they were when they were last looked at.
RECHECK_S = 0.5
#: So many different sets of names are remembered.
_PLANS_LIMIT = 1024


class Collected(msgspec.Struct, frozen=True):
    """What a call needs of the author's modules.

    Attributes:
        wanted: travels with the call.
        bundles: by digest, what `wanted` names; a pending call keeps it, since it may have to be sent again.
        digest: of `wanted`, empty where no own module is needed.
    """

    wanted: BundleSet
    bundles: dict[bytes, Bundle]
    digest: bytes


class _Plan:
    """The answer for some names, and what it rests on.

    Invariant: it holds while the trees have these generations, `sys.path` is this, and the unsettled stay unfound.
    """

    __slots__ = ("checked_at", "collected", "generations", "path", "trees", "unsettled")

    def __init__(
        self, collected: Collected, trees: list[Tree], unsettled: Sequence[Located], checked_at: float
    ) -> None:
        self.collected = collected
        self.trees = trees
        self.generations = [tree.generation for tree in trees]
        self.unsettled = unsettled
        self.path = list(sys.path)
        self.checked_at = checked_at


class Bundler:
    """Collects bundles for this process's calls.

    Args:
        clock: monotonic, in seconds.
        wall_ns: the clock that the file system's time stamps are of, in nanoseconds.
        read: reads a file.
        say: takes a line for the author.
        limit_bytes: how large the files that one call needs may be together.
        limit_files: how many they may be.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        read: Reader = read_file,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
        limit_bytes: int = LIMIT_BYTES,
        limit_files: int = LIMIT_FILES,
    ) -> None:
        self._clock = clock
        self._wall_ns = wall_ns
        self._read = read
        self._limits = (limit_bytes, limit_files)
        self._notices = Notices(say)
        # Other threads wait; a signal handler that makes a call comes in between. `_plans` is also read without it.
        self._lock = threading.RLock()
        self._plans: dict[tuple[Names, ...], _Plan] = {}
        self._trees: dict[Own, Tree] = {}

    def __repr__(self) -> str:
        return f"<bundler of {sorted(own.name for own in self._trees)}>"

    def collect(self, *names: Names) -> Collected:
        """What a call that mentions these names needs.

        Args:
            names: of the function and, where there are any, of the arguments.

        Raises:
            NotSerializable: the pickle refers to a module without source, or a file cannot be read.
            PayloadTooLarge: the modules are too large, or too many files.
        """
        plan = self._plans.get(names)
        now = self._clock()
        if plan is not None and now - plan.checked_at < RECHECK_S:
            return plan.collected
        with self._lock:
            if plan is None or not self._still_holds(plan, now):
                if len(self._plans) >= _PLANS_LIMIT:
                    self._plans.clear()
                plan = self._plans[names] = self._make(names, now)
            plan.checked_at = now
            return plan.collected

    def explain(self, error: BaseException) -> str | None:
        """What an ImportError of a worker means here, and what to do; None if there is nothing to say."""
        with self._lock:
            return explain(error, {tree.own.name: tree for tree in self._trees.values()}, locate)

    def own_file(self, name: str, digest: bytes, path: str) -> str | None:
        """The author's own file that a worker ran out of a bundle; None if it is another one by now."""
        with self._lock, contextlib.suppress(PloverError):
            for tree in self._trees.values():
                entry = tree.files.get(path)
                if tree.own.name == name and entry is not None and tree.bundle().digest == digest:
                    return entry[4]
        return None

    # -- is it still so? -----------------------------------------------------------------------------------------------

    def _still_holds(self, plan: _Plan, now: float) -> bool:
        for tree in plan.trees:
            self._look(tree, now)
            if locate(tree.own.name) != tree.own:  # its `__path__` was extended, or it was imported from elsewhere
                return False
        if [tree.generation for tree in plan.trees] != plan.generations or sys.path != plan.path:
            return False
        return all(locate(each.name) == each for each in plan.unsettled)

    def _look(self, tree: Tree, now: float) -> None:
        """Look at a tree again if it is time to."""
        if now - tree.looked_at >= RECHECK_S:
            edits = tree.look(now)
            self._notices.edited(edits)
            self._notices.remember(tree)

    # -- making a plan -------------------------------------------------------------------------------------------------

    def _make(self, names: tuple[Names, ...], now: float) -> _Plan:
        found: dict[str, Located] = {}
        referred = {module for each in names for module in each.referred}
        trees = self._follow(referred.union(*(each.imported for each in names)), found, now)
        for module in sorted(referred):
            self._check_referred(module, found, trees)
        files: dict[str, Entry] = {path: entry for tree in trees.values() for path, entry in tree.files.items()}
        if len(trees) > 1:
            Budget(*self._limits).check(files, f"the modules {', '.join(map(repr, sorted(trees)))} together")
        bundles = {name: tree.bundle() for name, tree in sorted(trees.items())}
        for tree in trees.values():
            self._notices.remember(tree)
        wanted = BundleSet.of(
            {name: bundle.digest for name, bundle in bundles.items()},
            [each.name for each in found.values() if _is_others(each)],
        )
        collected = Collected(wanted, {bundle.digest: bundle for bundle in bundles.values()}, wanted.digest())
        unsettled = [
            each
            for each in found.values()
            if isinstance(each, Unsendable) or (isinstance(each, Environments) and each.why == "missing")
        ]
        return _Plan(collected, list(trees.values()), unsettled, now)

    def _follow(self, seeds: Iterable[str], found: dict[str, Located], now: float) -> dict[str, Tree]:
        """All own modules that are reached from the seeds, by their top-level name; `found` gets every such name."""
        trees: dict[str, Tree] = {}
        todo = [module for module in seeds if module]
        reached = set(todo)
        while todo:
            module = todo.pop()
            top = module.partition(".")[0]
            if top not in found:
                found[top] = located = locate(top)
                if isinstance(located, Own):
                    trees[top] = self._tree(located, now)
            if top not in trees:
                continue
            for needed in _loaded_with(module, trees[top]):
                if needed not in reached:
                    reached.add(needed)
                    todo.append(needed)
        return trees

    def _tree(self, own: Own, now: float) -> Tree:
        tree = self._trees.get(own)
        if tree is None:
            tree = Tree(own, self._read, self._wall_ns, *self._limits)
            self._look(tree, now)
            self._trees[own] = tree
        else:
            self._look(tree, now)
        return tree

    @staticmethod
    def _check_referred(module: str, found: dict[str, Located], trees: dict[str, Tree]) -> None:
        """Refuse a module without source that the pickle itself refers to."""
        top = module.partition(".")[0]
        located = found[top]
        if isinstance(located, Unsendable):
            raise located.error()
        if top in trees and trees[top].module_path(module) is None:
            origin = getattr(getattr(sys.modules.get(module), "__spec__", None), "origin", None)
            if isinstance(origin, str) and origin.endswith(".pyc"):
                raise Unsendable(
                    module,
                    f"is there only as bytecode ({origin})",
                    "put its source beside it, or pass what it is made from",
                ).error()
            if isinstance(origin, str) and os.path.isabs(origin) and not os.path.exists(origin):
                raise gone(module, origin).error()


def _loaded_with(module: str, tree: Tree) -> set[str]:
    """What is loaded when an own module is: the packages around it, and what its source imports."""
    if module.endswith(".*"):
        return {module[:-2], *tree.submodules(module[:-2])}
    above = module.rpartition(".")[0]
    needed = tree.imports(module)
    if above:
        needed.add(above)
    return needed


def _is_others(located: Located) -> bool:
    """Whether a name is one that some other client may have as its own."""
    if isinstance(located, Environments):
        return located.why != "reserved"
    return isinstance(located, Unsendable) and located.name not in ("__main__", "__mp_main__", "conftest")


# -- this process's ----------------------------------------------------------------------------------------------------

_current = Bundler()


def current() -> Bundler:
    """The bundler of this process."""
    return _current


def _after_fork() -> None:
    """The child may have been forked while another thread held the lock."""
    global _current
    _current = Bundler()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
