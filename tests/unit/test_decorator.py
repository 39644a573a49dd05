"""`gpu_function` without any daemon: what decorating does, and what each form of call asks of the session."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import math
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plover import context, gpu_function, kernels, serialize
from plover.client.futures import Future
from plover.decorator import GpuFunction, GpuKernel
from plover.remote import CallRequest
from plover.wire.messages import CallOptions, Receipt
from tests.support.preconditions import needs_module

cuda = needs_module("numba.cuda")
cupy = needs_module("cupy")


class FakeSession:
    """Runs what it is sent at once, in this process, from the packed function and its packed arguments."""

    def __init__(self, answer: Callable[[Any, Any, Any], Any] | None = None) -> None:
        self.sent: list[tuple[Any, Any, Any, CallOptions, bool]] = []
        self._answer = answer

    def send(self, request: CallRequest, /) -> Future:
        payload, args, kwargs = request.payload, request.args, request.kwargs
        self.sent.append((payload, args, kwargs, request.options, request.waits))
        future = Future(f"c-{len(self.sent)}")
        future._finish = request.finish
        if self._answer is not None:
            value = self._answer(payload, args, kwargs)
        else:
            value = serialize.unpack(payload.buffers)(*args, **kwargs)
        future.deliver(False, [bytes(each) for each in serialize.pack(value)], Receipt())
        return future


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    fake = FakeSession()
    monkeypatch.setattr("plover.session.current", lambda: fake)
    return fake


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is a worker, and no session can be had."""

    def poisoned() -> None:
        raise AssertionError("a worker sends nothing")

    monkeypatch.setattr(context, "_in_worker", True)
    monkeypatch.setattr("plover.session.current", poisoned)


@gpu_function
def add(a: int, b: int = 0, **more: Any) -> Any:
    """Adds."""
    return (a + b, more) if more else a + b


def double(x: int) -> int:
    return 2 * x


class TestDecorating:
    def test_importing_the_package_loads_nothing_heavy(self) -> None:
        script = (
            "import sys, plover\n"
            "@plover.gpu_function(gpu='H100', retries=2)\n"
            "def f(x): return x\n"
            "heavy = {'cupy', 'numba', 'numba_cuda', 'docker', 'zmq', 'pynvml', 'psutil', 'asyncio', 'plover.daemon'}\n"
            "print(sorted(heavy & set(sys.modules)))\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "[]"

    def test_the_function_keeps_its_name_and_its_text(self) -> None:
        assert (add.__name__, add.__doc__, add.__module__) == ("add", "Adds.", __name__)
        assert repr(add) == "<gpu_function add(a, b=0, **more)>"
        assert add.local(1, 2) == 3
        assert add.local is add.__wrapped__

    def test_with_options_and_without(self) -> None:
        assert isinstance(gpu_function(double), GpuFunction)
        made = gpu_function(timeout=5, retries=2)(double)
        assert made._options == CallOptions(timeout_s=5.0, retries=2)

    def test_unknown_options_are_refused_where_they_are_written(self) -> None:
        with pytest.raises(TypeError, match="there is no option 'tiemout'"):
            gpu_function(tiemout=5)
        with pytest.raises(TypeError, match="'batch' is not built yet"):
            gpu_function(batch=8)

    def test_twice_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"is a gpu_function already; for other options use \.options"):
            gpu_function(add)

    @pytest.mark.parametrize("target", [5, "name", int, np.zeros(1)])
    def test_what_cannot_be_called_is_refused(self, target: Any) -> None:
        with pytest.raises(TypeError, match="gpu_function takes a function or a kernel, not "):
            gpu_function(target)

    def test_numbas_decorator_above_it_is_told_the_order(self) -> None:
        with pytest.raises(AttributeError, match=r"^add is a gpu_function, which .* write @gpu_function above Numba's"):
            cuda.jit(add)

    def test_whoever_looks_at_it_finds_a_signature_and_no_defaults(self) -> None:
        assert str(inspect.signature(add)) == str(inspect.signature(add.local))
        assert not hasattr(add, "__defaults__")
        assert not inspect.isfunction(add)
        assert functools.update_wrapper(lambda: None, add).__name__ == "add"
        assert copy.copy(add).local is add.local

    def test_options_make_a_copy(self) -> None:
        other = add.options(priority=3)
        assert other is not add
        assert (other._options.priority, add._options.priority) == (3, 0)
        assert other.options(retries=1)._options == CallOptions(priority=3, retries=1)
        assert other.local is add.local

    def test_it_can_be_pickled_with_its_options(self) -> None:
        found = pickle.loads(pickle.dumps(gpu_function(timeout=3)(double)))
        assert isinstance(found, GpuFunction)
        assert (found.local, found._options.timeout_s) == (double, 3.0)


