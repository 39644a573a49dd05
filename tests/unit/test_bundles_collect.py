"""Collecting at the client: what is followed, and when files are looked at again."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from plover.bundles import collect as collect_module
from plover.bundles.collect import RECHECK_S, Bundler, Collected
from plover.bundles.files import read_file
from plover.bundles.references import Names
from plover.errors import NotSerializable, PayloadTooLarge


class Client:
    """A client's tree of modules on `sys.path`, its bundler, and a clock that only tests move."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.said: list[str] = []
        self.reads = 0
        self.bundler = self.another()

    def another(self, **limits: int) -> Bundler:
        def read(path: str) -> bytes:
            self.reads += 1
            return read_file(path)

        return Bundler(
            clock=lambda: self.now,
            wall_ns=lambda: time.time_ns() + 3_600_000_000_000,
            read=read,
            say=self.said.append,
            **limits,
        )

    def put(self, files: dict[str, str]) -> None:
        for file, text in files.items():
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            (self.root / file).write_text(text)
        importlib.invalidate_caches()

    def collect(self, *referred: str, imported: tuple[str, ...] = ()) -> Collected:
        return self.bundler.collect(Names(frozenset(referred), frozenset(imported)))

    def later(self) -> None:
        self.now += RECHECK_S


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Client(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(collected: Collected) -> list[str]:
    return [name for name, _ in collected.wanted.members]


def files(collected: Collected) -> dict[str, bytes]:
    return {path: data for bundle in collected.bundles.values() for path, data in bundle.files.items()}


class TestWhatIsFollowed:
    def test_imports_of_imports_across_modules_those_inside_functions_too(self, client: Client) -> None:
        client.put(
            {
                "first/__init__.py": "",
                "first/entry.py": "def f():\n    import second.deep",
                "second/__init__.py": "from third import x",
                "second/deep.py": "",
                "third.py": "import importlib\nimportlib.import_module('fourth')",
                "fourth.py": "import json, pytest, no_such_module",
                "fifth.py": "",
            }
        )
        collected = client.collect("first.entry")
        assert names(collected) == ["first", "fourth", "second", "third"]
        assert list(collected.bundles) == [digest for _, digest in collected.wanted.members]
        assert {"json", "pytest", "no_such_module", "importlib"} <= set(collected.wanted.others)
        assert not any(name in sys.modules for name in ("first", "second", "third", "fourth"))

    def test_only_modules_that_are_reached_are_followed(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "", "pkg/a.py": "", "pkg/tests.py": "import huge", "huge.py": ""})
        collected = client.collect("pkg.a")
        assert names(collected) == ["pkg"]
        assert "pkg/tests.py" in files(collected)

    def test_packages_around_a_module_are_loaded_with_it(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "import helper", "pkg/sub/__init__.py": "", "pkg/sub/m.py": "", "helper.py": ""})
        assert names(client.collect("pkg.sub.m")) == ["helper", "pkg"]

    def test_a_star_loads_whatever_the_package_names(self, client: Client) -> None:
        client.put(
            {"pkg/__init__.py": "", "pkg/a.py": "import helper", "helper.py": "", "user.py": "from pkg import *"}
        )
        assert names(client.collect("user")) == ["helper", "pkg", "user"]

    def test_circles_end(self, client: Client) -> None:
        client.put({"a.py": "import b", "b.py": "import a"})
        assert names(client.collect("a")) == ["a", "b"]

    def test_imported_names_that_are_attributes_or_missing_are_left_alone(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "value = 1"})
        assert names(client.collect(imported=("pkg.value", "pkg.nothing.x", "no_such_module.x"))) == ["pkg"]

    def test_a_namespace_package(self, client: Client) -> None:
        client.put({"space/a.py": "from . import b", "space/b.py": "import helper", "helper.py": ""})
        collected = client.collect("space.a")
        assert names(collected) == ["helper", "space"]
        assert "space/__init__.py" not in files(collected)

    def test_arguments_add_to_the_function(self, client: Client) -> None:
        client.put({"a.py": "", "b.py": ""})
        collected = client.bundler.collect(Names(frozenset({"a"})), Names(frozenset({"b", "numpy"})))
        assert names(collected) == ["a", "b"]

    def test_nothing_of_the_authors(self, client: Client) -> None:
        collected = client.collect("numpy", "plover.kernels", "builtins", imported=("cupy", "__main__", "conftest", ""))
        assert (collected.wanted.members, collected.wanted.others) == ((), ())
        assert (collected.bundles, collected.digest) == ({}, b"")

    def test_the_set_has_the_digest_of_its_members(self, client: Client) -> None:
        client.put({"a.py": ""})
        assert client.collect("a").digest == client.collect("a").wanted.digest() != b""

    def test_neither_numba_nor_cupy_nor_the_authors_modules_are_imported(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "import numba, cupy\nfrom numba import cuda\nfrom . import m", "pkg/m.py": ""})
        code = (
            "import json, sys\n"
            "from plover.bundles.collect import current\nfrom plover.bundles.references import Names\n"
            "collected = current().collect(Names(frozenset({'pkg'}), frozenset({'numba.cuda', 'cupy'})))\n"
            "print(json.dumps([[name for name, _ in collected.wanted.members], sorted(sys.modules)]))"
        )
        out = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(client.root)},
        )
        found, modules = json.loads(out.stdout)
        assert found == ["pkg"]
        assert {"numba", "cupy", "pkg", "pkg.m"}.isdisjoint(modules)


