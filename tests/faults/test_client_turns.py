"""The client in real processes, when it is interrupted, forked, stopped, left, and its daemon killed: nothing hangs.

The deterministic half of this is tests/unit/client/test_client_interrupts.py. Here moments are brought about by events, or
where that cannot be, by many random ones; the seed is in the message of a failure.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
from collections.abc import Iterator

import pytest

from tests.support.daemons import PATIENCE_S, Daemon, daemon_with
from tests.support.fake_daemon import wait_until
from tests.support.talking import HEAR, talking

pytestmark = pytest.mark.stress

#: What every script begins with. `begin` says that it is ready, `finish` waits until the test has looked at the daemon.
PRELUDE = (
    HEAR
    + """
import asyncio, concurrent.futures, gc, itertools, json, os, signal, sys, threading, time
import plover
from plover import gpu_function

PATIENCE = 30
if len(sys.argv) > 1 and sys.argv[1]:
    plover.connect(sys.argv[1])

@gpu_function
def add(x):
    return x + 1

@gpu_function
def block(x, gate):
    with open(gate) as fifo:
        fifo.readline()
    return x

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def line():
    return plover.session.current().connection()._line
"""
)


#: Before Plover is imported: callers never leave a long call to the I/O thread.
NO_SLICES = """
import plover.client.turns
plover.client.turns.SLICE_S = 3600.0
"""

#: Before Plover is imported: a daemon whose leases are short is told more often that this client lives.
PINGING = """
import plover.client.conversation
plover.client.conversation.PING_S = 0.1
plover.client.conversation.LEASE_IS_SAFE_S = 0.3
"""

#: The ways to make calls and wait for them; each checks what it gets.
STYLES = """
def synchronous():
    assert add(1) == 2
    assert add.submit(2).result(PATIENCE) == 3

def wait():
    pending = [add.submit(number) for number in range(4)]
    assert not concurrent.futures.wait(pending, PATIENCE).not_done
    assert [each.result(0) for each in pending] == [1, 2, 3, 4]

def as_completed():
    pending = [add.submit(number) for number in range(4)]
    done = list(concurrent.futures.as_completed(pending, PATIENCE))
    assert sorted(each.result(0) for each in done) == [1, 2, 3, 4]

def callbacks():
    told = []
    add.submit(1).add_done_callback(lambda each: told.append(add(each.result())))
    deadline = time.monotonic() + PATIENCE
    while not told:
        assert time.monotonic() < deadline, "no callback"
        add(0)
    assert told == [3]

loop = asyncio.new_event_loop()

def awaited():
    global loop
    async def several():
        return await asyncio.wait_for(asyncio.gather(*(add.aio(number) for number in range(4))), PATIENCE)
    try:
        assert loop.run_until_complete(several()) == [1, 2, 3, 4]
    except (RuntimeError, AttributeError):  # an interrupt spoiled asyncio's own state
        loop = asyncio.new_event_loop()

def mapped():
    assert list(add.map(range(6))) == [1, 2, 3, 4, 5, 6]
    for value in add.map(range(6), ordered=False):
        break
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """With two devices."""
    running = Daemon("simulated:2")
    yield running
    running.close()


@pytest.fixture(scope="module")
def impatient() -> Iterator[Daemon]:
    """One that has clients' leases end soon."""
    running = Daemon(program=daemon_with(client_lease_s=0.6))
    yield running
    running.close()


def holds_nothing(daemon: Daemon, timeout_s: float = PATIENCE_S) -> None:
    """The daemon has no call of anybody's on its books any more."""
    wait_until(lambda: not daemon.status()["scheduler"]["calls"], "the daemon holds nothing", timeout_s)


def wait_until_running(daemon: Daemon, count: int, timeout_s: float = PATIENCE_S) -> None:
    """So many calls are with workers."""

    def running() -> int:
        return sum(len(worker["calls"]) for worker in daemon.status()["scheduler"]["workers"])

    wait_until(lambda: running() >= count, f"{count} calls are with workers", timeout_s)


def pause(rng: random.Random, at_most_s: float) -> None:
    """Let a random time pass: there is no event that says where a process is between two instructions."""
    select.select([], [], [], rng.random() * at_most_s)


# -- interrupts --------------------------------------------------------------------------------------------------------

