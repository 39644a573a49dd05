"""What is remembered of calls that have ended, and of clients that are silent."""

from __future__ import annotations

from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev


def test_a_result_stays_until_it_is_acknowledged() -> None:
    desk = Desk("sim")
    submission = desk.submit()
    desk.finish(desk.sent())
    outcome = desk.one(cmd.SendOutcome)
    for _ in range(3):
        desk.want(submission)
        assert desk.last == [outcome]
    desk.acknowledge(submission, 77)
    assert desk.last == [cmd.ReleaseCall(call=1)]
    desk.acknowledge(submission)
    assert desk.last == []
    desk.want(submission)
    assert desk.last == [cmd.TellUnknown(client=b"c", submission=submission)]


def test_a_pending_call_that_is_asked_for_is_not_answered_yet() -> None:
    desk = Desk("sim")
    running, queued = desk.submit(), desk.submit()
    desk.want(running, queued, 99)
    assert desk.last == [cmd.TellUnknown(client=b"c", submission=99)]
    desk.acknowledge(running)
    assert desk.last == []


def test_clients_that_nobody_knows() -> None:
    desk = Desk("sim")
    desk.want(1, client=b"who")
    assert desk.last == [cmd.TellUnknown(client=b"who", submission=1)]
    for event in (
        ev.ClientSeen(client=b"who"),
        ev.ClientGone(client=b"who"),
        ev.CallCancelled(client=b"who", submission=1),
        ev.ResultsAcknowledged(client=b"who", submissions=(1,)),
    ):
        assert desk.tell(event) == []
    assert desk.scheduler.snapshot().ignored == 4
    assert desk.scheduler.snapshot().clients_present == 0


def test_a_lease_is_renewed_by_anything_the_client_says() -> None:
    desk = Desk("sim", client_lease_s=30.0)
    desk.tell(ev.ClientConnected(client=b"c"))
    for say in (desk.keep, desk.submit, desk.want, desk.acknowledge):
        desk.wait(29.0)
        say()
        assert desk.scheduler.snapshot().clients_present == 1
    desk.wait(30.0)
    assert desk.scheduler.snapshot().clients_absent == 1


def test_a_client_with_nothing_on_the_books_is_forgotten() -> None:
    desk = Desk("sim", client_lease_s=30.0)
    desk.tell(ev.ClientConnected(client=b"c"))
    desk.tell(ev.ClientConnected(client=b"c"))
    assert desk.scheduler.snapshot().clients_present == 1
    desk.wait(30.0)
    snapshot = desk.scheduler.snapshot()
    assert (snapshot.clients_present, snapshot.clients_absent) == (0, 0)


def test_a_silent_client_loses_what_waits_and_keeps_what_runs() -> None:
    desk = Desk("sim", client_lease_s=30.0, dispatched_per_worker=1)
    ran = desk.submit()
    desk.finish(desk.sent())
    desk.submit()
    sent = desk.sent()
    waited = desk.submit()
    assert not desk.of(cmd.SendOutcome, desk.wait(30.0))
    assert desk.scheduler.snapshot().ended == {"succeeded": 1, "cancelled": 1}
    desk.finish(sent, size_bytes=5)
    assert not desk.of(cmd.SendOutcome)
    assert (desk.scheduler.snapshot().held_results, desk.scheduler.snapshot().held_bytes) == (3, 5)
    # Back again: what it was not told yet is sent without being asked for.
    desk.keep()
    outcomes = {each.submission: each.outcome for each in desk.of(cmd.SendOutcome)}
    assert outcomes == {2: cmd.FromWorker(1), waited: cmd.Cancelled("queue")}
    assert desk.scheduler.snapshot().held_results == 0
    desk.want(ran)
    assert desk.outcome() == cmd.FromWorker(1)
    desk.wait(29.0)
    desk.acknowledge(1, 2, 3)
    assert len(desk.of(cmd.ReleaseCall)) == 3


def test_a_call_that_comes_back_for_an_absent_client_does_not_wait_again() -> None:
    for begun, ended in ((True, "lost"), (False, "cancelled")):
        desk = Desk("sim", client_lease_s=30.0)
        desk.submit(retries=2)
        sent = desk.sent()
        desk.wait(30.0)
        desk.die(1, sent if begun else None)
        assert desk.scheduler.snapshot().ended == {ended: 1}


def test_held_results_are_forgotten_after_a_time() -> None:
    desk = Desk("sim", client_lease_s=30.0, held_result_s=100.0)
    first = desk.submit()
    desk.finish(desk.sent())
    second = desk.submit()
    sent = desk.sent()
    desk.wait(60.0)
    desk.finish(sent)
    assert desk.of(cmd.ReleaseCall, desk.wait(70.0)) == [cmd.ReleaseCall(call=first)]
    assert desk.scheduler.snapshot().clients_absent == 1
    assert desk.of(cmd.ReleaseCall, desk.wait(30.0)) == [cmd.ReleaseCall(call=second)]
    assert desk.scheduler.snapshot().clients_absent == 0
    desk.want(first)
    assert desk.of(cmd.TellUnknown)


def test_held_results_are_bounded_in_bytes_the_oldest_going_first() -> None:
    desk = Desk("sim", client_lease_s=30.0, held_result_bytes=100)
    for size_bytes in (60, 30, 30):
        desk.submit()
        desk.finish(desk.sent(), size_bytes=size_bytes)
    desk.submit(client=b"d")
    sent = desk.sent()
    came = desk.wait(30.0)
    assert desk.of(cmd.ReleaseCall, came) == [cmd.ReleaseCall(call=1)]
    desk.finish(sent, size_bytes=101)
    assert [each.call for each in desk.of(cmd.ReleaseCall)] == [2, 3, 4]
    snapshot = desk.scheduler.snapshot()
    assert (snapshot.held_results, snapshot.clients_absent) == (0, 0)


def test_results_of_present_clients_are_not_bounded_by_that() -> None:
    desk = Desk("sim", held_result_bytes=10)
    desk.submit()
    desk.finish(desk.sent(), size_bytes=1000)
    assert not desk.of(cmd.ReleaseCall)


def test_a_goodbye_of_an_absent_client_forgets_what_is_held() -> None:
    desk = Desk("sim")
    desk.submit()
    desk.finish(desk.sent())
    desk.wait(30.0)
    desk.tell(ev.ClientGone(client=b"c"))
    assert desk.last[-1] == cmd.ReleaseCall(call=1)
    assert not desk.of(cmd.SendOutcome)
    assert desk.scheduler.next_deadline() is None


def test_a_client_that_comes_back_finds_its_running_call_running() -> None:
    desk = Desk("sim")
    submission = desk.submit()
    sent = desk.sent()
    desk.wait(30.0)
    assert desk.want(submission) == []
    desk.finish(sent)
    assert desk.outcome() == cmd.FromWorker(1)
