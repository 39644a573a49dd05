"""What a packed call mentions: noted while it is pickled, and asked for at each call."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plover import serialize
from plover.bundles import collect as collect_module
from plover.bundles.collect import Bundler
from plover.bundles.needed import needed
from plover.bundles.references import NO_NAMES, Names
from plover.decorator import gpu_function
from plover.pickling.reducers import Reducing


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An own module, and a script that has what its functions use."""
    (tmp_path / "packed.py").write_text(
        "import functools\n"
        "class Point: pass\n"
        "class Named:\n    def __reduce__(self): return 'NAMED'\n"
        "NAMED = Named()\n"
        "def helper(): pass\n"
        "@functools.lru_cache\ndef cached(): pass\n"
        "@functools.singledispatch\ndef dispatched(x): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import packed  # type: ignore[import-not-found]

    script = types.ModuleType("__main__")
    script.__dict__.update(packed=packed, np=np, functools=functools)
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setattr(collect_module, "_current", Bundler())
    yield script.__dict__
    del sys.modules["packed"]


def function(scope: dict[str, Any], source: str) -> Any:
    exec(source, scope)
    return scope["f"]


def names_of(scope: dict[str, Any], source: str) -> Names:
    return serialize.pack_function(function(scope, source))[2]


@pytest.mark.parametrize(
    "used",
    ["packed", "packed.Point", "packed.helper", "packed.NAMED", "packed.dispatched", "packed.Point()"],
)
def test_a_module_whose_object_goes_by_reference_is_referred_to(own: dict[str, Any], used: str) -> None:
    assert "packed" in names_of(own, f"used = {used}\ndef f(): return used").referred


def test_what_stands_under_its_own_name_mentions_where(own: dict[str, Any]) -> None:
    names = names_of(own, "used = packed.cached\ndef f(): return used")
    assert "packed" in names.imported


def test_what_a_function_by_value_imports_is_mentioned(own: dict[str, Any]) -> None:
    names = names_of(own, "def g():\n    from packed.deep import x\ndef f():\n    import other\n    return g")
    assert names.imported == {"packed.deep", "packed.deep.x", "other"}


def test_what_every_worker_has_is_not_mentioned(own: dict[str, Any]) -> None:
    names = names_of(own, "def f(x=np.float32(1)):\n    import cupy\n    return np.sum, len, int, Exception, x")
    assert names is NO_NAMES


def test_a_builtin_function_and_a_method_of_an_object(own: dict[str, Any]) -> None:
    import _heapq  # C all over

    own["push"] = _heapq.heappush
    assert "_heapq" in names_of(own, "def f(): return push, [].append").referred


def test_a_module_by_value_is_not_referred_to(own: dict[str, Any]) -> None:
    own["made"] = types.ModuleType("made")
    assert "made" not in names_of(own, "def f(): return made").referred


def test_a_function_that_does_not_say_where_it_is_from(own: dict[str, Any]) -> None:
    own["packed"].helper.__module__ = None
    own["helper"] = own["packed"].helper
    assert "packed" in names_of(own, "def f(): return helper").referred


def test_arguments_mention_modules_too(own: dict[str, Any]) -> None:
    point = own["packed"].Point()
    assert serialize.pack_arguments("f", (point,), {})[2] == Names(frozenset({"packed"}), frozenset({"packed"}))
    assert serialize.pack_arguments("f", (), {"x": [point]})[2].referred == {"packed"}


@pytest.mark.parametrize(
    "args", [(), (1, 2.0, "x", None), (np.ones(3), [np.float32(1)], {"a": (1, b"b")}), (np.array([None]),)]
)
def test_plain_arguments_mention_nothing(args: tuple[Any, ...]) -> None:
    assert serialize.pack_arguments("f", args, {})[2] is NO_NAMES


def test_results_are_packed_without_a_note() -> None:
    assert Reducing.references is None
    assert serialize.Packer().references is None


def test_a_payload_keeps_its_names_while_nothing_changes(own: dict[str, Any]) -> None:
    remote = gpu_function(function(own, "helper = packed.helper\ndef f(): return helper()"))
    first = remote._pack()
    assert first.names.referred == {"packed"}
    assert remote._pack() is first
    own["helper"] = len
    assert remote._pack().names is NO_NAMES


class TestNeeded:
    def test_a_call_that_mentions_nothing_asks_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(collect_module, "current", None)
        assert needed(NO_NAMES, NO_NAMES) is None

    def test_of_the_function_and_of_the_arguments(self, own: dict[str, Any]) -> None:
        mentions = Names(frozenset({"packed"}))
        for names in ((mentions, NO_NAMES), (NO_NAMES, mentions), (mentions, mentions)):
            found = needed(*names)
            assert found is not None
            assert [name for name, _ in found.wanted.members] == ["packed"]

    def test_a_repeated_question_has_the_same_answer(self, own: dict[str, Any]) -> None:
        mentions = Names(frozenset({"packed"}))
        assert needed(mentions, NO_NAMES) is needed(Names(frozenset({"packed"})), NO_NAMES)
