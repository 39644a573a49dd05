"""Which calls are taken, which are refused, and that the same again is no new call."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_support import Desk

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.config import SchedulerConfig
from plover.daemon.scheduler.scheduler import Scheduler


def test_a_call_goes_to_a_warm_worker_at_once() -> None:
    desk = Desk("sim")
    submission = desk.submit()
    sent = desk.sent()
    assert sent == cmd.SendCall(worker=1, call=1, attempt=1, function=b"f", with_payload=True)
    assert desk.scheduler.find_call(b"c", submission) == sent.call
    desk.now = 0.5
    desk.finish(sent)
    assert desk.last == [
        cmd.SendOutcome(
            client=b"c",
            submission=submission,
            call=1,
            outcome=cmd.FromWorker(1),
            attempt=1,
            worker=1,
            devices=("simulated:0",),
            queue_s=0.0,
            warm=False,
        ),
        cmd.ReleaseArguments(call=1),
    ]
    desk.acknowledge(submission)
    assert desk.last == [cmd.ReleaseCall(call=1)]
    assert desk.scheduler.find_call(b"c", submission) is None


def test_a_repeat_call_is_warm_and_sends_no_payload() -> None:
    desk = Desk("sim")
    desk.submit()
    desk.finish(desk.sent())
    desk.submit()
    sent = desk.sent()
    assert not sent.with_payload
    desk.finish(sent)
    assert desk.one(cmd.SendOutcome).warm


def test_a_failed_function_is_an_outcome_of_its_worker() -> None:
    desk = Desk("sim")
    desk.submit()
    desk.finish(desk.sent(), "failed")
    assert desk.outcome() == cmd.FromWorker(1)
    assert desk.scheduler.snapshot().ended == {"failed": 1}


def test_queue_time_is_reported() -> None:
    desk = Desk("sim", start=False)
    desk.submit()
    desk.now = 2.0
    desk.warm_all([cmd.StartNest(nest=1, tenant="", environment="", devices=())])
    desk.finish(desk.sent())
    assert desk.one(cmd.SendOutcome).queue_s == 2.0


def test_the_same_submission_again_is_no_new_call() -> None:
    desk = Desk("sim")
    submission = desk.submit()
    sent = desk.sent()
    desk.submit(submission=submission)
    assert desk.last == []
    assert desk.scheduler.snapshot().ignored == 1
    desk.finish(sent)
    outcome = desk.one(cmd.SendOutcome)
    desk.submit(submission=submission)
    assert desk.last == [outcome]


def test_names_of_calls_are_per_client_and_tenant() -> None:
    desk = Desk("sim")
    desk.submit(submission=7, client=b"a")
    desk.submit(submission=7, client=b"b")
    desk.submit(submission=7, client=b"a", tenant="lab")
    find = desk.scheduler.find_call
    assert [find(b"a", 7), find(b"b", 7), find(b"a", 7, "lab")] == [1, 2, 3]
    assert [find(b"d", 7), find(b"a", 8)] == [None, None]
    desk.cancel(7, client=b"b", tenant="lab")
    assert desk.last == []


def refusal(desk: Desk) -> cmd.Refused:
    sent = desk.one(cmd.SendOutcome)
    assert desk.last == [sent]
    assert sent.call is None
    assert isinstance(sent.outcome, cmd.Refused)
    return sent.outcome


def test_an_unknown_environment_is_refused_by_name() -> None:
    desk = Desk("sim")
    desk.submit(environment="torch")
    refused = refusal(desk)
    assert refused.error == "NoCapacity"
    assert "'torch'" in refused.reason
    assert "'default', 'other'" in refused.reason
    assert refused.versions is None
    assert desk.scheduler.snapshot().refused == 1


def test_another_python_is_refused_with_both_versions_and_the_remedy() -> None:
    desk = Desk("sim")
    desk.submit(python="3.13")
    refused = refusal(desk)
    assert refused.error == "VersionMismatch"
    assert "3.13" in refused.reason
    assert "run the client under Python 3.11" in refused.reason
    assert refused.versions == cmd.Versions(client="3.13", daemon="3.11")


def test_the_environment_of_the_call_is_used() -> None:
    desk = Desk("sim", start=False)
    desk.submit(environment="other", python="3.12")
    assert desk.one(cmd.StartNest).environment == "other"


@pytest.mark.parametrize(
    ("models", "asked", "says"),
    [
        (("sim",), {"gpu": ev.GpuRequest("H100")}, "1 x H100"),
        (("sim",), {"gpu": ev.GpuRequest()}, "any model"),
        (("sim", "sim"), {"require_gpu": True}, "requires a real GPU"),
        (("NVIDIA A100", "NVIDIA A100"), {"gpu": ev.GpuRequest("h100")}, "2 x NVIDIA A100 (cuda)"),
        (("NVIDIA H100", "NVIDIA A100"), {"gpu": ev.GpuRequest("H100", 2)}, "2 x H100"),
        (("NVIDIA H100",), {"gpu": ev.GpuRequest("H100", 0)}, "0 x H100"),
        ((), {}, "no devices"),
    ],
)
def test_what_no_slot_can_take_is_refused_at_once(models: tuple[str, ...], asked: dict[str, Any], says: str) -> None:
    desk = Desk(*models)
    desk.submit(**asked)
    refused = refusal(desk)
    assert refused.error == "NoCapacity"
    assert says in refused.reason
    assert "this host" in refused.reason
    assert not desk.scheduler.queues.demands


def test_models_match_whatever_their_case() -> None:
    desk = Desk("NVIDIA H100 80GB HBM3")
    desk.submit(gpu=ev.GpuRequest("h100"))
    desk.sent()


def test_the_queue_is_bounded_by_tenant() -> None:
    desk = Desk("sim", queued_calls_per_tenant=2)
    for _ in range(3):
        desk.submit()
    desk.submit()
    refused = refusal(desk)
    assert refused.error == "NoCapacity"
    assert "2 calls" in refused.reason
    assert "'default'" in refused.reason
    desk.submit(tenant="lab")
    assert desk.last == []
    assert desk.scheduler.snapshot().queued == {"default": 2, "lab": 1}


def test_a_host_without_environments_takes_nothing_and_starts_nothing() -> None:
    scheduler = Scheduler(SchedulerConfig(devices=(), environments=()), strict=True)
    assert scheduler.handle(ev.DaemonStarted(), 0.0) == []
    (sent,) = scheduler.handle(ev.CallSubmitted(client=b"c", submission=1, function=b"f", python="3.11"), 0.0)
    assert isinstance(sent, cmd.SendOutcome)
    assert isinstance(sent.outcome, cmd.Refused)
    assert "it has: none" in sent.outcome.reason
