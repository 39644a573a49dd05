"""Who dies with whom, as users see it: embedded daemons and their parents, standalone daemons and their clients."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

import plover
from plover import gpu_function
from tests.support.daemons import GONE_S, PATIENCE_S, Daemon, Fifo, Mark, daemon, run_script, script, wait_gone

_FAMILY = """
import json, os, subprocess, sys
import plover
from plover import gpu_function

if len(sys.argv) > 1:
    plover.connect(sys.argv[1])

@gpu_function
def start(gate):
    import os, signal, subprocess
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid(), os.getppid()]
    for session in (False, True):
        pids.append(subprocess.Popen(["/bin/sleep", "1000"], start_new_session=session).pid)
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        orphan = os.fork()
        if orphan == 0:
            os.execv("/bin/sleep", ["/bin/sleep", "1000"])
        os.write(write, str(orphan).encode())
        os._exit(0)
    pids.append(int(os.read(read, 20)))
    print(json.dumps(pids), flush=True)
    with open(gate) as fifo:
        fifo.readline()

os.mkfifo("gate")
gate = os.path.abspath("gate")
"""


def _all_gone(mark: Mark, pids: list[int], within_s: float = GONE_S) -> None:
    deadline = time.monotonic() + within_s
    left = [pid for pid in pids if not wait_gone(pid, max(0.0, deadline - time.monotonic()))]
    assert not left
    mark.assert_gone(max(0.1, deadline - time.monotonic()))


def _marked(mark: Mark, pids: list[int]) -> list[int]:
    """All that carry the mark, once these do: the environment of one that is just being executed cannot be read."""
    deadline = time.monotonic() + PATIENCE_S
    while not set(pids) < set(marked := mark.pids()):
        assert time.monotonic() < deadline, (pids, marked)
    return marked


def test_nothing_outlives_the_killed_parent_of_an_embedded_daemon() -> None:
    with script(_FAMILY + "start(gate)\n") as parent:
        pids = json.loads(parent.line())
        marked = _marked(parent.mark, pids)  # worker, zygote, and three that user code started
        assert len(marked) >= len(pids) + 2  # and the script and the daemon
        parent.process.kill()
        _all_gone(parent.mark, marked)


def test_a_killed_parent_leaves_no_directory_of_its_embedded_daemon() -> None:
    body = "import os, signal, plover\nplover.gpu_function(lambda: 1)()\nprint('ready', flush=True)\nos.kill(os.getpid(), 9)"
    mark = Mark()
    with script(body, mark=mark) as running:
        assert running.line() == "ready"
        running.wait()
        mark.assert_gone()
        assert not [each.name for each in mark.temporary.iterdir() if each.name.startswith("plover-")]


def test_threads_share_an_embedded_daemon() -> None:
    body = """
from concurrent.futures import ThreadPoolExecutor
from plover import gpu_function

inc = gpu_function(lambda x: x + 1)
with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(inc, range(500))))
"""
    assert run_script(body)[:2] == (0, f"{sum(range(1, 501))}\n")


def test_nothing_outlives_a_killed_daemon_and_its_clients_learn_of_it() -> None:
    program = _FAMILY + (
        "futures = [start.submit(gate), *(start.submit(gate) for _ in range(3))]\n"
        "for future in futures:\n"
        "    error = future.exception(20)\n"
        "    assert type(error) is plover.DaemonLost and error.call_id == future.call_id, error\n"
        "print('lost', flush=True)\n"
    )
    own = Daemon()
    try:
        with script(program, own.address, mark=Mark()) as client:
            pids = json.loads(client.line())
            marked = _marked(own.mark, pids)
            own.kill()
            killed = time.monotonic()
            _all_gone(own.mark, marked)
            assert client.line(10) == "lost"
            assert time.monotonic() - killed < 8
            assert client.wait()[0] == 0, client.stderr()
    finally:
        own.close()


def test_what_a_call_started_is_gone_when_its_worker_dies() -> None:
    with (
        daemon() as own,
        script(
            _FAMILY + "start.submit(gate).exception(20)\nprint('over', flush=True)", own.address, mark=Mark()
        ) as client,
    ):
        pids = json.loads(client.line())
        os.kill(pids[0], signal.SIGKILL)
        assert client.line() == "over"
        for pid in pids[2:]:
            assert wait_gone(pid, GONE_S)
        assert not wait_gone(pids[1], 0.0)  # the zygote lives


_INTERRUPTED = """
import os, sys
import plover
from plover import gpu_function

