"""What a tree notices and reads again: edits, files that will not hold still, and the imports in its sources."""

from __future__ import annotations

import os
import py_compile
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plover.bundles.files import DirectoryPortion, read_file
from plover.bundles.trees import Tree
from plover.errors import NotSerializable
from tests.unit.test_bundles_files import later, put, tree_of


class CountingReader:
    """Reads files, and knows which."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, path: str) -> bytes:
        self.paths.append(os.path.basename(path))
        return read_file(path)

    def taken(self) -> list[str]:
        paths, self.paths = sorted(self.paths), []
        return paths


class TestChanges:
    @pytest.fixture
    def pkg(self, tmp_path: Path) -> Path:
        put(tmp_path / "pkg", {"__init__.py": "", "a.py": "1", "sub/b.py": "2"})
        return tmp_path / "pkg"

    def test_nothing_is_read_again_while_nothing_changes(self, pkg: Path) -> None:
        read = CountingReader()
        tree = tree_of(DirectoryPortion(str(pkg), "pkg"), read=read)
        tree.look(0.0)
        bundle = tree.bundle()
        assert read.taken() == ["__init__.py", "a.py", "b.py"]
        generation = tree.generation
        assert tree.look(1.0) == []
        assert tree.bundle() is bundle
        assert (tree.generation, read.taken()) == (generation, [])
        assert repr(tree) == f"<tree of 'pkg': 3 files, generation {generation}>"

    def test_only_what_changed_is_read_again(self, pkg: Path) -> None:
        read = CountingReader()
        tree = tree_of(DirectoryPortion(str(pkg), "pkg"), read=read)
        tree.look(0.0)
        before = tree.bundle()
        read.taken()
        (pkg / "a.py").write_text("12")
        assert [edit.path for edit in tree.look(1.0)] == ["pkg/a.py"]
        assert tree.bundle().digest != before.digest
        assert read.taken() == ["a.py"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda pkg: (pkg / "sub" / "new.py").write_text(""),
            lambda pkg: (pkg / "sub" / "b.py").unlink(),
            lambda pkg: (pkg / "a.py").rename(pkg / "c.py"),
            lambda pkg: (pkg / "a.py").write_text("another"),
            lambda pkg: os.replace(pkg / "__init__.py", pkg / "a.py"),
            lambda pkg: (pkg / "deeper").mkdir() or (pkg / "deeper" / "data.csv").write_text("1"),
        ],
    )
    def test_every_kind_of_change_is_another_bundle(self, pkg: Path, change: Callable[[Path], object]) -> None:
        tree = tree_of(DirectoryPortion(str(pkg), "pkg"))
        tree.look(0.0)
        before, generation = tree.bundle(), tree.generation
        change(pkg)
        tree.look(1.0)
        assert tree.generation > generation
        fresh = tree_of(DirectoryPortion(str(pkg), "pkg"))
        fresh.look(0.0)
        assert tree.bundle() == fresh.bundle()
        assert tree.bundle().digest != before.digest

    def test_a_file_that_was_only_touched_is_the_same_bundle(self, pkg: Path) -> None:
        tree = tree_of(DirectoryPortion(str(pkg), "pkg"))
        tree.look(0.0)
        bundle, generation = tree.bundle(), tree.generation
        os.utime(pkg / "a.py", (1, 1))
        assert tree.look(1.0) == []
        assert (tree.generation, tree.bundle() is bundle) == (generation, True)

    def test_edits_are_of_sources(self, pkg: Path) -> None:
        put(pkg, {"t.csv": "1"})
        tree = tree_of(DirectoryPortion(str(pkg), "pkg"))
        tree.look(0.0)
        before = tree.bundle()
        put(pkg, {"t.csv": "1,2", "sub/b.py": "other"})
        (edit,) = tree.look(1.0)
        assert edit.path == "pkg/sub/b.py"
        assert edit.content == tree.content_digest("pkg/sub/b.py")
        assert tree.bundle().files["pkg/t.csv"] != before.files["pkg/t.csv"]

    def test_a_change_before_anything_was_read(self, pkg: Path) -> None:
        tree = tree_of(DirectoryPortion(str(pkg), "pkg"))
        tree.look(0.0)
        generation = tree.generation
        (pkg / "a.py").write_text("12")
        assert tree.look(1.0) == []
        assert tree.generation > generation
        assert tree.bundle().files["pkg/a.py"] == b"12"

    def test_an_edit_that_leaves_no_trace_in_size_and_time(self, pkg: Path) -> None:
        """Two writes within one tick of the file system's clock: the entry is the same, the content is not."""
        contents = {"a.py": b"1"}
        tree = tree_of(
            DirectoryPortion(str(pkg), "pkg"),
            read=lambda path: contents.get(os.path.basename(path)) or read_file(path),
            wall_ns=time.time_ns,
        )
        tree.look(0.0)
        before = tree.bundle()
        contents["a.py"] = b"7"
        assert [edit.path for edit in tree.look(1.0)] == ["pkg/a.py"]
        assert tree.bundle().files["pkg/a.py"] == b"7"
        assert tree.bundle().digest != before.digest

    def test_once_its_time_stamp_is_old_a_file_is_believed(self, pkg: Path) -> None:
        now = [time.time_ns()]
        read = CountingReader()
        tree = tree_of(DirectoryPortion(str(pkg), "pkg"), read=read, wall_ns=lambda: now[0])
        tree.look(0.0)
        tree.bundle()
        read.taken()
        tree.look(1.0)
        assert read.taken() == ["__init__.py", "a.py", "b.py"]
        now[0] += 3_000_000_000
        tree.look(2.0)
        assert read.taken() == ["__init__.py", "a.py", "b.py"]
        tree.look(3.0)
        assert read.taken() == []


