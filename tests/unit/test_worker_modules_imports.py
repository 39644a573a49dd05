"""From a client's tree to a worker's imports, each side in a process of its own: what works locally works there.

The client packs with the packer of `test_bundles_references`, which shows all that a packer must do for it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest

from plover.bundles.collect import Bundler, Collected
from plover.bundles.references import Names

ROOT = Path(__file__).parent.parent.parent

#: Runs in the client: pack a function, collect what it needs, and leave all that for a worker.
CLIENT = """
def send(function, to):
    import io, pathlib, msgspec
    from plover.bundles.collect import current
    from tests.unit.test_bundles_references import NotingPacker
    stream = io.BytesIO()
    packer = NotingPacker(stream)
    packer.dump(function)
    collected = current().collect(packer.references.names())
    message = [stream.getvalue(), collected.wanted, [bundle.encode() for bundle in collected.bundles.values()]]
    pathlib.Path(to).write_bytes(msgspec.msgpack.encode(message))
"""

#: Runs in the worker, before what a test does there.
WORKER = """
import json, pathlib, pickle, sys
import msgspec
from plover.bundles.format import BundleSet, decode
from plover_runtime.modules import Modules

def activate(message, cache):
    payload, wanted, bundles = msgspec.msgpack.decode(
        pathlib.Path(message).read_bytes(), type=tuple[bytes, BundleSet, list[bytes]]
    )
    worker = Modules(cache)
    worker.activate(wanted, {decode(bundle).digest: bundle for bundle in bundles})
    return payload
