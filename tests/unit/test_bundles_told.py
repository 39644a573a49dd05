"""What the author is told of edits and failed imports, and what a module is told of its own version."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import types
from pathlib import Path

import pytest

from plover.bundles.collect import Bundler
from plover.bundles.references import Names
from tests.unit import test_bundles_collect as shared
from tests.unit.test_bundles_collect import Client, files

client = shared.client  # the fixture


class TestNotices:
    LINE = "plover: {} changed on disk; workers use the new version, this process still runs the old one"

    def edit(self, client: Client, text: str, file: str = "mymodule.py") -> list[str]:
        """Change a file, call again, and take what was said."""
        client.put({file: text})
        client.later()
        client.collect("mymodule")
        said = client.said[:]
        client.said.clear()
        return said

    @pytest.fixture
    def imported(self, client: Client) -> types.ModuleType:
        client.put({"mymodule.py": "x = 1"})
        module = importlib.import_module("mymodule")
        client.collect("mymodule")
        return module

    def test_one_line_a_version(self, client: Client, imported: types.ModuleType) -> None:
        assert self.edit(client, "x = 22") == [self.LINE.format("mymodule")]
        assert self.edit(client, "x = 22") == []
        assert self.edit(client, "x = 333") == [self.LINE.format("mymodule")]
        assert self.edit(client, "x = 22") == []

    def test_nothing_when_the_old_version_is_restored(self, client: Client, imported: types.ModuleType) -> None:
        self.edit(client, "x = 22")
        assert self.edit(client, "x = 1") == []

    def test_nothing_when_it_was_loaded_again(self, client: Client, imported: types.ModuleType) -> None:
        client.put({"mymodule.py": "x = 22"})
        importlib.reload(imported)
        assert self.edit(client, "x = 22") == []
        assert self.edit(client, "x = 333") == [self.LINE.format("mymodule")]

    def test_nothing_when_it_is_not_imported_here(self, client: Client) -> None:
        client.put({"mymodule.py": "x = 1"})
        client.collect("mymodule")
        assert self.edit(client, "x = 22") == []

    def test_a_module_that_is_imported_between_calls(self, client: Client) -> None:
        client.put({"mymodule.py": "x = 1"})
        client.collect("mymodule")
        importlib.import_module("mymodule")
        client.later()
        client.collect("mymodule")
        assert self.edit(client, "x = 22") == [self.LINE.format("mymodule")]

    def test_submodules_by_their_full_names_and_no_data(self, client: Client) -> None:
        client.put({"mymodule/__init__.py": "", "mymodule/sub.py": "", "mymodule/t.csv": ""})
        importlib.import_module("mymodule.sub")
        client.collect("mymodule")
        assert self.edit(client, "x = 1", "mymodule/sub.py") == [self.LINE.format("mymodule.sub")]
        assert self.edit(client, "x = 1", "mymodule/__init__.py") == [self.LINE.format("mymodule")]
        assert self.edit(client, "1,2", "mymodule/t.csv") == []

    def test_by_default_it_goes_to_stderr(self, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
        client.put({"mymodule.py": "x = 1"})
        importlib.import_module("mymodule")
        bundler = Bundler(clock=lambda: client.now)
        bundler.collect(Names(frozenset({"mymodule"})))
        client.put({"mymodule.py": "x = 22"})
        client.later()
        bundler.collect(Names(frozenset({"mymodule"})))
        assert capsys.readouterr().err == self.LINE.format("mymodule") + "\n"


class TestExplanations:
    """What an ImportError of a worker means at the client."""

    def explain(self, client: Client, name: str, text: str = "") -> str | None:
        return client.bundler.explain(ModuleNotFoundError(text or f"No module named {name!r}", name=name))

    def test_an_extension_module_that_was_left_out(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "", "pkg/sub/_fast.cpython-311-x86_64-linux-gnu.so": ""})
        client.collect("pkg")
        note = self.explain(client, "pkg.sub._fast")
        assert note is not None
        assert "pkg/sub/_fast.cpython-311-x86_64-linux-gnu.so is native code, which does not travel" in note
        assert "install 'pkg' in the worker's environment" in note

    def test_the_same_by_from_import(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "", "pkg/_fast.abi3.so": ""})
        client.collect("pkg")
        note = client.bundler.explain(ImportError("cannot import name '_fast' from 'pkg' (/x)", name="pkg"))
        assert note is not None
        assert "pkg/_fast.abi3.so is native code" in note
        assert client.bundler.explain(ImportError("cannot import name 'other' from 'pkg' (/x)", name="pkg")) is None

    def test_a_library_that_was_left_out(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "", "pkg/libk.so": ""})
        client.collect("pkg")
        note = client.bundler.explain(OSError("/c/pkg/libk.so: cannot open shared object file: No such file"))
        assert note is not None
        assert "pkg/libk.so is native code" in note
        assert client.bundler.explain(OSError("disk full")) is None

    def test_what_is_installed_here_only(self, client: Client) -> None:
        note = self.explain(client, "pytest.sub")
        assert note is not None
        assert "'pytest' is installed here, and not in the worker's environment: install it there" in note

    def test_an_extension_module_of_the_authors(self, client: Client) -> None:
        client.put({"speedy.abi3.so": ""})
        note = self.explain(client, "speedy")
        assert note is not None
        assert f"'speedy' is an extension module ({client.root}/speedy.abi3.so), which does not travel" in note

    def test_a_module_without_source(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "conjured", types.ModuleType("conjured"))
        note = self.explain(client, "conjured")
        assert note is not None
        assert "plover: the module 'conjured' was made at run time" in note

    @pytest.mark.parametrize("known", [False, True])
    def test_an_own_module_that_was_imported_under_a_computed_name(self, client: Client, known: bool) -> None:
        client.put({"plugin.py": "", "uses.py": "import plugin"})
        if known:
            client.collect("uses")
        note = self.explain(client, "plugin")
        assert note is not None
        assert "'plugin' is a module of yours, but nothing that this call mentions by name imports it: write" in note

    @pytest.mark.parametrize(("file", "where"), [("brief.py", "brief.py"), ("brief/__init__.py", "brief")])
    @pytest.mark.parametrize("imported", [False, True])
    def test_an_own_module_that_was_deleted(self, client: Client, file: str, where: str, imported: bool) -> None:
        client.put({file: ""})
        client.collect("brief")
        if imported:
            importlib.import_module("brief")
        shutil.rmtree(client.root / "brief") if where == "brief" else (client.root / where).unlink()
        importlib.invalidate_caches()
        assert self.explain(client, "brief") == (
            f"plover: the module 'brief' came from {client.root / where}, which is gone: put it back, or import the module "
            "from where it is now"
        )

    def test_an_own_module_that_must_not_be_imported_here(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.put({"brief.py": ""})
        client.collect("brief")
        monkeypatch.setitem(sys.modules, "brief", None)
        assert self.explain(client, "brief") is None

    @pytest.mark.parametrize("name", ["no_such_module", "pkg.no_such_part", "numpy"])
    def test_nothing_to_add(self, client: Client, name: str) -> None:
        client.put({"pkg/__init__.py": ""})
        client.collect("pkg")
        assert self.explain(client, name) is None

    def test_other_errors(self, client: Client) -> None:
        assert client.bundler.explain(ValueError("x")) is None
        assert client.bundler.explain(ImportError("without a name")) is None
        assert client.bundler.explain(ImportError("cannot import name 'x' from 'pytest' (/x)", name="pytest")) is None


class TestMetadata:
    """What an editable install says of itself goes along, for modules that ask for their version at import."""

    @pytest.fixture
    def project(self, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        site = tmp_path / "venv" / "site-packages"
        info = site / "my_project-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-project\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text("[x]\na = mypkg:b\n")
        (info / "RECORD").write_text("")
        (info / "direct_url.json").write_text(
            json.dumps({"url": (tmp_path / "project").as_uri(), "dir_info": {"editable": True}})
        )
        broken = site / "broken-1.dist-info"
        broken.mkdir()
        (broken / "direct_url.json").write_text("{")
        source = tmp_path / "project" / "src"
        (source / "mypkg").mkdir(parents=True)
        for place in (site, source):
            monkeypatch.syspath_prepend(str(place))
        return source / "mypkg"

    def test_a_module_that_asks(self, client: Client, project: Path) -> None:
        (project / "__init__.py").write_text(
            "from importlib.metadata import version\n__version__ = version('my-project')"
        )
        assert sorted(files(client.collect("mypkg"))) == [
            "my_project-1.5.dist-info/METADATA",
            "my_project-1.5.dist-info/entry_points.txt",
            "mypkg/__init__.py",
        ]

    def test_a_module_that_does_not(self, client: Client, project: Path) -> None:
        (project / "__init__.py").write_text("__version__ = '1.5'")
        assert sorted(files(client.collect("mypkg"))) == ["mypkg/__init__.py"]

    def test_only_its_own_project(self, client: Client, project: Path) -> None:
        client.put({"elsewhere.py": "import importlib.metadata"})
        assert sorted(files(client.collect("elsewhere"))) == ["elsewhere.py"]

    def test_not_an_install_of_files(self, client: Client, project: Path) -> None:
        (project / "__init__.py").write_text("import importlib.metadata")
        (said,) = project.parent.parent.parent.glob("venv/site-packages/my_project*/direct_url.json")
        said.write_text(json.dumps({"url": project.parent.as_uri(), "dir_info": {}}))
        assert sorted(files(client.collect("mypkg"))) == ["mypkg/__init__.py"]