@gpu_function
def block():
    import time
    print("begun", flush=True)
    time.sleep(1000)

try:
    block()
finally:
    print("left", flush=True)
"""


def test_a_script_that_is_interrupted_in_a_call_leaves_nothing_behind() -> None:
    with script(_INTERRUPTED) as running:
        assert running.line() == "begun"
        os.kill(running.process.pid, signal.SIGINT)
        assert running.line() == "left"
        status, _ = running.wait(10)
        assert status in (1, -signal.SIGINT)
        assert running.stderr().rstrip().endswith("KeyboardInterrupt")
        running.mark.assert_gone()
        assert list(running.mark.temporary.iterdir()) == []


def test_a_script_that_is_interrupted_cancels_its_call_on_a_daemon_that_stays() -> None:
    program = _INTERRUPTED.replace("import plover\n", "import plover\nplover.connect(sys.argv[1])\n", 1)
    with daemon() as own, script(program, own.address, mark=Mark()) as running:
        assert running.line() == "begun"
        os.kill(running.process.pid, signal.SIGINT)
        assert running.line() == "left"
        running.wait(10)
        with plover.connect(own.address):
            assert gpu_function(lambda: "free")() == "free"  # the one device
        assert own.status()["scheduler"]["ended"].get("cancelled") == 1


def test_an_interrupted_call_does_not_spoil_the_next_one() -> None:
    program = """
import os, signal, sys, threading, plover
from plover import gpu_function

@gpu_function
def block():
    import time
    print("begun", flush=True)
    time.sleep(1000)

@gpu_function
def add(x):
    return x + 1

assert add(1) == 2
try:
    block()
except KeyboardInterrupt:
    print(add(2), flush=True)
"""
    with script(program) as running:
        assert running.line() == "begun"
        os.kill(running.process.pid, signal.SIGINT)
        assert running.wait()[:2] == (0, "3\n"), running.stderr()
        running.mark.assert_gone()


@pytest.mark.parametrize("leaving", ["", "sys.exit(0)", "f.submit(5)", "plover.session.current().close()"])
def test_a_normal_end_leaves_no_process_and_no_directory(leaving: str) -> None:
    program = f"""
import sys, plover
@plover.gpu_function
def f(x):
    return x + 1
print(f(1))
{leaving}
"""
    status, out, errors = run_script(program)
    assert (status, out) == (0, "2\n")
    assert errors.count("simulated device") == 1
    assert errors.count("\n") == 1, errors


def test_decorating_starts_nothing_and_imports_nothing() -> None:
    program = """
import os, sys
import numpy
threads = len(os.listdir("/proc/self/task"))  # NumPy's own
import plover
@plover.gpu_function(retries=1)
def f(x):
    import cupy
plover.gpu_function(lambda: 1).options(timeout=3)
assert not any(name.split(".")[0] in ("cupy", "numba", "zmq") for name in sys.modules), sys.modules.keys()
assert len(os.listdir("/proc/self/task")) == threads
with open(f"/proc/self/task/{os.getpid()}/children") as children:
    assert not children.read()
"""
    status, _, errors = run_script(program)
    assert (status, errors) == (0, "")


def test_an_embedded_daemon_that_was_killed_is_started_again() -> None:
    program = """
import os, signal, plover
@plover.gpu_function
def block():
    import time
    print("begun", flush=True)
    time.sleep(1000)
@plover.gpu_function
def add(x):
    return x + 1
assert add(1) == 2
first = plover.session.current().connection().welcome.pid
future = block.submit()
open("gate").readline()
os.kill(first, signal.SIGKILL)
os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
assert add(2) == 3
error = future.exception(20)
assert type(error) is plover.DaemonLost and error.call_id == future.call_id, error
assert plover.session.current().connection().welcome.pid != first
print("again")
"""
    mark = Mark()
    os.mkfifo(mark.directory / "gate")
    with script(program, mark=mark) as running:
        assert running.line() == "begun"
        (mark.directory / "gate").write_text("go\n")
        status, out = running.wait()
        assert (status, out) == (0, "again\n"), running.stderr()
        mark.assert_gone()
        assert list(mark.temporary.iterdir()) == []


def test_a_killed_idle_embedded_daemon_is_replaced_by_the_next_call() -> None:
    program = """