_STORM = (
    PRELUDE
    + STYLES
    + """
armed, struck, stop, bad = False, 0, False, []

def on_interrupt(*_):
    global struck
    struck += 1
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, on_interrupt)

def beside(thread):
    made = 0
    try:
        while not stop:
            for number in range(5):
                assert add(number + thread) == number + thread + 1
            pending = [add.submit(number) for number in range(5)]
            assert [each.result(PATIENCE) for each in pending] == [1, 2, 3, 4, 5]
            made += 10
    except BaseException as error:
        bad.append(f"{thread} after {made}: {error!r}")

rounds = interrupted = 0
one = globals()[sys.argv[2]]
one()
one()
threads = [threading.Thread(target=beside, args=(number,)) for number in range(3)]
for each in threads:
    each.start()

def listen():
    global stop
    hear()
    stop = True

threading.Thread(target=listen, daemon=True).start()
say("ready")
while not stop:
    try:
        armed = True
        while not stop:
            one()
            rounds += 1
        armed = False
    except KeyboardInterrupt:
        armed = False
        interrupted += 1
    except (RuntimeError, ValueError) as error:  # an interrupt in the middle of the standard library's conditions
        armed = False
        if not isinstance(error.__context__, KeyboardInterrupt) and "lock" not in str(error):
            bad.append(repr(error))
    except BaseException as error:
        armed = False
        bad.append(f"main: {error!r}")
        stop = True

if add(41) != 42:
    bad.append("the next call")
for each in threads:
    each.join(PATIENCE)
    if each.is_alive():
        bad.append("a thread hangs")
gc.collect()
say(json.dumps({"bad": bad, "rounds": rounds, "interrupted": interrupted, "struck": struck}))
hear()
say("pending", len(line().talk.calls.pending), "waiting", len(line().turns.waiting))
hear()
os.write(2, f"left with {threading.enumerate()}".encode())
"""
)


@pytest.mark.parametrize(
    ("style", "count"),
    [
        ("synchronous", 1200),
        ("wait", 400),
        ("as_completed", 400),
        ("callbacks", 400),
        ("awaited", 400),
        ("mapped", 400),
    ],
)
def test_an_interrupt_storm(daemon: Daemon, style: str, count: int) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    with talking(_STORM, daemon.address, style) as running:
        assert running.line() == "ready"
        for _ in range(count):
            os.kill(running.process.pid, signal.SIGINT)
            pause(rng, rng.choice((0.001, 0.01)))
        running.say("stop")
        result = json.loads(running.line(60))
        assert result["bad"] == [], (seed, result, running.stderr())
        assert result["interrupted"] > count / 50, (seed, result)
        holds_nothing(daemon)
        running.say("go on")
        assert running.line() == "pending 0 waiting 0", seed
        running.say("leave")
        assert running.wait()[0] == 0, (seed, running.stderr())
        running.mark.assert_gone()


def test_a_handler_that_stays_in_the_middle_of_its_threads_turn_keeps_nobody_out(daemon: Daemon) -> None:
    """The turn is taken away when it has lasted for STUCK_S; and what it was interrupted in goes on afterwards."""
    program = (
        NO_SLICES
        + PRELUDE
        + """
def stay(*_):
    say("in the handler")
    hear("handler")

def beside():
    hear("thread")
    say("beside", add(1), add.submit(2).result(PATIENCE))

signal.signal(signal.SIGUSR1, stay)
threading.Thread(target=beside).start()
add(1)
assert block(5, os.path.abspath("gate")) == 5
assert add(7) == 8
say("mine", line().turns.io.thread != 0)
"""
    )
    with talking(program, daemon.address, pipes=("handler", "thread", "gate")) as running:
        wait_until_running(daemon, 1)
        os.kill(running.process.pid, signal.SIGUSR1)
        assert running.line() == "in the handler"
        running.say(pipe="thread")
        assert running.line() == "beside 2 3"
        running.say(pipe="handler")
        running.say(pipe="gate")
        assert running.line() == "mine True"
        assert running.wait()[0] == 0, running.stderr()


