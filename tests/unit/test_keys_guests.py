"""Guests in the daemon: who they are, what they may say, and what they see."""

from __future__ import annotations

import collections
import json
import os
import resource
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from plover import keys, trusted
from plover.daemon import guests
from plover.daemon.peers import ClientPeer, GuestPeer, Peers
from plover.errors import PloverError, WireError
from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m

KEY, OTHER = "a" * 51 + "q", "b" * 51 + "q"
SECRET = b"s" * 32


class TestPeers:
    def test_a_guest_is_known_by_its_socket_and_reached_by_its_client(self) -> None:
        peers = Peers(SECRET)
        guest = peers.admit_guest(b"r1", b"alice", "lab", KEY)
        assert guest == GuestPeer(b"alice", "lab", KEY)
        assert peers.find_guest(b"r1") == guest
        assert peers.find(b"r1") is None  # of this machine it is not
        assert peers.is_known(b"r1")
        assert peers.routing_id_of(b"alice") == b"r1"
        assert list(peers.guests()) == [(b"r1", guest)]
        peers.forget(b"r1")
        assert not peers.is_known(b"r1")
        assert peers.routing_id_of(b"alice") is None

    def test_one_that_comes_back_leaves_its_earlier_connection(self) -> None:
        peers = Peers(SECRET)
        peers.admit_guest(b"r1", b"alice", "lab", KEY)
        peers.admit_guest(b"r2", b"alice", "lab", KEY)
        assert peers.find_guest(b"r1") is None
        assert peers.routing_id_of(b"alice") == b"r2"

    def test_past_the_limit_the_oldest_goes_whoever_it_is(self) -> None:
        peers = Peers(SECRET, limit=2)
        peers.admit_guest(b"r0", b"alice", "lab", KEY)
        peers.admit_client(b"r1", b"bob", SECRET)
        peers.admit_guest(b"r2", b"carol", "lab", KEY)
        assert not peers.is_known(b"r0")
        peers.admit_guest(b"r3", b"dave", "lab", KEY)
        assert not peers.is_known(b"r1")

    def test_only_who_shook_hands_under_a_routing_id_may_speak_under_it(self) -> None:
        peers = Peers(SECRET)
        peers.admit_guest(b"guest", b"alice", "lab", KEY)
        peers.admit_client(b"local", b"bob", SECRET)
        assert peers.may_speak(b"guest", KEY)
        assert not peers.may_speak(b"guest", OTHER)
        assert not peers.may_speak(b"guest", None)
        assert peers.may_speak(b"local", None)
        assert not peers.may_speak(b"local", KEY)
        assert peers.may_speak(b"stranger", None)
        assert peers.may_speak(b"stranger", KEY)

    def test_a_guest_is_a_client(self) -> None:
        assert isinstance(GuestPeer(b"c", "t", KEY), ClientPeer)


class TestMessages:
    @pytest.mark.parametrize(
        "message", [m.Hello(b"c", b"", versions()), m.Cancel(1), m.Ping(), m.AskStatus(), m.Goodbye()]
    )
    def test_a_guest_speaks_as_a_client(self, message: m.FromClient) -> None:
        assert guests.FROM_GUEST.read(codec.write(message)).message == message

    @pytest.mark.parametrize("message", [m.AskToEnd(True), m.WorkerHello(1, versions(), 0.0), m.Unwell("")])
    def test_but_neither_as_the_operator_nor_as_a_worker(self, message: m.AnyMessage) -> None:
        with pytest.raises(WireError, match="none of its messages"):
            guests.FROM_GUEST.read(codec.write(message))


class TestClientIds:
    def test_nobody_can_say_anothers(self) -> None:
        """Not a client of the machine's, which is taken as it is, and not that of another key."""
        client = bytes(range(16))
        one, two = guests.client_of(KEY, client), guests.client_of(OTHER, client)
        assert len({client, one, two, guests.client_of(KEY, client[:15] + b"x")}) == 4
        assert guests.client_of(KEY, client) == one

    def test_call_ids_are_the_same_on_both_sides(self) -> None:
        client = bytes(range(16))
        assert m.call_id(guests.client_of(KEY, client), 3) == m.call_id(client, 3)


