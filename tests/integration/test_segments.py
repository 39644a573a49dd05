"""Large arrays cross in shared memory, and nobody can tell but by the clock and by the daemon's books."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from plover.daemon.host_memory import total_bytes
from plover.session import current
from tests.support.daemons import PATIENCE_S, Daemon, Fifo, daemon_with, run_script
from tests.support.daemons import plover as run_plover

pytestmark = pytest.mark.usefixtures("session")

LARGE = 4 << 20  # bytes, four times the threshold
COUNT = LARGE // 8


def segments(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.status()["segments"]
    return found


def until(daemon: Daemon, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The books as they are when they are as they should be, within the time."""
    give_up = time.monotonic() + PATIENCE_S
    while not wanted(found := segments(daemon)):
        assert time.monotonic() < give_up, found
    return found


def lies_in_a_segment(array: Any) -> bool:
    """Whether an array's memory is that of a segment, as the kernel sees it."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(each, 16) for each in line.split()[0].split("-"))
            if begin <= address < end:
                return "plover-segment" in line and line.split()[1] == "rw-s"
    return False


def is_private_now(array: Any) -> bool:
    """Whether its memory is this process's own."""
    return not lies_in_a_segment(array)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@gpu_function
def same(x: Any) -> Any:
    return x


@gpu_function
def add_one(x: Any) -> Any:
    return x + 1


# -- values stay values ------------------------------------------------------------------------------------------------


def test_a_large_result_is_a_writable_array_over_its_segment_which_goes_back_when_it_is_collected(
    daemon: Daemon,
) -> None:
    x = np.arange(float(COUNT))
    got = add_one(x)
    assert lies_in_a_segment(got)
    np.testing.assert_array_equal(got, x + 1)
    got[0] = 7
    held = until(daemon, lambda found: found["lent"] >= 1)["lent"]
    view = got[10:20]
    del got
    assert segments(daemon)["lent"] == held  # a view holds it
    del view
    until(daemon, lambda found: found["lent"] == held - 1)


def test_segments_are_used_again(daemon: Daemon) -> None:
    x = np.arange(float(COUNT))
    add_one(x)
    add_one(x)
    before = segments(daemon)["segments"]
    for _ in range(20):
        got = add_one(x)
    np.testing.assert_array_equal(got, x + 1)
    assert segments(daemon)["segments"] <= before + 2  # a result's is given back while the next call is on its way


@pytest.mark.parametrize(
    "kind", ["array", "fortran", "dates", "masked", "pandas", "arrow", "memoryview", "bytes", "bytearray"]
)
def test_all_kinds_that_go_beside_the_stream_come_home_whole(daemon: Daemon, kind: str) -> None:
    numbers = np.arange(float(COUNT))
    value: Any = {
        "array": lambda: numbers,
        "fortran": lambda: np.asfortranarray(numbers.reshape(512, -1)),
        "dates": lambda: numbers.astype("M8[s]"),
        "masked": lambda: np.ma.masked_less(numbers, 10),
        "pandas": lambda: __import__("pandas").DataFrame({"a": numbers, "b": numbers + 1}),
        "arrow": lambda: __import__("pyarrow").array(numbers),
        "memoryview": lambda: memoryview(numbers),
        "bytes": lambda: numbers.tobytes(),
        "bytearray": lambda: bytearray(numbers.tobytes()),
    }[kind]()
    got = same(value)
    others = [add_one(numbers + n) for n in range(3)]  # whatever was given back too early is written over by these
    assert type(got) is type(value)
    expected, found = (bytes(each) if isinstance(each, memoryview) else pickle.dumps(each, 5) for each in (value, got))
    assert found == expected
    del others


def test_a_view_of_its_argument_and_one_of_a_huge_base_are_copied_as_far_as_they_are_seen(daemon: Daemon) -> None:
    x = np.arange(float(COUNT))

    @gpu_function
    def views(x: Any) -> Any:
        import numpy as np

        base = np.zeros(32 << 20)  # 256 MiB
        return x[1:], base[: 1 << 18], x

    tail, part, whole = views(x)
    np.testing.assert_array_equal(tail, x[1:])
    np.testing.assert_array_equal(whole, x)
    tail[0] = -1
    assert whole[1] == 1  # two values
    assert part.nbytes == 2 << 20
    assert segments(daemon)["bytes"] < 128 << 20