# -- calls in the middle of calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["synchronous", "as_completed"])
def test_a_signal_handler_that_makes_calls(daemon: Daemon, style: str) -> None:
    program = (
        PRELUDE
        + STYLES
        + """
handled, stop, depth = [], False, 0

def on_signal(*_):
    global depth
    if depth < 3:
        depth += 1
        handled.append(add(100))
        handled.append(add.submit(100).result(PATIENCE))
        depth -= 1

def listen():
    global stop
    hear()
    stop = True

one = globals()[sys.argv[2]]
one()
signal.signal(signal.SIGUSR1, on_signal)
threading.Thread(target=listen, daemon=True).start()
say("ready")
rounds = 0
while not stop:
    one()
    rounds += 1
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
synchronous()
say(rounds > 10, len(handled) > 100, set(handled))
hear()
say(len(line().talk.calls.pending))
"""
    )
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    with talking(program, daemon.address, style) as running:
        assert running.line() == "ready"
        for _ in range(500):
            os.kill(running.process.pid, signal.SIGUSR1)
            pause(rng, 0.005)
        running.say("stop")
        assert running.line() == "True True {101}", seed
        holds_nothing(daemon)
        running.say()
        assert running.line() == "0", seed
        assert running.wait()[0] == 0, (seed, running.stderr())


def test_destructors_that_make_calls_wherever_the_collector_runs(daemon: Daemon) -> None:
    """On the main thread, on others, and on the I/O thread; each leaves another one behind."""
    program = (
        PRELUDE
        + STYLES
        + """
collected, seen, left = [], set(), 100

class Cycle:
    def __init__(self):
        self.me = self

    def __del__(self):
        global left
        left -= 1
        seen.add(threading.current_thread().name.split("-")[0] + threading.current_thread().name[-3:])
        if left > 0:
            Cycle()
            if left % 3 == 0:
                add.submit(1)
            else:
                collected.append(add(left) - left)

def beside():
    while left > 0:
        synchronous()
        as_completed()

synchronous()
gc.set_threshold(60, 2, 2)
Cycle()
threads = [threading.Thread(target=beside) for _ in range(2)]
for each in threads:
    each.start()
beside()
for each in threads:
    each.join(PATIENCE)
    assert not each.is_alive()
gc.set_threshold(700, 10, 10)
synchronous()
say(set(collected), len(seen) > 1)
"""
    )
    with talking(program, daemon.address) as running:
        assert running.line() == "{1} True", running.stderr()
        assert running.wait()[0] == 0, running.stderr()
    holds_nothing(daemon)


def test_a_stdout_that_makes_calls(daemon: Daemon) -> None:
    """It is written to by whoever does the work: callers, and the I/O thread. The link is in doubt after each such call, and
    what was under way over it may not be shown.
    """
    program = (
        PRELUDE
        + """
@gpu_function
def speak(x):
    print(f"spoken {x}", flush=True)
    return x

class Stream:
    def __init__(self):
        self.written, self.made, self.threads = [], [], set()

    def write(self, text):
        if text.strip():
            self.written.append(text.strip())
            self.threads.add(threading.current_thread().name)
            self.made.append(add(0))

    def flush(self):
        pass

stdout, sys.stdout = sys.stdout, Stream()
for number in range(10):
    assert speak(number) == number
pending = [speak.submit(number) for number in range(10, 20)]
assert {each.result(0) for each in concurrent.futures.as_completed(pending, PATIENCE)} == set(range(10, 20))
stream, sys.stdout = sys.stdout, stdout
assert add(1) == 2
written = set(stream.written)
say(written <= {f"spoken {number}" for number in range(20)}, stream.made == [1] * len(written), stream.threads)
"""
    )
    with talking(program, daemon.address) as running:
        line = running.line()
        assert line.startswith("True True"), (line, running.stderr())
        assert "MainThread" in line, line
        assert "plover-io" in line, line
        assert running.wait()[0] == 0, running.stderr()
    holds_nothing(daemon)


# -- forks and ends ----------------------------------------------------------------------------------------------------