def test_a_guest_sees_its_own_tenants_part_of_the_status() -> None:
    document = {
        "pid": 1,
        "pids": {"1": 100, "2": 200},
        "refused_messages": {"wrong secret": 3},
        "limits": {"payload_bytes": 5},
        "scheduler": {
            "devices": [
                {"id": "gpu:0", "nest": 1, "last_failure": "mine"},
                {"id": "gpu:1", "nest": 2, "last_failure": "/home/bob/secret.py failed"},
            ],
            "nests": [{"nest": 1, "tenant": "alice"}, {"nest": 2, "tenant": "bob"}],
            "workers": [{"worker": 1, "nest": 1}, {"worker": 2, "nest": 2}],
            "queued": {"alice": 1, "bob": 5},
            "clients": [{"client": "aa", "tenant": "alice"}, {"client": "bb", "tenant": "bob"}],
        },
    }
    seen = json.loads(guests.status_for("alice", json.dumps(document).encode()))
    assert seen["scheduler"]["clients"] == [{"client": "aa", "tenant": "alice"}]
    assert "bob" not in json.dumps(seen)
    assert seen["pids"] == {"1": 100}
    assert seen["refused_messages"] == {}
    assert seen["limits"] == {"payload_bytes": 5}
    assert [device["id"] for device in seen["scheduler"]["devices"]] == ["gpu:0", "gpu:1"]
    assert seen["scheduler"]["queued"] == {"alice": 1}
    assert [worker["worker"] for worker in seen["scheduler"]["workers"]] == [1]


class TestGate:
    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        return tmp_path / "plover"

    @pytest.fixture
    def gate(self, directory: Path) -> Iterator[guests.Gate]:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        made = guests.Gate(context, collections.Counter())
        yield made
        made.close()
        context.term()

    def _changed(self, gate: guests.Gate) -> bool:
        return bool(select.select([gate.changes], [], [], 10)[0]) and gate.reread()

    def test_who_is_trusted_while_it_runs_is_let_in_and_who_is_revoked_is_not(
        self, gate: guests.Gate, directory: Path
    ) -> None:
        file = trusted.path()
        assert gate.tenant_of(KEY) is None
        trusted.trust(file, keys.ClientLine("alice@x", KEY), "lab")
        assert self._changed(gate)
        assert gate.tenant_of(KEY) == "lab"
        trusted.trust(file, keys.ClientLine("alice@x", KEY), "other")
        assert self._changed(gate)
        assert gate.tenant_of(KEY) == "other"
        trusted.revoke(file, "other")
        assert self._changed(gate)
        assert gate.tenant_of(KEY) is None

    def test_other_files_change_nothing(self, gate: guests.Gate, directory: Path) -> None:
        (directory / "config.toml").write_text("")
        assert not self._changed(gate)

    def test_what_becomes_unreadable_trusts_nobody(
        self, gate: guests.Gate, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = trusted.path()
        trusted.trust(file, keys.ClientLine("alice@x", KEY), "lab")
        assert self._changed(gate)
        file.chmod(0o644)
        assert self._changed(gate)
        assert gate.tenant_of(KEY) is None
        assert "nobody is let in over tcp until this is mended" in caplog.text

    def test_a_line_that_is_cut_while_it_runs_trusts_nobody_and_the_others_stay(
        self, gate: guests.Gate, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = trusted.path()
        trusted.trust(file, keys.ClientLine("alice@x", KEY), "lab")
        trusted.trust(file, keys.ClientLine("bob@x", OTHER), "bob")
        keys.write_private(file, file.read_text().rstrip()[:-3] + "\n")
        assert self._changed(gate)
        assert (gate.tenant_of(KEY), gate.tenant_of(OTHER)) == ("lab", None)
        assert "line 3, trusts nobody: this line is not whole" in caplog.text

    def test_a_refused_key_is_counted_each_time_and_logged_once(
        self, gate: guests.Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guests, "_REFUSED_LIMIT", 2)
        for number in (1, 1, 2, 3, 1):
            assert gate._admits(bytes([number]) * 32, "10.0.0.7") is None
        assert gate._refused["untrusted key"] == 5
        assert len(gate._said) == 2
        assert caplog.text.count("a client at 10.0.0.7 with the key ") == 4  # the first was forgotten, past the limit

    def test_a_machine_without_room_for_a_watch_is_told_so(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        with pytest.raises(PloverError, match=r"cannot be watched for keys that are revoked .*: raise fs.inotify"):
            guests._watch(directory / "none")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        opened: list[int] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    opened.append(os.open(os.devnull, os.O_RDONLY))
            with pytest.raises(PloverError, match="Too many open files"):
                guests._watch(directory)
        finally:
            for fd in opened:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
