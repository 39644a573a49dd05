"""Addresses, private directories and secrets."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from plover import addresses
from plover.errors import AccessDenied, DaemonUnreachable


class TestSocketPath:
    def test_an_ipc_address_is_a_path(self) -> None:
        assert addresses.socket_path("ipc:///run/plover/daemon.sock") == Path("/run/plover/daemon.sock")

    @pytest.mark.parametrize("address", ["", "daemon.sock", "/run/daemon.sock", "ipc://", "tcp:/host"])
    def test_what_is_no_address(self, address: str) -> None:
        with pytest.raises(ValueError, match="is not an address: ipc:///path/of/a/socket is one") as caught:
            addresses.socket_path(address)
        assert repr(address) in str(caught.value)

    @pytest.mark.parametrize("scheme", ["tcp", "ssh"])
    def test_what_is_not_built_yet(self, scheme: str) -> None:
        with pytest.raises(ValueError, match=f"{scheme} is not built yet, for it needs keys; only ipc://"):
            addresses.socket_path(f"{scheme}://host:7707")

    @pytest.mark.parametrize("address", ["http://host", "inproc://name", "IPC:///x"])
    def test_other_kinds(self, address: str) -> None:
        with pytest.raises(ValueError, match="there is no such kind of address"):
            addresses.socket_path(address)

    def test_a_relative_path(self) -> None:
        with pytest.raises(ValueError, match="begins with a slash"):
            addresses.socket_path("ipc://run/daemon.sock")

    def test_the_longest_path_and_one_byte_more(self) -> None:
        longest = "/" + "x" * 106
        assert addresses.socket_path(f"ipc://{longest}") == Path(longest)
        with pytest.raises(ValueError, match="a socket's path has at most 107 bytes, and this has more"):
            addresses.socket_path(f"ipc://{longest}y")

    def test_the_length_is_counted_in_bytes(self) -> None:
        with pytest.raises(ValueError, match="at most 107 bytes"):
            addresses.socket_path("ipc:///" + "é" * 60)


class TestDirectories:
    def test_the_default_is_the_runtime_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
        assert addresses.default_directory() == Path("/run/user/7/plover")

    @pytest.mark.parametrize("value", [None, ""])
    def test_without_one_it_is_the_users_own_temporary_one(
        self, value: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        if value is not None:
            monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert addresses.default_directory() == Path(tempfile.gettempdir()) / f"plover-{os.getuid()}"

    def test_one_is_made_private_with_its_parents(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b"
        addresses.make_directory(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        addresses.make_directory(path)  # a second time it is only checked

    @pytest.mark.parametrize("mode", [0o750, 0o705, 0o701, 0o777])
    def test_one_that_others_can_enter_is_refused(self, mode: int, tmp_path: Path) -> None:
        path = tmp_path / "open"
        path.mkdir()
        path.chmod(mode)
        with pytest.raises(AccessDenied, match=f"can be entered by others \\(mode {mode:o}\\)") as caught:
            addresses.make_directory(path)
        assert f"chmod 700 {path}" in str(caught.value)

    def test_one_of_somebody_else_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "theirs"
        path.mkdir(mode=0o700)
        owner = path.stat().st_uid
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
        with pytest.raises(AccessDenied, match=f"belongs to user {owner}"):
            addresses.make_directory(path)


class TestSecrets:
    def test_one_secret_in_every_directory_readable_by_the_owner_alone(self, tmp_path: Path) -> None:
        directories = [tmp_path / "a", tmp_path / "b"]
        for directory in directories:
            addresses.make_directory(directory)
        secret = addresses.new_secret(directories)
        assert len(secret) == 32
        for directory in directories:
            assert addresses.read_secret(directory / "daemon.sock") == secret
            assert stat.S_IMODE((directory / "secret").stat().st_mode) == 0o600

    def test_a_new_one_replaces_an_earlier_one(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        first = addresses.new_secret([tmp_path])
        second = addresses.new_secret([tmp_path])
        assert first != second
        assert addresses.read_secret(tmp_path / "daemon.sock") == second

    def test_none_means_that_no_daemon_was_started(self, tmp_path: Path) -> None:
        path = tmp_path / "daemon.sock"
        with pytest.raises(DaemonUnreachable, match=f"plover start --bind ipc://{path}") as caught:
            addresses.read_secret(path)
        assert caught.value.address == f"ipc://{path}"

    def test_one_that_cannot_be_read_is_somebody_elses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(_: Path) -> bytes:
            raise PermissionError(13, "denied")

        tmp_path.chmod(0o700)
        addresses.new_secret([tmp_path])
        monkeypatch.setattr(Path, "read_bytes", denied)
        with pytest.raises(AccessDenied, match="the daemon there belongs to another user"):
            addresses.read_secret(tmp_path / "daemon.sock")

    def test_a_client_too_refuses_a_directory_that_others_can_enter(self, tmp_path: Path) -> None:
        """Whoever may write there may put a socket and a secret of their own into it."""
        tmp_path.chmod(0o777)
        addresses.new_secret([tmp_path])
        with pytest.raises(AccessDenied, match="can be entered by others"):
            addresses.read_secret(tmp_path / "daemon.sock")


class TestLife:
    def test_a_socket_somebody_listens_at_is_alive(self) -> None:
        with tempfile.TemporaryDirectory(prefix="plv-") as directory, socket.socket(socket.AF_UNIX) as listener:
            path = Path(directory) / "s"
            listener.bind(str(path))
            assert not addresses.is_alive(path)
            listener.listen()
            assert addresses.is_alive(path)

    def test_what_is_not_there_is_not_alive(self, tmp_path: Path) -> None:
        assert not addresses.is_alive(tmp_path / "none")
        assert not addresses.is_alive(tmp_path / ("x" * 200))
