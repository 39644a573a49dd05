"""Profiles: names for daemons, and what is said about a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from plover import profiles
from plover.errors import AccessDenied, PloverError
from plover.keys import DaemonLine
from plover.profiles import Profile, Target

KEY = "a" * 51 + "q"
OTHER = "b" * 51 + "q"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("PLOVER_ADDRESS", raising=False)
    (tmp_path / "plover").mkdir(mode=0o700)
    return tmp_path / "plover" / "config.toml"


GOOD = f"""# my hosts
default = "gpu1"

[profiles.gpu1]
address = "tcp://gpu1:7707"
server_key = "{KEY}"

[profiles.lab]   # over there
address = "ssh://me@lab"
command = "/opt/bin/plover"

[profiles.here]
address = "ipc:///run/d.sock"
"""


class TestFinding:
    def test_by_name(self, file: Path) -> None:
        file.write_text(GOOD)
        assert profiles.find("gpu1") == Target("tcp://gpu1:7707", KEY, "plover", f"profile gpu1 in {file}")
        assert profiles.find("lab") == Target("ssh://me@lab", None, "/opt/bin/plover", f"profile lab in {file}")
        assert profiles.find("here").address == "ipc:///run/d.sock"

    def test_by_address_with_the_key_of_its_profile(self, file: Path) -> None:
        file.write_text(GOOD)
        assert profiles.find("tcp://gpu1:7707").server_key == KEY
        assert profiles.find("ssh://me@lab").command == "/opt/bin/plover"
        assert profiles.find("tcp://gpu2:7707") == Target("tcp://gpu2:7707")

    def test_an_address_of_this_machine_asks_no_file(self, file: Path) -> None:
        file.write_text("nonsense")
        assert profiles.find("ipc:///run/d.sock") == Target("ipc:///run/d.sock")

    def test_the_environment_comes_before_the_default(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert profiles.configured() is None
        file.write_text(GOOD)
        assert profiles.configured() == profiles.find("gpu1")
        monkeypatch.setenv("PLOVER_ADDRESS", "lab")
        assert profiles.configured() == profiles.find("lab", "$PLOVER_ADDRESS")
        monkeypatch.setenv("PLOVER_ADDRESS", "tcp://gpu1:7707")
        said = f"$PLOVER_ADDRESS, profile gpu1 in {file}"
        assert profiles.configured() == Target("tcp://gpu1:7707", KEY, "plover", said)
        monkeypatch.setenv("PLOVER_ADDRESS", "ipc:///run/d.sock")
        assert profiles.configured() == Target("ipc:///run/d.sock", source="$PLOVER_ADDRESS")

    def test_a_name_that_is_none(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match=f"there is no profile 'gpu1' in {file}: it has no profiles"):
            profiles.find("gpu1")
        file.write_text(GOOD)
        with pytest.raises(ValueError, match="there is no profile 'gpu2' in .*: did you mean 'gpu1'"):
            profiles.find("gpu2")
        with pytest.raises(ValueError, match="there is no profile 'mars' in .*: it has gpu1, lab, here. An address is"):
            profiles.find("mars")
        for nonsense in ("/run/d.sock", "gpu1:7707", "-x"):
            with pytest.raises(ValueError, match="is not an address, nor a profile's name: ipc:///path"):
                profiles.find(nonsense)
        monkeypatch.setenv("PLOVER_ADDRESS", "mars")
        with pytest.raises(ValueError, match=r"there is no profile 'mars' \(from \$PLOVER_ADDRESS\)"):
            profiles.configured()


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            (
                "[profiles.gpu1\n",
                None,
                "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 15)",
            ),
            ('default = "x"\n\n[profiles.y]\naddress = "ipc:///x"', 1, "default is 'x', and there is no [profiles.x]"),
            ("# x\ndefault = 5", 2, "default is 5, and there is no [profiles.5]"),
            ("\ncolour = 1", 2, "colour means nothing here: default, profiles do"),
            ("profile = 1", 1, "profile means nothing here: did you mean profiles?"),
            ('profiles = "x"', 1, "profiles is a table of profiles: [profiles.NAME]"),
            ('[profiles]\ngpu1 = "tcp://gpu1:7707"', 2, "profiles.gpu1 is a table: [profiles.gpu1]"),
            ("[profiles.gpu1]\n", 1, "profiles.gpu1 has no address: one of ipc://"),
            ('[profiles."a b"]\naddress = "ipc:///x"', None, "profiles.a b has a name that is none"),
            (
                '\n[profiles.gpu1]\nadress = "ipc:///x"',
                3,
                "profiles.gpu1.adress means nothing here: did you mean address?",
            ),
            ("[profiles.gpu1]\naddress = 7707", 2, "profiles.gpu1.address is a text between quotes"),
            ('[profiles.gpu1]\naddress = ""', 2, "profiles.gpu1.address is a text between quotes"),
            ('[profiles.gpu1]\naddress = "gpu1"', 2, "profiles.gpu1.address 'gpu1' is not an address"),
            ('[profiles.gpu1]\naddress = "tcp://gpu1"', 2, "profiles.gpu1.address 'tcp://gpu1' is not a tcp address"),
            (
                '[profiles.gpu1]\naddress = "tcp://gpu1:7707"\nserver_key = "abc"',
                3,
                "profiles.gpu1.server_key 'abc' is not a key",
            ),
            ('profiles.gpu1 = {address = "nowhere"}', None, "profiles.gpu1.address 'nowhere' is not an address"),
        ],
    )
    def test_the_file_the_line_and_the_key_are_named(self, file: Path, text: str, line: int | None, words: str) -> None:
        file.write_text(text)
        with pytest.raises(PloverError) as caught:
            profiles.load()
        assert str(caught.value).startswith(f"{file}, line {line}: " if line else str(file))
        assert words in str(caught.value)

    def test_bytes_that_are_no_text(self, file: Path) -> None:
        file.write_bytes(b"# \xff")
        with pytest.raises(PloverError, match=r"is not UTF-8 \(byte 2\), as TOML must be"):
            profiles.load()

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_one_that_others_can_write(self, file: Path, mode: int) -> None:
        file.write_text(GOOD)
        file.chmod(mode)
        with pytest.raises(AccessDenied, match=f"others can write {file} .mode {mode:o}., .*: `chmod go-w {file}`"):
            profiles.find("gpu1")

    def test_one_of_somebody_else(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*_: object, **__: object) -> str:
            raise PermissionError(13, "denied")

        file.write_text(GOOD)
        monkeypatch.setattr(Path, "read_text", denied)
        with pytest.raises(AccessDenied, match=f"{file} cannot be read by this user"):
            profiles.load()


class TestWriting:
    line = DaemonLine("gpu9", "tcp://gpu9:7707", OTHER)

    def test_a_new_one_goes_to_the_end_and_nothing_else_changes(self, file: Path) -> None:
        file.write_text(GOOD)
        assert profiles.add(self.line) == Profile("gpu9", "tcp://gpu9:7707", OTHER)
        assert file.read_text().startswith(GOOD)
        assert profiles.find("gpu9").server_key == OTHER
        before = file.read_text()
        profiles.add(self.line)
        assert file.read_text() == before

    def test_the_first_one_makes_the_file(self, file: Path) -> None:
        profiles.add(self.line, name="big.one", address="tcp://elsewhere:1")
        assert profiles.find("big.one").address == "tcp://elsewhere:1"
        assert file.stat().st_mode & 0o077 == 0

    def test_another_daemon_under_the_same_name_or_address_is_not_taken_silently(self, file: Path) -> None:
        file.write_text(GOOD)
        for changed in ({"name": "gpu1"}, {"address": "tcp://gpu1:7707"}):
            with pytest.raises(
                PloverError, match="profile 'gpu1' in .* is tcp://gpu1:7707 with another key: if this is"
            ):
                profiles.add(self.line, **changed)
        with pytest.raises(PloverError, match="with the same key"):
            profiles.add(DaemonLine("gpu1", "tcp://gpu1:7708", KEY))
        assert file.read_text() == GOOD
        profiles.add(self.line, name="gpu1", replace=True)
        assert profiles.load().profiles["gpu1"] == Profile("gpu1", "tcp://gpu9:7707", OTHER)
        assert "# my hosts" in file.read_text()

    def test_a_daemons_new_key_replaces_the_old_one_under_the_users_own_name(self, file: Path) -> None:
        file.write_text(GOOD)
        profiles.add(DaemonLine("vm-17", "tcp://gpu1:7707", OTHER), replace=True)
        assert profiles.load().default == "gpu1"
        assert profiles.find("gpu1").server_key == OTHER
        assert list(profiles.load().profiles) == ["lab", "here", "gpu1"]

    def test_a_default_whose_profile_went_is_none_any_more(self, file: Path) -> None:
        file.write_text(GOOD)
        profiles.add(DaemonLine("x", "tcp://gpu1:7707", OTHER), name="new", replace=True)
        assert profiles.load().default is None
        assert list(profiles.load().profiles) == ["lab", "here", "new"]

    @pytest.mark.parametrize("name", ["", "a b", "-x", 'a"b'])
    def test_what_is_no_name(self, name: str) -> None:
        with pytest.raises(ValueError, match="is not a profile's name"):
            profiles.add(DaemonLine(name, "tcp://x:1", KEY))

    def test_removing_takes_one_table_out(self, file: Path) -> None:
        file.write_text(GOOD)
        assert profiles.remove("lab")
        assert list(profiles.load().profiles) == ["gpu1", "here"]
        assert profiles.remove("gpu1")
        assert profiles.load().default is None
        assert file.read_text().startswith("# my hosts\n")
        assert not profiles.remove("gpu1")

    def test_one_without_a_table_of_its_own_is_left(self, file: Path) -> None:
        text = f'profiles.gpu1 = {{address = "tcp://gpu1:7707", server_key = "{KEY}"}}\n'
        file.write_text(text)
        with pytest.raises(PloverError, match=r"has no table of its own, \[profiles.gpu1\]: take it out by hand"):
            profiles.remove("gpu1")
        assert file.read_text() == text