def test_forks_in_the_middle_of_calls() -> None:
    """From the main thread and from another one, while three threads make calls; and as multiprocessing does it."""
    program = (
        PRELUDE
        + """
import multiprocessing

stop, bad = False, []

def beside():
    try:
        while not stop:
            assert add(1) == 2
            assert add.submit(2).result(PATIENCE) == 3
    except BaseException as error:
        bad.append(repr(error))

def in_the_child(pending, cancelled):
    try:
        assert add(5) == 6
        for future in pending:
            try:
                future.result(PATIENCE)
            except plover.DaemonLost as error:
                assert str(os.getppid()) in str(error), error
            else:
                os._exit(2)
        assert concurrent.futures.wait(pending, 0).not_done == set()
        assert list(concurrent.futures.as_completed(pending, 0))
        assert cancelled.cancelled()
        assert add.submit(7).result(PATIENCE) == 8
    except BaseException as error:
        os.write(2, f"in the child: {error!r}".encode())
        os._exit(1)

def fork(leave):
    pending = [block.submit(7, os.path.abspath("gate"))]
    cancelled = add.submit(1)
    cancelled.cancel()
    pid = os.fork()
    if pid == 0:
        in_the_child(pending, cancelled)
        leave()
    deadline = time.monotonic() + PATIENCE
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            bad.append("a child hangs")
            os.kill(pid, signal.SIGKILL)
        add(0)
    open("gate", "w").write("go on\\n")
    assert pending[0].result(PATIENCE) == 7

def child(number):
    return add(number)

threads = [threading.Thread(target=beside) for _ in range(3)]
for each in threads:
    each.start()
for _ in range(5):
    fork(lambda: os._exit(0))
other = threading.Thread(target=fork, args=(lambda: os._exit(0),))
other.start()
other.join()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(child, range(6)) == [1, 2, 3, 4, 5, 6]
    pool.close()
    pool.join()
stop = True
for each in threads:
    each.join(PATIENCE)
fork(lambda: sys.exit(0))
say(bad, add(1))
"""
    )
    own = Daemon("simulated:2")
    try:
        with talking(program, own.address, pipes=("gate",), environment={"PLOVER_ADDRESS": own.address}) as running:
            assert running.line() == "[] 2", running.stderr()
            assert running.wait()[0] == 0, running.stderr()
            assert "in the child" not in running.stderr()
            running.mark.assert_gone()
    finally:
        own.close()


_LEAVING = {
    "sys.exit, with pending calls": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "an exception, while threads wait": ("threading.Timer(0.3, release).start()\n1 / 0", 1),
    "an exception, while daemon threads wait": ("1 / 0", 1),
    "calls in atexit": ("import atexit\natexit.register(lambda: say('atexit', add(1)))", 0),
    "calls when threads are joined": ("threading._register_atexit(lambda: say('joining', add(1)))", 0),
    "a signal": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
}


@pytest.mark.parametrize("how", _LEAVING)
def test_an_exit_in_the_middle(impatient: Daemon, how: str) -> None:
    """Threads make calls, wait for one that does not end, or for many; nothing hangs, and nothing is left."""
    leave, status = _LEAVING[how]
    program = (
        PINGING
        + PRELUDE
        + f"""
gate = os.path.abspath("gate")
how = {how!r}

def release():
    fd = os.open(gate, os.O_RDWR)
    for _ in range(4):
        os.write(fd, b"go on\\n" * 1000)

def many():
    try:
        while True:
            add(1)
    except BaseException:
        pass

def wait():
    try:
        block(1, gate)
    except BaseException:
        pass

add(1)
begun = threading.Event()
daemonic = how != "an exception, while threads wait"
threads = [threading.Thread(target=wait, daemon=daemonic) for _ in range(2)]
threads += [threading.Thread(target=many, daemon=True) for _ in range(2)]
for each in threads:
    each.start()
pending = [add.submit(number) for number in range(50)]
pending[0].add_done_callback(lambda _: begun.set())
begun.wait(PATIENCE)
{leave}
"""
    )
    with talking(program, impatient.address, pipes=("gate",)) as running:
        code, out = running.wait(15)
        assert code == status, (code, running.stderr())
        words = {"calls in atexit": "atexit 2\n", "calls when threads are joined": "joining 2\n"}
        assert out == words.get(how, "")
        running.mark.assert_gone()
        assert "Exception ignored" not in running.stderr()
        running.say(pipe="gate")
    wait_until(lambda: not impatient.status()["scheduler"]["queued"].get("default"), "nothing waits there")


# -- many threads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 8, 32])
def test_many_threads(daemon: Daemon, count: int) -> None:
    program = (
        PRELUDE
        + STYLES
        + """
bad = []

def work(number):
    styles = (synchronous, wait, as_completed, callbacks, mapped)
    try:
        for turn in range(max(2, 120 // int(sys.argv[2]))):
            synchronous()
            styles[(number + turn) % len(styles)]()
    except BaseException as error:
        bad.append(f"{number}: {error!r}")

threads = [threading.Thread(target=work, args=(number,)) for number in range(int(sys.argv[2]))]
for each in threads:
    each.start()
for each in threads:
    each.join(PATIENCE)
    if each.is_alive():
        bad.append("a thread hangs")
say(bad)
"""
    )
    with talking(program, daemon.address, str(count)) as running:
        assert running.line() == "[]", running.stderr()
        assert running.wait()[0] == 0, running.stderr()
    holds_nothing(daemon)


