"""Futures: the standard library's, with results that are unpacked by whoever asks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plover import serialize
from plover.client import ending, futures
from plover.client.futures import Future
from plover.errors import CallCancelled, DaemonLost, WorkerLost
from plover.exceptions import pack_exception
from plover.wire.messages import Receipt
from tests.support.fake_daemon import wait_until


class FakeConnection:
    """Notes what a future asks of it."""

    client = b"\0" * 16

    def __init__(self, at_work: bool = False) -> None:
        self.cancelled: list[int] = []
        self.callbacks: list[Callable[[], None]] = []
        self.attended = 0
        self.asked: list[str] = []
        self._at_work = at_work

    def cancel(self, submission: int) -> None:
        self.cancelled.append(submission)

    def attend(self) -> None:
        self.attended += 1

    def call_back(self, function: Callable[[], None]) -> None:
        if self._at_work:
            self.callbacks.append(function)
        else:
            function()

    def work_for(self, future: Future, timeout_s: float | None) -> None:
        self.asked.append(f"work for {timeout_s}")

    def wait_for(self, wait: Callable[[], Any]) -> Any:
        self.asked.append("wait")
        return wait()


def future(connection: Any = None) -> Future:
    return Future("c-1", connection, 1)


def packed(value: Any) -> list[Any]:
    return [bytes(serialize.pack(value)[0]), *map(bytearray, serialize.pack(value)[1:])]


def failure(error: Exception) -> list[Any]:
    def remote() -> None:
        raise error

    try:
        remote()
    except Exception as raised:
        return pack_exception(raised)
    raise AssertionError


def length(error: BaseException) -> int:
    return len(list(traceback.walk_tb(error.__traceback__)))


RECEIPT = Receipt(run_s=0.5, worker="worker 1", attempt=1)


class TestResults:
    def test_a_value(self) -> None:
        call = future()
        assert (call.done(), call.receipt) == (False, None)
        call.deliver(False, packed({"a": np.arange(3)}), RECEIPT)
        assert call.done()
        assert call.exception() is None
        assert call.result()["a"].tolist() == [0, 1, 2]
        assert call.result() is call.result()
        assert call.receipt is RECEIPT

    def test_a_value_is_unpacked_by_who_asks_and_then_the_bytes_go(self) -> None:
        call = future()
        call._keep = object()
        call.deliver(False, packed("x"), RECEIPT)
        assert call._sealed is not None
        assert call.result() == "x"
        assert call._sealed is None
        assert call._keep is None

    def test_no_value_in_time_is_a_timeout_and_the_call_goes_on(self) -> None:
        call = future()
        with pytest.raises(TimeoutError):
            call.result(timeout=0)
        assert not call.done()

    def test_a_users_exception(self) -> None:
        call = future()
        call.deliver(True, failure(KeyError("k")), RECEIPT)
        assert isinstance(call.exception(), KeyError)
        with pytest.raises(KeyError) as caught:
            call.result()
        assert [f.name for f in traceback.extract_tb(caught.value.__traceback__)][-1] == "remote"

    def test_asked_again_it_has_the_same_traceback(self) -> None:
        call = future()
        call.deliver(True, failure(ValueError("again")), RECEIPT)
        lengths = []
        for _ in range(3):
            with pytest.raises(ValueError, match="again") as caught:
                call.result()
            lengths.append(length(caught.value))
        assert len(set(lengths)) == 1

    def test_a_group_of_exceptions(self) -> None:
        call = future()
        call.deliver(True, failure(ExceptionGroup("several", [ValueError("a"), KeyError("b")])), RECEIPT)
        with pytest.raises(ExceptionGroup, match="several") as caught:
            call.result()
        assert caught.group_contains(KeyError)

    def test_a_decision_of_the_daemons(self) -> None:
        call = future()
        call.fail(WorkerLost("gone"), RECEIPT)
        with pytest.raises(WorkerLost, match="gone"):
            call.result()
        assert call.receipt is RECEIPT

    def test_a_value_that_cannot_be_made_here_says_so(self) -> None:
        call = future()
        call.deliver(False, [b"no pickle"], RECEIPT)
        error = call.exception()
        assert error is not None
        assert error.__notes__ == ["The result of the call (c-1) arrived, but could not be made here."]
        assert call.exception() is error

    def test_what_comes_after_the_end_changes_nothing(self) -> None:
        call = future()
        call.deliver(False, packed(1), RECEIPT)
        assert call.result() == 1
        call.fail(WorkerLost("late"))
        assert call.result() == 1

    def test_a_child_of_the_process_cannot_wait_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call, done = future(FakeConnection()), future()
        done.deliver(False, packed(1), RECEIPT)
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(DaemonLost, match="a future belongs to the process that made the call") as caught:
            call.result()
        assert caught.value.call_id == "c-1"
        assert done.result() == 1


class TestFinishing:
    def test_it_is_applied_before_the_future_is_done(self) -> None:
        call = future()
        seen: list[Any] = []
        call._finish = lambda value: seen.append(value) or "finished"
        call.deliver(False, packed([1]), RECEIPT)
        assert seen == [[1]]
        assert call.result() == "finished"

    def test_its_failure_is_the_futures(self) -> None:
        call = future()
        call._finish = lambda value: 1 / 0
        call.deliver(False, packed([1]), RECEIPT)
        with pytest.raises(ZeroDivisionError):
            call.result()

    def test_it_is_not_applied_to_an_exception(self) -> None:
        call = future()
        call._finish = lambda value: pytest.fail("not called")
        call.deliver(True, failure(ValueError("x")), RECEIPT)
        with pytest.raises(ValueError, match="x"):
            call.result()


class TestCancelling:
    def test_a_pending_call_is_cancelled_at_once_and_the_daemon_told(self) -> None:
        connection = FakeConnection()
        call = future(connection)
        assert call.cancel() is True
        assert (call.cancelled(), call.done(), connection.cancelled) == (True, True, [1])
        with pytest.raises(CallCancelled, match=r"the call \(c-1\) was cancelled") as caught:
            call.result()
        assert isinstance(caught.value, concurrent.futures.CancelledError)
        assert (caught.value.call_id, caught.value.tier) == ("c-1", None)
        with pytest.raises(CallCancelled):
            call.exception()

    @pytest.mark.parametrize("ask", [Future.result, Future.exception])
    def test_who_is_interrupted_while_he_waits_cancels_it(self, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        connection = FakeConnection()
        call = future(connection)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(connection, "work_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ask(call)
        assert call.cancelled()
        assert connection.cancelled == [1]

    def test_who_waited_for_long_enough_does_not(self) -> None:
        connection = FakeConnection()
        with pytest.raises(TimeoutError):
            future(connection).result(0)
        assert connection.cancelled == []

    def test_twice_is_still_true_and_told_once(self) -> None:
        connection = FakeConnection()
        call = future(connection)
        assert call.cancel() is True
        assert call.cancel() is True
        assert connection.cancelled == [1]

    def test_a_call_that_is_done_cannot_be_cancelled(self) -> None:
        connection = FakeConnection()
        call = future(connection)
        call.deliver(False, packed(1), RECEIPT)
        assert call.cancel() is False
        assert (call.cancelled(), connection.cancelled) == (False, [])

    def test_two_threads_may_cancel_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second has looked at the state before the first has changed it."""
        connection = FakeConnection()
        call = future(connection)
        original, raced = concurrent.futures.Future.cancel, []

        def cancel(self: Any) -> bool:
            if not raced:
                raced.append(True)
                raced.append(call.cancel())
            return original(self)

        monkeypatch.setattr(concurrent.futures.Future, "cancel", cancel)
        assert call.cancel() is True
        assert raced == [True, True]
        assert connection.cancelled[:1] == [1]

    def test_the_tier_is_known_when_the_call_has_ended(self) -> None:
        call = future()
        call.cancel()
        call.fail(CallCancelled("c", tier="interrupt"), RECEIPT)
        with pytest.raises(CallCancelled) as caught:
            call.result()
        assert caught.value.tier == "interrupt"
        assert call.receipt is RECEIPT

    def test_a_result_that_comes_too_late_is_dropped(self) -> None:
        call = future()
        call.cancel()
        call.deliver(False, packed(1), RECEIPT)
        assert call._sealed is None
        with pytest.raises(CallCancelled):
            call.result()

    def test_a_cancellation_that_others_made_is_an_exception_of_the_call(self) -> None:
        call = future()
        call.fail(CallCancelled("by the operator", tier="kill"))
        assert not call.cancelled()
        with pytest.raises(CallCancelled, match="by the operator"):
            call.result()

    def test_asked_again_a_cancelled_one_has_the_same_traceback(self) -> None:
        call = future()
        call.cancel()
        lengths = []
        for _ in range(3):
            with pytest.raises(CallCancelled) as caught:
                call.result()
            lengths.append(length(caught.value))
        assert len(set(lengths)) == 1


