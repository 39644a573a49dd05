"""Sets in a worker: what fits is added, what does not is refused, and nothing is taken by halves."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plover.bundles.format import Bundle, BundleSet
from plover.errors import WireError
from plover_runtime.modules import BundlesAbsent, Cache, Modules, ModulesConflict
from tests.unit import test_worker_modules_cache as shared
from tests.unit.test_worker_modules_cache import OTHER, PACKAGE, obtain, release

make_cache = shared.make_cache  # the fixture


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Modules]:
    """A worker's modules in this process; what they change here is put back."""
    before = set(sys.modules)
    path, finders = sys.path[:], sys.meta_path[:]
    made = Modules(tmp_path / "cache")
    yield made
    sys.path[:], sys.meta_path[:] = path, finders
    release(made._cache)
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


def set_of(*bundles: Bundle, others: tuple[str, ...] = ()) -> BundleSet:
    return BundleSet.of({bundle.name: bundle.digest for bundle in bundles}, others)


def sent(*bundles: Bundle) -> dict[bytes, bytes]:
    return {bundle.digest: bundle.encode() for bundle in bundles}


class TestActivating:
    def test_a_set_can_be_imported_then(self, worker: Modules) -> None:
        assert worker.activate(set_of(PACKAGE, OTHER), sent(PACKAGE, OTHER)) is True
        assert importlib.import_module("ownpkg").x == 1
        assert importlib.import_module("othermod").y == 2
        assert worker.world.names() == {"othermod": OTHER.digest, "ownpkg": PACKAGE.digest}
        assert "othermod" in repr(worker)

    def test_the_same_set_again_does_nothing(self, worker: Modules) -> None:
        worker.activate(set_of(PACKAGE), sent(PACKAGE))
        path = sys.path[:]
        assert worker.activate(set_of(PACKAGE), {}) is False
        assert sys.path == path

    def test_an_empty_set(self, worker: Modules) -> None:
        path = sys.path[:]
        assert worker.activate(BundleSet(), {}) is False
        assert sys.path == path

    def test_own_modules_win_over_installed_ones(
        self, worker: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "installed").mkdir()
        (tmp_path / "installed" / "othermod.py").write_text("y = 'installed'")
        monkeypatch.syspath_prepend(str(tmp_path / "installed"))
        worker.activate(set_of(OTHER), sent(OTHER))
        assert importlib.import_module("othermod").y == 2

    def test_all_that_is_absent_is_asked_for_at_once(self, worker: Modules) -> None:
        with pytest.raises(BundlesAbsent) as caught:
            worker.activate(set_of(PACKAGE, OTHER), {})
        assert set(caught.value.digests) == {PACKAGE.digest, OTHER.digest}
        assert worker.activate(set_of(PACKAGE, OTHER), sent(PACKAGE, OTHER)) is True

    def test_what_another_worker_wrote_need_not_come(self, worker: Modules, make_cache: Callable[..., Cache]) -> None:
        obtain(make_cache(), PACKAGE)
        assert worker.activate(set_of(PACKAGE), {}) is True

    def test_a_set_that_adds_a_module(self, worker: Modules) -> None:
        worker.activate(set_of(PACKAGE), sent(PACKAGE))
        first = importlib.import_module("ownpkg")
        assert worker.activate(set_of(PACKAGE, OTHER), sent(OTHER)) is True
        assert importlib.import_module("othermod").y == 2
        assert importlib.import_module("ownpkg") is first

    def test_a_set_without_a_module_that_is_here(self, worker: Modules) -> None:
        worker.activate(set_of(PACKAGE), sent(PACKAGE))
        assert worker.activate(set_of(OTHER), sent(OTHER)) is True
        assert worker.activate(BundleSet(), {}) is False