class TestCalls:
    def test_a_call_waits_and_returns_the_value(self, session: FakeSession) -> None:
        assert add(1, b=2) == 3
        payload, args, kwargs, options, waits = session.sent[0]
        assert (args, kwargs, options, waits) == ((1,), {"b": 2}, CallOptions(), True)
        assert (payload.name, len(payload.digest)) == ("add", 32)

    def test_options_never_take_the_functions_keywords(self, session: FakeSession) -> None:
        assert add(1, timeout=5, retries=2) == (1, {"timeout": 5, "retries": 2})
        assert add.submit(1, priority=1).result() == (1, {"priority": 1})
        assert all(sent[3] == CallOptions() for sent in session.sent)

    def test_submit_does_not_wait(self, session: FakeSession) -> None:
        assert add.submit(1, 2).result() == 3
        assert session.sent[0][4] is False

    def test_aio(self, session: FakeSession) -> None:
        assert asyncio.run(add.aio(1, 2)) == 3
        assert session.sent[0][4] is False

    def test_the_options_go_with_each_call(self, session: FakeSession) -> None:
        add.options(queue_timeout=9)(1)
        assert session.sent[0][3] == CallOptions(queue_timeout_s=9.0)

    def test_a_payload_is_made_once_while_nothing_changes(self, session: FakeSession) -> None:
        add(1)
        add(2)
        assert session.sent[0][0] is session.sent[1][0]

    def test_a_plain_function_is_not_even_pickled_again(
        self, session: FakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = gpu_function(double)
        assert plain(1) == 2
        monkeypatch.setattr(serialize, "pack_function", lambda function: pytest.fail("pickled again"))
        assert plain(2) == 4
        assert session.sent[0][0] is session.sent[1][0]

    def test_a_function_whose_code_was_changed_makes_another_payload(self, session: FakeSession) -> None:
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec("def f(): return 1\ndef g(): return 2\n", scope)
        remote = gpu_function(scope["f"])
        assert remote() == 1
        scope["f"].__code__ = scope["g"].__code__
        assert remote() == 2

    @pytest.mark.parametrize(("first", "second"), [(1, 2), (1, 1.0), (True, 1), (math, "text"), ([1], [2])])
    def test_a_global_of_a_script_is_read_at_each_call(self, session: FakeSession, first: Any, second: Any) -> None:
        scope: dict[str, Any] = {"__name__": "__main__", "value": first}
        exec("def f(): return str(value)\n", scope)
        remote = gpu_function(scope["f"])
        assert remote() == str(first)
        scope["value"] = second
        assert remote() == str(second)
        scope["value"] = first
        assert remote() == str(first)

    def test_a_captured_value_is_read_at_each_call(self, session: FakeSession) -> None:
        factor = 2

        @gpu_function
        def scale(x: int) -> int:
            return factor * x

        assert scale(5) == 10
        factor = 3
        assert scale(5) == 15
        assert session.sent[0][0].digest != session.sent[1][0].digest

    def test_a_method_brings_its_instance(self, session: FakeSession) -> None:
        class Model:
            def __init__(self, weight: int) -> None:
                self.weight = weight

            @gpu_function(retries=1)
            def predict(self, x: int) -> int:
                return self.weight * x

        assert Model(3).predict(5) == 15
        assert session.sent[0][3].retries == 1
        assert isinstance(Model.predict, GpuFunction)
        assert Model.predict(Model(2), 5) == 10

    def test_an_interrupted_wait_cancels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Interrupted(Future):
            def result(self, timeout: float | None = None) -> Any:
                raise KeyboardInterrupt

        future = Interrupted("c-1")
        monkeypatch.setattr(add, "_begin", lambda *args, **kwargs: future)
        with pytest.raises(KeyboardInterrupt):
            add()
        assert future.cancelled()

    def test_a_call_that_failed_is_not_cancelled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        future = Future("c-1")
        future.fail(ValueError("x"))
        monkeypatch.setattr(add, "_begin", lambda *args, **kwargs: future)
        with pytest.raises(ValueError, match="x"):
            add()
        assert not future.cancelled()


class TestMaps:
    def test_map_takes_one_iterable_for_each_argument(self, session: FakeSession) -> None:
        assert list(add.map([1, 2, 3], [10, 20])) == [11, 22]

    def test_starmap_takes_whole_argument_lists(self, session: FakeSession) -> None:
        assert list(add.starmap([(1, 2), [3, 4]])) == [3, 7]

    def test_the_timeout_is_each_items(self, session: FakeSession) -> None:
        list(add.options(retries=1).map([1], timeout=4))
        assert session.sent[0][3] == CallOptions(timeout_s=4.0, retries=1)

    def test_the_first_calls_are_sent_at_once(self, session: FakeSession) -> None:
        results = add.map(range(10), in_flight=3)
        assert len(session.sent) == 3
        assert list(results) == list(range(10))

    def test_what_is_not_built_is_refused(self, session: FakeSession) -> None:
        with pytest.raises(TypeError, match="'chunksize' is not built yet"):
            add.map([1], chunksize=2)
        with pytest.raises(TypeError, match="there is no option 'colour'"):
            add.starmap([(1,)], colour=2)
        assert session.sent == []


@pytest.mark.usefixtures("inside")
class TestInsideAWorker:
    def test_every_form_of_call_runs_here(self) -> None:
        assert add(1, 2) == 3
        assert add.submit(1, 2).result() == 3
        assert asyncio.run(add.aio(1, 2)) == 3
        assert list(add.map([1, 2], [3, 4])) == [4, 6]
        assert list(add.starmap([(1, 2)])) == [3]
        assert add.options(gpu="H100")(1, 2) == 3

    def test_submit_holds_the_exception_with_its_frames(self) -> None:
        @gpu_function
        def fail() -> None:
            raise ValueError("inline")

        future = fail.submit()
        assert isinstance(future.exception(), ValueError)
        with pytest.raises(ValueError, match="inline") as caught:
            future.result()
        assert "fail" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    def test_what_is_no_exception_of_the_function_goes_through(self) -> None:
        @gpu_function
        def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            leave.submit()

    def test_a_kernel_is_launched_here(self) -> None:
        launched: list[Any] = []
        kernel = GpuKernel(NumbaKernel(launched), CallOptions())[2, 3]
        kernel(1)
        kernel.submit(2).result()
        asyncio.run(kernel.aio(3))
        assert launched == [((2, 3), (1,)), ((2, 3), (2,)), ((2, 3), (3,))]


class NumbaKernel:
    """What looks like a dispatcher, and notes its launches."""

    def __init__(self, launched: list[Any]) -> None:
        self._launched = launched
        self.__name__ = "noting"

    def __getitem__(self, launch: Any) -> Callable[..., None]:
        return lambda *args: self._launched.append((launch, args))


NumbaKernel.__module__, NumbaKernel.__qualname__ = "numba.cuda.dispatcher", "CUDADispatcher"


@gpu_function
@cuda.jit
def numba_kernel(x: Any, y: Any, out: Any) -> None:
    """Adds on a GPU."""
    i = cuda.grid(1)
    out[i] = x[i] + y[i]


raw_kernel = gpu_function(cupy.RawKernel('extern "C" __global__ void stencil(float* x) {}', "stencil"))


class TestKernels:
    def test_each_is_recognized(self) -> None:
        assert isinstance(numba_kernel, GpuKernel)
        assert isinstance(raw_kernel, GpuKernel)
        assert repr(numba_kernel) == "<gpu_function kernel numba_kernel(x, y, out)>"
        assert repr(raw_kernel) == "<gpu_function kernel stencil>"
        assert numba_kernel.__doc__ == "Adds on a GPU."

    def test_a_function_is_not_launched(self) -> None:
        with pytest.raises(
            TypeError, match=r"^add is a function, and is called: only kernels, .* are launched with \[…\]$"
        ):
            add[4, 256]

    def test_what_is_no_kernel_is_refused(self) -> None:
        with pytest.raises(TypeError, match="is neither a Numba-CUDA nor a CuPy kernel"):
            GpuKernel(double, CallOptions())

    def test_a_numba_kernel_without_a_launch_says_how(self, session: FakeSession) -> None:
        with pytest.raises(ValueError, match=r"say how to launch it, numba_kernel\[blocks, threads\]"):
            numba_kernel(1, 2, 3)

    @pytest.mark.parametrize("launch", [1, (1,), (1, 2, 0, 4, 5)])
    def test_a_launch_has_blocks_and_threads(self, launch: Any) -> None:
        with pytest.raises(ValueError, match="must specify at least the griddim and blockdim"):
            numba_kernel[launch]

    def test_a_stream_of_this_process_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a stream of this process means nothing on the worker"):
            numba_kernel[1, 2, 3]
        assert numba_kernel[1, 2, 0, 64]._launch == (1, 2, 0, 64)
        assert numba_kernel[1, 2, None]._launch == (1, 2, None)

    def test_a_cupy_kernel_has_its_own_syntax(self) -> None:
        with pytest.raises(TypeError, match=r"stencil is a CuPy kernel: launch it as kernel\(\(blocks,\)"):
            raw_kernel[1, 2]

    def test_options_and_launch_do_not_lose_each_other(self) -> None:
        one = numba_kernel[1, 2].options(timeout=3)
        two = numba_kernel.options(timeout=3)[1, 2]
        for made in (one, two):
            assert (made._launch, made._options.timeout_s) == ((1, 2), 3.0)
        assert numba_kernel._launch is None

    def test_it_can_be_pickled(self) -> None:
        found = serialize.unpack(serialize.pack(numba_kernel[1, 2], (kernels.reduce,)))
        assert isinstance(found, GpuKernel)
        assert found._launch == (1, 2)

    def test_local_is_the_kernel_itself(self) -> None:
        launched: list[Any] = []
        plain = NumbaKernel(launched)
        kernel = GpuKernel(plain, CallOptions())
        assert kernel.local is plain
        kernel[4, 5].local("x")
        assert launched == [((4, 5), ("x",))]

    def test_numba_arrays_come_back_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, out = np.ones(3), np.zeros(3)
        frozen = np.zeros(3)
        frozen.flags.writeable = False
        fake = FakeSession(lambda payload, args, kwargs: (None, {1: np.full(3, 7.0), 2: np.ones(3), 3: np.zeros(3)}))
        monkeypatch.setattr("plover.session.current", lambda: fake)
        wrapped = np.zeros(3)
        assert numba_kernel[1, 3](cuda.In(x), out, cuda.Out(wrapped), frozen) is None
        assert (out.tolist(), wrapped.tolist(), frozen.tolist()) == ([7.0] * 3, [1.0] * 3, [0.0] * 3)
        launch, marked, kwargs = fake.sent[0][1]
        assert (launch, kwargs) == ((1, 3), {})
        assert (marked[0].direction, marked[2].direction) == ("in", "out")

    def test_cupy_arrays_come_back_in_place_before_the_future_is_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = np.zeros(2, "f4")
        fake = FakeSession(lambda payload, args, kwargs: ("value", {0: np.full(2, 4, "f4")}))
        monkeypatch.setattr("plover.session.current", lambda: fake)
        future = raw_kernel.submit((1,), (2,), (x, 5))
        assert x.tolist() == [4, 4]
        assert future.result() == "value"
        assert fake.sent[0][1] == ((), ((1,), (2,), (x, 5)), {})
        assert asyncio.run(raw_kernel.aio((1,), (2,), (x, 5))) == "value"


def test_async_and_generator_functions_are_refused_where_they_are_decorated() -> None:
    async def one() -> None: ...

    async def several() -> Any:
        yield 1

    def items() -> Any:
        yield 1

    for function in (one, several):
        with pytest.raises(TypeError, match="is async: make it a plain function, and await f.aio"):
            gpu_function(function)
    with pytest.raises(TypeError, match="is a generator function: streaming its items is not built yet"):
        gpu_function(items)