import os, signal, plover
@plover.gpu_function
def add(x):
    return x + 1
for number in range(2):
    assert add(number) == number + 1
    pid = plover.session.current().connection().welcome.pid
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
assert add(5) == 6
print("replaced")
"""
    status, out, errors = run_script(program)
    assert (status, out) == (0, "replaced\n"), errors


_FORKING = """
import multiprocessing, os, sys, plover
from plover import gpu_function

@gpu_function
def add(x):
    return x + 1, os.getpid()

def child(x):
    return add(x)[0]

def main():
    assert add(1)[0] == 2
    pending = add.submit(10)
    pid = os.fork()
    if pid == 0:
        try:
            assert add(2)[0] == 3
            try:
                print(pending.result(5))
            except plover.DaemonLost as error:
                assert str(os.getppid()) in str(error)
                sys.exit(7)
            sys.exit(1)
        finally:
            sys.stdout.flush()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert pending.result(20)[0] == 11
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(child, range(6)) == [1, 2, 3, 4, 5, 6]
            pool.close()
            pool.join()
    assert add(3)[0] == 4
    print("forked")

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("where", ["embedded", "standalone"])
def test_children_of_a_client_make_calls_of_their_own(where: str) -> None:
    if where == "embedded":
        status, out, errors = run_script(_FORKING)
    else:
        with daemon() as own:
            connecting = _FORKING.replace(
                "from plover import gpu", "plover.connect(sys.argv[1])\nfrom plover import gpu", 1
            )
            status, out, errors = run_script(
                connecting, own.address, mark=Mark(), environment={"PLOVER_ADDRESS": own.address}
            )
    assert (status, out) == (0, "forked\n"), errors


def test_a_restarted_daemon_takes_new_calls_and_pending_ones_are_lost(fifos: list[Fifo]) -> None:
    @gpu_function
    def block(begun: str) -> None:
        with open(begun, "w") as fifo:
            fifo.write("begun\n")
        time.sleep(1000)

    first = Daemon()
    second = None
    try:
        with plover.connect(first.address):
            pending = [block.submit(fifos[0].path), block.submit(fifos[0].path)]
            fifos[0].wait()
            first.kill()
            first.mark.assert_gone()
            second = Daemon(mark=first.mark)
            served = time.monotonic()
            for future in pending:
                error = future.exception(PATIENCE_S)
                assert isinstance(error, plover.DaemonLost), error
                assert error.call_id == future.call_id
                # Which of the two is seen depends on whether the new one is up before the client gives up (5 s).
                assert "replaced" in str(error) or "went away" in str(error)
            assert time.monotonic() - served < 6
            future = gpu_function(lambda: "new").submit()
            assert future.result(PATIENCE_S) == "new"
            assert second.status()["scheduler"]["ended"].get("succeeded") == 1  # nothing of the first one's ran
    finally:
        (second or first).close()


def test_a_client_that_is_killed_has_its_queued_calls_forgotten_and_harms_nobody() -> None:
    program = """
import sys, plover
plover.connect(sys.argv[1])
@plover.gpu_function
def work(x):
    print("begun", flush=True)
    return x
futures = [work.submit(number) for number in range(20)]
print(sum(f.result() for f in futures), flush=True)
input()
"""
    with daemon() as own, plover.connect(own.address):
        with script(program, own.address, mark=Mark()) as client:
            assert client.line() == "begun"
            client.process.kill()
        assert gpu_function(lambda: "served")() == "served"


def test_a_worker_that_is_killed_while_idle_is_replaced() -> None:
    with daemon() as own, plover.connect(own.address):

        @gpu_function
        def pid() -> int:
            return os.getpid()

        seen: set[Any] = set()
        for _ in range(3):
            worker = pid()
            assert worker not in seen
            seen.add(worker)
            os.kill(worker, signal.SIGKILL)
            assert wait_gone(worker)