class TestConflicts:
    """A worker that cannot take a set says whether another one could."""

    def refused(self, worker: Modules, wanted: BundleSet, *bundles: Bundle) -> ModulesConflict:
        path, names = sys.path[:], worker.world.names()
        with pytest.raises(ModulesConflict) as caught:
            worker.activate(wanted, sent(*bundles))
        assert (sys.path, worker.world.names()) == (path, names)
        return caught.value

    def test_another_version(self, worker: Modules) -> None:
        worker.activate(set_of(PACKAGE), sent(PACKAGE))
        edited = Bundle.of("ownpkg", {"ownpkg/__init__.py": b"x = 2\n"})
        error = self.refused(worker, set_of(edited, OTHER), edited, OTHER)
        assert (error.module, error.final) == ("ownpkg", False)
        assert str(error) == "in this worker 'ownpkg' is another version of the module, or the environment's"

    def test_own_here_and_the_environments_there(self, worker: Modules) -> None:
        worker.activate(set_of(OTHER), sent(OTHER))
        assert not self.refused(worker, BundleSet.of({}, ["othermod"])).final

    def test_the_environments_here_and_own_there(self, worker: Modules) -> None:
        worker.activate(BundleSet.of({}, ["othermod"]), {})
        assert not self.refused(worker, set_of(OTHER), OTHER).final

    def test_a_name_that_was_imported_from_the_environment_meanwhile(
        self, worker: Modules, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker.activate(BundleSet(), {})
        monkeypatch.setitem(sys.modules, "othermod", types.ModuleType("othermod"))
        error = self.refused(worker, set_of(OTHER), OTHER)
        assert (error.module, error.final) == ("othermod", False)
        assert str(error) == "this worker has already imported another module 'othermod'"

    def test_a_name_that_was_looked_for_in_vain_meanwhile(self, worker: Modules) -> None:
        """`try: import othermod` took the other branch: what it decided cannot be undone here."""
        worker.activate(BundleSet(), {})
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("othermod")
        error = self.refused(worker, set_of(OTHER), OTHER)
        assert (error.module, error.final) == ("othermod", False)
        assert str(error) == "this worker has looked for a module 'othermod' in vain"

    def test_a_part_of_every_workers_namespace_that_was_looked_for_in_vain(
        self, worker: Modules, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another worker can take it: there nobody has looked yet."""
        space = types.ModuleType("space")
        space.__path__ = []
        monkeypatch.setitem(sys.modules, "space", space)
        worker.activate(BundleSet(), {})
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("space.mine")
        mine = Bundle.of("space", {"space/mine.py": b""})
        assert not self.refused(worker, set_of(mine), mine).final

    def test_a_name_that_was_looked_for_before_any_user_code(self, worker: Modules) -> None:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("othermod")
        assert worker.activate(set_of(OTHER), sent(OTHER)) is True

    def test_the_name_of_a_module_that_every_worker_has(self, worker: Modules) -> None:
        """No other worker could take it either, so the call must fail: a new worker each time would help nobody."""
        clash = Bundle.of("random", {"random.py": b""})
        error = self.refused(worker, set_of(clash), clash)
        assert (error.module, error.final) == ("random", True)
        assert "your module 'random' has the name of a module that every worker has imported before your code" in str(
            error
        )
        assert "random.py): give yours another name" in str(error)

    def test_a_namespace_package_that_is_imported_already_takes_another_portion(
        self, worker: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "installed" / "space").mkdir(parents=True)
        (tmp_path / "installed" / "space" / "theirs.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path / "installed"))
        importlib.import_module("space.theirs")
        mine = Bundle.of("space", {"space/mine.py": b"z = 3"})
        assert worker.activate(set_of(mine), sent(mine)) is True
        assert importlib.import_module("space.mine").z == 3

    @pytest.mark.parametrize("path", ["space/__init__.py", "space.py"])
    def test_but_a_regular_package_cannot_take_its_place(
        self, worker: Modules, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        space = types.ModuleType("space")
        space.__path__ = []
        monkeypatch.setitem(sys.modules, "space", space)
        regular = Bundle.of("space", {path: b""})
        error = self.refused(worker, set_of(regular), regular)
        assert error.final
        assert "(without a file): give yours another name" in str(error)


class TestHostileSets:
    @pytest.mark.parametrize(
        ("name", "digest", "text"),
        [
            ("../up", b"1" * 32, "which is not a top-level name"),
            ("numpy", b"1" * 32, "'numpy', which every worker has already"),
            ("ownpkg", b"1" * 31, "which has a digest of 31 bytes"),
            ("ownpkg", b"", "which has a digest of 0 bytes"),
        ],
    )
    def test_a_set_that_no_client_sends(
        self, worker: Modules, tmp_path: Path, name: str, digest: bytes, text: str
    ) -> None:
        with pytest.raises(WireError, match=text) as caught:
            worker.activate(BundleSet(((name, digest),)), {digest: b""})
        assert caught.value.fault == "client"
        assert list(tmp_path.iterdir()) == []

    def test_a_set_is_taken_whole_or_not_at_all(self, worker: Modules) -> None:
        path = sys.path[:]
        with pytest.raises(WireError):
            worker.activate(set_of(OTHER, PACKAGE), {**sent(OTHER), PACKAGE.digest: b"garbage"})
        assert (sys.path, worker.world.names()) == (path, {})
        assert worker.activate(set_of(OTHER, PACKAGE), sent(OTHER, PACKAGE)) is True


def test_an_interrupt_in_the_middle_can_be_followed_by_the_same_set(
    worker: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt() -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "invalidate_caches", interrupt)
        with pytest.raises(Interrupted):
            worker.activate(set_of(PACKAGE), sent(PACKAGE))
    assert worker.activate(set_of(PACKAGE), {}) is True
    assert len([entry for entry in sys.path if "ownpkg-" in entry]) == 1
