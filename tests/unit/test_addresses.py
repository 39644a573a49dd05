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
        with pytest.raises(
            ValueError, match="is not an address: ipc:///path/of/a/socket, tcp://host:7707 and "
        ) as caught:
            addresses.socket_path(address)
        assert repr(address) in str(caught.value)

    @pytest.mark.parametrize("scheme", ["tcp", "ssh"])
    def test_what_is_on_another_machine(self, scheme: str) -> None:
        with pytest.raises(ValueError, match="is no socket of this machine; ipc:///path/of/a/socket is one"):
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


class TestRemote:
    @pytest.mark.parametrize(
        ("address", "host", "port"),
        [
            ("tcp://gpu1:7707", "gpu1", 7707),
            ("tcp://10.0.0.7:1", "10.0.0.7", 1),
            ("tcp://[fd00::1]:65535", "fd00::1", 65535),
        ],
    )
    def test_tcp(self, address: str, host: str, port: int) -> None:
        assert addresses.parse(address) == addresses.Tcp(host, port)
        assert addresses.parse_bind(address) == addresses.Tcp(host, port)

    @pytest.mark.parametrize("address", ["tcp://*:7707", "tcp://gpu1:0", "tcp://gpu1:*"])
    def test_what_can_only_be_bound(self, address: str) -> None:
        assert isinstance(addresses.parse_bind(address), addresses.Tcp)
        with pytest.raises(ValueError, match="is where a daemon listens; to connect, name the host and its port"):
            addresses.parse(address)

    @pytest.mark.parametrize(
        "address", ["tcp://gpu1", "tcp://gpu1:", "tcp://:7707", "tcp://a b:1", "tcp://gpu1:7707/x", "tcp://::1:7"]
    )
    def test_what_is_no_tcp_address(self, address: str) -> None:
        with pytest.raises(ValueError, match="is not a tcp address: tcp://host:7707 is one"):
            addresses.parse(address)

    @pytest.mark.parametrize("address", ["tcp://gpu1:65536", "ssh://gpu1:65536"])
    def test_a_port_that_is_none(self, address: str) -> None:
        with pytest.raises(ValueError, match="a port is at most 65535"):
            addresses.parse(address)

    @pytest.mark.parametrize(
        ("address", "parts"),
        [
            ("ssh://gpu1", addresses.Ssh("gpu1")),
            ("ssh://gpu1/", addresses.Ssh("gpu1")),
            ("ssh://me@gpu1:22", addresses.Ssh("gpu1", "me", 22)),
            ("ssh://me.too@10.0.0.7/run/d.sock", addresses.Ssh("10.0.0.7", "me.too", None, "/run/d.sock")),
            ("ssh://[::1]:2222", addresses.Ssh("::1", None, 2222)),
        ],
    )
    def test_ssh(self, address: str, parts: addresses.Ssh) -> None:
        assert addresses.parse(address) == parts
        with pytest.raises(ValueError, match="nothing listens at an ssh address"):
            addresses.parse_bind(address)

    @pytest.mark.parametrize(
        "address", ["ssh://-oProxyCommand=x", "ssh://-x@gpu1", "ssh://a@-b", "ssh://a b", "ssh://me@"]
    )
    def test_what_ssh_would_take_for_an_option_is_no_address(self, address: str) -> None:
        with pytest.raises(ValueError, match="is not an ssh address"):
            addresses.parse(address)

    def test_one_that_connects_by_itself_is_the_address_for_people(self) -> None:
        connected = []
        plugged = addresses.Plugged("tcp://gpu1:7707", connected.append)
        assert f"{plugged}" == "tcp://gpu1:7707"
        plugged.plug("a socket")
        assert connected == ["a socket"]


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
        assert "in a directory that is made for it" in str(caught.value)

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
        secret = addresses.secret_for(directories)
        assert len(secret) == 32
        for directory in directories:
            assert addresses.read_secret(directory / "daemon.sock") == secret
            assert stat.S_IMODE((directory / "secret").stat().st_mode) == 0o600

    def test_one_that_lies_there_is_kept_for_another_daemons_clients(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        first = addresses.secret_for([tmp_path])
        addresses.make_directory(tmp_path / "b")
        assert addresses.secret_for([tmp_path, tmp_path / "b"]) == first
        assert addresses.read_secret(tmp_path / "b" / "daemon.sock") == first

    def test_two_that_differ_are_refused(self, tmp_path: Path) -> None:
        for name in "ab":
            addresses.make_directory(tmp_path / name)
            addresses.secret_for([tmp_path / name])
        with pytest.raises(AccessDenied, match="differ, and one daemon has one secret"):
            addresses.secret_for([tmp_path / "a", tmp_path / "b"])

    def test_a_file_of_that_name_that_is_none_is_not_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("precious")
        with pytest.raises(AccessDenied, match="is no secret of Plover's"):
            addresses.secret_for([tmp_path])
        assert (tmp_path / "secret").read_text() == "precious"

    def test_none_means_that_no_daemon_was_started(self, tmp_path: Path) -> None:
        path = tmp_path / "daemon.sock"
        with pytest.raises(DaemonUnreachable, match=f"plover start --bind ipc://{path}") as caught:
            addresses.read_secret(path)
        assert caught.value.address == f"ipc://{path}"

    def test_one_that_cannot_be_read_is_somebody_elses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(_: Path) -> bytes:
            raise PermissionError(13, "denied")

        tmp_path.chmod(0o700)
        addresses.secret_for([tmp_path])
        monkeypatch.setattr(Path, "read_bytes", denied)
        with pytest.raises(AccessDenied, match="the daemon there belongs to another user"):
            addresses.read_secret(tmp_path / "daemon.sock")

    def test_a_client_too_refuses_a_directory_that_others_can_enter(self, tmp_path: Path) -> None:
        """Whoever may write there may put a socket and a secret of their own into it."""
        tmp_path.chmod(0o777)
        addresses.secret_for([tmp_path])
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
