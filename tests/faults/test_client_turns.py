"""The client in real processes, when it is interrupted, forked, stopped, left, and its daemon killed: nothing is lost, nothing hangs.

The deterministic half of this is tests/unit/client/test_client_interrupts.py. Here moments are brought about by events, or where
that cannot be, by many random ones; the seed is in the message of a failure.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemons import PATIENCE_S, Daemon
from tests.support.talking import HEAR, talking

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


def holds_nothing(daemon: Daemon, timeout_s: float = PATIENCE_S) -> None:
    """The daemon has no call of anybody's on its books any more."""
    deadline = time.monotonic() + timeout_s
    while calls := daemon.status()["scheduler"]["calls"]:
        assert time.monotonic() < deadline, calls


def wait_until_running(daemon: Daemon, count: int, timeout_s: float = PATIENCE_S) -> None:
    """So many calls are with workers."""
    deadline = time.monotonic() + timeout_s
    while sum(len(worker["calls"]) for worker in daemon.status()["scheduler"]["workers"]) < count:
        assert time.monotonic() < deadline, daemon.status()["scheduler"]


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
        ("synchronous", 2000),
        ("wait", 500),
        ("as_completed", 500),
        ("callbacks", 500),
        ("awaited", 500),
        ("mapped", 500),
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


def test_a_signal_handler_that_makes_calls(daemon: Daemon) -> None:
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

synchronous()
signal.signal(signal.SIGUSR1, on_signal)
threading.Thread(target=listen, daemon=True).start()
say("ready")
rounds = 0
while not stop:
    synchronous()
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
    with talking(program, daemon.address) as running:
        assert running.line() == "ready"
        for _ in range(700):
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
