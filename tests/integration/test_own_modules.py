"""The author's own modules, from a script's directory to a worker and back: real daemons, clients as processes."""

from __future__ import annotations

import json
import zipfile
from typing import Any

import pytest

from tests.support.authors import client
from tests.support.daemons import Daemon

PACKAGE: dict[str, str | bytes] = {
    "mypkg/__init__.py": "",
    "mypkg/model.py": """
        import dataclasses, enum
        from . import util
        from .sub.deep import depth

        class Kind(enum.Enum):
            ONE = 1

        @dataclasses.dataclass
        class Point:
            x: int
            kind: Kind = Kind.ONE

        def f(x):
            return util.FACTOR * x + depth()

        def late(x):
            from .late import shift
            from importlib import resources
            return shift(x), resources.files("mypkg").joinpath("data/words.txt").read_text()

        def boom(x):
            return x / 0  # the line of the author's
    """,
    "mypkg/util.py": "FACTOR = 3",
    "mypkg/sub/__init__.py": "",
    "mypkg/sub/deep.py": "def depth():\n    return 0.5",
    "mypkg/late.py": "def shift(x):\n    return x + 100",
    "mypkg/data/words.txt": "a few words",
}


def test_a_script_with_its_package_on_an_embedded_daemon() -> None:
    source = """
        from mypkg.model import Kind, Point, boom, f, late

        @gpu_function
        def moved(point, by):
            return Point(point.x + by, point.kind), Point, os.path.isfile(sys.modules["mypkg"].__file__)

        point, cls, is_file = moved(Point(1), 2)
        try:
            gpu_function(boom)(1)
        except ZeroDivisionError:
            text = traceback.format_exc()
        print(json.dumps([
            gpu_function(f)(2), gpu_function(late)(1),
            type(point) is Point, cls is Point, point.x, point.kind is Kind.ONE, is_file,
            "return x / 0  # the line of the author's" in text, os.path.abspath(os.path.join("mypkg", "model.py")) in text,
        ]))
    """
    with client(PACKAGE) as author:
        found = author.run(source)
        assert found == [6.5, [101, "a few words"], True, True, 3, True, True, True, True]
        author.mark.assert_gone()


def test_a_warning_of_an_own_module_names_its_own_file_and_is_filtered_as_that_modules(daemon: Daemon) -> None:
    files: dict[str, str | bytes] = {
        "careful.py": "import warnings\ndef f():\n    warnings.warn('mind', DeprecationWarning)\n    return 1\n"
    }
    source = """
        import warnings
        import careful
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module="careful")
        with warnings.catch_warnings(record=True) as caught:
            gpu_function(careful.f)()
        print(json.dumps([(str(each.message), each.filename == careful.__file__, each.lineno) for each in caught]))
    """
    with client(files, daemon.address) as author:
        assert author.run(source) == [["mind", True, 3]]