def test_what_a_function_keeps_of_its_argument_stays_as_it_was() -> None:
    @gpu_function
    def keep(x: Any) -> None:
        plover.current_call().cache["kept"] = x[5:]

    @gpu_function
    def kept_total(x: Any) -> Any:
        kept = plover.current_call().cache.get("kept")
        plover.current_call().cache["kept"] = x[5:] if kept is None else kept
        return None if kept is None else float(kept.sum())

    ones = np.ones(COUNT)
    assert kept_total(ones) is None
    for number in range(2, 6):
        assert kept_total(np.full(COUNT, float(number))) == COUNT - 5


def test_what_a_function_kept_can_be_written_to_without_anybody_noticing() -> None:
    @gpu_function
    def write_later(x: Any) -> Any:
        cache = plover.current_call().cache
        if "x" in cache:
            cache["x"][:] = -1
            return x
        cache["x"] = x
        return x

    x = np.arange(float(COUNT))
    first = write_later(x)
    second = write_later(x)
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, x)


def test_an_argument_may_change_after_submit_and_be_written_to_by_the_worker() -> None:
    @gpu_function
    def spoil(x: Any) -> Any:
        assert x.flags.writeable
        total = float(x.sum())
        x[:] = -1
        return total

    x = np.ones(COUNT)
    futures = []
    for number in range(4):
        x[:] = number
        futures.append(spoil.submit(x))
    assert [future.result() for future in futures] == [number * COUNT for number in range(4)]
    assert np.all(x == 3)


def test_an_array_that_another_thread_changes_meanwhile_arrives_as_a_mixture_and_then_stays(fifos: list[Fifo]) -> None:
    @gpu_function
    def twice(x: Any, begun: str, gate: str) -> Any:
        first = x.copy()
        with open(begun, "w") as file:
            file.write("begun\n")
        with open(gate) as file:
            file.readline()
        return bool((first == x).all()), float(first.min()), float(first.max())

    x = np.zeros(COUNT)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            x[:] += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        future = twice.submit(x, fifos[0].path, fifos[1].path)
        fifos[0].wait()
        fifos[1].say()
        stayed, least, most = future.result()
    finally:
        stop.set()
        thread.join()
    assert stayed
    assert 0 <= least <= most


def test_a_retry_sees_the_arguments_as_they_were(tmp_path: Any) -> None:
    @gpu_function(retries=1)
    def die_once(x: Any, mark: str) -> Any:
        import os
        from pathlib import Path

        total = float(x.sum())
        x[:] = -1
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), 9)
        return total

    assert die_once(np.ones(COUNT), str(tmp_path / "mark")) == COUNT


def test_exceptions_bring_their_large_arrays_too() -> None:
    @gpu_function
    def fail(x: Any) -> None:
        raise ValueError("with", x)

    with pytest.raises(ValueError) as raised:
        fail(np.ones(COUNT))
    assert raised.value.args[1].sum() == COUNT


# -- arrays that are born shared ---------------------------------------------------------------------------------------


