"""A desk at which the scheduler's tests sit: short words for events, and the commands that came back, by kind."""

from __future__ import annotations

from typing import Any, TypeVar

from plover.daemon.scheduler import commands as cmd
from plover.daemon.scheduler import events as ev
from plover.daemon.scheduler.config import Device, Environment, Limits, SchedulerConfig
from plover.daemon.scheduler.events import DeviceKind
from plover.daemon.scheduler.invariants import check
from plover.daemon.scheduler.scheduler import Scheduler
from plover.daemon.scheduler.state import Call

C = TypeVar("C")


def device(number: int, kind: DeviceKind = "simulated", model: str = "Simulated") -> Device:
    return Device(f"{kind}:{number}", kind, model, 1 << 34)


def host(*models: str) -> tuple[Device, ...]:
    """Devices by model; a simulated one is called ``sim``."""
    return tuple(
        device(number, "simulated") if model == "sim" else device(number, "cuda", model)
        for number, model in enumerate(models)
    )


class Desk:
    """A strict scheduler whose invariants are checked after every event, and a clock that the test sets."""

    def __init__(self, *models: str, strict: bool = True, start: bool = True, **limits: Any) -> None:
        config = SchedulerConfig(
            devices=host(*models),
            environments=(Environment("default", "3.11"), Environment("other", "3.12")),
            limits=Limits(**limits),
        )
        self.scheduler = Scheduler(config, strict=strict)
        self.checked = True
        self.now = 0.0
        self.submissions = 0
        self.last: list[cmd.Command] = []
        self.begun: dict[int, int] = {}
        if start:
            self.warm_all(self.tell(ev.DaemonStarted()))

    def tell(self, event: ev.AnyEvent) -> list[cmd.Command]:
        self.last = self.scheduler.handle(event, self.now)
        if self.checked:
            check(self.scheduler)
        return self.last

    def of(self, kind: type[C], commands: list[cmd.Command] | None = None) -> list[C]:
        return [each for each in (self.last if commands is None else commands) if isinstance(each, kind)]

    def one(self, kind: type[C]) -> C:
        found = self.of(kind)
        assert len(found) == 1, f"one {kind.__name__} wanted in {self.last}"
        return found[0]

    def outcome(self) -> cmd.Outcome:
        return self.one(cmd.SendOutcome).outcome

    # -- clients -------------------------------------------------------------------------------------------------------

    def submit(
        self, function: bytes = b"f", *, client: bytes = b"c", submission: int | None = None, **more: Any
    ) -> int:
        """Submit a call; returns its submission number."""
        if submission is None:
            self.submissions += 1
            submission = self.submissions
        more.setdefault("python", "3.11")
        self.tell(ev.CallSubmitted(client=client, submission=submission, function=function, **more))
        return submission

    def run(self, function: bytes = b"f", run_s: float = 0.0, **more: Any) -> cmd.SendCall:
        """A call from its submission to its acknowledgement, on an idle worker; returns how it was sent."""
        self.submit(function, **more)
        sent = self.sent()
        self.now += run_s
        self.finish(sent)
        self.acknowledge(self.submissions)
        return sent

    def cancel(self, submission: int, **more: Any) -> list[cmd.Command]:
        more.setdefault("client", b"c")
        return self.tell(ev.CallCancelled(submission=submission, **more))

    def acknowledge(self, *submissions: int, client: bytes = b"c") -> list[cmd.Command]:
        return self.tell(ev.ResultsAcknowledged(client=client, submissions=submissions))

    def want(self, *submissions: int, client: bytes = b"c") -> list[cmd.Command]:
        return self.tell(ev.ResultsWanted(client=client, submissions=submissions))

    def keep(self, client: bytes = b"c") -> list[cmd.Command]:
        return self.tell(ev.ClientSeen(client=client))

    # -- nests and workers ---------------------------------------------------------------------------------------------

    def warm_all(self, commands: list[cmd.Command]) -> list[cmd.Command]:
        """Bring up every nest and worker that `commands` start; returns what came of it."""
        came: list[cmd.Command] = []
        todo = list(commands)
        while todo:
            command = todo.pop(0)
            if isinstance(command, cmd.StartNest):
                todo += self.tell(ev.NestReady(nest=command.nest))
            elif isinstance(command, cmd.StartWorker):
                todo += self.tell(ev.WorkerReady(worker=command.worker))
            else:
                came.append(command)
        self.last = came
        return came

    def finish(self, sent: cmd.SendCall, status: Any = "succeeded", size_bytes: int = 0) -> list[cmd.Command]:
        return self.tell(
            ev.CallFinished(
                worker=sent.worker, call=sent.call, attempt=sent.attempt, status=status, size_bytes=size_bytes
            )
        )

    def die(self, worker: int, begun: cmd.SendCall | None = None, **how: Any) -> list[cmd.Command]:
        page = None if begun is None else (begun.call, begun.attempt)
        return self.tell(ev.WorkerGone(worker=worker, begun=page, **how))

    def sent(self) -> cmd.SendCall:
        return self.one(cmd.SendCall)

    def as_sent(self, call: Call) -> cmd.SendCall:
        """The command that sent this dispatched call, as far as its worker needs it."""
        assert call.worker is not None
        return cmd.SendCall(
            worker=call.worker.number,
            call=call.number,
            attempt=call.attempt,
            function=call.flow.function,
            with_payload=False,
        )

    # -- the clock -----------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> list[cmd.Command]:
        """Let time pass, with every deadline on the way; returns all that came of it."""
        until, came = self.now + seconds, []
        while (deadline := self.scheduler.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            came += self.tell(ev.DeadlineReached())
        self.now = until
        self.last = came
        return came
