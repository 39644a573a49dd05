"""Whose a module is: real files, archives, namespace packages and finders, as the import system of this process sees them."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import py_compile
import sys
import sysconfig
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plover.bundles.files import DirectoryPortion, FilePortion, ZipPortion
from plover.bundles.locate import Environments, Located, Own, Unsendable, is_installed, locate
from plover.errors import NotSerializable


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory at the front of `sys.path`; what a test imports is forgotten afterwards."""
    before = set(sys.modules)
    root = tmp_path / "src"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    yield root
    for name in set(sys.modules) - before:
        del sys.modules[name]


def put(root: Path, *files: str, text: str = "") -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    importlib.invalidate_caches()


def directories(located: Located) -> list[str]:
    assert isinstance(located, Own)
    return [portion.path for portion in located.portions if isinstance(portion, DirectoryPortion)]


class TestOwn:
    def test_a_package(self, path: Path) -> None:
        put(path, "ownpkg/__init__.py")
        assert locate("ownpkg") == Own("ownpkg", (DirectoryPortion(str(path / "ownpkg"), "ownpkg"),))
        assert "ownpkg" not in sys.modules

    def test_a_single_file(self, path: Path) -> None:
        put(path, "ownmod.py", "other.py")
        assert locate("ownmod") == Own("ownmod", (FilePortion(str(path / "ownmod.py"), "ownmod"),))

    def test_the_same_before_and_after_it_is_imported(self, path: Path) -> None:
        put(path, "ownpkg/__init__.py", "ownspace/x.py", "ownmod.py")
        names = ("ownpkg", "ownspace", "ownmod")
        before = [locate(name) for name in names]
        for name in names:
            importlib.import_module(name)
        assert [locate(name) for name in names] == before

    def test_what_this_process_runs_counts_not_what_lies_first_on_the_path(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(path, "ownmod.py")
        importlib.import_module("ownmod")
        put(tmp_path / "first", "ownmod.py")
        monkeypatch.syspath_prepend(str(tmp_path / "first"))
        assert locate("ownmod") == Own("ownmod", (FilePortion(str(path / "ownmod.py"), "ownmod"),))

    def test_a_namespace_package_with_several_portions(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(path, "ownspace/a.py")
        put(tmp_path / "second", "ownspace/b.py")
        monkeypatch.syspath_prepend(str(tmp_path / "second"))
        assert directories(locate("ownspace")) == [str(tmp_path / "second/ownspace"), str(path / "ownspace")]

    def test_only_the_own_portions_of_a_namespace_package(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(path, "ownspace/a.py")
        put(tmp_path / "site-packages", "ownspace/b.py")
        monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
        assert directories(locate("ownspace")) == [str(path / "ownspace")]

    def test_a_path_that_was_extended(self, path: Path, tmp_path: Path) -> None:
        put(path, "ownpkg/__init__.py")
        put(tmp_path, "more/x.py")
        importlib.import_module("ownpkg").__path__.append(str(tmp_path / "more"))
        assert directories(locate("ownpkg")) == [str(path / "ownpkg"), str(tmp_path / "more")]

    def test_a_module_that_was_executed_without_the_import_system(self, path: Path) -> None:
        put(path, "handmade.py")
        module = types.ModuleType("handmade")
        module.__file__ = str(path / "handmade.py")
        sys.modules["handmade"] = module
        assert locate("handmade") == Own("handmade", (FilePortion(str(path / "handmade.py"), "handmade"),))

    def test_a_file_of_another_name_is_bundled_under_the_modules(self, path: Path) -> None:
        put(path, "script-1.py")
        spec = importlib.util.spec_from_file_location("loaded_script", path / "script-1.py")
        assert spec is not None
        sys.modules["loaded_script"] = importlib.util.module_from_spec(spec)
        assert locate("loaded_script") == Own(
            "loaded_script", (FilePortion(str(path / "script-1.py"), "loaded_script"),)
        )


class TestArchives:
    @pytest.fixture
    def archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> str:
        archive = str(tmp_path / "lib.zip")
        with zipfile.ZipFile(archive, "w") as made:
            for name in (
                "inzip/__init__.py",
                "inzip/sub.py",
                "zipmod.py",
                "below/deep/__init__.py",
                "space/",
                "space/x.py",
            ):
                made.writestr(name, "")
        monkeypatch.syspath_prepend(archive + "/below")
        monkeypatch.syspath_prepend(archive)
        return archive

    @pytest.mark.parametrize(
        ("name", "inside"),
        [("inzip", "inzip"), ("zipmod", "zipmod.py"), ("deep", "below/deep"), ("space", "space")],
    )
    def test_modules_in_a_zip_file(self, archive: str, name: str, inside: str) -> None:
        assert locate(name) == Own(name, (ZipPortion(archive, inside, name),))
        importlib.import_module(name)
        assert locate(name) == Own(name, (ZipPortion(archive, inside, name),))

    def test_an_installed_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        put(tmp_path, "site-packages/keep")
        archive = tmp_path / "site-packages" / "some.egg"
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("inegg.py", "")
        monkeypatch.syspath_prepend(str(archive))
        assert isinstance(locate("inegg"), Environments)


class TestInstalled:
    @pytest.mark.parametrize("name", ["json", "os", "zipfile", "_bisect", "encodings", "sysconfig"])
    def test_the_standard_library(self, name: str) -> None:
        located = locate(name)
        assert isinstance(located, Environments)
        assert located.why in ("installed", "reserved")

    @pytest.mark.parametrize("name", ["pytest", "_pytest", "hypothesis", "setuptools", "six"])
    def test_site_packages(self, name: str) -> None:
        assert isinstance(locate(name), Environments)

    @pytest.mark.parametrize(
        "name", ["plover", "plover_runtime", "numpy", "numba", "cupy", "cloudpickle", "sys", "time"]
    )
    def test_what_every_worker_has(self, name: str, path: Path) -> None:
        put(path, f"{name}/__init__.py")
        assert locate(name) == Environments(name, "reserved")

    @pytest.mark.parametrize("directory", ["site-packages", "dist-packages"])
    def test_another_pythons_packages(
        self, directory: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path / directory, "theirs/__init__.py", "theirmod.py", "theirspace/x.py")
        monkeypatch.syspath_prepend(str(tmp_path / directory))
        for name in ("theirs", "theirmod", "theirspace"):
            located = locate(name)
            assert isinstance(located, Environments)
            assert located.why == "installed"
            assert directory in located.where

    def test_by_real_path_a_link_out_of_site_packages_is_own(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path / "project", "linked/__init__.py")
        site = tmp_path / "site-packages"
        site.mkdir()
        (site / "linked").symlink_to(tmp_path / "project" / "linked")
        monkeypatch.syspath_prepend(str(site))
        assert directories(locate("linked")) == [str(site / "linked")]

    def test_by_real_path_a_link_into_site_packages_is_installed(self, path: Path, tmp_path: Path) -> None:
        put(tmp_path / "site-packages", "real/__init__.py")
        (path / "alias").symlink_to(tmp_path / "site-packages" / "real")
        importlib.invalidate_caches()
        assert isinstance(locate("alias"), Environments)

    def test_an_installed_package_that_an_own_directory_extends(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pkgutil's way: each portion's `__init__` looks for the others, so an own one can stand in for the installed."""
        text = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)"
        put(path, "spread/__init__.py", text=text)
        put(tmp_path / "site-packages", "spread/__init__.py", text=text)
        monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
        module = importlib.import_module("spread")
        assert "site-packages" in str(module.__file__)
        assert directories(locate("spread")) == [str(path / "spread")]
        (path / "spread" / "__init__.py").unlink()  # now it cannot
        assert isinstance(locate("spread"), Environments)

    def test_a_directory_of_that_name_that_is_not_there_is_not_installed(self) -> None:
        assert is_installed(os.path.join(sysconfig.get_path("stdlib"), "json"))
        assert not is_installed("/nonexistent/my-site-packages/x")


class EditableFinder(importlib.abc.MetaPathFinder):
    """What the import hooks of setuptools and hatch do: names mapped to places that are on no path."""

    def __init__(self, places: dict[str, Path]) -> None:
        self._places = places

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        place = self._places.get(fullname)
        if place is None:
            return None
        if place.suffix == ".py":
            return importlib.util.spec_from_file_location(fullname, place)
        return importlib.util.spec_from_file_location(
            fullname, place / "__init__.py", submodule_search_locations=[str(place)]
        )


class TestEditableInstalls:
    def test_through_a_finder(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path / "project", "edited/__init__.py", "one.py")
        places = {"edited": tmp_path / "project/edited", "one": tmp_path / "project/one.py"}
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, EditableFinder(places)])
        assert directories(locate("edited")) == [str(places["edited"])]
        assert locate("one") == Own("one", (FilePortion(str(places["one"]), "one"),))

    def test_parts_of_a_namespace_package_that_setuptools_maps(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The module that setuptools generates has such a table, and a placeholder stands in the package's `__path__`."""
        put(tmp_path / "project", "lib/part/__init__.py", "lib/single.py", "lib/other/__init__.py")
        lib = tmp_path / "project" / "lib"
        hook = types.ModuleType("__editable___project_finder")
        hook.__dict__["MAPPING"] = {
            "space.part": str(lib / "part"),
            "space.single": str(lib / "single"),
            "spaces.other": str(lib / "other"),
            "space.gone": str(lib / "gone"),
        }
        monkeypatch.setitem(sys.modules, hook.__name__, hook)

        class Finder(EditableFinder):
            __module__ = hook.__name__

            def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
                if fullname != "space":
                    return None
                spec = importlib.machinery.ModuleSpec("space", None, is_package=True)
                spec.submodule_search_locations = ["__editable__.project.finder.__path_hook__"]
                return spec

        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder({})])
        assert locate("space") == Own(
            "space",
            (DirectoryPortion(str(lib / "part"), "space/part"), FilePortion(str(lib / "single.py"), "space/single")),
        )

    def test_through_a_pth_file_plover_itself_is_not_own(self) -> None:
        """This is an editable install of Plover, and its directory is on `sys.path`."""
        assert locate("plover") == Environments("plover", "reserved")


class TestNotFound:
    def test_a_name_that_nobody_knows(self) -> None:
        assert locate("no_such_module_anywhere") == Environments("no_such_module_anywhere", "missing")

    def test_an_import_that_is_forbidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "forbidden_here", None)
        assert locate("forbidden_here") == Environments("forbidden_here", "missing")

    def test_a_finder_that_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Broken(importlib.abc.MetaPathFinder):
            def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
                raise RuntimeError("somebody else's bug")

        monkeypatch.setattr(sys, "meta_path", [Broken()])
        assert locate("some_name") == Environments("some_name", "missing")

    def test_no_name_at_all(self) -> None:
        assert locate("") == Environments("", "missing")


def refused(name: str) -> str:
    located = locate(name)
    assert isinstance(located, Unsendable), located
    error = located.error()
    assert isinstance(error, NotSerializable)
    assert error.path == name
    return str(error)


class TestWithoutSource:
    def test_a_module_made_at_run_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "conjured", types.ModuleType("conjured"))
        text = refused("conjured")
        assert "the module 'conjured' was made at run time and has no source" in text
        assert "call cloudpickle.register_pickle_by_value(sys.modules['conjured'])" in text

    @pytest.mark.parametrize("kind", ["module", "package"])
    def test_only_bytecode(self, path: Path, kind: str) -> None:
        source = "lone.py" if kind == "module" else "lone/__init__.py"
        put(path, source)
        py_compile.compile(str(path / source), cfile=str(path / source) + "c")
        (path / source).unlink()
        importlib.invalidate_caches()
        text = refused("lone")
        assert f"is there only as bytecode ({path / source}c): put its source beside it" in text

    def test_frozen_into_a_program(self) -> None:
        """Python brings one such module along for its own tests."""
        text = refused("__hello__")
        assert "the module '__hello__' is frozen into this program: run the program from its source" in text

    def test_the_frozen_standard_library_is_the_environments(self) -> None:
        assert locate("posixpath") == Environments("posixpath", "installed", "the standard library")

    def test_a_loader_without_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("virtual")
        module.__spec__ = importlib.machinery.ModuleSpec("virtual", None, origin="database:virtual.py")
        monkeypatch.setitem(sys.modules, "virtual", module)
        assert "comes from database:virtual.py, which is no file" in refused("virtual")

    def test_a_package_without_a_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("hollow")
        module.__path__ = []
        monkeypatch.setitem(sys.modules, "hollow", module)
        assert "is a package of which no directory exists" in refused("hollow")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("__main__", "is the script itself"), ("__mp_main__", "as a child process"), ("conftest", "is pytest's own")],
    )
    def test_what_is_never_bundled(self, name: str, reason: str, path: Path) -> None:
        put(path, f"{name}.py")
        text = refused(name)
        assert reason in text
        assert "move what the function needs from it into a module of its own" in text


class TestExtensionModules:
    @pytest.mark.parametrize("file", ["{name}{suffix}", "{name}/__init__{suffix}"])
    def test_they_are_left_to_the_environment(self, path: Path, file: str) -> None:
        suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
        file = file.format(name="speedy", suffix=suffix)
        put(path, file)
        assert locate("speedy") == Environments("speedy", "extension", str(path / file))