class TestLookingAgain:
    def test_not_within_half_a_second(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "x = 1"})
        before = client.collect("pkg")
        client.put({"pkg/__init__.py": "x = 2"})
        client.now += RECHECK_S - 0.001
        assert client.collect("pkg") is before
        client.now += 0.001
        assert client.collect("pkg").digest != before.digest

    def test_the_same_answer_while_nothing_changes(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "import a", "a.py": ""})
        before, reads = client.collect("pkg"), client.reads
        for _ in range(3):
            client.later()
            assert client.collect("pkg") is before
        assert client.reads == reads

    def test_a_pending_call_keeps_the_old_content(self, client: Client) -> None:
        client.put({"a.py": "x = 1"})
        before = client.collect("a")
        client.put({"a.py": "x = 22"})
        client.later()
        client.collect("a")
        assert files(before) == {"a.py": b"x = 1"}

    def test_an_edit_that_imports_another_module(self, client: Client) -> None:
        client.put({"a.py": "", "b.py": ""})
        assert names(client.collect("a")) == ["a"]
        client.put({"a.py": "import b"})
        client.later()
        assert names(client.collect("a")) == ["a", "b"]

    def test_a_module_that_is_written_later(self, client: Client) -> None:
        assert names(client.collect(imported=("written_later",))) == []
        client.put({"written_later.py": ""})
        client.later()
        assert names(client.collect(imported=("written_later",))) == ["written_later"]

    def test_a_module_that_goes_away(self, client: Client) -> None:
        client.put({"a.py": ""})
        client.collect(imported=("a",))
        (client.root / "a.py").unlink()
        importlib.invalidate_caches()
        client.later()
        collected = client.collect(imported=("a",))
        assert (names(collected), collected.wanted.others) == ([], ("a",))

    def test_sys_path_changes(self, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        client.put({"a.py": "old", "first/a.py": "new"})
        client.collect("a")
        monkeypatch.syspath_prepend(str(tmp_path / "first"))
        client.later()
        assert files(client.collect("a")) == {"a.py": b"new"}

    def test_an_own_module_comes_before_an_installed_one(
        self, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.put({"site-packages/theirs.py": "", "first/theirs.py": ""})
        monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
        assert client.collect(imported=("theirs",)).wanted.others == ("theirs",)
        monkeypatch.syspath_prepend(str(tmp_path / "first"))
        client.later()
        assert names(client.collect(imported=("theirs",))) == ["theirs"]

    def test_a_path_that_is_extended_later(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "", "more/x.py": ""})
        client.collect("pkg")
        importlib.import_module("pkg").__path__.append(str(client.root / "more"))
        client.later()
        assert "pkg/x.py" in files(client.collect("pkg"))

    def test_two_sets_share_a_look_at_their_common_module(self, client: Client) -> None:
        client.put({"a.py": "", "b.py": "import a", "c.py": "import a"})
        client.collect("b")
        client.collect("c")
        assert client.reads == 3
        client.put({"a.py": "x = 1", "d.py": "import a"})
        assert client.collect("d").wanted.members[0] == client.collect("b").wanted.members[0]  # not looked at yet
        client.later()
        b, c, d = (client.collect(name).wanted.members[0] for name in ("b", "c", "d"))
        assert client.reads == 5
        assert b == c == d

    def test_what_is_remembered_is_bounded(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(collect_module, "_PLANS_LIMIT", 3)
        client.put({"a.py": ""})
        for number in range(10):
            assert names(client.collect("a", imported=(f"missing{number}",))) == ["a"]
        assert len(client.bundler._plans) <= 3
        assert repr(client.bundler) == "<bundler of ['a']>"

    def test_threads_may_ask_at_the_same_time(self, client: Client) -> None:
        client.put({f"m{number}.py": "" for number in range(4)})
        found: list[Collected] = []
        threads = [
            threading.Thread(target=lambda n=number: found.append(client.collect(f"m{n % 4}"))) for number in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 16
        assert client.reads == 4

    def test_one_thread_reads_at_a_time(self, client: Client) -> None:
        client.put({"a.py": ""})
        locked: list[bool] = []

        def read(path: str) -> bytes:
            locked.append(bundler._lock._is_owned())
            return read_file(path)

        bundler = Bundler(read=read)
        bundler.collect(Names(frozenset({"a"})))
        assert locked == [True]


class TestLimits:
    def test_of_all_modules_together(self, client: Client) -> None:
        client.put({"a.py": "import b\n" + "#" * 600, "b.py": "#" * 500})
        client.bundler = client.another(limit_bytes=1000)
        assert names(client.collect("b")) == ["b"]
        with pytest.raises(PayloadTooLarge, match=rf"the modules 'a', 'b' together would send .* {client.root}/a.py"):
            client.collect("a")

    def test_of_all_files_together(self, client: Client) -> None:
        client.put({"a.py": "import b", "b/__init__.py": "", "b/c.py": ""})
        client.bundler = client.another(limit_files=2)
        with pytest.raises(
            PayloadTooLarge, match="would send 3 files, and a client's limit for an author's modules is 2: move"
        ):
            client.collect("a")


class TestWithoutSource:
    @pytest.fixture
    def conjured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "conjured", types.ModuleType("conjured"))

    def test_what_the_pickle_refers_to_is_refused(self, client: Client, conjured: None) -> None:
        with pytest.raises(NotSerializable, match="the module 'conjured' was made at run time") as caught:
            client.collect("conjured")
        assert caught.value.path == "conjured"

    def test_what_code_imports_is_left_to_the_environment(self, client: Client, conjured: None) -> None:
        assert client.collect(imported=("conjured",)).wanted.others == ("conjured",)

    def test_it_may_get_a_source_later(self, client: Client, conjured: None, monkeypatch: pytest.MonkeyPatch) -> None:
        client.collect(imported=("conjured",))
        client.put({"conjured.py": ""})
        monkeypatch.delitem(sys.modules, "conjured")
        client.later()
        assert names(client.collect(imported=("conjured",))) == ["conjured"]

    def test_a_submodule_of_bytecode_alone(self, client: Client) -> None:
        import py_compile

        client.put({"pkg/__init__.py": "", "pkg/secret.py": ""})
        py_compile.compile(str(client.root / "pkg/secret.py"), cfile=str(client.root / "pkg/secret.pyc"))
        (client.root / "pkg/secret.py").unlink()
        importlib.invalidate_caches()
        importlib.import_module("pkg.secret")
        with pytest.raises(NotSerializable, match=r"the module 'pkg\.secret' is there only as bytecode"):
            client.collect("pkg.secret")
        assert names(client.collect(imported=("pkg.secret",))) == ["pkg"]

    def test_a_submodule_that_the_package_makes_itself(self, client: Client) -> None:
        client.put({"pkg/__init__.py": "import sys, types\nsys.modules['pkg.made'] = types.ModuleType('pkg.made')"})
        importlib.import_module("pkg")
        assert names(client.collect("pkg.made")) == ["pkg"]


def test_a_forked_child_has_a_bundler_of_its_own() -> None:
    """The parent's lock may be held by a thread that the child does not have."""
    parent = collect_module.current()
    with parent._lock:
        pid = os.fork()
        if pid == 0:
            try:
                mine = collect_module.current()
                os._exit(0 if mine is not parent and mine.collect(Names()).digest == b"" else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert collect_module.current() is parent