def test_nothing_waits_for_a_tick(daemon: Daemon) -> None:
    """With ticks of an hour: whoever waits is told by whoever has the news, in every style, alone and with others."""
    program = (
        """
import plover.client.turns as turns
turns.GRACE_S = turns.STUCK_S = turns.SLICE_S = turns._WATCH_S = 3600.0
import plover.client.conversation as conversation
conversation.PING_S = 3600.0
import plover.client.connection as connection
connection._SOON_S = 3600.0
"""
        + PRELUDE
        + STYLES
        + """
bad = []

def work(number):
    styles = (synchronous, wait, as_completed, callbacks, mapped)
    try:
        for turn in range(40):
            styles[(number + turn) % len(styles)]()
    except BaseException as error:
        bad.append(f"{number}: {error!r}")

for one in (synchronous, wait, as_completed, callbacks, awaited, mapped):
    for _ in range(20):
        one()
threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
for each in threads:
    each.start()
for _ in range(20):
    awaited()
for each in threads:
    each.join(PATIENCE)
    if each.is_alive():
        bad.append("a thread hangs")
say(bad)
"""
    )
    with talking(program, daemon.address) as running:
        assert running.line() == "[]", running.stderr()
        assert running.wait()[0] == 0, running.stderr()
    holds_nothing(daemon)


def test_after_ten_thousand_calls_there_is_no_more_than_after_a_thousand_and_an_idle_client_rests(
    daemon: Daemon,
) -> None:
    program = (
        PRELUDE
        + STYLES
        + """
def mixed(calls):
    made = 0
    while made < calls:
        for one, count in ((synchronous, 2), (wait, 4), (as_completed, 4), (callbacks, 2), (awaited, 4), (mapped, 6)):
            one()
            made += count
        pending = [add.submit(number) for number in range(100)]
        assert [each.result(PATIENCE) for each in pending] == list(range(1, 101))
        made += 100

def switches():
    total = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/status") as status:
            for row in status:
                if row.startswith("voluntary"):
                    total[thread] = int(row.split()[1])
    return total

def there_is():
    settled = time.monotonic() + PATIENCE
    while line().talk.calls.unacknowledged or line().turns.holder:
        assert time.monotonic() < settled
        add(0)
        time.sleep(0.15)
    gc.collect()
    return descriptors(), threading.active_count(), len(gc.get_objects())

mixed(1000)
before = there_is()
mixed(9000)
after = there_is()
assert after[:2] == before[:2], (before, after)
assert after[2] < before[2] + 500, (before, after)
first = switches()
time.sleep(0.7)
second = switches()
me = str(threading.get_native_id())
grown = {thread: count - first.get(thread, 0) for thread, count in second.items() if thread != me}
say({thread: count for thread, count in grown.items() if count > 1})
"""
    )
    with talking(program, daemon.address) as running:
        assert running.line(60) == "{}", running.stderr()
        assert running.wait()[0] == 0, running.stderr()


# -- daemons that die, connections that break, clients that are stopped ------------------------------------------------


@pytest.mark.parametrize("who", ["a caller", "the I/O thread", "nobody"])
def test_the_daemon_is_killed_while_it_is_the_turn_of(who: str) -> None:
    """And another one is started at the same address: what was pending is lost, what comes then is served."""
    program = (
        NO_SLICES * (who == "a caller")
        + """
import plover.client.conversation
plover.client.conversation.RECONNECT_S = 0.5
"""
        + PRELUDE
        + """
who, gate = sys.argv[2], os.path.abspath("gate")
add(1)
connection = plover.session.current().connection()
say("ready")
if who == "a caller":
    try:
        block(1, gate)
    except plover.DaemonLost as error:
        say("lost", error.call_id is not None)
elif who == "the I/O thread":
    pending = [block.submit(1, gate)]
    lost = list(concurrent.futures.as_completed(pending, PATIENCE))[0].exception(0)
    say("lost", type(lost) is plover.DaemonLost and lost.call_id == pending[0].call_id)
else:
    deadline = time.monotonic() + PATIENCE
    while connection.usable:
        assert time.monotonic() < deadline
    say("lost", True)
hear()
say(add(1), connection.usable)
"""
    )
    first = Daemon("simulated:1")
    second = None
    try:
        with talking(program, first.address, who, pipes=("gate",)) as running:
            assert running.line() == "ready"
            if who != "nobody":
                wait_until_running(first, 1)
            first.kill()
            first.mark.assert_gone()
            assert running.line() == "lost True", running.stderr()
            second = Daemon("simulated:1", mark=first.mark)
            running.say()
            assert running.line() == "2 False", running.stderr()
            assert running.wait()[0] == 0, running.stderr()
            assert second.status()["scheduler"]["ended"] == {"succeeded": 1}
    finally:
        (second or first).close()


