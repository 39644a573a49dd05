"""What a tree finds: real directories, links and archives, up to their limits."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from plover.bundles.files import DirectoryPortion, FilePortion, Portion, ZipPortion, read_file
from plover.bundles.locate import Own
from plover.bundles.trees import Tree
from plover.errors import NotSerializable, PayloadTooLarge


def put(root: Path, files: dict[str, str]) -> None:
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)


def later() -> int:
    """A clock by which nothing was written just now."""
    return time.time_ns() + 3_600_000_000_000


def tree_of(
    *portions: Portion,
    read: Callable[[str], bytes] = read_file,
    wall_ns: Callable[[], int] = later,
    limit_bytes: int = 1 << 20,
    limit_files: int = 1000,
) -> Tree:
    return Tree(Own("pkg", portions), read, wall_ns, limit_bytes, limit_files)


def files_of(*portions: Portion) -> dict[str, bytes]:
    tree = tree_of(*portions)
    tree.look(0.0)
    return tree.bundle().files


class TestWhatTravels:
    def test_sources_and_data_in_the_order_of_their_paths(self, tmp_path: Path) -> None:
        put(tmp_path, {"pkg/sub/b.py": "b", "pkg/data/t.csv": "1", "pkg/__init__.py": "", "pkg/py.typed": ""})
        found = files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"))
        assert found == {"pkg/__init__.py": b"", "pkg/data/t.csv": b"1", "pkg/py.typed": b"", "pkg/sub/b.py": b"b"}
        assert list(found) == sorted(found)

    def test_what_does_not(self, tmp_path: Path) -> None:
        put(
            tmp_path / "pkg",
            {
                "__init__.py": "",
                "__pycache__/x.cpython-311.pyc": "",
                "lone.pyc": "",
                ".git/config": "",
                ".env": "SECRET=1",
                "a.py~": "",
                "env/pyvenv.cfg": "",
                "env/lib/x.py": "",
                "conda/conda-meta/history": "",
                "conda/x.py": "",
                "node_modules/x/index.js": "",
                "pkg.egg-info/PKG-INFO": "",
                "vendor/site-packages/x.py": "",
            },
        )
        assert list(files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"))) == ["pkg/__init__.py"]

    def test_native_code_is_left_out_and_remembered(self, tmp_path: Path) -> None:
        names = ["_fast.cpython-311-x86_64-linux-gnu.so", "w.pyd", "sub/m.dylib", "lib.so.1", "x.dll"]
        put(tmp_path / "pkg", {"__init__.py": "", **dict.fromkeys(names, "")})
        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"))
        tree.look(0.0)
        assert list(tree.bundle().files) == ["pkg/__init__.py"]
        assert sorted(tree.left_out) == sorted(f"pkg/{name}" for name in names)
        os.unlink(tmp_path / "pkg" / "w.pyd")
        tree.look(1.0)
        assert "pkg/w.pyd" not in tree.left_out

    def test_a_single_file_takes_nothing_of_its_directory(self, tmp_path: Path) -> None:
        put(tmp_path, {"script.py": "x", "other.py": "", "huge.bin": "0" * 100})
        assert files_of(FilePortion(str(tmp_path / "script.py"), "pkg")) == {"pkg.py": b"x"}

    def test_a_namespace_package_gets_no_init(self, tmp_path: Path) -> None:
        put(tmp_path, {"one/pkg/a.py": "1", "two/pkg/b.py": "2", "two/pkg/deep/c.py": "3"})
        portions = [DirectoryPortion(str(tmp_path / each / "pkg"), "pkg") for each in ("one", "two")]
        assert files_of(*portions) == {"pkg/a.py": b"1", "pkg/b.py": b"2", "pkg/deep/c.py": b"3"}

    def test_the_first_portion_that_has_a_module_wins(self, tmp_path: Path) -> None:
        put(tmp_path, {"one/a.py": "first", "one/b/__init__.py": "first", "one/d/x.py": "1", "one/t.csv": "first"})
        put(tmp_path, {"two/a/__init__.py": "second", "two/b.py": "second", "two/d/y.py": "2", "two/t.csv": "second"})
        portions = [DirectoryPortion(str(tmp_path / each), "pkg") for each in ("one", "two")]
        assert files_of(*portions) == {
            "pkg/a.py": b"first",
            "pkg/b/__init__.py": b"first",
            "pkg/d/x.py": b"1",  # a directory without `__init__` is a namespace, of which both have a part
            "pkg/d/y.py": b"2",
            "pkg/t.csv": b"first",
        }

    def test_what_is_no_file_is_passed_over(self, tmp_path: Path) -> None:
        put(tmp_path, {"pkg/__init__.py": ""})
        os.mkfifo(tmp_path / "pkg" / "pipe")  # opening it would wait for ever
        assert list(files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"))) == ["pkg/__init__.py"]

    def test_a_portion_that_is_gone_is_passed_over(self, tmp_path: Path) -> None:
        put(tmp_path, {"pkg/__init__.py": ""})
        assert list(
            files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), DirectoryPortion("/nonexistent", "pkg"))
        ) == ["pkg/__init__.py"]

    @pytest.mark.parametrize("name", ["a\\b.txt", "a\nb.txt"])
    def test_a_name_that_cannot_travel(self, tmp_path: Path, name: str) -> None:
        put(tmp_path / "pkg", {"__init__.py": "", name: ""})
        with pytest.raises(
            NotSerializable, match=r"of the module 'pkg' is not a plain relative path: rename it"
        ) as caught:
            files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"))
        assert caught.value.path == str(tmp_path / "pkg" / name)

    def test_a_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        put(tmp_path, {"pkg/__init__.py": ""})
        with open(os.fsencode(tmp_path / "pkg") + b"/\xff.txt", "w"):
            pass
        with pytest.raises(NotSerializable, match="has a name that is not UTF-8: rename it"):
            files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"))


class TestLinks:
    def test_files_and_directories_are_followed(self, tmp_path: Path) -> None:
        put(tmp_path, {"pkg/__init__.py": "", "shared/x.py": "x", "table.csv": "1"})
        (tmp_path / "pkg/common").symlink_to(tmp_path / "shared")
        (tmp_path / "pkg/t.csv").symlink_to("../table.csv")
        (tmp_path / "pkg/dangling.py").symlink_to("nowhere")
        assert files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg")) == {
            "pkg/__init__.py": b"",
            "pkg/common/x.py": b"x",
            "pkg/t.csv": b"1",
        }

    def test_loops_end(self, tmp_path: Path) -> None:
        put(tmp_path, {"pkg/a/m.py": "a", "other/b/n.py": "b"})
        (tmp_path / "pkg/a/up").symlink_to(tmp_path / "pkg")
        (tmp_path / "pkg/a/here").symlink_to(".")
        (tmp_path / "pkg/a/root").symlink_to(tmp_path)
        (tmp_path / "pkg/out").symlink_to(tmp_path / "other")
        (tmp_path / "other/b/back").symlink_to(tmp_path / "pkg/a")
        assert list(files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"))) == [
            "pkg/a/m.py",
            "pkg/out/b/back/m.py",
            "pkg/out/b/n.py",
        ]

    def test_a_package_that_is_a_link_itself(self, tmp_path: Path) -> None:
        put(tmp_path, {"real/__init__.py": "1"})
        (tmp_path / "pkg").symlink_to("real")
        assert files_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg")) == {"pkg/__init__.py": b"1"}


class TestArchives:
    def write(self, path: Path, members: dict[str, str]) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)

    def test_a_package_and_a_single_file(self, tmp_path: Path) -> None:
        self.write(
            tmp_path / "lib.zip",
            {
                "top/pkg/__init__.py": "1",
                "top/pkg/t.csv": "2",
                "top/pkg/__pycache__/x.pyc": "",
                "top/pkg/.hidden": "",
                "top/pkg/_fast.so": "",
                "top/pkg/sub/": "",
                "top/pkgs/x.py": "another",
                "single.py": "3",
            },
        )
        archive = str(tmp_path / "lib.zip")
        assert files_of(ZipPortion(archive, "top/pkg", "pkg")) == {"pkg/__init__.py": b"1", "pkg/t.csv": b"2"}
        assert files_of(ZipPortion(archive, "single.py", "pkg")) == {"pkg.py": b"3"}

    def test_an_archive_that_changes(self, tmp_path: Path) -> None:
        self.write(tmp_path / "lib.zip", {"pkg/a.py": "1", "pkg/b.py": "1"})
        tree = tree_of(ZipPortion(str(tmp_path / "lib.zip"), "pkg", "pkg"))
        tree.look(0.0)
        tree.bundle()
        self.write(tmp_path / "lib.zip", {"pkg/a.py": "2", "pkg/b.py": "1"})
        assert [edit.path for edit in tree.look(1.0)] == ["pkg/a.py"]
        assert tree.bundle().files == {"pkg/a.py": b"2", "pkg/b.py": b"1"}

    def test_a_member_that_leads_out_of_it(self, tmp_path: Path) -> None:
        self.write(tmp_path / "lib.zip", {"pkg/a.py": "", "pkg/../../evil.py": ""})
        with pytest.raises(NotSerializable, match="is not a plain relative path"):
            files_of(ZipPortion(str(tmp_path / "lib.zip"), "pkg", "pkg"))

    def test_one_that_is_gone(self, tmp_path: Path) -> None:
        assert files_of(ZipPortion(str(tmp_path / "gone.zip"), "pkg", "pkg")) == {}

    def test_one_that_is_damaged(self, tmp_path: Path) -> None:
        self.write(tmp_path / "lib.zip", {"pkg/a.py": "content"})
        data = (tmp_path / "lib.zip").read_bytes()
        (tmp_path / "lib.zip").write_bytes(data.replace(b"content", b"CONTENT", 1))
        with pytest.raises(NotSerializable, match=r"cannot read .*lib\.zip, which belongs to a module .* Bad CRC-32"):
            files_of(ZipPortion(str(tmp_path / "lib.zip"), "pkg", "pkg"))

    def test_one_that_changes_between_listing_and_reading(self, tmp_path: Path) -> None:
        self.write(tmp_path / "lib.zip", {"pkg/a.py": "1"})
        tree = tree_of(ZipPortion(str(tmp_path / "lib.zip"), "pkg", "pkg"))
        tree.look(0.0)
        self.write(tmp_path / "lib.zip", {"pkg/a.py": "2"})
        with pytest.raises(NotSerializable, match="changed whenever it was read"):
            tree.bundle()
        tree.look(1.0)
        assert tree.bundle().files == {"pkg/a.py": b"2"}


class TestLimits:
    def test_too_many_bytes_names_the_largest_files(self, tmp_path: Path) -> None:
        put(
            tmp_path / "pkg", {f"{name}.bin": "0" * size for name, size in (("a", 600), ("b", 500), ("c", 9), ("d", 8))}
        )
        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), limit_bytes=1000, read=lambda path: 1 / 0)  # type: ignore[arg-type,return-value]
        with pytest.raises(PayloadTooLarge) as caught:
            tree.look(0.0)
        text = str(caught.value)
        assert text.startswith(
            "the module 'pkg' would send 0.0 MiB of files, and a client's limit for an author's modules is"
        )
        largest = [f"{tmp_path / 'pkg' / name}.bin" for name in "abc"]
        assert [text.index(path) for path in largest] == sorted(text.index(path) for path in largest)
        assert "d.bin" not in text
        assert "Move data out of the package and pass it as an argument, or install the module" in text
        assert (caught.value.size_bytes, caught.value.limit_bytes) == (1117, 1000)

    def test_just_at_the_limits(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"a.bin": "0" * 600, "b.bin": "0" * 400})
        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), limit_bytes=1000, limit_files=2)
        tree.look(0.0)
        assert tree.bundle().size_bytes == 1000

    def test_too_many_files_are_not_even_listed_to_the_end(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {f"{number}.txt": "" for number in range(6)})
        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), limit_files=5)
        with pytest.raises(
            PayloadTooLarge,
            match=rf"the module at {tmp_path}/pkg has more than 5 files .* move data and results out of it",
        ):
            tree.look(0.0)

    def test_a_module_that_grows_beyond_it_later(self, tmp_path: Path) -> None:
        put(tmp_path / "pkg", {"a.py": "1"})
        tree = tree_of(DirectoryPortion(str(tmp_path / "pkg"), "pkg"), limit_bytes=100)
        tree.look(0.0)
        before = tree.bundle()
        put(tmp_path / "pkg", {"results.bin": "0" * 200})
        for _ in range(2):
            with pytest.raises(PayloadTooLarge):
                tree.look(1.0)
        os.unlink(tmp_path / "pkg/results.bin")
        tree.look(2.0)
        assert tree.bundle() is before
