"""What things look like: a line, and a table in a notebook. Nothing is asked of a daemon for it."""

from __future__ import annotations

import html.parser
import subprocess
import sys
from typing import Any

import pytest

from plover import gpu_function, looks, serialize, session
from plover.client.calls import Stage
from plover.client.futures import Future
from plover.decorator import GpuFunction
from plover.errors import CallCancelled, DaemonLost, WorkerLost
from plover.exceptions import pack_exception
from plover.several import SeveralDaemons
from plover.wire.messages import HostDevices, Receipt, Versions, Welcome
from plover.wire.records import Warned
from tests.support.preconditions import needs_module

cuda = needs_module("numba.cuda")
cupy = needs_module("cupy")

RECEIPT = Receipt(run_s=0.0012, worker="worker 1", devices=("simulated:0",), attempt=1, simulated=True)
WELCOME = Welcome(
    7,
    "alice",
    Versions("0.1.0", "3.11"),
    1,
    1,
    42,
    (HostDevices("cuda", "H100", 2), HostDevices("cuda", "A100", 1)),
)


class FakeConnection:
    """Knows its address and its calls; anything else that is asked of it is one thing too many."""

    address = "ipc:///run/d.sock"
    client = b"\1" * 16

    def __init__(
        self, stage: Stage = "sent", pending: int = 0, ended: Exception | None = None, broken: bool = False
    ) -> None:
        self._stage, self.pending, self.ended, self.welcome = stage, pending, ended, WELCOME
        self.in_order = ended is None and not broken

    def stage(self, submission: int) -> Stage:
        assert submission == 3
        return self._stage

    def cancel(self, submission: int) -> None:
        pass

    def attend(self) -> None:
        pass


