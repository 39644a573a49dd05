"""The list of keys that a daemon lets in."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from plover import trusted
from plover.errors import AccessDenied, PloverError
from plover.keys import ClientLine, DaemonLine
from plover.trusted import Trusted


def _line(letter: str, name: str = "alice@laptop") -> ClientLine:
    return ClientLine(name, letter * 51 + "q")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "plover" / "trusted-clients"


def test_nobody_is_trusted_at_first(file: Path) -> None:
    assert trusted.read(file) == trusted.TrustedKeys()


def test_who_is_trusted_is_read_back_with_the_tenant(file: Path) -> None:
    alice, bob = trusted.trust(file, _line("a"), None), trusted.trust(file, _line("b", "bob@desk"), "lab")
    assert alice == Trusted("alice", "alice@laptop", _line("a").key)
    assert bob.tenant == "lab"
    assert dict(trusted.read(file).by_key) == {alice.key: alice, bob.key: bob}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_trusting_twice_changes_nothing_unless_another_tenant_is_said(file: Path) -> None:
    trusted.trust(file, _line("a"), "lab")
    before = file.read_text()
    assert trusted.trust(file, _line("a"), None).tenant == "lab"
    assert file.read_text() == before
    assert trusted.trust(file, _line("a"), "other").tenant == "other"
    assert [each.tenant for each in trusted.read(file).by_key.values()] == ["other"]


def test_a_name_alone_never_makes_two_keys_one_tenant(file: Path) -> None:
    """The name in a line is its sender's own: whoever calls himself alice must not get Alice's workers by that."""
    trusted.trust(file, _line("a"), None)
    with pytest.raises(
        PloverError, match="tenant 'alice' has another key already, of alice@laptop: .* `--tenant alice`"
    ):
        trusted.trust(file, _line("b", "alice@elsewhere"), None)
    assert trusted.trust(file, _line("b", "alice@elsewhere"), "alice").tenant == "alice"


def test_the_machines_own_tenant_must_be_meant(file: Path) -> None:
    with pytest.raises(
        PloverError, match="'default' is the tenant of this machine's own user: choose a name by --tenant"
    ):
        trusted.trust(file, _line("a", "default@x"), None)
    assert trusted.trust(file, _line("a", "default@x"), "default").tenant == "default"


@pytest.mark.parametrize("tenant", ["", "a b", "x" * 65, "a/b", "a\n"])
def test_what_is_no_tenants_name(file: Path, tenant: str) -> None:
    with pytest.raises(ValueError, match="is not a tenant's name: 1 to 64 letters"):
        trusted.trust(file, _line("a"), tenant)


@pytest.mark.parametrize("which", ["lab", "bob@desk", "b" * 6, "b" * 51 + "q"])
def test_revoking_takes_one_line_out_and_leaves_the_rest(file: Path, which: str) -> None:
    trusted.trust(file, _line("a"), None)
    bob = trusted.trust(file, _line("b", "bob@desk"), "lab")
    file.write_text(file.read_text().replace("lab ", "\n# Bob, until June\nlab "))
    file.chmod(0o600)
    assert trusted.revoke(file, which) == bob
    assert list(trusted.read(file).by_key) == [_line("a").key]
    assert "# Bob, until June" in file.read_text()
    assert trusted.revoke(file, which) is None


def test_revoking_what_fits_several_is_refused(file: Path) -> None:
    trusted.trust(file, _line("a"), "lab")
    trusted.trust(file, _line("b", "bob@desk"), "lab")
    with pytest.raises(PloverError, match="'lab' fits 2 keys: aaaaaaaaaaaa… .alice@laptop, tenant lab., bbbbbb"):
        trusted.revoke(file, "lab")
    assert len(trusted.read(file).by_key) == 2


def test_a_file_written_by_hand(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(f"# mine\n\n  alice   {_line('a')}")
    file.chmod(0o600)
    trusted.trust(file, _line("b", "bob@desk"), None)
    assert [each.tenant for each in trusted.read(file).by_key.values()] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (str(_line("b"))[:-2], "is not a tenant's name"),
        ("bob", "is not a line of Plover's keys"),
        (f"bob {_line('b')}"[:-2], "this line is not whole"),
        (f"b/b {_line('b')}", "'b/b' is not a tenant's name"),
        (
            f"bob {DaemonLine('x', 'tcp://x:1', 'b' * 51 + 'q')}",
            "it is a daemon's line, and only clients are trusted here",
        ),
        ("\udcff\udcfe", "trusts nobody"),
    ],
)
def test_a_line_that_is_none_trusts_nobody_and_is_named(file: Path, text: str, words: str) -> None:
    trusted.trust(file, _line("a"), None)
    file.write_bytes(file.read_bytes() + text.encode(errors="surrogateescape") + b"\n")
    content = trusted.read(file)
    assert list(content.by_key) == [_line("a").key]
    (problem,) = content.problems
    assert problem.startswith(f"{file}, line 3, trusts nobody: ")
    assert words in problem
    for change in (lambda: trusted.trust(file, _line("c"), "c"), lambda: trusted.revoke(file, "alice")):
        with pytest.raises(PloverError, match="Mend or remove that line first"):
            change()


def test_a_file_of_others_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted.trust(file, _line("a"), None)
    file.chmod(0o660)
    with pytest.raises(AccessDenied, match=f"is open to others .mode 660.: close it with `chmod 600 {file}`"):
        trusted.read(file)

    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "denied")

    file.chmod(0o600)
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(AccessDenied, match="cannot be read by this user"):
        trusted.read(file)
