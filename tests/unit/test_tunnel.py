"""Tunnels with a program in ssh's place: what no sshd does on demand, and the words for each failure."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plover import tunnel
from plover.addresses import Ssh
from plover.errors import AccessDenied, DaemonUnreachable, PloverError
from plover.tunnel import Tunnel, explain

#: In ssh's place: says what a far side says, or does otherwise where it is asked to forward.
_FAKE = """#!/bin/sh
case " $* " in
*" -O forward "*) {forward} ;;
*) echo 'motd: welcome'; echo '{answer}'; cat >/dev/null ;;
esac
"""
_ANSWER = 'plover-whereabouts: {"socket": "/run/d.sock", "secret": "c2VjcmV0"}'


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Whatever a tunnel makes is made here, and nothing may be left of it. (pytest has made its own directory before.)"""
    with tempfile.TemporaryDirectory(prefix="plv-") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)
        assert [each.name for each in Path(directory).iterdir()] == []


def _ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str = _ANSWER, forward: str = "exit 0") -> None:
    program = tmp_path / "fake ssh"
    program.write_text(_FAKE.replace("{answer}", answer).replace("{forward}", forward))
    program.chmod(0o755)
    monkeypatch.setenv("PLOVER_SSH", shlex.quote(str(program)))


def _open() -> Tunnel:
    return Tunnel("ssh://me@gpu1", Ssh("gpu1", "me"), "plover")


def test_a_forwarding_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _ssh(monkeypatch, tmp_path, forward="echo 'mux: forwarding request failed' >&2; exit 1")
    with pytest.raises(
        DaemonUnreachable, match="ssh forwards no socket: mux: forwarding request failed. See what `ssh me@gpu1`"
    ):
        _open()


def test_a_forwarding_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tunnel, "_STEP_S", 0.2)
    _ssh(monkeypatch, tmp_path, forward="exec sleep 60")
    with pytest.raises(DaemonUnreachable, match="ssh did not forward a socket within 0.2 s"):
        _open()


def test_a_forwarding_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _ssh(monkeypatch, tmp_path)
    with pytest.raises(DaemonUnreachable, match="the forwarded socket cannot be used .*No such file or directory"):
        _open()


@pytest.mark.parametrize(
    "answer", ["plover-whereabouts: {", 'plover-whereabouts: {"socket": 5}', "plover-whereabouts: []"]
)
def test_an_answer_of_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str) -> None:
    _ssh(monkeypatch, tmp_path, answer)
    with pytest.raises(
        DaemonUnreachable, match="another version of Plover answers there: install the same on both sides"
    ):
        _open()


def test_an_answer_that_says_why_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _ssh(monkeypatch, tmp_path, 'plover-whereabouts: {"error": "no daemon runs there at /x"}')
    with pytest.raises(DaemonUnreachable, match="^ssh://me@gpu1: no daemon runs there at /x$") as caught:
        _open()
    assert caught.value.address == "ssh://me@gpu1"


def test_one_that_ignores_its_inputs_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tunnel, "_END_S", 0.2)
    _ssh(monkeypatch, tmp_path, f"{_ANSWER}'; trap '' TERM; exec 0</dev/zero; exec cat >/dev/null; echo '")
    with pytest.raises(DaemonUnreachable):
        _open()


def test_on_windows_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    try:
        with pytest.raises(
            PloverError, match="ssh on Windows cannot forward unix sockets: use tcp:// and `plover keys`"
        ):
            _open()
    finally:
        monkeypatch.setattr(os, "name", "posix")


@pytest.mark.parametrize(
    ("status", "said", "cls", "words"),
    [
        (255, "ssh: Could not resolve hostname gpu1: Name or service not known\n", DaemonUnreachable, "no such host"),
        (255, "ssh: connect to host gpu1 port 22: Connection timed out\n", DaemonUnreachable, "does not answer"),
        (255, "ssh: connect to host gpu1 port 22: No route to host\n", DaemonUnreachable, "does not answer"),
        (
            255,
            "ssh: connect to host gpu1 port 22: Connection refused\n",
            DaemonUnreachable,
            "no sshd listens at its port",
        ),
        (255, "Host key verification failed.\n", AccessDenied, "run `ssh me@gpu1` once by hand"),
        (255, "me@gpu1: Permission denied (publickey,password).\n", AccessDenied, "Without a terminal ssh cannot ask"),
        (
            255,
            "no such identity: /x: No such file or directory\nme@gpu1: Permission denied\n",
            AccessDenied,
            "let us in",
        ),
        (
            255,
            "kex_exchange_identification: read: reset\n",
            DaemonUnreachable,
            "ssh ended: kex_exchange_identification",
        ),
        (255, "", DaemonUnreachable, "ssh ended: it said nothing. See what `ssh me@gpu1` says"),
        (127, "bash: line 1: plover: command not found\n", DaemonUnreachable, "install plover-gpu on that host"),
        (127, "sh: 1: exec: ssh: not found\n", DaemonUnreachable, "there is no ssh on this machine"),
        (
            2,
            "plover: error: invalid choice: 'whereabouts'\n",
            DaemonUnreachable,
            "exit status 2: plover: error: invalid",
        ),
        (1, "Permission denied\n", DaemonUnreachable, "failed there with exit status 1: Permission denied"),
    ],
)
def test_each_failure_has_its_words(status: int, said: str, cls: type[PloverError], words: str) -> None:
    error = explain("ssh://me@gpu1", "me@gpu1", status, said, "")
    assert type(error) is cls
    assert str(error).startswith("ssh://me@gpu1: ")
    assert words in str(error)
