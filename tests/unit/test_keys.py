"""Keys: lines that people exchange, and the files of keys."""

from __future__ import annotations

import getpass
import socket
import stat
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from plover import keys
from plover.errors import AccessDenied, PloverError
from plover.keys import ClientLine, DaemonLine

KEY = "a" * 51 + "q"
CLIENT = str(ClientLine("alice@laptop", KEY))
DAEMON = str(DaemonLine("gpu1", "tcp://[fe80::1]:7707", KEY))


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "plover"


class TestLines:
    def test_they_come_back_as_they_were(self) -> None:
        assert keys.parse_line(CLIENT) == ClientLine("alice@laptop", KEY)
        assert keys.parse_line(DAEMON) == DaemonLine("gpu1", "tcp://[fe80::1]:7707", KEY)

    @pytest.mark.parametrize("line", [CLIENT, DAEMON])
    def test_what_mails_and_shells_add_does_no_harm(self, line: str) -> None:
        for told in (f" {line}\n", f"'{line}'", f"`{line}`", f"{line[:30]}\n    {line[30:]}"):
            assert str(keys.parse_line(told)) == line

    @pytest.mark.parametrize("line", [CLIENT, DAEMON])
    def test_a_cut_one_is_noticed_wherever_it_was_cut(self, line: str) -> None:
        for end in range(len("plover-client:"), len(line)):
            with pytest.raises(ValueError, match="not whole: it was cut or changed"):
                keys.parse_line(line[:end])

    @pytest.mark.parametrize("line", [CLIENT, DAEMON])
    def test_a_changed_letter_is_noticed(self, line: str) -> None:
        for place in range(len("plover-client:"), len(line)):
            changed = line[:place] + ("b" if line[place] != "b" else "c") + line[place + 1 :]
            with pytest.raises(ValueError, match="not whole: it was cut or changed"):
                keys.parse_line(changed)

    @pytest.mark.parametrize("line", ["", "ssh-ed25519 AAAA", KEY, CLIENT[5:]])
    def test_what_is_none(self, line: str) -> None:
        with pytest.raises(
            ValueError, match="is not a line of Plover's keys: copy the whole line that `plover keys show`"
        ):
            keys.parse_line(line)

    def test_ones_own_says_user_and_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(getpass, "getuser", lambda: "älice")
        monkeypatch.setattr(socket, "gethostname", lambda: "lap top")
        pair = keys.client_key()
        assert keys.client_line(pair) == ClientLine("-lice@lap-top", pair.public)
        assert keys.host_name() == "lap-top"

    def test_a_user_without_a_name_is_one_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody() -> str:
            raise KeyError("uid not found")

        monkeypatch.setattr(getpass, "getuser", nobody)
        assert keys.client_line(keys.client_key()).name.startswith("user@")

    def test_nothing_secret_is_in_one(self) -> None:
        pair = keys.client_key()
        assert pair.secret not in str(keys.client_line(pair))
        assert pair.secret not in repr(pair)


class TestText:
    def test_a_key_is_what_zeromq_takes(self) -> None:
        pair = keys.client_key()
        public, secret = keys.public_bytes(pair.public), keys.public_bytes(pair.secret)
        assert len(public) == len(secret) == 32
        assert keys.key_text(public) == pair.public
        assert zmq.curve_public(z85.encode(secret)) == z85.encode(public)

    @pytest.mark.parametrize("text", ["", "a" * 51, "a" * 53, "A" * 52, "1" * 52, "a" * 51 + "\n"])
    def test_what_is_no_key(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a key: a key is 52 of the letters a-z and the digits 2-7"):
            keys.public_bytes(text)


class TestFiles:
    def test_a_key_is_made_once_for_this_user_alone(self, directory: Path) -> None:
        assert not keys.has_client_key()
        first = keys.client_key()
        assert keys.has_client_key()
        assert keys.client_key() == first
        assert keys.daemon_key() not in (first, keys.make_key(of_daemon=False, replace=True))
        for name in ("client.key", "daemon.key"):
            assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert sorted(each.name for each in directory.iterdir()) == ["client.key", "daemon.key"]

    def test_it_is_replaced_only_when_that_is_said(self) -> None:
        first = keys.make_key(of_daemon=False, replace=False)
        with pytest.raises(PloverError, match="by which daemons know you. With --replace it is lost"):
            keys.make_key(of_daemon=False, replace=False)
        assert keys.client_key() == first
        assert keys.make_key(of_daemon=False, replace=True) != first
        keys.daemon_key()
        with pytest.raises(PloverError, match="by which its clients know this daemon"):
            keys.make_key(of_daemon=True, replace=False)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
    def test_one_that_others_can_read_or_write_is_refused(self, directory: Path, mode: int) -> None:
        keys.client_key()
        (directory / "client.key").chmod(mode)
        with pytest.raises(
            AccessDenied, match=f"is open to others .mode {mode:o}.: close it with `chmod 600 {directory}"
        ):
            keys.client_key()

    def test_one_of_somebody_else_is_refused(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*_: object, **__: object) -> str:
            raise PermissionError(13, "denied")

        keys.client_key()
        monkeypatch.setattr(Path, "read_text", denied)
        with pytest.raises(AccessDenied, match="cannot be read by this user: it is somebody else's"):
            keys.client_key()

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ('public = "x"\nsecret = "y"', "is not a key: "),
            ("nonsense", "is not a key file"),
            (f'public = "{KEY}"', "'secret' is missing"),
            (f'public = "{KEY}"\nsecret = 5', "is not a key file"),
            ("\udcff", "is not a key file"),
        ],
    )
    def test_one_that_is_broken(self, directory: Path, content: str, words: str) -> None:
        keys.client_key(), keys.daemon_key()
        for name, again in (
            ("client.key", "`plover keys new --replace`"),
            ("daemon.key", "`plover keys new --replace --daemon`"),
        ):
            (directory / name).write_bytes(content.encode(errors="surrogateescape"))
            with pytest.raises(PloverError, match=again) as caught:
                keys.client_key() if name == "client.key" else keys.daemon_key()
            assert words in str(caught.value)
            assert str(directory / name) in str(caught.value)

    def test_a_directory_in_which_others_can_write_is_refused(self, directory: Path) -> None:
        directory.mkdir()
        directory.chmod(0o775)
        with pytest.raises(AccessDenied, match=f"others can write into {directory}.*`chmod go-w {directory}`"):
            keys.client_key()

    def test_a_file_that_cannot_be_written_leaves_nothing(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        directory.mkdir(mode=0o700)
        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            keys.write_private(directory / "x", "text")
        assert list(directory.iterdir()) == []


class TestDirectory:
    def test_it_is_in_the_home_directory_where_nothing_else_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("XDG_CONFIG_HOME")
        monkeypatch.setenv("HOME", "/home/alice")
        assert keys.config_directory() == Path("/home/alice/.config/plover")

    def test_a_process_without_a_home_is_told_what_to_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CONFIG_HOME")
        monkeypatch.setattr(Path, "home", homeless)
        with pytest.raises(PloverError, match=r"no home directory .* set \$XDG_CONFIG_HOME"):
            keys.config_directory()
