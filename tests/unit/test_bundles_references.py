"""Names in code and in pickles: every import that stands there literally, and nothing else."""

from __future__ import annotations

import io
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from cloudpickle import cloudpickle as internals

from plover.bundles.references import Names, References, absolute, imports_of, package_of


def names_in(source: str, package: str | None = "pkg.sub") -> set[str]:
    return absolute(imports_of(compile(textwrap.dedent(source), "<test>", "exec")), package)


class TestImportsInCode:
    @pytest.mark.parametrize(
        ("source", "found"),
        [
            ("import a", {"a"}),
            ("import a.b.c as d", {"a.b.c"}),
            ("import a, b", {"a", "b"}),
            ("from a.b import c, d as e", {"a.b", "a.b.c", "a.b.d"}),
            ("from a import *", {"a", "a.*"}),
            ("from . import x", {"pkg.sub", "pkg.sub.x"}),
            ("from .x import y", {"pkg.sub.x", "pkg.sub.x.y"}),
            ("from .. import x", {"pkg", "pkg.x"}),
            ("from ..x.y import z", {"pkg.x.y", "pkg.x.y.z"}),
            ("try:\n    import a\nexcept ImportError:\n    import b", {"a", "b"}),
            ("def f():\n    import a\n    def g():\n        from b import c", {"a", "b", "b.c"}),
            (
                "class C:\n    def m(self):\n        return [__import__('a') for _ in (lambda: __import__('b'))()]",
                {"a", "b"},
            ),
            ("import importlib\nimportlib.import_module('a.b')", {"importlib", "a.b"}),
            (
                "def f():\n    from importlib import import_module\n    return import_module('.x.y')",
                {"importlib", "importlib.import_module", "pkg.sub.x.y"},
            ),
            (
                "def f(import_module):\n    def g():\n        return import_module('a')",
                {"a"},
            ),
            ("from importlib import import_module as im", {"importlib", "importlib.import_module"}),
            ("x = 1", set()),
            ("import_module(name)", set()),
            ("import_module(1)", set()),
            ("import_module('..')", set()),
            ("f(import_module)", set()),
        ],
    )
    def test_what_is_found(self, source: str, found: set[str]) -> None:
        assert names_in(source) == found

    def test_relative_imports_above_the_top_are_left_to_fail(self) -> None:
        assert names_in("from ... import x") == set()
        assert names_in("from . import x", None) == set()

    def test_code_with_hundreds_of_names_before_the_import(self) -> None:
        """Then the instruction's argument needs a prefix of its own."""
        source = "".join(f"v{number} = 'c{number}'\n" for number in range(700)) + "from a.b import c"
        assert names_in(source) == {"a.b", "a.b.c"}


class TestPackages:
    @pytest.mark.parametrize(
        ("namespace", "package"),
        [
            ({"__package__": "a.b", "__name__": "other"}, "a.b"),
            ({"__package__": "", "__name__": "script"}, None),
            ({"__package__": None, "__spec__": types.SimpleNamespace(parent="a"), "__name__": "__main__"}, "a"),
            ({"__name__": "a.b"}, "a"),
            ({"__name__": "a.b", "__path__": []}, "a.b"),
            ({"__name__": "a"}, None),
            ({}, None),
        ],
    )
    def test_where_relative_imports_start(self, namespace: dict[str, Any], package: str | None) -> None:
        assert package_of(namespace) == package


class NotingPacker(cloudpickle.Pickler):  # type: ignore[misc]
    """How a packer fills `References`: the whole of what it must do for it."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=5)
        self.references = References()

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | types.FunctionType | types.ModuleType):
            if internals._should_pickle_by_reference(obj):
                is_module = isinstance(obj, types.ModuleType)
                self.references.refer(obj.__name__ if is_module else internals._whichmodule(obj, obj.__qualname__))
            elif isinstance(obj, types.FunctionType):
                self.references.use(obj)
        elif isinstance(obj, types.BuiltinFunctionType) and isinstance(obj.__module__, str):
            self.references.refer(obj.__module__)
        else:
            self.references.touch(type(obj).__module__)
        return super().reducer_override(obj)


def names_of(value: Any) -> Names:
    packer = NotingPacker(io.BytesIO())
    packer.dump(value)
    return packer.references.names()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A script and an imported module `ownmod`."""
    (tmp_path / "ownmod.py").write_text(
        "class Point: pass\n"
        "class Sentinel:\n    def __reduce__(self): return 'SENTINEL'\n"
        "SENTINEL = Sentinel()\n"
        "def helper(): pass\n"
        "def make():\n    def inner():\n        from . import sibling\n    return inner\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import ownmod  # type: ignore[import-not-found]

    script = types.ModuleType("__main__")
    script.__dict__.update(ownmod=ownmod, Point=ownmod.Point, helper=ownmod.helper, __package__=None)
    monkeypatch.setitem(sys.modules, "__main__", script)
    yield script.__dict__
    del sys.modules["ownmod"]


class TestPickles:
    def define(self, namespace: dict[str, Any], source: str) -> Any:
        exec(textwrap.dedent(source), namespace)
        return namespace["f"]

    def test_a_class_a_function_and_a_module_by_reference(self, modules: dict[str, Any]) -> None:
        for used in ("Point", "helper", "ownmod"):
            function = self.define(modules, f"def f(): return {used}")
            assert "ownmod" in names_of(function).referred

    def test_an_instance(self, modules: dict[str, Any]) -> None:
        assert "ownmod" in names_of([modules["Point"]()]).referred

    def test_an_object_that_says_itself_where_it_is_found(self, modules: dict[str, Any]) -> None:
        assert "ownmod" in names_of([modules["ownmod"].SENTINEL]).imported

    def test_imports_of_functions_by_value_wherever_they_are(self, modules: dict[str, Any]) -> None:
        function = self.define(
            modules,
            """
            def g():
                import inner_of_g
            class C:
                def method(self):
                    from method_of_c import x
            def f(d=lambda: __import__("default")):
                import plain.sub
                return g, C
            """,
        )
        assert names_of(function).imported >= {"inner_of_g", "method_of_c", "default", "plain.sub"}

    def test_a_closure_of_an_own_module_has_that_modules_package(self, modules: dict[str, Any]) -> None:
        modules["ownmod"].__dict__["__package__"] = "ownpkg"
        assert names_of(modules["ownmod"].make()).imported >= {"ownpkg", "ownpkg.sibling"}

    def test_a_submodule_that_is_used_as_an_attribute(self, modules: dict[str, Any]) -> None:
        import xml.etree.ElementTree  # loads it, as the script did

        modules["xml"] = xml
        function = self.define(modules, "def f(): return xml.etree.ElementTree")
        assert "xml.etree.ElementTree" in names_of(function).referred

    def test_data_mentions_nothing_of_the_authors(self) -> None:
        assert names_of([1, "a", {"b": (None, 2.0)}]) == Names()

    def test_a_builtin_function(self) -> None:
        import math

        assert "math" in names_of(math.sqrt).referred

    def test_names_compare_by_content(self) -> None:
        one, two = References(), References()
        for each in (one, two):
            each.refer("a.b")
            each.touch("c")
            each.touch(None)
            each.touch(property())
        assert one.names() == two.names() == Names(frozenset({"a.b"}), frozenset({"c"}))
        assert hash(one.names()) == hash(two.names())