class TestCallbacks:
    def test_they_get_the_future(self) -> None:
        call = future()
        seen: list[Any] = []
        call.add_done_callback(seen.append)
        call.deliver(False, packed(1), RECEIPT)
        assert seen == [call]
        call.add_done_callback(seen.append)
        assert seen == [call, call]

    def test_they_do_not_run_on_the_connections_thread(self) -> None:
        connection = FakeConnection(at_work=True)
        call = future(connection)
        seen: list[Any] = []
        call.add_done_callback(seen.append)
        call.deliver(False, packed(1), RECEIPT)
        assert seen == []
        connection.callbacks[0]()
        assert seen == [call]

    def test_for_one_the_io_thread_takes_over(self) -> None:
        call = future(connection := FakeConnection())
        assert connection.attended == 0
        call.add_done_callback(lambda _: None)
        assert connection.attended == 1
        call.deliver(False, packed(1), RECEIPT)
        call.add_done_callback(lambda _: None)
        assert connection.attended == 1

    def test_without_any_the_other_thread_is_left_alone(self) -> None:
        connection = FakeConnection(at_work=True)
        future(connection).deliver(False, packed(1), RECEIPT)
        assert connection.callbacks == []

    def test_one_that_cancels_again_in_its_callback(self) -> None:
        call = future(FakeConnection())
        seen: list[bool] = []
        call.add_done_callback(lambda each: seen.append(each.cancel()))
        assert call.cancel() is True
        assert seen == [True]


