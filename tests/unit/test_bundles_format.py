"""Bundles in bytes: digests that do not depend on the place, refusals of what no client sends, sets that fit or do not."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from plover.bundles import format as fmt
from plover.bundles.format import Bundle, BundleSet, World, decode
from plover.errors import WireError

FILES = {"mypkg/__init__.py": b"x = 1\n", "mypkg/data/table.csv": b"1,2\n", "mypkg/ä.py": b""}


def written(name: str, files: dict[str, bytes], version: int = 1) -> bytes:
    """What a hostile client could send: encoded by hand."""
    return msgspec.msgpack.encode([version, name, files])


class TestDigests:
    def test_the_order_of_the_files_does_not_matter(self) -> None:
        backwards = dict(reversed(FILES.items()))
        assert Bundle.of("mypkg", backwards) == Bundle.of("mypkg", FILES)

    def test_the_same_in_another_process(self) -> None:
        code = (
            "from plover.bundles.format import Bundle; "
            f"print(Bundle.of('mypkg', {FILES!r}).digest.hex(), Bundle.of('mypkg', {FILES!r}).encode().hex())"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        bundle = Bundle.of("mypkg", FILES)
        assert out == [bundle.digest.hex(), bundle.encode().hex()]

    @pytest.mark.parametrize(
        "other",
        [
            ("mypkg", {**FILES, "mypkg/__init__.py": b"x = 2\n"}),
            ("mypkg", {**FILES, "mypkg/new.py": b""}),
            ("mypkg", {path: data for path, data in FILES.items() if path != "mypkg/ä.py"}),
            ("mypkh", FILES),
            # The same bytes in a row, cut elsewhere.
            ("mypkg", {**FILES, "mypkg/__init__.py": b"x = 1\n1", "mypkg/data/table.csv": b",2\n"}),
        ],
    )
    def test_another_content_is_another_digest(self, other: tuple[str, dict[str, bytes]]) -> None:
        assert Bundle.of(*other).digest != Bundle.of("mypkg", FILES).digest

    def test_a_set_is_named_by_names_and_digests(self) -> None:
        one = BundleSet.of({"a": b"1" * 32, "b": b"2" * 32}, ["numba", "math"])
        assert one.digest() == BundleSet.of({"b": b"2" * 32, "a": b"1" * 32}).digest()
        assert one.digest() != BundleSet.of({"a": b"2" * 32, "b": b"1" * 32}).digest()
        assert one.others == ("math", "numba")

    def test_a_set_without_own_modules_has_no_digest(self) -> None:
        assert BundleSet.of({}, ["math"]).digest() == b""


class TestRoundTrip:
    def test_what_went_in_comes_out(self) -> None:
        bundle = Bundle.of("mypkg", FILES)
        assert decode(memoryview(bundle.encode())) == bundle
        assert bundle.size_bytes == 10

    def test_a_single_file_and_metadata(self) -> None:
        files = {"helper.py": b"", "helper-1.0.dist-info/METADATA": b"Name: helper\n"}
        assert decode(Bundle.of("helper", files).encode()).files == files

    def test_a_set_survives_the_wire_and_stays_hashable(self) -> None:
        wanted = BundleSet.of({"a": b"1" * 32}, ["math"])
        back = msgspec.msgpack.decode(msgspec.msgpack.encode(wanted), type=BundleSet)
        assert back == wanted
        assert {back, wanted} == {wanted}


class TestHostileBundles:
    @pytest.mark.parametrize(
        "path",
        [
            "/etc/passwd",
            "../mypkg/x.py",
            "mypkg/../../x.py",
            "mypkg/./x.py",
            "mypkg//x.py",
            "mypkg/",
            "",
            "mypkg\\x.py",
            "mypkg/a\x00b",
            "mypkg/a\nb",
        ],
    )
    def test_a_path_that_is_not_plain(self, path: str) -> None:
        with pytest.raises(WireError, match="is not") as caught:
            decode(written("mypkg", {path: b""}))
        assert caught.value.fault == "client"

    @pytest.mark.parametrize("path", ["mypkg/.hidden", "mypkg/__pycache__/x.py", "mypkg/x.pyc", ".plover-sizes"])
    def test_hidden_files_and_bytecode(self, path: str) -> None:
        with pytest.raises(WireError, match="is hidden or bytecode"):
            decode(written("mypkg", {path: b""}))

    @pytest.mark.parametrize(
        "path", ["numpy/__init__.py", "other.py", "mypkg.py/x", "sitecustomize.py", "mypkg", "x.dist-info/RECORD"]
    )
    def test_a_file_of_another_module(self, path: str) -> None:
        with pytest.raises(WireError, match="is not the module's own"):
            decode(written("mypkg", {path: b""}))

    def test_a_file_inside_a_file(self) -> None:
        with pytest.raises(WireError, match="lies inside the file 'mypkg/a'"):
            decode(written("mypkg", {"mypkg/a": b"", "mypkg/a/b/c.py": b""}))

    def test_a_path_that_is_too_long(self) -> None:
        with pytest.raises(WireError, match="a path of more than 1024 bytes"):
            decode(written("mypkg", {"mypkg/" + "a/" * 600 + "x": b""}))

    def test_a_name_that_is_too_long(self) -> None:
        with pytest.raises(WireError, match="a name of more than 255 bytes"):
            decode(written("mypkg", {"mypkg/" + "ä" * 128: b""}))

    @pytest.mark.parametrize("name", ["plover", "plover_runtime", "numpy", "numba", "sys"])
    def test_a_module_that_workers_have(self, name: str) -> None:
        with pytest.raises(WireError, match=f"'{name}', which every worker has already"):
            decode(written(name, {f"{name}/__init__.py": b""}))

    @pytest.mark.parametrize("name", ["a.b", "a/b", "..", "", ".hidden", "a\\b"])
    def test_a_name_that_is_none(self, name: str) -> None:
        with pytest.raises(WireError, match="which is "):
            decode(written(name, {}))

    def test_more_bytes_than_the_limit(self) -> None:
        with pytest.raises(WireError, match="of 10 bytes; the limit is 9"):
            decode(Bundle.of("mypkg", FILES).encode(), limit_bytes=9)
        assert decode(Bundle.of("mypkg", FILES).encode(), limit_bytes=10)

    def test_more_files_than_the_limit(self) -> None:
        with pytest.raises(WireError, match="with 3 files; the limit is 2"):
            decode(Bundle.of("mypkg", FILES).encode(), limit_files=2)
        assert decode(Bundle.of("mypkg", FILES).encode(), limit_files=3)

    @pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"\x93\x01\xa1a", b"\x93\x01\xa1a\x81\xa1b\x01"])
    def test_bytes_that_are_no_bundle(self, data: bytes) -> None:
        with pytest.raises(WireError, match="bytes that are not a bundle"):
            decode(data)

    def test_a_later_format(self) -> None:
        with pytest.raises(WireError, match="format 2, and this side reads format 1: install the same version"):
            decode(written("mypkg", FILES, version=2))


class TestPathsOfTheClient:
    def test_a_name_that_is_not_utf8(self) -> None:
        assert fmt.path_fault("mypkg/\udcff.txt") == "has a name that is not UTF-8"

    def test_an_ordinary_one(self) -> None:
        assert fmt.path_fault("mypkg/sub/Schöne Daten (1).csv") is None


ONE, TWO = b"1" * 32, b"2" * 32


class TestWorlds:
    def test_a_worker_that_took_nothing_fits_all(self) -> None:
        assert World().fits(BundleSet.of({"a": ONE}))

    def test_the_same_set_again(self) -> None:
        world = World()
        world.take(BundleSet.of({"a": ONE}))
        assert world.holds(BundleSet.of({"a": ONE}))
        assert world.fresh(BundleSet.of({"a": ONE, "b": TWO})) == [("b", TWO)]

    @pytest.mark.parametrize(
        "wanted",
        [
            BundleSet.of({}),
            BundleSet.of({"b": TWO}),
            BundleSet.of({"a": ONE, "b": TWO}),
            BundleSet.of({"a": ONE}, ["math", "pandas"]),
        ],
    )
    def test_sets_that_agree_on_common_names_fit(self, wanted: BundleSet) -> None:
        world = World()
        world.take(BundleSet.of({"a": ONE}, ["math"]))
        assert world.fits(wanted)
        world.take(wanted)
        assert world.holds(wanted)

    @pytest.mark.parametrize(
        ("wanted", "name"),
        [
            (BundleSet.of({"a": TWO}), "a"),
            (BundleSet.of({"b": ONE, "math": ONE}), "math"),  # the environment's so far, own here
            (BundleSet.of({"b": ONE}, ["a"]), "a"),  # own so far, the environment's here
        ],
    )
    def test_sets_that_disagree_do_not(self, wanted: BundleSet, name: str) -> None:
        world = World()
        world.take(BundleSet.of({"a": ONE}, ["math"]))
        assert not world.fits(wanted)
        assert world.conflict(wanted) == name

    def test_forgetting_which_sets_were_taken_forgets_no_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fmt, "_TAKEN_LIMIT", 2)
        world = World()
        for number in range(5):
            world.take(BundleSet.of({f"m{number}": ONE}))
        assert not world.holds(BundleSet.of({"m0": ONE}))
        assert world.names() == {f"m{number}": ONE for number in range(5)}
        assert repr(world).startswith("<world {'m0': '31313131'")