_MARKING = (
    PRELUDE
    + """
import socket

@gpu_function
def mark(number, path):
    with open(path, "a") as marks:
        marks.write(f"{number}\\n")
    return number

def cut():
    # The connection breaks; the daemon lives.
    for name in os.listdir("/proc/self/fd"):
        try:
            end = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with end:
            try:
                if end.family == socket.AF_UNIX and str(end.getpeername()).endswith("d.sock"):
                    end.shutdown(socket.SHUT_RDWR)
                    return 1
            except OSError:
                pass
    return 0

path, bad, numbers = os.path.abspath("marks"), [], itertools.count()
made = []

def beside():
    try:
        for turn in range(40):
            if turn % 2:
                numbers_here = [next(numbers) for _ in range(3)]
                pending = [mark.submit(number, path) for number in numbers_here]
                done = concurrent.futures.wait(pending, PATIENCE)
                assert not done.not_done, "it hangs"
                assert [each.result(0) for each in pending] == numbers_here
            else:
                numbers_here = [next(numbers)]
                assert mark(numbers_here[0], path) == numbers_here[0]
            made.extend(numbers_here)
    except BaseException as error:
        bad.append(repr(error))

mark(next(numbers), path)
made.append(0)
"""
)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_connection_that_breaks_while_the_daemon_lives(daemon: Daemon, threads: int) -> None:
    """Again and again, at any moment: every call runs once, and has its result."""
    program = (
        _MARKING
        + """
threads = [threading.Thread(target=beside) for _ in range(int(sys.argv[2]))]
for each in threads:
    each.start()
cuts = 0
while any(each.is_alive() for each in threads):
    cuts += cut()
    threads[0].join(0.01)
with open(path) as marks:
    run = sorted(map(int, marks))
say(bad, run == sorted(made) == list(range(len(made))), len(made), cuts > 3 or cuts)
"""
    )
    with talking(program, daemon.address, str(threads)) as running:
        assert running.line(60) == f"[] True {1 + 80 * threads} True", running.stderr()
        assert running.wait()[0] == 0, running.stderr()
    holds_nothing(daemon)


def test_a_daemon_that_does_not_know_the_client_any_more() -> None:
    """It remembers one client at a time, and another one shakes hands with it."""
    forgetful = "import functools, plover.daemon.shell as s\ns.Peers = functools.partial(s.Peers, limit=1)"
    program = (
        _MARKING
        + """
thread = threading.Thread(target=beside)
say("ready")
thread.start()
thread.join(PATIENCE)
with open(path) as marks:
    run = sorted(map(int, marks))
say(bad, run == sorted(made) == list(range(len(made))), len(made))
"""
    )
    own = Daemon(program=daemon_with(before=forgetful))
    try:
        with talking(program, own.address) as running:
            assert running.line() == "ready"
            for _ in range(10):
                own.status()
            assert running.line(60) == "[] True 81", running.stderr()
            assert running.wait()[0] == 0, running.stderr()
    finally:
        own.close()


_STOPPED = (
    PINGING
    + PRELUDE
    + """
@gpu_function
def note(path, gate):
    with open(path, "a") as marks:
        marks.write("run\\n")
    with open(gate) as fifo:
        return fifo.readline()

path, gate = os.path.abspath("marks"), os.path.abspath("gate")
add(1)
future = note.options(retries=int(sys.argv[2])).submit(path, gate)
say("ready")
try:
    say(future.result(PATIENCE).strip())
except plover.DaemonLost as error:
    say("lost", "knows nothing of it" in str(error))
say(add(1))
with open(path) as marks:
    say("runs", len(list(marks)))
"""
)


