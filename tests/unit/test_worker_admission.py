"""Before an attempt: whose fault it is that its modules cannot be imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plover.bundles.format import Bundle, BundleSet
from plover.errors import NotSerializable, PloverError, WireError
from plover.wire import codec
from plover.wire import messages as m
from plover_runtime.admission import Unfit, admit, admit_run
from plover_runtime.modules import BundlesAbsent, Modules

BUNDLE = Bundle.of("admitted", {"admitted.py": b"X = 1"})
WANTED = BundleSet.of({"admitted": BUNDLE.digest})


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[Modules]:
    path, finders = sys.path[:], sys.meta_path[:]
    yield Modules(tmp_path / "cache")
    sys.path[:], sys.meta_path[:] = path, finders
    sys.modules.pop("admitted", None)


def incoming(wanted: BundleSet | None, *bundles: Bundle) -> codec.Incoming[m.Run]:
    body = codec.Body()
    sent = tuple((bundle.digest, body.add(bundle.encode())) for bundle in bundles)
    run = m.Run(1, 1, "c-1", "f", b"f", (), None, 30, wanted, sent)
    return codec.TO_WORKER.read(codec.write(run, 1, body))


def test_a_call_without_modules(modules: Modules) -> None:
    assert admit_run(modules, incoming(None)) is None
    assert modules.world.names() == {}


def test_missing_ones_are_asked_for_and_then_importable(modules: Modules) -> None:
    with pytest.raises(BundlesAbsent) as caught:
        admit_run(modules, incoming(WANTED))
    assert caught.value.digests == (BUNDLE.digest,)
    assert admit_run(modules, incoming(WANTED, BUNDLE)) is None
    import admitted  # type: ignore[import-not-found]

    assert admitted.X == 1
    assert admit_run(modules, incoming(WANTED)) is None


def test_another_worker_is_needed(modules: Modules) -> None:
    admit(modules, WANTED, {BUNDLE.digest: BUNDLE.encode()})
    with pytest.raises(Unfit, match="'admitted' is another version"):
        admit(modules, BundleSet.of({"admitted": b"x" * 32}), {})


def test_no_worker_will_do(modules: Modules) -> None:
    taken = Bundle.of("json", {"json.py": b""})
    error = admit(modules, BundleSet.of({"json": taken.digest}), {taken.digest: taken.encode()})
    assert isinstance(error, NotSerializable)
    assert error.path == "json"
    assert "give yours another name" in str(error)


def test_what_no_client_would_send_is_the_calls_failure(modules: Modules) -> None:
    assert isinstance(admit(modules, BundleSet.of({"a/b": b"x" * 32}), {}), WireError)
    assert isinstance(admit(modules, WANTED, {BUNDLE.digest: b"nonsense"}), WireError)


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finders = sys.meta_path[:]
    try:
        error = admit(Modules(tmp_path / "file"), WANTED, {BUNDLE.digest: BUNDLE.encode()})
    finally:
        sys.meta_path[:] = finders
    assert type(error) is PloverError
    assert str(error).startswith(f"the worker cannot keep your modules in {tmp_path / 'file'}")