class TestFilesThatDoNotHoldStill:
    def test_one_that_changes_while_it_is_read_is_read_again(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"a.py": "old"})
        times = []

        def read(path: str) -> bytes:
            data = read_file(path)
            times.append(data)
            if len(times) < 3:
                Path(path).write_text("new" * len(times))
            return data

        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), read=read)
        tree.look(0.0)
        assert tree.bundle().files == {"pkg/a.py": b"newnew"}
        assert times == [b"old", b"new", b"newnew"]

    def test_one_that_never_stops_is_named(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"run.log": ""})
        times = []

        def read(path: str) -> bytes:
            times.append(path)
            data = read_file(path)
            Path(path).write_text("line\n" * len(times))
            return data

        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), read=read)
        tree.look(0.0)
        with pytest.raises(
            NotSerializable,
            match=r"run\.log belongs to a module .* changed whenever it was read: keep logs and results",
        ) as caught:
            tree.bundle()
        assert caught.value.path == str(tmp_path / "pkg/run.log")
        assert len(times) == 5

    def test_one_that_is_read_short(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"a.py": "whole"})
        answers = [b"who", b"whole"]
        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), read=lambda path: answers.pop(0))
        tree.look(0.0)
        assert tree.bundle().files == {"pkg/a.py": b"whole"}

    def test_one_that_is_gone_is_no_part_of_it(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"a.py": "1", "b.py": "2"})

        def read(path: str) -> bytes:
            if path.endswith("b.py"):
                Path(path).unlink(missing_ok=True)
            return read_file(path)

        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), read=read)
        tree.look(0.0)
        assert tree.bundle().files == {"pkg/a.py": b"1"}
        tree.look(1.0)
        assert tree.bundle().files == {"pkg/a.py": b"1"}

    def test_one_that_goes_while_it_is_looked_at_again(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"a.py": "1", "b.py": "2"})
        gone = []

        def read(path: str) -> bytes:
            if path.endswith("b.py") and gone:
                raise FileNotFoundError(path)
            return read_file(path)

        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), read=read)
        tree.look(0.0)
        tree.bundle()
        gone.append(True)
        (tmp_path / "pkg/b.py").write_text("other")
        tree.look(1.0)
        assert tree.bundle().files == {"pkg/a.py": b"1"}

    def test_one_that_cannot_be_read(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"a.py": "1"})

        def read(path: str) -> bytes:
            raise PermissionError(13, "Permission denied", path)

        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), read=read)
        tree.look(0.0)
        with pytest.raises(
            NotSerializable, match=r"cannot read .*a\.py, which .* PermissionError: .* Make it readable"
        ):
            tree.bundle()

    def test_after_a_failure_the_tree_is_as_before(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"a.py": "1", "b.py": "2"})
        broken = []

        def read(path: str) -> bytes:
            if broken and path.endswith("b.py"):
                raise PermissionError(path)
            return read_file(path)

        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), read=read)
        tree.look(0.0)
        before = tree.bundle()
        broken.append(True)
        for file in ("a.py", "b.py"):
            (tmp_path / "pkg" / file).write_text("other")
        with pytest.raises(NotSerializable):
            tree.look(1.0)
        assert (tree.bundle() is before, tree.looked_at) == (True, 0.0)
        broken.clear()
        assert [edit.path for edit in tree.look(2.0)] == ["pkg/a.py", "pkg/b.py"]


