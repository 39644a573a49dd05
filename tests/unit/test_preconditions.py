"""The tests' own rule for what a machine may lack: said by name to a person, a failure in CI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.preconditions import needs, needs_host, needs_module


def test_what_is_there_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    needs(["it"], "a thing")
    assert needs_module("json").__name__ == "json"


def test_a_person_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs a thing"):
        needs(None, "a thing")
    with pytest.raises(pytest.skip.Exception, match="needs the package nowhere_to_be_found"):
        needs_module("nowhere_to_be_found")


def test_in_ci_it_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs a thing; in CI"):
        needs(0, "a thing")
    with pytest.raises(pytest.fail.Exception, match="needs the package json.nowhere"):
        needs_module("json.nowhere")


def test_a_module_that_is_broken_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plover_test_broken.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        needs_module("plover_test_broken")
    assert "plover_test_broken" not in sys.modules


def test_what_no_installation_brings_is_a_skip_in_ci_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    needs_host(True, "a thing")
    with pytest.raises(pytest.skip.Exception, match="needs a thing, which this host has not"):
        needs_host(False, "a thing")