class TestDeliveredAgain:
    """What an interrupt cut short is done again after a reconnection."""

    def test_a_result_that_came_twice(self) -> None:
        call = future(FakeConnection())
        seen: list[Any] = []
        call.add_done_callback(seen.append)
        call.deliver(False, packed(1), RECEIPT)
        call.deliver(False, packed(2), RECEIPT)
        call.fail(WorkerLost("no"))
        assert (call.result(), seen) == (1, [call])

    def test_those_who_wait_are_woken_if_the_first_time_did_not_come_to_that(self) -> None:
        call = future(FakeConnection())
        ended: list[Any] = []
        thread = threading.Thread(target=lambda: ended.append(call.result(30)))
        thread.start()
        wait_until(lambda: call._ended is not None and call._ended._waiting, "it waits")
        call._sealed = packed("there")
        call._state = "FINISHED"  # so far it came, and then the interrupt
        call.deliver(False, packed("there"), RECEIPT, by_io=False)
        thread.join(30)
        assert ended == ["there"]

    def test_a_kernels_arrays_are_written_again(self) -> None:
        call = future(FakeConnection())
        written: list[Any] = []

        def finish(value: Any) -> Any:
            written.append(value)
            if len(written) == 1:
                raise KeyboardInterrupt
            return value

        call._finish = finish
        with pytest.raises(KeyboardInterrupt):
            call.deliver(False, packed(3), RECEIPT)
        assert not call.done()
        call.deliver(False, packed(3), RECEIPT)
        assert (call.result(), written) == (3, [3, 3])


