"""The ways to call: all forms, options, closures, methods, recursion, warmth, and where a call is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
from typing import Any

import numpy as np
import pytest

import plover
from plover import gpu_function
from plover.wire import sockets
from tests.support.daemons import PATIENCE_S, Daemon, Fifo

pytestmark = pytest.mark.usefixtures("session")


def _squarer() -> Any:
    @gpu_function
    def square(x: Any, *, plus: Any = 0, timeout: Any = None) -> Any:
        """Squares."""
        return x * x + plus if timeout is None else timeout

    return square


def test_all_forms_give_the_same() -> None:
    square = _squarer()
    assert square(3, plus=1) == 10
    assert square.local(3, plus=1) == 10
    assert square.submit(3, plus=1).result(PATIENCE_S) == 10

    async def main() -> Any:
        first = square.submit(3, plus=1)
        return await first, await square.aio(3, plus=1), await asyncio.gather(*(square.aio(i) for i in range(5)))

    assert asyncio.run(main()) == (10, 10, [0, 1, 4, 9, 16])
    assert list(square.map([1, 2, 3])) == [1, 4, 9]
    assert list(square.starmap([(1,), [2]])) == [1, 4]


def test_local_runs_here_and_a_call_elsewhere() -> None:
    @gpu_function
    def where() -> int:
        return os.getpid()

    assert where.local() == os.getpid()
    assert where() != os.getpid()


def test_the_functions_own_keywords_are_never_options() -> None:
    square = _squarer()
    assert square(2, timeout="mine") == "mine"
    assert square.submit(2, timeout="mine").result(PATIENCE_S) == "mine"
    assert asyncio.run(square.aio(2, timeout="mine")) == "mine"


def test_a_decorated_function_looks_like_itself() -> None:
    square = _squarer()
    assert square.__name__ == "square"
    assert square.__doc__ == "Squares."
    assert list(inspect.signature(square).parameters) == ["x", "plus", "timeout"]


def test_a_future_is_one_of_concurrent_futures() -> None:
    square = _squarer()
    futures = [square.submit(i) for i in range(6)]
    assert isinstance(futures[0], concurrent.futures.Future)
    done, left = concurrent.futures.wait(futures, PATIENCE_S)
    assert (len(done), len(left)) == (6, 0)
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, PATIENCE_S)) == [0, 1, 4, 9, 16, 25]
    called: concurrent.futures.Future[Any] = concurrent.futures.Future()
    square.submit(7).add_done_callback(lambda f: called.set_result((f.result(), square(2))))  # a callback may call
    assert called.result(PATIENCE_S) == (49, 4)


def test_a_bounded_wait_leaves_the_call_alone(fifos: list[Fifo]) -> None:
    @gpu_function
    def wait(path: str) -> str:
        with open(path) as fifo:
            return fifo.readline()

    future = wait.submit(fifos[0].path)
    with pytest.raises(TimeoutError) as caught:
        future.result(0.05)
    assert not isinstance(caught.value, plover.PloverError)
    assert future.receipt is None
    fifos[0].say("go")
    assert future.result(PATIENCE_S) == "go\n"


def test_arguments_are_taken_as_they_are_at_submit() -> None:
    @gpu_function
    def total(x: Any) -> float:
        return float(x.sum())

    x = np.ones(200_000)
    futures = []
    for _ in range(4):
        futures.append(total.submit(x))
        x += 1
    assert [f.result(PATIENCE_S) for f in futures] == [200_000.0 * k for k in (1, 2, 3, 4)]


# -- map ---------------------------------------------------------------------------------------------------------------


def test_map_in_order_over_several_iterables_of_any_length() -> None:
    @gpu_function
    def add(a: int, b: int) -> int:
        return a + b

    assert list(add.map(range(200), iter(range(1000)))) == [2 * i for i in range(200)]
    assert list(add.map([], [])) == []


def test_map_unordered_gives_everything_once() -> None:
    square = _squarer()
    assert sorted(square.map(range(100), ordered=False)) == [i * i for i in range(100)]


def test_map_returns_exceptions_or_raises_the_first() -> None:
    @gpu_function
    def odd(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    got = list(odd.map(range(4), return_exceptions=True))
    assert [got[0], got[2]] == [0, 2]
    assert [str(got[1]), str(got[3])] == ["1", "3"]
    assert all(type(error) is ValueError for error in got[1::2])
    unordered = list(odd.map(range(4), return_exceptions=True, ordered=False))
    assert sorted(map(str, unordered)) == ["0", "1", "2", "3"]
    results = odd.map(range(4))
    assert next(results) == 0
    with pytest.raises(ValueError, match="1"):
        next(results)
    assert list(results) == []


def test_map_reads_an_endless_iterable_no_further_than_it_needs_and_leaving_it_cancels() -> None:
    square = _squarer()
    taken: list[int] = []

    def endless() -> Any:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = square.map(endless(), in_flight=8)
    assert len(taken) == 8  # sent before anybody asked
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    results.close()  # type: ignore[attr-defined]
    assert 8 <= len(taken) <= 11
    assert square(3) == 9


def test_maps_timeout_is_each_items_run() -> None:
    @gpu_function
    def maybe(x: int) -> int:
        while x == 1:
            pass
        return x

    got = list(maybe.map(range(3), timeout=0.4, return_exceptions=True))
    assert [got[0], got[2]] == [0, 2]
    assert isinstance(got[1], plover.CallTimeout)
    assert (got[1].phase, got[1].limit_s) == ("run", 0.4)


# -- options -----------------------------------------------------------------------------------------------------------


def test_unknown_options_and_those_not_built_yet_are_type_errors_that_name_them() -> None:
    square = _squarer()
    for name in ("chunksize", "device_memory", "keep_on_device", "batch", "progress", "retry_on", "nonsense"):
        with pytest.raises(TypeError, match=name):
            square.options(**{name: 1})
        with pytest.raises(TypeError, match=name):
            gpu_function(**{name: 1})
    for name in ("chunksize", "nonsense"):
        with pytest.raises(TypeError, match=name):
            square.map([1], **{name: 1})
    with pytest.raises(TypeError, match="nonsense"):
        plover.session.current().map(square, [1], nonsense=1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": "1"}, "timeout"),
        ({"queue_timeout": -1}, "queue_timeout"),
        ({"retries": -1}, "retries"),
        ({"retries": True}, "retries"),
        ({"priority": 1.5}, "priority"),
        ({"gpu": "H100:0"}, "gpu"),
        ({"environment": ""}, "environment"),
    ],
)
def test_values_that_make_no_sense_are_refused_where_they_stand(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        _squarer().options(**options)


def test_options_make_a_copy() -> None:
    @gpu_function
    def spin() -> None:
        while True:
            pass

    hasty = spin.options(timeout=0.2, queue_timeout=60, priority=3)
    with pytest.raises(plover.CallTimeout):
        hasty()
    assert spin._options.timeout_s is None


def test_decorating_what_cannot_be_called_is_a_type_error() -> None:
    for wrong in (3, int, _squarer()):
        with pytest.raises(TypeError):
            gpu_function(wrong)


# -- inside a worker ---------------------------------------------------------------------------------------------------


def test_nested_gpu_functions_run_inline_in_every_form() -> None:
    @gpu_function
    def inner(x: int) -> tuple[int, int]:
        return x + 1, os.getpid()

    @gpu_function
    def outer() -> Any:
        import asyncio

        async def ask() -> Any:
            return [await inner.aio(3), await inner.submit(4)]

        return [
            (0, os.getpid()),
            inner(1),
            inner.submit(2).result(),
            *asyncio.run(ask()),
            *inner.map([5]),
            *inner.starmap([(6,)]),
            inner.options(retries=1)(7),
            inner.local(8),
        ]

    got = outer()
    assert [value for value, _ in got] == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert len({pid for _, pid in got} - {os.getpid()}) == 1


def test_recursion() -> None:
    @gpu_function
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial(20) == 2432902008176640000


def test_an_exception_of_an_inline_call_is_the_functions_own() -> None:
    @gpu_function
    def fail() -> None:
        raise KeyError("inner")

    @gpu_function
    def outer() -> Any:
        caught = [type(fail.submit().exception()).__name__]
        try:
            fail()
        except KeyError as error:
            caught.append(error.args[0])
        return caught

    assert outer() == ["KeyError", "inner"]


def test_methods() -> None:
    class Model:
        def __init__(self, weight: float) -> None:
            self.weight = weight

        @gpu_function
        def predict(self, x: Any) -> Any:
            return x * self.weight

        @gpu_function(timeout=30)
        def twice(self, x: Any) -> Any:
            return self.predict(self.predict(x))

    model = Model(3.0)
    np.testing.assert_array_equal(model.predict(np.ones(2)), [3, 3])
    assert model.twice(2.0) == 18.0
    model.weight = 10.0
    assert model.predict(1.0) == 10.0
    assert Model.predict(model, 2.0) == 20.0
    assert model.predict.local(4.0) == 40.0


# -- what is captured --------------------------------------------------------------------------------------------------


def test_captured_values_are_read_at_each_call() -> None:
    factor, table = 2, {"plus": 1}

    @gpu_function
    def scale(x: int) -> int:
        return x * factor + table["plus"]

    assert scale(5) == 11
    factor = 3
    assert scale(5) == 16
    table["plus"] = 7
    assert scale(5) == 22


def test_captured_arrays_are_read_at_each_call() -> None:
    weights = np.ones(1000)

    @gpu_function
    def total() -> float:
        return float(weights.sum())

    assert total() == 1000
    weights[0] = 5
    assert total() == 1004


# -- warm --------------------------------------------------------------------------------------------------------------


def test_a_repeat_call_unpickles_nothing_but_its_arguments() -> None:
    class Counter:
        def __getstate__(self) -> dict[str, int]:
            return {"one": 1}

        def __setstate__(self, state: dict[str, int]) -> None:
            import builtins

            builtins._loads = getattr(builtins, "_loads", 0) + 1  # type: ignore[attr-defined]

    captured = Counter()

    @gpu_function
    def loads(argument: Any) -> tuple[int, int]:
        import builtins

        assert captured is not None
        cache = plover.current_call().cache
        cache["calls"] = cache.get("calls", 0) + 1
        return builtins._loads, cache["calls"]  # type: ignore[attr-defined]

    futures = []
    for number in range(3):
        futures.append(loads.submit(number))
        futures[-1].result(PATIENCE_S)
    first = futures[0].result()[0]
    assert [f.result() for f in futures] == [(first, 1), (first, 2), (first, 3)]
    assert [f.receipt.warm for f in futures] == [False, True, True]
    assert loads(Counter())[0] == first + 1  # an argument is unpickled: the counter can count


def test_a_repeat_call_sends_no_function_bytes(session: plover.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = np.random.default_rng(0).bytes(300_000)

    @gpu_function
    def size() -> int:
        return len(blob)

    session.connection()
    sent: list[int] = []
    send = sockets.send

    def watch(socket: Any, frames: Any) -> None:
        sent.append(sum(len(memoryview(frame)) for frame in frames))
        send(socket, frames)

    monkeypatch.setattr(sockets, "send", watch)
    assert [size() for _ in range(3)] == [300_000] * 3
    assert sent[0] > 300_000
    assert max(sent[1:]) < 1000


def test_receipts_say_what_a_call_cost() -> None:
    future = _squarer().submit(2)
    future.result(PATIENCE_S)
    receipt = future.receipt
    assert receipt.simulated is True
    assert receipt.devices == ("simulated:0",)
    assert receipt.attempt == 1
    for seconds in (receipt.queue_s, receipt.transfer_s, receipt.load_s, receipt.run_s):
        assert 0 <= seconds < PATIENCE_S


def test_current_call() -> None:
    @gpu_function
    def here() -> tuple[Any, ...]:
        call = plover.current_call()
        return call.call_id, call.attempt, call.name, call.device, call.simulated

    future = here.submit()
    call_id, attempt, name, device, simulated = future.result(PATIENCE_S)
    assert (call_id, attempt, device, simulated) == (future.call_id, 1, "simulated:0", True)
    assert name.endswith("here")
    with pytest.raises(RuntimeError, match="no call runs here"):
        plover.current_call()


def test_a_sessions_own_submit_and_map(daemon: Daemon) -> None:
    with plover.connect(daemon.address) as session:
        assert session.submit(lambda x: x + 1, 2).result(PATIENCE_S) == 3
        assert list(session.map(lambda x: x * 2, range(5))) == [0, 2, 4, 6, 8]
        assert session.submit(_squarer(), 4, plus=1).result(PATIENCE_S) == 17
        assert list(session.map(lambda x: x * 2, range(3), timeout=PATIENCE_S, ordered=False, in_flight=1)) == [0, 2, 4]
        with pytest.raises(TypeError, match="there is no option 'timeut'"):
            session.map(lambda x: x, [1], timeut=1)
    with pytest.raises(plover.PloverError, match="closed"):
        session.submit(lambda: 1)
    assert _squarer()(2) == 4  # the session before is current again
