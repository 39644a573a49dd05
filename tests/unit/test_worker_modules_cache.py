"""Bundles in the cache: written once, used by all, removed only when nobody uses them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plover.bundles.format import Bundle
from plover.errors import WireError
from plover_runtime import modules as modules_module
from plover_runtime.modules import BundlesAbsent, Cache

PACKAGE = Bundle.of("ownpkg", {"ownpkg/__init__.py": b"x = 1\n", "ownpkg/sub/data.csv": b"1,2\n"})
OTHER = Bundle.of("othermod", {"othermod.py": b"y = 2\n"})


@pytest.fixture
def make_cache(tmp_path: Path) -> Iterator[Callable[..., Cache]]:
    """Caches in one directory, as several workers have them; their descriptors are closed at the end."""
    made: list[Cache] = []

    def make(**options: Any) -> Cache:
        made.append(Cache(tmp_path / "cache", **options))
        return made[-1]

    yield make
    for cache in made:
        release(cache)


def release(cache: Cache) -> None:
    """What the end of a process does."""
    for fd in cache._held.values():
        os.close(fd)
    cache._held.clear()


def obtain(cache: Cache, bundle: Bundle) -> Path:
    return cache.obtain(bundle.name, bundle.digest, bundle.encode())


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


class TestTheCache:
    def test_a_bundle_becomes_a_directory(self, make_cache: Callable[..., Cache], tmp_path: Path) -> None:
        place = obtain(make_cache(), PACKAGE)
        assert place == tmp_path / "cache" / f"ownpkg-{PACKAGE.digest.hex()}"
        sizes = contents(place).pop(".plover-sizes")
        assert {path: data for path, data in contents(place).items() if path != ".plover-sizes"} == PACKAGE.files
        assert msgspec.msgpack.decode(sizes) == {path: len(data) for path, data in PACKAGE.files.items()}
        assert os.listdir(tmp_path / "cache") == [place.name]

    def test_its_files_are_read_only(self, make_cache: Callable[..., Cache]) -> None:
        place = obtain(make_cache(), PACKAGE)
        assert (place / "ownpkg/__init__.py").stat().st_mode & 0o222 == 0

    def test_what_is_there_is_used_again(self, make_cache: Callable[..., Cache]) -> None:
        place = obtain(make_cache(), PACKAGE)
        inode = place.stat().st_ino
        cache = make_cache()
        assert cache.has("ownpkg", PACKAGE.digest)
        assert cache.obtain("ownpkg", PACKAGE.digest, None) == place
        assert place.stat().st_ino == inode
        assert repr(cache) == f"<bundles in {place.parent}, 1 in use>"

    def test_what_is_not_there_must_come_along(self, make_cache: Callable[..., Cache]) -> None:
        cache = make_cache()
        assert not cache.has("ownpkg", PACKAGE.digest)
        with pytest.raises(BundlesAbsent, match="1 bundles are neither in the cache nor came along") as caught:
            cache.obtain("ownpkg", PACKAGE.digest, None)
        assert caught.value.digests == (PACKAGE.digest,)

    def test_a_bundle_that_is_not_what_it_is_called(self, make_cache: Callable[..., Cache], tmp_path: Path) -> None:
        for bundle in (Bundle.of("ownpkg", {"ownpkg/__init__.py": b"evil"}), OTHER):
            with pytest.raises(WireError, match=f"sent a bundle of '{bundle.name}' .* as that of 'ownpkg'") as caught:
                make_cache().obtain("ownpkg", PACKAGE.digest, bundle.encode())
            assert caught.value.fault == "client"
        assert not (tmp_path / "cache").exists()

    @pytest.mark.parametrize("path", ["/abs.py", "../up.py", "ownpkg/../../up.py", "numpy/__init__.py"])
    def test_a_bundle_that_would_write_elsewhere(
        self, make_cache: Callable[..., Cache], tmp_path: Path, path: str
    ) -> None:
        hostile = Bundle.of("ownpkg", {path: b"evil"})
        with pytest.raises(WireError):
            obtain(make_cache(), hostile)
        assert list(tmp_path.iterdir()) == []

    def test_a_link_at_the_place_of_a_bundle_is_not_followed_when_it_is_written(
        self, make_cache: Callable[..., Cache], tmp_path: Path
    ) -> None:
        (tmp_path / "cache").mkdir()
        (tmp_path / "victim").write_text("mine")
        cache = make_cache()
        cache.place("ownpkg", PACKAGE.digest).symlink_to(tmp_path / "victim")
        with pytest.raises(OSError, match="Not a directory"):
            obtain(cache, PACKAGE)
        assert (tmp_path / "victim").read_text() == "mine"

    def test_a_cache_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError):
            obtain(Cache(tmp_path / "file" / "cache"), PACKAGE)


class TestCrashesAndRaces:
    def test_a_crash_while_writing_leaves_nothing_that_is_used(
        self, make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A real crash: a process that ends in the middle of it."""
        pid = os.fork()
        if pid == 0:
            written = []

            def crash(path: str, data: bytes) -> None:
                if written:
                    os._exit(7)
                written.append(path)
                Path(path).write_bytes(data)

            monkeypatch.setattr(modules_module, "_write_file", crash)
            try:
                obtain(make_cache(), PACKAGE)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        (left,) = (tmp_path / "cache").iterdir()
        assert left.name.startswith(".tmp-")
        assert not make_cache().has("ownpkg", PACKAGE.digest)
        obtain(make_cache(), PACKAGE)
        assert left.exists()  # it might be another worker's that is still at it
        os.utime(left, (time.time() - 4000,) * 2)
        obtain(make_cache(), OTHER)
        assert not left.exists()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda place: (place / "ownpkg/sub/data.csv").unlink(),
            lambda place: os.replace(place / ".plover-sizes", place / "ownpkg/__init__.py"),
            lambda place: os.truncate(place / "ownpkg/__init__.py", 0),
            lambda place: os.truncate(place / ".plover-sizes", 0),
        ],
    )
    def test_one_that_is_damaged_is_written_anew(
        self, make_cache: Callable[..., Cache], damage: Callable[[Path], None]
    ) -> None:
        first = make_cache()
        place = obtain(first, PACKAGE)
        release(first)
        place.chmod(0o755)
        for path in place.rglob("*"):
            path.chmod(0o755)
        damage(place)
        assert not make_cache().has("ownpkg", PACKAGE.digest)
        with pytest.raises(BundlesAbsent):
            make_cache().obtain("ownpkg", PACKAGE.digest, None)
        obtain(make_cache(), PACKAGE)
        assert contents(place)["ownpkg/__init__.py"] == b"x = 1\n"

    def test_one_that_is_damaged_while_others_use_it(self, make_cache: Callable[..., Cache]) -> None:
        place = obtain(make_cache(), PACKAGE)
        (place / "ownpkg/sub/data.csv").unlink()
        with pytest.raises(OSError, match="is damaged, and other workers may be using it: remove it by hand"):
            obtain(make_cache(), PACKAGE)
        assert place.exists()

    def test_one_that_never_stays(self, make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(modules_module, "_is_whole", lambda place: False)
        with pytest.raises(OSError, match="does not stay there: look at who else writes to this directory"):
            obtain(make_cache(), PACKAGE)

    def test_whoever_is_slower_takes_what_is_there(
        self, make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        rename = modules_module._rename_to_new
        inodes = []

        def lose(made: Path, place: Path) -> None:
            monkeypatch.setattr(modules_module, "_rename_to_new", rename)
            inodes.append(obtain(make_cache(), PACKAGE).stat().st_ino)  # another worker, just now
            rename(made, place)

        monkeypatch.setattr(modules_module, "_rename_to_new", lose)
        place = obtain(make_cache(), PACKAGE)
        assert [place.stat().st_ino] == inodes
        assert os.listdir(tmp_path / "cache") == [place.name]

    @pytest.mark.parametrize("written_anew", [False, True])
    def test_one_that_is_taken_away_before_it_is_held(
        self, make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch, written_anew: bool
    ) -> None:
        first = make_cache()
        place = obtain(first, PACKAGE)
        release(first)
        flock = fcntl.flock

        def lose(fd: int, how: int) -> None:
            monkeypatch.setattr(fcntl, "flock", flock)
            make_cache()._remove(place)  # another worker made room, just now
            if written_anew:
                obtain(make_cache(), PACKAGE)
            flock(fd, how)

        monkeypatch.setattr(fcntl, "flock", lose)
        cache = make_cache()
        assert obtain(cache, PACKAGE) == place
        assert contents(place)["ownpkg/__init__.py"] == b"x = 1\n"
        assert os.path.samestat(os.fstat(cache._held[place]), place.stat())  # not the lock of what is gone

    def test_many_processes_at_the_same_time(self, tmp_path: Path) -> None:
        bundle = Bundle.of("ownpkg", {f"ownpkg/m{number}.py": b"x" * number for number in range(100)})
        (tmp_path / "bundle").write_bytes(bundle.encode())
        code = textwrap.dedent(
            f"""
            import sys
            from plover_runtime.modules import Cache
            data = open({str(tmp_path / "bundle")!r}, "rb").read()
            sys.stdin.read()
            place = Cache({str(tmp_path / "cache")!r}).obtain("ownpkg", bytes.fromhex({bundle.digest.hex()!r}), data)
            print(sum(path.stat().st_size for path in place.glob("ownpkg/*.py")))
            """
        )
        workers = [
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(4)
        ]
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()
        for worker in workers:
            assert worker.stdout is not None
            with worker.stdout as output:
                assert output.read() == b"4950\n"
            assert worker.wait() == 0
        assert os.listdir(tmp_path / "cache") == [f"ownpkg-{bundle.digest.hex()}"]


def big(number: int, size: int = 1000) -> Bundle:
    return Bundle.of("big", {"big.py": b"#" * size + str(number).encode()})


class TestMakingRoom:
    def fill(self, cache: Cache, *ages: float) -> list[Path]:
        """Bundles that were last used so many seconds ago."""
        places = []
        for number, age in enumerate(ages):
            places.append(obtain(cache, big(number)))
            os.utime(places[-1], (time.time() - age,) * 2)
        return places

    def test_what_was_used_longest_ago_goes_first(self, make_cache: Callable[..., Cache]) -> None:
        cache = make_cache(limit_bytes=3500)
        places = self.fill(cache, 10, 30, 20)
        release(cache)
        newest = obtain(make_cache(limit_bytes=3500), big(9))
        assert [place.exists() for place in places] == [True, False, True]
        assert newest.exists()

    def test_nothing_that_is_in_use(self, make_cache: Callable[..., Cache], tmp_path: Path) -> None:
        places = self.fill(make_cache(), 10, 30, 20)
        obtain(make_cache(limit_bytes=1), big(9))
        assert all(place.exists() for place in places)
        assert not list((tmp_path / "cache").glob(".tmp-*"))

    def test_using_one_makes_it_young(self, make_cache: Callable[..., Cache]) -> None:
        cache = make_cache()
        places = self.fill(cache, 30, 10)
        release(cache)
        user = make_cache()
        user.obtain("big", big(0).digest, None)
        release(user)
        obtain(make_cache(limit_bytes=2500), big(9))
        assert [place.exists() for place in places] == [True, False]

    def test_without_locks_nothing_is_removed(
        self, make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flock(fd: int, how: int) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", flock)
        cache = make_cache(limit_bytes=1)
        places = self.fill(cache, 10, 20)
        release(cache)
        obtain(cache, big(9))
        assert all(place.exists() for place in places)