class TestEntered:
    """Futures that others are entered at are ended by the connection's own thread, which is never interrupted."""

    def test_a_callback(self) -> None:
        call = future(FakeConnection())
        seen: list[Any] = []
        call.add_done_callback(seen.append)
        assert call.deliver(False, packed(1), RECEIPT, by_io=False) is False
        assert call.fail(WorkerLost("x"), RECEIPT, by_io=False) is False
        assert (call.done(), call.receipt, seen) == (False, None, [])
        assert call.deliver(False, packed(1), RECEIPT) is True
        assert (call.result(), seen) == (1, [call])

    def test_a_wait(self) -> None:
        call = future(FakeConnection())
        ended: list[Any] = []
        thread = threading.Thread(target=lambda: ended.append(concurrent.futures.wait([call], 30).done))
        thread.start()
        wait_until(lambda: call._waiters, "it waits")
        assert call.deliver(False, packed(1), RECEIPT, by_io=False) is False
        assert ended == []
        assert call.deliver(False, packed(1), RECEIPT) is True
        thread.join(30)
        assert ended == [{call}]

    def test_a_callback_is_called_once_however_often_it_is_told(self) -> None:
        call = future(connection := FakeConnection(at_work=True))
        seen: list[Any] = []
        call.add_done_callback(seen.append)
        call.add_done_callback(lambda _: 1 / 0)
        call.add_done_callback(seen.append)
        call.deliver(False, packed(1), RECEIPT)
        call.deliver(False, packed(1), RECEIPT)
        for callback in connection.callbacks:
            callback()
        assert (len(connection.callbacks), seen) == (2, [call, call])

    def test_others_than_the_io_thread_end_any_other_future_on_any_thread(self) -> None:
        call = future(FakeConnection())
        thread = threading.Thread(target=lambda: call.deliver(False, packed(1), RECEIPT, by_io=False))
        thread.start()
        thread.join(30)
        assert call.result(0) == 1


class TestLookedAt:
    """Somebody holds a lock for long: in a signal handler in the middle of `wait`, or because an interrupt left it behind."""

    def test_the_io_thread_does_not_wait_for_it(self) -> None:
        call = future(FakeConnection())
        seen: list[Any] = []
        call.add_done_callback(seen.append)
        with call._condition:
            told: list[Any] = []
            thread = threading.Thread(target=lambda: told.append(call.deliver(False, packed(1), RECEIPT)))
            thread.start()
            thread.join(30)
            assert (told, call.done(), seen) == ([True], False, [])
        assert call.result(30) == 1
        wait_until(lambda: seen == [call], "the callback")

    def test_a_caller_leaves_it_to_the_io_thread(self) -> None:
        call = future(FakeConnection())
        with call._condition:
            told: list[Any] = []
            thread = threading.Thread(target=lambda: told.append(call.deliver(False, packed(1), RECEIPT, by_io=False)))
            thread.start()
            thread.join(30)
        assert (told, call.done()) == ([False], False)

    def test_a_caller_that_holds_it_itself_leaves_it_to_the_io_thread(self) -> None:
        """In a signal handler in the middle of `wait`, which has seen that it is pending, and has not entered itself yet."""
        call = future(FakeConnection())
        with call._condition:
            assert call.deliver(False, packed(1), RECEIPT, by_io=False) is False
        assert not call.done()

    def test_an_as_completed_that_takes_what_has_ended(self) -> None:
        call = future(FakeConnection())
        completed = concurrent.futures.as_completed([call], 30)
        ended: list[Any] = []
        thread = threading.Thread(target=lambda: ended.append(next(completed)))
        thread.start()
        wait_until(lambda: call._waiters, "it waits")
        with call._waiters[0].lock:
            telling = threading.Thread(target=lambda: call.deliver(False, packed(1), RECEIPT))
            telling.start()
            telling.join(30)
            assert (telling.is_alive(), ended) == (False, [])
        thread.join(30)
        assert ended == [call]

    def test_a_lock_that_was_left_behind_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ending, "_LEFT_BEHIND_S", 0.01)
        call = future(FakeConnection())
        call._condition.acquire()
        thread = threading.Thread(target=lambda: call.deliver(False, packed(1), RECEIPT))
        thread.start()
        assert call.result(30) == 1
        thread.join(30)
        wait_until(lambda: call._condition.acquire(timeout=0.1), "a new condition")