def stop(pid: int) -> None:
    """SIGSTOP it, and wait until it has stopped."""
    os.kill(pid, signal.SIGSTOP)

    def state() -> str:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]

    wait_until(lambda: state() == "T", "it has stopped")


@pytest.mark.parametrize("until", ["its call has ended", "its lease has ended"])
def test_a_stopped_client_gets_the_result_when_it_goes_on(impatient: Daemon, until: str) -> None:
    with talking(_STOPPED, impatient.address, "0", pipes=("gate",)) as running:
        assert running.line() == "ready"
        wait_until_running(impatient, 1)
        stop(running.process.pid)
        if until == "its lease has ended":
            wait_until(lambda: impatient.status()["scheduler"]["clients_absent"], until)
        before = impatient.status()["scheduler"]["ended"]["succeeded"]
        running.say("there", pipe="gate")
        wait_until(lambda: impatient.status()["scheduler"]["ended"]["succeeded"] > before, "the call has ended")
        os.kill(running.process.pid, signal.SIGCONT)
        assert [running.line(), running.line(), running.line()] == ["there", "2", "runs 1"], running.stderr()
        assert running.wait()[0] == 0, running.stderr()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_stopped_client_whose_result_was_forgotten_meanwhile(retries: int) -> None:
    """It does not know whether the call ran: the call is made again only where that is allowed."""
    own = Daemon(program=daemon_with(client_lease_s=0.6, held_result_s=0.1))
    try:
        with talking(_STOPPED, own.address, str(retries), pipes=("gate",)) as running:
            assert running.line() == "ready"
            wait_until_running(own, 1)
            stop(running.process.pid)
            wait_until(lambda: own.status()["scheduler"]["clients_absent"], "its lease has ended")
            running.say("there", pipe="gate")
            wait_until(lambda: not own.status()["scheduler"]["clients_absent"], "it is forgotten")
            os.kill(running.process.pid, signal.SIGCONT)
            if retries:
                wait_until_running(own, 1)
                running.say("again", pipe="gate")
            assert running.line() == ("again" if retries else "lost True"), running.stderr()
            assert [running.line(), running.line()] == ["2", f"runs {1 + retries}"]
            assert running.wait()[0] == 0, running.stderr()
    finally:
        own.close()


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_timeout_is_kept_while_the_caller_drives(daemon: Daemon) -> None:
    program = (
        NO_SLICES
        + PRELUDE
        + """
add(1)
future = block.submit(5, os.path.abspath("gate"))
late = []
for timeout in (0, 0.01, 0, 0.2):
    began = time.monotonic()
    try:
        future.result(timeout)
        say("no timeout")
    except TimeoutError:
        late.append(time.monotonic() - began - timeout)
say(min(late) >= 0, max(late) < 0.5, future.done())
hear()
say(future.result(PATIENCE))
"""
    )
    with talking(program, daemon.address, pipes=("gate",)) as running:
        assert running.line() == "True True False", running.stderr()
        running.say(pipe="gate")
        running.say()
        assert running.line() == "5"
        assert running.wait()[0] == 0, running.stderr()


@pytest.mark.parametrize("who", ["the caller", "the I/O thread"])
def test_ctrl_c_in_a_long_call_is_heard_at_once_whoever_does_the_work(daemon: Daemon, who: str) -> None:
    """A long call is handed over to the I/O thread by itself."""
    program = (
        NO_SLICES * (who == "the caller")
        + PRELUDE
        + """
def watch():
    turns = line().turns
    deadline = time.monotonic() + PATIENCE
    by_io = sys.argv[2] == "the I/O thread"
    while turns.holder is None or (turns.holder is turns.io) != by_io or not line().talk.calls.pending:
        assert time.monotonic() < deadline, turns
    say("it is")

add(1)
threading.Thread(target=watch).start()
try:
    block(1, os.path.abspath("gate"))
except KeyboardInterrupt:
    say("heard")
say(add(1))
"""
    )
    with talking(program, daemon.address, who, pipes=("gate",)) as running:
        assert running.line() == "it is"
        wait_until_running(daemon, 1)
        os.kill(running.process.pid, signal.SIGINT)
        assert running.line(1.0) == "heard", running.stderr()
        assert running.line() == "2"
        assert running.wait()[0] == 0, running.stderr()
    holds_nothing(daemon)
