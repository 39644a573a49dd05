"""Daemons over tcp: enrolment, who is let in and as whom, what a guest may not do, revoking. Real sockets and processes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

import plover
from plover import gpu_function, keys
from plover.errors import AccessDenied
from plover.versions import versions
from plover.wire import codec
from plover.wire import messages as m
from tests.support.daemons import PATIENCE_S, Fifo, RawPeer
from tests.support.daemons import plover as command
from tests.support.remote import Host, RawGuest, User, configuration, host, proxy, run


def _blocker() -> plover.GpuFunction:
    def block(begun: str, gate: str) -> str:
        with open(begun, "w") as fifo:
            fifo.write("begun\n")
        with open(gate) as fifo:
            return fifo.readline()

    made = gpu_function(block)
    assert isinstance(made, plover.GpuFunction)
    return made


# -- enrolment ---------------------------------------------------------------------------------------------------------


def test_one_line_each_way_and_both_the_name_and_the_address_work(gpu1: Host, me: User) -> None:
    line = run("keys", "show")
    assert line.startswith("plover-client:")
    with configuration(gpu1.configuration):
        code, back, said = command("keys", "trust", line, "--tenant", "carol", "--address", gpu1.tcp)
    assert code == 0
    assert back.startswith("plover-daemon:")
    assert back.count("\n") == 1  # and nothing else, so that it can be piped
    assert "trusted as tenant carol, and may run code as " in said
    code, out, said = command("keys", "trust", back, "--name", "gpu1")
    assert (code, out) == (0, "")
    assert "plover.connect('gpu1')" in said
    for given in ("gpu1", gpu1.tcp):
        with plover.connect(given) as session:
            assert gpu_function(lambda x: x + 1)(np.arange(3)).tolist() == [1, 2, 3]
            assert session.connection().welcome.tenant == "carol"
    gpu1.revoke("carol")


def test_the_environment_and_a_default_profile_name_it_too(
    gpu1: Host, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLOVER_ADDRESS", "gpu1")
    with plover.connect() as session:
        assert session.connection().welcome.tenant == "alice"
    monkeypatch.delenv("PLOVER_ADDRESS")
    file = alice.configuration / "plover" / "config.toml"
    file.write_text('default = "gpu1"\n' + file.read_text())
    with plover.connect() as session:
        assert session.connection().welcome.tenant == "alice"
    code, out, _ = command("doctor")
    assert code == 0
    assert f"calls go to {gpu1.tcp} (profile gpu1 in {file})" in out


def test_the_daemons_key_survives_a_restart(me: User) -> None:
    first = Host()
    me.enrol(first, "alice")
    with plover.connect("gpu1"):
        assert gpu_function(lambda: 1)() == 1
    first.process.terminate()
    assert first.wait() == 0, first.log()
    with host(port=first.port, mark=first.mark), plover.connect("gpu1"):
        assert gpu_function(lambda: 2)() == 2


# -- who is let in -----------------------------------------------------------------------------------------------------


def test_clients_of_the_machine_need_no_key_and_have_a_tenant_of_their_own(gpu1: Host, alice: User) -> None:
    with plover.connect(gpu1.address) as local, plover.connect("gpu1") as remote:
        assert local.submit(lambda: 1).result(PATIENCE_S) == 1
        assert remote.submit(lambda: 2).result(PATIENCE_S) == 2
        assert local.submit(lambda: 3).result(PATIENCE_S) == 3
        assert local.connection().welcome.tenant == "default"
        assert remote.connection().welcome.tenant == "alice"
        assert local.connection().welcome.payload_limit_bytes == remote.connection().welcome.payload_limit_bytes


def test_a_client_of_the_machine_still_needs_the_secret(gpu1: Host) -> None:
    with RawPeer(gpu1.address) as peer:
        peer.say(m.Hello(b"c" * 16, b"", versions()), 0)
        assert peer.hear().error == "AccessDenied"


def test_a_client_without_any_key_does_not_get_in(gpu1: Host) -> None:
    with RawPeer(gpu1.address) as local, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        local.hello()
        dealer.setsockopt(zmq.LINGER, 0)
        failed = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # whoever sees it first
        monitor = dealer.get_monitor_socket(failed[0] | failed[1] | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        dealer.connect(gpu1.tcp)
        dealer.send_multipart(codec.write(m.Hello(b"c" * 16, b"", versions())))
        assert monitor.poll(PATIENCE_S * 1000)
        assert recv_monitor_message(monitor)["event"] in failed
        dealer.disable_monitor()
        monitor.close(0)


def test_an_unknown_key_is_refused_with_the_line_to_give_away(gpu1: Host, me: User) -> None:
    before = gpu1.status()["refused_messages"].get("untrusted key", 0)
    back = gpu1.trust(User(me.configuration.parent / "somebody").line(), "--tenant", "somebody")
    run("keys", "trust", back, "--name", "gpu1")
    with pytest.raises(AccessDenied, match="does not trust this user's key") as caught:
        plover.connect("gpu1")
    assert me.line() in str(caught.value)
    assert gpu1.status()["refused_messages"]["untrusted key"] == before + 1
    assert f"the key {keys.client_key().public} is not trusted, and was refused" in gpu1.log()
    gpu1.revoke("somebody")


def test_a_daemon_whose_key_is_not_known_is_not_talked_to(gpu1: Host, me: User) -> None:
    with (
        proxy(gpu1.port) as line,
        pytest.raises(AccessDenied, match="is not known here, so it could be anybody") as caught,
    ):
        plover.connect(line.address)
    assert me.line() in str(caught.value)
    assert line.connections == 0


def test_nothing_is_sent_to_a_daemon_that_proves_another_key(gpu1: Host, me: User) -> None:
    gpu1.trust(me.line(), "--tenant", "alice")
    other = User(me.configuration.parent / "other")
    with configuration(other.configuration):
        wrong = keys.daemon_key().public
    with proxy(gpu1.port) as line:
        run("keys", "trust", str(keys.DaemonLine("gpu1", line.address, wrong)))
        with pytest.raises(AccessDenied, match="did not prove that it is the daemon whose key is expected") as caught:
            plover.connect("gpu1")
        assert f"(profile gpu1 in {me.configuration / 'plover' / 'config.toml'})" in str(caught.value)
        # ZMTP's greeting of 64 bytes, and CURVE's HELLO of 200 and its frame: public values and zeros (RFC 26).
        for given in bytes(line.from_client).split(b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f")[1:]:
            assert len(given) <= 64 - 10 + 2 + 200
    gpu1.revoke("alice")


def test_nothing_is_sent_to_a_server_that_asks_for_no_key(me: User) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        run("keys", "trust", str(keys.DaemonLine("fake", f"tcp://127.0.0.1:{port}", keys.client_key().public)))
        with pytest.raises(AccessDenied, match="did not prove"):
            plover.connect("fake")
        assert not router.poll(0)


# -- what a guest may not do -------------------------------------------------------------------------------------------


def test_a_guest_is_never_a_worker(gpu1: Host, alice: User) -> None:
    with RawGuest(gpu1, alice) as guest:
        guest.say(m.WorkerHello(1, versions(), 0.0), 0)
        assert "none of its messages" in guest.hear().reason
        guest.hello()  # it may still be a client, and its hello needs no secret
        guest.say(m.WorkerHello(1, versions(), 0.0))
        assert guest.hear().error == "WireError"


def test_a_guest_cannot_end_the_daemon(gpu1: Host, alice: User) -> None:
    with RawGuest(gpu1, alice) as guest:
        guest.hello()
        for drain in (True, False):
            guest.say(m.AskToEnd(drain))
            rejected = guest.hear()
            assert rejected.error == "WireError"
            assert "none of its messages" in rejected.reason
    assert gpu1.status()["scheduler"]["phase"] == "running"
    for verb in ("stop", "drain"):
        code, _, said = command(verb, "--address", "gpu1")
        assert code == 1
        assert f"ended by its operator, on its own machine: log in there, and `plover {verb}`" in said


def test_a_guest_says_nothing_to_an_earlier_daemon(gpu1: Host, alice: User) -> None:
    with RawGuest(gpu1, alice) as guest:
        guest.hello()
        guest.say(m.Ping(), guest.incarnation ^ 2)
        assert guest.hear().error == "DaemonLost"


def test_a_guest_sees_its_own_tenants_part(gpu1: Host, alice: User, fifos: list[Fifo]) -> None:
    with plover.connect(gpu1.address) as local, plover.connect("gpu1"):
        running = local.submit(_blocker(), fifos[0].path, fifos[1].path)
        fifos[0].wait()
        waiting = gpu_function(lambda: 5).submit()
        own, guests = gpu1.status(), run("status", "--json", "--address", "gpu1")
        assert [nest["tenant"] for nest in own["scheduler"]["nests"]] == ["default"]
        assert own["pids"]
        assert '"default"' not in guests
        for part in ('"nests": []', '"workers": []', '"pids": {}', '"refused_messages": {}'):
            assert part in guests
        fifos[1].say()
        assert running.result(PATIENCE_S) == "go\n"
        assert waiting.result(PATIENCE_S) == 5
        assert '"tenant": "alice"' in run("status", "--json", "--address", "gpu1")


def test_a_guest_does_not_reach_anothers_calls_by_saying_its_client_id(gpu1: Host, alice: User) -> None:
    bob = User(alice.configuration.parent / "bob")
    gpu1.trust(bob.line(), "--tenant", "bob")
    with RawPeer(gpu1.address) as local, RawGuest(gpu1, alice) as first, RawGuest(gpu1, bob) as second:
        local.hello()
        first.client = second.client = local.client
        first.hello(), second.hello()
        for peer in (local, first, second):  # each is still heard, and none was taken for another
            peer.say(m.Resume((7,)))
            assert peer.hear() == m.Unknown((7,))
    gpu1.revoke("bob")


def test_a_routing_id_that_another_left_is_not_taken_over(gpu1: Host, alice: User) -> None:
    """A peer chooses its routing id itself: here a guest that of a client of the machine, which went without a word."""
    name = b"\x01" + b"r" * 15
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.ROUTING_ID, name)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(gpu1.address)
        from plover import addresses

        hello = m.Hello(b"v" * 16, addresses.read_secret(gpu1.socket), versions())
        dealer.send_multipart(codec.write(hello))
        welcome = codec.TO_CLIENT.read(dealer.recv_multipart()).message
        assert isinstance(welcome, m.Welcome)
    with RawGuest(gpu1, alice, routing_id=name) as thief:
        thief.say(m.AskToEnd(False), welcome.incarnation)
        rejected = thief.hear()
        assert (rejected.error, "took the routing id of another" in rejected.reason) == ("AccessDenied", True)
        assert gpu1.status()["refused_messages"]["taken routing id"] >= 1
        assert gpu1.status()["scheduler"]["phase"] == "running"


# -- revoking ----------------------------------------------------------------------------------------------------------


def test_a_revoked_key_is_forgotten_at_once_and_its_calls_are_cancelled(
    gpu1: Host, me: User, fifos: list[Fifo]
) -> None:
    me.enrol(gpu1, "mallory")
    with plover.connect(gpu1.address) as local, plover.connect("gpu1") as remote:
        running = _blocker().submit(fifos[0].path, fifos[1].path)
        fifos[0].wait()
        waiting = gpu_function(lambda: 1).submit()
        gpu1.revoke("mallory")
        for future in (running, waiting):
            with pytest.raises(AccessDenied, match="does not trust this client's key any more"):
                future.result(PATIENCE_S)
        with pytest.raises(AccessDenied, match="does not trust this user's key"):
            remote.submit(lambda: 2)
        assert local.submit(lambda: 3).result(PATIENCE_S) == 3  # the device is free again


def test_a_revoked_guest_that_is_still_connected_is_refused(gpu1: Host, me: User) -> None:
    gpu1.trust(me.line(), "--tenant", "mallory")
    with RawGuest(gpu1, me) as guest:
        guest.hello()
        gpu1.revoke("mallory")
        assert guest.hear().error == "AccessDenied"
        guest.say(m.Hello(guest.client, b"", versions()), 0)
        assert guest.hear().error == "AccessDenied"


def test_another_tenant_means_another_handshake(gpu1: Host, me: User) -> None:
    me.enrol(gpu1, "alice")
    with plover.connect("gpu1") as session:
        assert gpu_function(lambda: 1)() == 1
        gpu1.trust(me.line(), "--tenant", "lab")
        with RawGuest(gpu1, me) as guest:
            assert guest.hello().tenant == "lab"
        with pytest.raises(AccessDenied, match="or changed its tenant"):
            gpu_function(lambda: threading.get_ident)().result()
        assert session.submit(lambda: 2).result(PATIENCE_S) == 2
        assert session.connection().welcome.tenant == "lab"
    gpu1.revoke("lab")


def test_a_list_that_cannot_be_read_lets_nobody_in(gpu1: Host, me: User) -> None:
    me.enrol(gpu1, "alice")
    file = gpu1.configuration / "plover" / "trusted-clients"
    with RawGuest(gpu1, me) as guest:
        guest.hello()
        file.chmod(0o644)
        assert guest.hear().error == "AccessDenied"
    assert "nobody is let in over tcp until this is mended" in gpu1.log()
    assert f"close it with `chmod 600 {file}`" in gpu1.log()
    file.chmod(0o600)
    with plover.connect("gpu1"):
        assert gpu_function(lambda: 1)() == 1
    gpu1.revoke("alice")