class TestUnpacking:
    def test_an_interrupt_leaves_it_packed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call = future()
        call.deliver(False, packed([1]), RECEIPT)
        with monkeypatch.context() as patch:
            patch.setattr(futures, "unpack", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                call.result()
        assert call.result() == [1]

    def test_a_signal_handler_that_asks_in_the_middle_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call = future()
        call.deliver(False, packed([1]), RECEIPT)
        asked: list[Any] = []

        def unpack(buffers: Any) -> Any:
            if not asked:
                asked.append(None)
                asked.append(call.result())
            return serialize.unpack(buffers)

        monkeypatch.setattr(futures, "unpack", unpack)
        assert call.result() == [1]
        assert call.result() is asked[1]


class TestInAChild:
    def test_a_pending_one_has_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call = future(FakeConnection())
        call.add_done_callback(lambda _: pytest.fail("it is the parent's"))
        call._condition.acquire()
        monkeypatch.setattr("os.getpid", lambda: -1)
        call.disown()
        assert concurrent.futures.wait([call], 0).done == {call}
        with pytest.raises(DaemonLost, match="a future belongs to the process that made the call") as caught:
            call.result()
        assert caught.value.call_id == "c-1"
        assert call.cancel() is False

    def test_a_cancelled_one_stays_so(self) -> None:
        call = future(FakeConnection())
        call.cancel()
        call.disown()
        with pytest.raises(CallCancelled):
            call.result()


class TestWaiting:
    def test_who_asks_does_the_work_first_and_then_waits(self) -> None:
        call = future(connection := FakeConnection())
        with pytest.raises(TimeoutError):
            call.result(timeout=0)
        assert connection.asked == ["work for 0", "wait"]

    def test_what_has_ended_needs_nobody(self) -> None:
        call = future(connection := FakeConnection())
        call.deliver(False, packed(1), RECEIPT)
        assert (call.result(), connection.asked) == (1, [])

    def test_wait_and_as_completed_bring_the_io_thread(self) -> None:
        call = future(connection := FakeConnection())
        concurrent.futures.wait([call], timeout=0)
        assert connection.attended == 1


class TestAmongOthers:
    def test_wait_and_as_completed(self) -> None:
        calls = [future() for _ in range(3)]
        calls[1].deliver(False, packed("b"), RECEIPT)
        done, pending = concurrent.futures.wait(calls, timeout=0)
        assert (done, pending) == ({calls[1]}, {calls[0], calls[2]})
        calls[0].deliver(True, failure(ValueError()), RECEIPT)
        calls[2].cancel()
        assert set(concurrent.futures.as_completed(calls, timeout=5)) == set(calls)

    def test_a_waiting_thread_is_woken_by_a_cancellation(self) -> None:
        call = future()
        waiting, ended = threading.Event(), []

        def ask() -> None:
            waiting.set()
            ended.append(concurrent.futures.wait([call], timeout=30).done)

        thread = threading.Thread(target=ask)
        thread.start()
        assert waiting.wait(10)
        call.cancel()
        thread.join(10)
        assert ended == [{call}]

    def test_await(self) -> None:
        async def main() -> Any:
            call = future()
            asyncio.get_running_loop().call_soon(call.deliver, False, packed(5), RECEIPT)
            return await call

        assert asyncio.run(main()) == 5

    def test_await_raises_the_users_exception(self) -> None:
        async def main() -> Any:
            call = future()
            asyncio.get_running_loop().call_soon(call.deliver, True, failure(KeyError("k")), RECEIPT)
            return await call

        with pytest.raises(KeyError):
            asyncio.run(main())

    def test_await_of_a_stop_iteration_ends(self) -> None:
        """asyncio's futures refuse to hold one: in a coroutine it arrives as a RuntimeError, as a generator's does."""

        async def main() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            call = future()
            asyncio.get_running_loop().call_soon(call.deliver, True, failure(StopIteration(1)), RECEIPT)
            return await asyncio.wait_for(call, 2)

        with pytest.raises(RuntimeError):
            asyncio.run(main())

    def test_a_cancelled_task_cancels_the_call(self) -> None:
        call = future(connection := FakeConnection())

        async def main() -> None:
            async def waits() -> Any:
                return await call

            task = asyncio.create_task(waits())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert call.cancelled()
        assert connection.cancelled == [1]