"""


def put(root: Path, files: dict[str, str]) -> None:
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(textwrap.dedent(text))


class System:
    """A project of the author's, a message, and a cache for workers."""

    def __init__(self, directory: Path) -> None:
        self.project = directory / "project"
        self.cache = directory / "cache"
        self.environment = directory / "environment"  # what is "installed" in the worker only
        self._message = directory / "message"
        for each in (self.project, self.environment):
            each.mkdir()

    def _run(self, command: list[str], path: list[Path], **variables: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), **variables}
        done = subprocess.run(
            [sys.executable, *command], cwd=self.project, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def client(self, script: str, *command: str, path: list[Path] | None = None) -> None:
        """Run a script, or with `command` a module that is there already; both end with `send(function, TO)`."""
        preamble = f"TO = {str(self._message)!r}\n{CLIENT}"
        if command:
            put(self.project, {"sending.py": preamble})
            self._run(list(command), path or [self.project, ROOT])
        else:
            put(self.project, {"script.py": preamble + textwrap.dedent(script)})
            self._run(["script.py"], path or [self.project, ROOT])

    def send_modules(self, *names: str, path: list[Path] | None = None) -> Collected:
        """A message that needs these modules and has no function."""
        import msgspec

        with pytest.MonkeyPatch.context() as patch:
            for place in reversed(path or [self.project]):
                patch.syspath_prepend(str(place))
            collected = Bundler().collect(Names(frozenset(names)))
        bundles = [bundle.encode() for bundle in collected.bundles.values()]
        self._message.write_bytes(msgspec.msgpack.encode([b"", collected.wanted, bundles]))
        return collected

    def worker(self, code: str, **variables: str) -> Any:
        """Run code in a fresh worker, in which `payload` is the message's function; returns what it gives to `tell`."""
        text = (
            f"{WORKER}\nPROJECT = {str(self.project)!r}\nCACHE = {str(self.cache)!r}\n"
            f"payload = activate({str(self._message)!r}, CACHE)\n"
            "def tell(value): print('TOLD', json.dumps(value))\n" + textwrap.dedent(code)
        )
        # -P: no directory of the author's is on the path; the project itself is out of the way meanwhile.
        hidden = self.project.with_name("hidden")
        self.project.rename(hidden)
        self.project.mkdir()
        try:
            out = self._run(["-P", "-c", text], [self.environment], **variables)
        finally:
            self.project.rmdir()
            hidden.rename(self.project)
        return json.loads(out.partition("TOLD ")[2] or "null")


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


class TestFunctions:
    def test_a_script_that_uses_its_own_modules(self, system: System) -> None:
        put(
            system.project,
            {
                "mypkg/__init__.py": "from .shapes import Point",
                "mypkg/shapes.py": "class Point:\n    def __init__(self, x): self.x = x",
                "mypkg/lazy.py": "from . import shapes\ndef double(p): return shapes.Point(p.x * 2)",
                "tools.py": "import mypkg\ndef origin(): return mypkg.Point(0)",
            },
        )
        system.client(
            """
            import tools
            from mypkg import Point

            def f(x):
                from mypkg.lazy import double
                return double(Point(x)), tools.origin()

            send(f, TO)
            """
        )
        told = system.worker(
            """
            result, origin = pickle.loads(payload)(21)
            import mypkg.shapes
            tell([result.x, type(result) is mypkg.shapes.Point is type(origin), mypkg.shapes.__file__])
            """
        )
        assert told[:2] == [42, True]
        assert told[2].startswith(str(system.cache / "mypkg-"))

    def test_a_module_that_is_run_with_m(self, system: System) -> None:
        """Its functions go by value, and their relative imports start at its package."""
        put(
            system.project,
            {
                "pkg/__init__.py": "",
                "pkg/helper.py": "value = 7",
                "pkg/other.py": "value = 8",
                "pkg/script.py": """
                    from sending import TO, send
                    from . import helper

                    def f():
                        from .other import value
                        return helper.value, value, __package__

                    if __name__ == "__main__":
                        send(f, TO)
                    """,
            },
        )
        system.client("", "-m", "pkg.script")
        assert system.worker("tell(pickle.loads(payload)())") == [7, 8, "pkg"]

    def test_an_instance_keeps_the_identity_of_its_class(self, system: System) -> None:
        put(system.project, {"mypkg/__init__.py": "", "mypkg/model.py": "class Model:\n    shared = []"})
        system.client(
            """
            from mypkg.model import Model
            model = Model()
            def f():
                model.shared.append(1)
                return model
            send(f, TO)
            """
        )
        told = system.worker(
            """
            function = pickle.loads(payload)
            from mypkg.model import Model
            tell([type(function()) is Model, Model.shared, pickle.loads(pickle.dumps(Model)) is Model])
            """
        )
        assert told == [True, [1], True]


class TestTheImportSystem:
    """All of it is the interpreter's own: what bundles must do is to be files."""

    def test_sources_resources_and_circular_imports(self, system: System) -> None:
        put(
            system.project,
            {
                "mypkg/__init__.py": "from . import a",
                "mypkg/a.py": "from . import b\ndef f():\n    # a comment\n    return b.g()",
                "mypkg/b.py": "from . import a\ndef g(): return a.__name__",
                "mypkg/data/table.csv": "1,2",
                "mypkg/sub/__init__.py": "",
            },
        )
        system.send_modules("mypkg")
        told = system.worker(
            """
            import importlib.resources, inspect, pkgutil
            import mypkg.sub
            tell({
                "call": mypkg.a.f(),
                "source": inspect.getsource(mypkg.a.f),
                "file": inspect.getsourcefile(mypkg.a.f),
                "table": (importlib.resources.files("mypkg") / "data/table.csv").read_text(),
                "beside": (pathlib.Path(mypkg.__file__).parent / "data/table.csv").read_text(),
                "modules": [module.name for module in pkgutil.iter_modules(mypkg.__path__)],
                "package": mypkg.sub.__package__,
            })
            """
        )
        assert told.pop("file").startswith(str(system.cache))
        assert told == {
            "call": "mypkg.a",
            "source": "def f():\n    # a comment\n    return b.g()\n",
            "table": "1,2",
            "beside": "1,2",
            "modules": ["a", "b", "sub"],
            "package": "mypkg.sub",
        }

    def test_tracebacks_show_the_source(self, system: System) -> None:
        put(system.project, {"mypkg/__init__.py": "", "mypkg/bad.py": "def f(x):\n    return 1 / x  # the culprit\n"})
        system.send_modules("mypkg.bad")
        told = system.worker(
            """
            import traceback, mypkg.bad
            try:
                mypkg.bad.f(0)
            except ZeroDivisionError:
                tell(traceback.format_exc())
            """
        )
        assert "return 1 / x  # the culprit" in told
        assert f'File "{system.cache}/mypkg-' in told

    def test_bytecode_is_kept_for_the_next_worker(self, system: System) -> None:
        put(system.project, {"mypkg/__init__.py": "", "mypkg/m.py": ""})
        system.send_modules("mypkg.m")
        code = """
            import importlib._bootstrap_external as external
            compiled, compile_source = [], external.SourceLoader.source_to_code
            def noting(self, data, path, **options):
                compiled.append(pathlib.Path(path).name)
                return compile_source(self, data, path, **options)
            external.SourceLoader.source_to_code = noting
            import mypkg.m
            tell([compiled, mypkg.m.__cached__])
            """
        compiled, cached = system.worker(code)
        assert compiled == ["__init__.py", "m.py"]
        assert Path(cached).parent.parent.parent.parent == system.cache
        assert Path(cached).exists()
        assert system.worker(code) == [[], cached]

    def test_bytecode_goes_where_the_environment_says(self, system: System, tmp_path: Path) -> None:
        put(system.project, {"mymod.py": ""})
        system.send_modules("mymod")
        cached = system.worker("import mymod; tell(mymod.__cached__)", PYTHONPYCACHEPREFIX=str(tmp_path / "prefix"))
        assert Path(cached).is_relative_to(tmp_path / "prefix")
        assert Path(cached).exists()
        assert not list(system.cache.rglob("__pycache__"))

    def test_a_module_that_is_missing_fails_as_it_does_anywhere(self, system: System) -> None:
        put(system.project, {"mypkg/__init__.py": "import no_such_module"})
        system.send_modules("mypkg")
        told = system.worker(
            """
            try:
                import mypkg
            except ModuleNotFoundError as error:
                tell([error.name, str(error)])
            """
        )
        assert told == ["no_such_module", "No module named 'no_such_module'"]


class TestWhereModulesComeFrom:
    def test_a_namespace_package_that_the_environment_shares(self, system: System, tmp_path: Path) -> None:
        put(system.environment, {"space/theirs.py": "value = 'theirs'"})
        put(system.project, {"one/space/mine.py": "value = 'mine'", "two/space/more.py": "from . import mine"})
        system.send_modules("space.more", path=[system.project / "one", system.project / "two"])
        told = system.worker(
            """
            import space.theirs, space.mine, space.more
            tell([space.theirs.value, space.more.mine.value, space.__file__ is None, len(list(space.__path__))])
            """
        )
        assert told == ["theirs", "mine", True, 2]

    def test_an_extended_path(self, system: System) -> None:
        put(
            system.project,
            {
                "one/mypkg/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)",
                "two/mypkg/__init__.py": "raise AssertionError('never run')",
                "two/mypkg/extra.py": "value = 5",
            },
        )
        system.client(
            "import mypkg.extra\nsend(lambda: mypkg.extra.value, TO)",
            path=[system.project / "one", system.project / "two", ROOT],
        )
        assert system.worker("tell(pickle.loads(payload)())") == 5

    def test_modules_in_a_zip_file(self, system: System) -> None:
        archive = system.project / "lib.zip"
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("zipped/__init__.py", "from .m import value")
            made.writestr("zipped/m.py", "value = 'from a zip file'")
            made.writestr("zipped/t.txt", "text")
        system.send_modules("zipped", path=[archive])
        told = system.worker(
            "import zipped; tell([zipped.value, (pathlib.Path(zipped.__file__).parent / 't.txt').read_text()])"
        )
        assert told == ["from a zip file", "text"]

    def test_an_editable_install_that_asks_for_its_version(self, system: System, tmp_path: Path) -> None:
        info = tmp_path / "venv/site-packages/my_project-1.5.dist-info"
        put(
            info,
            {
                "METADATA": "Metadata-Version: 2.1\nName: my-project\nVersion: 1.5\n",
                "direct_url.json": json.dumps({"url": system.project.as_uri(), "dir_info": {"editable": True}}),
            },
        )
        source = "from importlib.metadata import version\n__version__ = version('my-project')"
        put(system.project, {"src/mypkg/__init__.py": source})
        system.send_modules("mypkg", path=[info.parent, system.project / "src"])
        assert system.worker("import mypkg; tell(mypkg.__version__)") == "1.5"


class TestExtensionModules:
    """They belong in the environment, and are found there from a package that was sent without them."""

    @pytest.fixture
    def extension(self) -> Path:
        """Some extension module of the standard library that needs nothing of its name's."""
        (found,) = Path(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_prefix})).glob(
            "lib-dynload/_json.*"
        )
        return found

    def test_the_environments_copy_of_the_package_has_them(self, system: System, extension: Path) -> None:
        put(system.project, {"mypkg/__init__.py": "", "mypkg/sub/__init__.py": "from ._json import scanstring"})
        put(
            system.environment,
            {"mypkg/__init__.py": "raise AssertionError", "mypkg/sub/__init__.py": "raise AssertionError"},
        )
        shutil.copy(extension, system.environment / "mypkg/sub")
        (system.project / "mypkg/sub" / extension.name).write_text("not sent")
        collected = system.send_modules("mypkg.sub")
        assert not any(extension.name in path for bundle in collected.bundles.values() for path in bundle.files)
        told = system.worker("import mypkg.sub as s; tell([s.scanstring('ab\"', 0), s._json.__file__, s.__file__])")
        assert told[:2] == [["ab", 3], str(system.environment / "mypkg/sub" / extension.name)]
        assert told[2].startswith(str(system.cache))

    def test_but_no_source_is_taken_from_there(self, system: System) -> None:
        """The author removed it: what the environment still has is another version of the package."""
        put(system.project, {"mypkg/__init__.py": ""})
        put(system.environment, {"mypkg/__init__.py": "", "mypkg/removed.py": ""})
        system.send_modules("mypkg")
        told = system.worker(
            """
            try:
                import mypkg.removed
            except ModuleNotFoundError as error:
                tell(error.name)
            """
        )
        assert told == "mypkg.removed"


def test_numba_keeps_what_it_compiled_beside_the_module(system: System) -> None:
    put(
        system.project,
        {
            "kernels/__init__.py": "",
            "kernels/k.py": """
                from numba import njit

                @njit(cache=True)
                def triple(x):
                    return 3 * x
                """,
        },
    )
    system.send_modules("kernels.k")
    code = "from kernels.k import triple; tell([triple(2), sum(triple.stats.cache_hits.values())])"
    assert system.worker(code) == [6, 0]
    assert list(system.cache.glob("kernels-*/kernels/__pycache__/*.nbi"))
    assert system.worker(code) == [6, 1]