class _Table(html.parser.HTMLParser):
    """Reads a table back, and accepts nothing that does not belong there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.feed(text)
        self.title, self.rows = self.cells[0], dict(zip(self.cells[1::2], self.cells[2::2], strict=True))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in ("table", "caption", "b", "tr", "th", "td")
        assert all(pair == ("style", "text-align:left") for pair in attrs)
        if tag in ("b", "th", "td"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


def made(monkeypatch: pytest.MonkeyPatch, connection: Any = None) -> Future[Any]:
    """A future that was made a second and a half ago."""
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    future: Future[Any] = Future(None if connection else "c-1", connection, 3)
    future._function = "saxpy"
    monkeypatch.setattr("time.monotonic", lambda: 101.5)
    return future


def failure(error: Exception) -> list[Any]:
    try:
        raise error
    except Exception as raised:
        return pack_exception(raised)


class TestFutures:
    @pytest.mark.parametrize(
        ("stage", "words"), [("unsent", "waiting to be sent"), ("sent", "queued or running"), ("begun", "running")]
    )
    def test_a_pending_one(self, monkeypatch: pytest.MonkeyPatch, stage: Stage, words: str) -> None:
        future = made(monkeypatch, FakeConnection(stage))
        call = "010101010101-3"
        assert repr(future) == f"<future of saxpy, call {call}: {words} for 1.50 s at ipc:///run/d.sock>"
        table = _Table(future._repr_html_())
        assert table.title == "future of saxpy"
        assert table.rows == {"call": call, "state": words, "for": "1.50 s", "at": "ipc:///run/d.sock"}

    def test_a_done_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        future = made(monkeypatch)
        future.deliver(False, serialize.pack("<script>"), RECEIPT)
        assert repr(future) == "<future of saxpy, call c-1: done in 1.20 ms on simulated:0 (simulated)>"
        rows = _Table(future._repr_html_()).rows
        assert rows["state"] == "done"
        assert (rows["run"], rows["on"], rows["worker"]) == ("1.20 ms", "simulated:0 (simulated)", "worker 1")
        assert future._sealed is not None  # its value was not looked at

    def test_a_failed_one_names_its_error_when_somebody_has_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        future = made(monkeypatch)
        future.deliver(True, failure(ValueError("no <b> here")), RECEIPT)
        assert repr(future) == "<future of saxpy, call c-1: failed in 1.20 ms on simulated:0 (simulated)>"
        assert "ValueError: no &lt;b&gt; here" in future._repr_html_()
        assert repr(future).endswith(": failed in 1.20 ms on simulated:0 (simulated): ValueError>")

    def test_a_long_error_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        future = made(monkeypatch)
        future.fail(WorkerLost("x" * 10_000))
        assert repr(future) == "<future of saxpy, call c-1: failed: WorkerLost>"
        error = _Table(future._repr_html_()).rows["error"]
        assert error.startswith("WorkerLost: xxx")
        assert error.endswith("x…")
        assert len(error) < 400

    def test_an_error_without_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        future = made(monkeypatch)
        future.fail(KeyError())
        assert _Table(future._repr_html_()).rows["error"] == "KeyError"

    def test_a_cancelled_one_says_what_stopped_it_once_that_is_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        future = made(monkeypatch, FakeConnection())
        future.cancel()
        assert repr(future) == "<future of saxpy, call 010101010101-3: cancelled>"
        future.fail(CallCancelled("it was cancelled", tier="interrupt"))
        assert repr(future) == "<future of saxpy, call 010101010101-3: cancelled (interrupt)>"
        assert _Table(future._repr_html_()).rows["state"] == "cancelled (interrupt)"

    def test_one_of_no_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        future = made(monkeypatch)
        future._function = ""
        assert repr(future) == "<future, call c-1: waiting to be sent for 1.50 s>"
        assert _Table(future._repr_html_()).title == "future"

    @pytest.mark.parametrize(("stage", "runs"), [("unsent", False), ("sent", False), ("begun", True)])
    def test_one_says_that_it_runs_as_its_line_does(
        self, monkeypatch: pytest.MonkeyPatch, stage: Stage, runs: bool
    ) -> None:
        future = made(monkeypatch, FakeConnection(stage))
        assert future.running() is (": running for" in repr(future)) is runs
        assert future.cancel()
        assert not future.running()


class TestSessions:
    def test_one_that_was_not_used(self) -> None:
        unused = session.Session()
        assert repr(unused) == "<session with the default: no connection yet>"
        assert _Table(unused._repr_html_()).rows == {"address": "the default", "state": "no connection yet"}

    def test_a_closed_one(self) -> None:
        with session.Session("ipc:///run/d.sock") as closed:
            pass
        assert repr(closed) == "<session with ipc:///run/d.sock: closed>"
        assert _Table(closed._repr_html_()).rows == {"address": "ipc:///run/d.sock", "state": "closed"}

    @pytest.mark.parametrize(("pending", "words"), [(0, "no calls"), (1, "1 call"), (2, "2 calls")])
    def test_a_connected_one(self, pending: int, words: str) -> None:
        connected = session.Session()
        connected._connection = FakeConnection(pending=pending)  # type: ignore[assignment]
        assert repr(connected) == (
            "<session with ipc:///run/d.sock: Plover 0.1.0, Python 3.11, pid 42, 2 x H100 (cuda), 1 x A100 (cuda), "
            + words
            + " pending>"
        )
        assert _Table(connected._repr_html_()).rows == {
            "address": "ipc:///run/d.sock",
            "daemon": "Plover 0.1.0, Python 3.11, pid 42",
            "devices": "2 x H100 (cuda), 1 x A100 (cuda)",
            "tenant": "alice",
            "calls": f"{words} pending",
        }

    def test_one_whose_daemon_is_gone(self) -> None:
        lost = session.Session()
        lost._connection = FakeConnection(ended=DaemonLost("gone"))  # type: ignore[assignment]
        assert repr(lost) == "<session with ipc:///run/d.sock: lost (DaemonLost); the next call connects again>"

    def test_one_whose_daemon_does_not_answer(self) -> None:
        broken = session.Session()
        broken._connection = FakeConnection(broken=True)  # type: ignore[assignment]
        assert repr(broken) == "<session with ipc:///run/d.sock: no answer; it is being looked for>"

    def test_one_with_several_daemons(self) -> None:
        several = SeveralDaemons([f"ipc:///{letter}.sock" for letter in "abcde"])
        several._members[1].session._connection = FakeConnection(pending=3)  # type: ignore[assignment]
        several._members[2].away = DaemonLost("gone")
        several._members[3].session._connection = FakeConnection(ended=DaemonLost("gone"))  # type: ignore[assignment]
        several._members[4].session._connection = FakeConnection(broken=True)  # type: ignore[assignment]
        assert repr(several) == (
            "<session with 5 daemons: ipc:///a.sock (no connection yet), ipc:///b.sock (3 pending), ipc:///c.sock (away), "
            "ipc:///d.sock (lost (DaemonLost)), ipc:///e.sock (no answer)>"
        )
        table = _Table(several._repr_html_())
        assert table.title == "session with 5 daemons"
        assert table.rows == {
            "ipc:///a.sock": "no connection yet",
            "ipc:///b.sock": "2 x H100 (cuda), 1 x A100 (cuda), 3 calls pending",
            "ipc:///c.sock": "away",
            "ipc:///d.sock": "lost (DaemonLost); the next call connects again",
            "ipc:///e.sock": "no answer; it is being looked for",
        }

    def test_a_host_without_devices(self) -> None:
        assert looks.devices_text(()) == "no devices"


@gpu_function(timeout=5, retries=2, gpu="H100:2")
def train(x: list[float], rate: float = 0.5, *, names: tuple[str, ...] = ("n" * 99,) * 99, **more: Any) -> float:
    """Descends <steeply>.

    And goes on.
    """
    return rate


@gpu_function
@cuda.jit
def double(x: Any, out: Any) -> None:
    i = cuda.grid(1)
    out[i] = 2 * x[i]


class TestFunctions:
    def test_a_line_has_parameters_and_options_and_stays_one(self) -> None:
        text = repr(train)
        assert text.startswith("<gpu_function train(x, rate=0.5, *, names=('nnn")
        assert text.endswith(", **more) gpu='H100:2' timeout=5.0 retries=2>")
        assert len(text) < 300

    def test_a_table(self) -> None:
        table = _Table(train._repr_html_())
        assert table.title == "gpu_function train"
        assert table.rows["call"].startswith("train(x, rate=0.5")
        assert table.rows["about"] == "Descends <steeply>."
        assert (table.rows["gpu"], table.rows["timeout"], table.rows["retries"]) == ("H100:2", "5.0", "2")

    @pytest.mark.parametrize(("gpu", "text"), [(True, "gpu=1"), (2, "gpu=2"), ("A100", "gpu='A100'")])
    def test_the_gpu_as_it_was_asked_for(self, gpu: Any, text: str) -> None:
        assert f" {text}>" in repr(gpu_function(lambda: 1).options(gpu=gpu))

    def test_a_default_that_cannot_be_shown(self) -> None:
        class Hidden:
            def __repr__(self) -> str:
                raise ValueError

        def f(x: Any = Hidden()) -> None: ...  # noqa: B008

        assert repr(gpu_function(f)).startswith("<gpu_function TestFunctions.test_a_default_that_cannot_be_shown.<loc")
        assert "x=<Hidden instance at 0x" in repr(gpu_function(f))

    def test_a_method(self) -> None:
        class Model:
            @gpu_function
            def predict(self, x: int) -> int:
                return x

        bound: Any = Model().predict
        assert isinstance(bound, GpuFunction)
        assert repr(bound).endswith("Model.predict(x)>")

    def test_something_of_cs_has_no_parameters(self) -> None:
        assert repr(gpu_function(max)) == "<gpu_function max>"

    def test_kernels(self) -> None:
        assert repr(double) == "<gpu_function kernel double(x, out)>"
        assert (
            repr(double[4, (16, 16)].options(retries=1))
            == "<gpu_function kernel double[4, (16, 16)](x, out) retries=1>"
        )
        raw = gpu_function(cupy.RawKernel('extern "C" __global__ void stencil(float* x) {}', "stencil"))
        assert repr(raw) == "<gpu_function kernel stencil>"
        assert _Table(double[1, 2]._repr_html_()).rows == {"call": "double[1, 2](x, out)"}


class TestReceipts:
    def test_a_line_has_every_fact(self) -> None:
        assert repr(RECEIPT) == (
            "Receipt(queue_s=None, transfer_s=None, load_s=None, run_s=0.0012, worker='worker 1', devices=('simulated:0',), "
            "attempt=1, warm=None, simulated=True, stdout=None, stderr=None, records=())"
        )

    def test_what_was_captured_is_cut_and_said_to_be(self) -> None:
        warned = Warned(("builtins", "UserWarning"), "w" * 1_000_000, "f.py", 1)
        line = repr(Receipt(stdout="o" * 1_200_000, stderr="e" * 60, records=(warned, warned)))
        assert f"stdout='{'o' * 60}'… (1,200,000 characters)" in line
        assert f"stderr='{'e' * 60}'," in line
        assert line.endswith("records=2 of them)")

    def test_one(self) -> None:
        receipt = Receipt(
            queue_s=0.0000021, load_s=0.0123, run_s=2.5, worker="worker 1", devices=("simulated:0",), attempt=2,
            warm=True, simulated=True,
        )  # fmt: skip
        table = _Table(receipt._repr_html_())
        assert table.title == "receipt"
        assert table.rows == {
            "queue": "2 µs", "load": "12.30 ms", "run": "2.50 s", "on": "simulated:0 (simulated)", "worker": "worker 1",
            "warm": "yes", "attempt": "2",
        }  # fmt: skip

    def test_one_of_a_call_that_never_ran(self) -> None:
        assert "queue" not in Receipt()._repr_html_()


def test_every_text_is_escaped() -> None:
    assert looks.table("<b>", [("<i>", "<script>")]).count("&lt;") == 3
    assert _Table(looks.table("t", {"a": 1})).rows == {"a": "1"}


def test_nothing_of_it_is_imported_before_somebody_looks() -> None:
    script = (
        "import sys, plover\n"
        "function = plover.gpu_function(lambda x: x)\n"
        "print('plover.looks' in sys.modules, 'html' in sys.modules)\n"
        "repr(function)\n"
        "print('plover.looks' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