class TestImportsOfModules:
    def tree(self, tmp_path: Path, files: dict[str, str], wall_ns: Callable[[], int] = later) -> Tree:
        put(tmp_path / "pkg", files)
        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), wall_ns=wall_ns)
        tree.look(0.0)
        return tree

    def test_relative_ones_start_at_the_package(self, tmp_path: Path) -> None:
        tree = self.tree(
            tmp_path,
            {"__init__.py": "from . import a", "sub/__init__.py": "from .b import c", "sub/b.py": "from ..a import d"},
        )
        assert tree.imports("pkg") == {"pkg", "pkg.a"}
        assert tree.imports("pkg.sub") == {"pkg.sub.b", "pkg.sub.b.c"}
        assert tree.imports("pkg.sub.b") == {"pkg.a", "pkg.a.d"}

    @pytest.mark.parametrize("source", ["def f(:", "import a\x00", "(" * 300 + ")" * 300])
    def test_a_source_that_does_not_compile_fails_in_the_worker_not_here(self, tmp_path: Path, source: str) -> None:
        assert self.tree(tmp_path, {"bad.py": source}).imports("pkg.bad") == set()

    def test_a_source_that_warns_does_not_warn_here(self, tmp_path: Path) -> None:
        tree = self.tree(tmp_path, {"warns.py": "import a\nx = '\\d'\nassert (1, 'always')\n"})
        assert tree.imports("pkg.warns") == {"a"}  # a warning would be an error: pytest is told so

    def test_a_source_with_an_encoding_of_its_own(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {})
        (tmp_path / "pkg").mkdir(exist_ok=True)
        (tmp_path / "pkg/latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nimport a\nx = '\xe4'\n")
        assert self.tree(tmp_path, {}).imports("pkg.latin") == {"a"}

    def test_modules_that_are_not_there(self, tmp_path: Path) -> None:
        tree = self.tree(tmp_path, {"__init__.py": ""})
        assert (tree.imports("pkg.nothing"), tree.module_path("pkg.nothing")) == (set(), None)

    def test_submodules(self, tmp_path: Path) -> None:
        tree = self.tree(
            tmp_path, dict.fromkeys(["__init__.py", "a.py", "sub/__init__.py", "sub/b.py", "data/x.csv"], "")
        )
        assert sorted(tree.submodules("pkg")) == ["pkg.a", "pkg.sub"]
        assert tree.submodules("pkg.sub") == ["pkg.sub.b"]

    def bytecode(self, tmp_path: Path, source: str, compiled_from: str) -> None:
        """Bytecode that says it is `source`'s, and is that of another source of the same size."""
        put(tmp_path / "pkg", {"m.py": compiled_from})
        at = os.stat(tmp_path / "pkg/m.py")
        py_compile.compile(str(tmp_path / "pkg/m.py"))
        put(tmp_path / "pkg", {"m.py": source})
        os.utime(tmp_path / "pkg/m.py", ns=(at.st_atime_ns, at.st_mtime_ns))

    def test_the_import_systems_bytecode_is_used_instead_of_compiling(self, tmp_path: Path) -> None:
        self.bytecode(tmp_path, "import a", "import b")
        assert self.tree(tmp_path, {}).imports("pkg.m") == {"b"}

    def test_not_while_the_time_stamp_proves_nothing(self, tmp_path: Path) -> None:
        self.bytecode(tmp_path, "import a", "import b")
        assert self.tree(tmp_path, {}, time.time_ns).imports("pkg.m") == {"a"}

    @pytest.mark.parametrize("damage", [b"", b"\0" * 16, None])
    def test_not_if_it_is_damaged_or_of_another_source(self, tmp_path: Path, damage: bytes | None) -> None:
        self.bytecode(tmp_path, "import a", "import b")
        (compiled,) = (tmp_path / "pkg/__pycache__").iterdir()
        whole = compiled.read_bytes()
        compiled.chmod(compiled.stat().st_mode | stat.S_IWUSR)
        compiled.write_bytes(whole[:20] if damage is None else damage + whole[len(damage) :] if damage else b"")
        assert self.tree(tmp_path, {}).imports("pkg.m") == {"a"}

    def test_not_if_the_source_is_of_another_time(self, tmp_path: Path) -> None:
        self.bytecode(tmp_path, "import a", "import b")
        os.utime(tmp_path / "pkg/m.py", (1, 1))
        assert self.tree(tmp_path, {}).imports("pkg.m") == {"a"}