#: Where the modules lie → files, and a script whose last line prints what is expected.
WAYS: dict[str, tuple[dict[str, str | bytes], str, Any]] = {
    "a module beside the script, imported by the function": (
        {"beside.py": "def g(): return 'beside'"},
        "@gpu_function\ndef f():\n    import beside\n    return beside.g()\nprint(json.dumps(f()))",
        "beside",
    ),
    "a namespace package": (
        {"space/part.py": "from . import other\ndef f(): return other.N", "space/other.py": "N = 4"},
        "from space.part import f\nprint(json.dumps(gpu_function(f)()))",
        4,
    ),
    "a decorated function of an own module, with a relative import": (
        {
            "pkg/__init__.py": "",
            "pkg/work.py": "from plover import gpu_function\n@gpu_function\n"
            "def f():\n    from .more import M\n    return M, g()\ndef g(): return 'g'",
            "pkg/more.py": "M = 'more'",
        },
        "from pkg.work import f\nprint(json.dumps(f()))",
        ["more", "g"],
    ),
    "modules of modules": (
        {
            "first.py": "import second\ndef f(): return second.g()",
            "second.py": "def g():\n    import third\n    return third.T",
            "third.py": "T = 'third'",
        },
        "import first\nprint(json.dumps(gpu_function(first.f)()))",
        "third",
    ),
    "a class in the arguments alone": (
        {"things.py": "class Thing:\n    def __init__(self, n): self.n = n\n    def double(self): return 2 * self.n"},
        "import things\nf = gpu_function(lambda thing: thing.double())\nprint(json.dumps(f(things.Thing(4))))",
        8,
    ),
    "kernels and device functions of an own module": (
        {
            "kern.py": "from numba import cuda\n@cuda.jit(device=True)\ndef twice(x): return 2 * x\n"
            "@cuda.jit\ndef double(x):\n    i = cuda.grid(1)\n    if i < x.size: x[i] = twice(x[i])\n",
        },
        "import numpy as np\nfrom kern import double\nx = np.arange(4.0)\ngpu_function(double)[1, 4](x)\n"
        "print(json.dumps(x.tolist()))",
        [0, 2, 4, 6],
    ),
    "a program that is run as a module of its package": (
        {
            "prog/__init__.py": "",
            "prog/cli.py": "import json\nfrom plover import gpu_function\n"
            "@gpu_function\ndef f():\n    from .parts import P\n    return P\nprint(json.dumps(f()))",
            "prog/parts.py": "P = 'part'",
        },
        "import runpy\nrunpy.run_module('prog.cli', run_name='__main__', alter_sys=True)",
        "part",
    ),
    "the second attempt, on a fresh worker": (
        {
            "twice.py": "import os, signal, plover\ndef f():\n    attempt = plover.current_call().attempt\n"
            "    if attempt == 1: os.kill(os.getpid(), signal.SIGKILL)\n    return attempt",
        },
        "import twice\nprint(json.dumps(gpu_function(retries=1)(twice.f)()))",
        2,
    ),
    "results and exceptions of an own class that nothing names": (
        {
            "made.py": "class Made:\n    def __init__(self, n): self.n = n\nclass Failed(Exception): pass\n"
            "def make(n):\n    if n < 0: raise Failed(n)\n    return Made(n)"
        },
        "import made\nf = gpu_function(made.make)\nvalue = f(3)\n"
        "try: f(-1)\nexcept made.Failed as error: print(json.dumps([type(value) is made.Made, value.n, error.args]))",
        [True, 3, [-1]],
    ),
    "in a foreground worker": (
        {"beside.py": "def g(): return 'debugged'"},
        "import beside\nprint(json.dumps(plover.debug(beside.g)))",
        "debugged",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_in_which_own_modules_are_used(daemon: Daemon, way: str) -> None:
    files, source, expected = WAYS[way]
    with client(files, daemon.address) as author:
        assert author.run(source) == expected


def test_a_zipped_module(daemon: Daemon) -> None:
    with client({}, daemon.address) as author:
        with zipfile.ZipFile(author.root / "lib.zip", "w") as archive:
            archive.writestr("zipped/__init__.py", "from .inner import f")
            archive.writestr("zipped/inner.py", "def f(): return 'out of the archive'")
        source = """
            sys.path.insert(0, os.path.join(sys.path[0], "lib.zip"))
            from zipped import f
            print(json.dumps(gpu_function(f)()))
        """
        assert author.run(source) == "out of the archive"


def test_an_edit_is_noticed_within_a_second(daemon: Daemon) -> None:
    """No call that begins a second after the edit has the old version."""
    source = """
        import time, edited
        from edited import value

        f = gpu_function(value)
        before = f()
        with open(edited.__file__, "w") as file:
            file.write("def value(): return 2")
        wrote = time.monotonic()
        last_old = 0.0
        while True:
            began = time.monotonic()
            now = f()
            if now != before:
                break
            last_old = began - wrote
        print(json.dumps([before, now, last_old < 1.0, value()]))
    """
    with client({"edited.py": "def value(): return 1"}, daemon.address) as author:
        assert author.run(source) == [1, 2, True, 1]
        assert author.script is not None
        assert author.script.stderr().splitlines()[1:] == [  # the first says that the device is simulated
            "plover: edited changed on disk; workers use the new version, this process still runs the old one"
        ]


def test_two_clients_with_two_versions_of_one_module(daemon: Daemon) -> None:
    """One slot: the worker's place is taken by a fresh one, and neither ever sees the other's."""
    source = """
        from versioned import f
        g = gpu_function(lambda: (f(), os.getpid()))
        sys.stdin.readline()
        futures = [g.submit() for _ in range(6)]
        print(json.dumps([future.result() for future in futures] + [g() for _ in range(3)]))
    """
    with (
        client({"versioned.py": "def f(): return 'one'"}, daemon.address) as one,
        client({"versioned.py": "def f(): return 'two'"}, daemon.address) as two,
    ):
        scripts = [each.start(source) for each in (one, two)]
        found = []
        for script in scripts:
            status, output = script.wait()
            assert status == 0, script.stderr()
            found.append(json.loads(output))
    values = [{value for value, _ in each} for each in found]
    assert values == [{"one"}, {"two"}]
    workers = [{pid for _, pid in each} for each in found]
    assert not workers[0] & workers[1]


def test_functions_with_and_without_modules_share_a_worker(daemon: Daemon) -> None:
    source = """
        import left, right
        f = [gpu_function(each) for each in (left.f, right.f, lambda: os.getpid())]
        print(json.dumps([each() for each in f * 2]))
    """
    with client(
        {"left.py": "import os\ndef f(): return os.getpid()", "right.py": "from left import f"}, daemon.address
    ) as author:
        assert len(set(author.run(source))) == 1


def test_a_name_that_a_worker_has_looked_for_in_vain(daemon: Daemon) -> None:
    """The daemon cannot know that: the worker leaves, and the call goes to a fresh one, without a retry."""
    source = """
        name = "late" + "comer"

        @gpu_function
        def vain():
            try:
                __import__(name)
            except ImportError as error:
                return os.getpid(), error.name

        @gpu_function
        def found():
            import latecomer
            return os.getpid(), latecomer.X

        print(json.dumps([vain(), found(), found()]))
    """
    with client({"latecomer.py": "X = 'here'"}, daemon.address) as author:
        (one, missed), (two, x), (three, _) = author.run(source)
        assert (missed, x) == ("latecomer", "here")
        assert one != two == three


ERRORS: dict[str, tuple[dict[str, str | bytes], str, str, str]] = {
    "too large": (
        {"big/__init__.py": "def f(): pass"},
        "with open(os.path.join(sys.path[0], 'big', 'data.bin'), 'wb') as file: file.truncate(65 << 20)\nfrom big import f",
        "PayloadTooLarge",
        "65.0 MiB of files, and a client's limit for an author's modules is 64.0 MiB. The largest: ",
    ),
    "without source": (
        {"bare.py": "def f(): pass"},
        "import py_compile\npath = os.path.join(sys.path[0], 'bare.py')\npy_compile.compile(path, path + 'c')\n"
        "os.remove(path)\nfrom bare import f",
        "NotSerializable",
        "the module 'bare' is there only as bytecode",
    ),
    "deleted meanwhile": (
        {"brief.py": "def f(): pass"},
        "from brief import f\nos.remove(os.path.join(sys.path[0], 'brief.py'))",
        "NotSerializable",
        "brief.py, which is gone: put it back, or import the module from where it is now",
    ),
    "a part deleted meanwhile": (
        {"pkg/__init__.py": "", "pkg/brief.py": "def f(): pass"},
        "from pkg.brief import f\nos.remove(os.path.join(sys.path[0], 'pkg', 'brief.py'))",
        "NotSerializable",
        "brief.py, which is gone: put it back, or import the module from where it is now",
    ),
    "never the same": (
        {"restless.py": "def f(): pass\nN = 0"},
        "from plover.bundles import collect, files\n"
        "def read(path):\n"
        "    data = files.read_file(path)\n"
        "    with open(path, 'ab') as file: file.write(b'0')\n"
        "    return data\n"
        "collect._current = collect.Bundler(read=read)\n"
        "from restless import f",
        "NotSerializable",
        "restless.py",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_sent_is_said_before_anything_is_sent(case: str) -> None:
    files, source, kind, text = ERRORS[case]
    source += """
from plover import session
try:
    gpu_function(f)()
except plover.PloverError as error:
    print(json.dumps([type(error).__name__, str(error), session.current()._connection is None]))
"""
    with client(files) as author:
        name, message, nothing_was_sent = author.run(source)
        assert (name, nothing_was_sent) == (kind, True)
        assert text in message


@pytest.mark.parametrize("imported", [False, True])
def test_a_module_that_was_deleted_is_told_as_gone(daemon: Daemon, imported: bool) -> None:
    source = """
        from plover.bundles import collect
        collect.RECHECK_S = 0

        @gpu_function
        def f():
            import brief
            return brief.V

        if imported:
            import brief
        before = f()
        os.remove("brief.py")
        try:
            f()
        except ModuleNotFoundError as error:
            print(json.dumps([before, error.__notes__]))
    """
    with client({"brief.py": "V = 7"}, daemon.address) as author:
        before, notes = author.run(source.replace("if imported:", f"if {imported}:"))
        assert before == 7
        assert any("brief.py, which is gone: put it back" in note for note in notes), notes
        assert not any("write" in note for note in notes)


def test_a_module_that_changes_while_it_is_read_goes_as_it_is_at_one_moment(daemon: Daemon) -> None:
    source = """
        from plover.bundles import collect, files

        writes = []
        def read(path):
            data = files.read_file(path)
            if path.endswith("moving.py") and len(writes) < 2:
                writes.append(path)
                with open(path, "w") as file:
                    file.write(f"N = {len(writes)}\\ndef f(): return N, {len(writes)}")
            return data

        collect._current = collect.Bundler(read=read, say=lambda line: None)
        from moving import f
        print(json.dumps(gpu_function(f)()))
    """
    with client({"moving.py": "N = 0\ndef f(): return N, 0"}, daemon.address) as author:
        assert author.run(source) == [2, 2]


def test_a_name_that_every_worker_has_taken_already(daemon: Daemon) -> None:
    """No worker could take it, so the call fails, and the worker stays."""
    source = """
        pid = gpu_function(lambda: os.getpid())
        before = pid()
        from timeit import f
        try:
            gpu_function(f)()
        except plover.NotSerializable as error:
            print(json.dumps([str(error), error.path, pid() == before]))
    """
    with client({"timeit.py": "def f(): return 1"}, daemon.address) as author:
        text, path, stayed = author.run(source)
        assert text.startswith("your module 'timeit' has the name of a module that every worker has imported before")
        assert (path, stayed) == ("timeit", True)


def test_an_extension_that_was_left_out_is_explained(daemon: Daemon) -> None:
    source = """
        from native import f
        try:
            gpu_function(f)()
        except ImportError as error:
            print(json.dumps(error.__notes__))
    """
    files: dict[str, str | bytes] = {
        "native/__init__.py": "def f():\n    from . import _fast",
        "native/_fast.abi3.so": b"\x7fELF",
    }
    with client(files, daemon.address) as author:
        (note,) = author.run(source)
        assert note.startswith("plover: native/_fast.abi3.so is native code, which does not travel with the sources")