def test_an_array_that_is_born_shared_crosses_without_a_copy_and_arrives_read_only() -> None:
    @gpu_function
    def look(x: Any, y: Any) -> Any:
        return x.flags.writeable, y.flags.writeable, float(x[0]), float(y[-1])

    x, y = plover.empty(COUNT), plover.array(np.arange(float(COUNT)))
    assert lies_in_a_segment(x)
    x[:] = 4
    assert look(x, y) == (False, False, 4.0, COUNT - 1.0)
    x[0] = 5
    assert look(x, y[: COUNT // 2]) == (False, False, 5.0, COUNT // 2 - 1.0)


def test_out_is_written_in_place() -> None:
    @gpu_function
    def into(x: Any, out: Any) -> str:
        import numpy as np

        np.add(x, 1, out=out)
        return "done"

    x, out = plover.zeros((2, COUNT // 2), "f8"), plover.empty((2, COUNT // 2), order="F")
    assert into(x, out=out) == "done"
    assert np.all(out == 1)
    x[:] = 5
    assert into.submit(x, out=out).result() == "done"
    assert np.all(out == 6)
    assert into.options(retries=2)(x + 1, out=out) == "done"
    assert np.all(out == 7)


@pytest.mark.parametrize("shape", ["small", "strided"])
def test_out_is_written_where_no_segment_can_be(shape: str) -> None:
    @gpu_function
    def into(x: Any, out: Any) -> str:
        out[...] = x
        return "done"

    out = plover.empty(10) if shape == "small" else plover.empty((COUNT, 2))[:, 0]
    assert into(3.0, out=out) == "done"
    assert np.all(out == 3)


def test_an_ordinary_array_given_as_out_is_a_value_as_all_arguments_are() -> None:
    @gpu_function
    def into(out: Any) -> None:
        out[:] = 1

    out = np.zeros(COUNT)
    into(out=out)
    assert not out.any()


def test_an_array_can_be_born_shared_in_the_worker_and_kept_there() -> None:
    @gpu_function
    def make(value: float) -> Any:
        import plover

        cache = plover.current_call().cache
        made = plover.empty(1 << 19)
        made[:] = value
        before = cache.get("made")
        cache["made"] = made
        if before is not None:
            before[:] = -1  # its caller's is another's now
        return made

    one = make(1.0)
    two = make(2.0)
    assert lies_in_a_segment(one)
    assert np.all(one == 1)
    assert np.all(two == 2)


def test_arrays_of_other_kinds_are_numpys_own() -> None:
    assert plover.empty((3, 0)).shape == (3, 0)
    assert plover.zeros((), "i4")[()] == 0
    assert plover.array([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert plover.array(["a", None], dtype=object).tolist() == ["a", None]
    with pytest.raises(ValueError, match="negative dimensions"):
        plover.empty((2, -1))


# -- forks -------------------------------------------------------------------------------------------------------------


def test_after_a_fork_an_array_is_each_process_s_own(daemon: Daemon) -> None:
    got, born = add_one(np.zeros(COUNT)), plover.zeros(COUNT)
    reading, writing = os.pipe()
    gate_reading, gate_writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            seen = [float(got[0]), float(born[0])]
            got[:] = 5
            born[:] = 6
            os.read(gate_reading, 1)
            seen += [float(got.min()), float(got.max()), float(born.min())]
            with plover.connect(daemon.address):
                seen.append(float(add_one(got)[0]))
            os.write(writing, repr(seen).encode())
        finally:
            os._exit(0)
    got[:] = 8
    born[:] = 9
    assert (float(add_one(got).max()), float(add_one(born).max())) == (9.0, 10.0)
    assert is_private_now(got)
    del got, born
    for number in range(3):
        add_one(np.full(COUNT, float(number)))
    os.write(gate_writing, b"g")
    os.waitpid(child, 0)
    assert os.read(reading, 1000).decode() in ("[1.0, 0.0, 5.0, 5.0, 6.0, 6.0]",)
    for fd in (reading, writing, gate_reading, gate_writing):
        os.close(fd)


def test_a_fork_in_the_worker_has_arrays_of_its_own_too() -> None:
    @gpu_function
    def forks(x: Any, out: Any) -> Any:
        import os

        import plover

        born = plover.zeros(1 << 19)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            x[:] = -1
            born[:] = -2
            own = plover.zeros(1 << 19)
            os.write(writing, repr([float(x[0]), float(born[0]), float(own[0])]).encode())
            os._exit(0)
        os.waitpid(child, 0)
        out[:] = x + 1
        born[0] = 7
        seen = os.read(reading, 100).decode()
        os.close(reading)
        os.close(writing)
        return seen, float(x.min()), born

    x, out = np.ones(COUNT), plover.zeros(COUNT)
    for _ in range(2):
        seen, least, born = forks(x, out=out)
        assert (seen, least, born[0], born[1]) == ("[-1.0, -2.0, 0.0]", 1.0, 7.0, 0.0)
        assert np.all(out == 2)
        out[:] = 0


def test_out_is_written_after_a_fork_too() -> None:
    @gpu_function
    def into(out: Any) -> None:
        out[:] = 3

    out = plover.zeros(COUNT)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    into(out=out)
    assert np.all(out == 3)


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_client_that_collects_nothing_gets_frames_and_nothing_fails() -> None:
    program = daemon_with(devices="simulated:1", shell={"segments_share_per_tenant": (24 << 20) / total_bytes()})
    running = Daemon(program=program)
    try:
        with plover.connect(running.address):
            x = np.arange(float(COUNT))
            kept = [add_one(x) for _ in range(12)]
            assert all(np.array_equal(each, x + 1) for each in kept)
            assert [lies_in_a_segment(each) for each in kept[:3]] == [True] * 3
            assert not lies_in_a_segment(kept[-1])
            found = segments(running)
            assert found["bytes"] <= 24 << 20
            assert found["fallbacks"]["not lent"] > 0
            assert (
                f"shared memory: {found['bytes']} bytes in {found['segments']} segments, 0 of them free; not lent: "
                in (run_plover("status", "--address", running.address)[1])
            )
            born = [plover.empty(COUNT) for _ in range(2)]  # the first where the arguments were
            assert not lies_in_a_segment(born[-1])
            del kept
            gc.collect()
            assert lies_in_a_segment(add_one(x))
    finally:
        running.close()


def test_a_client_with_many_results_does_not_run_out_of_descriptors() -> None:
    program = daemon_with(devices="simulated:1", shell={"segments_per_borrower": 8})
    running = Daemon(program=program)
    try:
        with plover.connect(running.address):
            x = np.arange(float(COUNT))
            kept = [add_one(x) for _ in range(20)]
            assert all(np.array_equal(each, x + 1) for each in kept)
            shared = sum(map(lies_in_a_segment, kept))
            assert 1 <= shared <= 8
    finally:
        running.close()


@pytest.mark.parametrize("resource", ["RLIMIT_FSIZE, 2 << 20", "RLIMIT_NOFILE, 40"])
def test_where_no_shared_memory_can_be_had_frames_are_the_way(resource: str) -> None:
    name, limit = resource.split(", ")
    if name == "RLIMIT_FSIZE":  # fallocate fails
        before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    else:  # memfd_create fails
        before = (
            "import os, plover.daemon.memory as memory\n"
            "def none(*_): raise OSError(24, os.strerror(24))\n"
            "os.memfd_create, kept = (lambda n, f: none() if 'segment' in n else kept(n, f)), os.memfd_create"
        )
    running = Daemon(program=daemon_with(before, devices="simulated:1"))
    try:
        with plover.connect(running.address):
            x = np.arange(float(COUNT))
            assert np.array_equal(add_one(x), x + 1)
            found = segments(running)
            assert (found["bytes"], found["segments"]) == (0, 0)
            assert found["fallbacks"]["not lent"] >= 2
            assert "no shared memory of" in running.log()
    finally:
        running.close()


def test_what_nobody_used_for_long_is_closed() -> None:
    running = Daemon(program=daemon_with(devices="simulated:1", shell={"segment_idle_s": 0.2}))
    try:
        with plover.connect(running.address):
            add_one(np.arange(float(COUNT)))
            gc.collect()
            until(
                running, lambda found: found["free"] == 0 and found["segments"] <= 1
            )  # what the client keeps for more
            assert np.all(add_one(np.zeros(COUNT)) == 1)
        until(running, lambda found: found["segments"] == 0)
    finally:
        running.close()


# -- ends --------------------------------------------------------------------------------------------------------------


def test_results_outlive_their_session_and_their_daemon() -> None:
    running = Daemon("simulated:1")
    try:
        with plover.connect(running.address):
            got = add_one(np.zeros(COUNT))
            assert lies_in_a_segment(got)
        assert np.all(got == 1)
        with plover.connect(running.address):
            assert np.all(add_one(got) == 2)  # an array of another connection's: a value
        assert until(running, lambda found: found["lent"] <= 1)
    finally:
        running.close()
    assert np.all(got == 1)
    got += 1
    assert np.all(got == 2)


def test_a_script_leaves_nothing_in_shared_memory() -> None:
    status, out, errors = run_script(
        "import numpy as np, plover\n"
        "from plover import gpu_function\n"
        "f = gpu_function(lambda x: x + 1)\n"
        "got = [f(np.ones(1 << 19)) for _ in range(3)]\n"
        "print(got[0][0])\n"
    )
    assert (status, out) == (0, "2.0\n"), errors
    assert errors.count("\n") == 1, errors  # that the device is simulated
    assert not [name for name in os.listdir("/dev/shm") if "plover" in name]


def test_small_calls_ask_for_nothing(daemon: Daemon) -> None:
    connection = current().connection()
    assert connection.segments is not None
    before = segments(daemon)
    same(np.arange(1000.0))
    same(3)
    assert segments(daemon) == before
