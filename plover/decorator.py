"""`gpu_function`: a function, or a kernel, that runs on a GPU worker when it is called.

Guarantees: decorating does nothing else: no I/O, no connection, no import of CuPy or Numba, no global state. Options never
take the function's own keywords away. Inside a worker every form of call runs the plain function, here and now.

Assumes: a `plover.session` to send calls with; it is imported at the first call.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

from plover import context, kernels
from plover.options import Options, parse_options
from plover.remote import Packed, Remote, TakesCalls
from plover.tracebacks import leave_out_ours
from plover.wire.messages import CallOptions

if TYPE_CHECKING:
    from plover.client.futures import Future

__all__ = ["GpuFunction", "GpuKernel", "gpu_function"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


class GpuFunction(Remote, Generic[P, R]):
    """A function that runs on a GPU worker.

    Call it as the function itself: it is sent away, runs, and its result or exception comes back. CuPy's and Numba's
    device arrays in the result arrive as NumPy arrays.

    Example:
        >>> @gpu_function
        ... def double(x):
        ...     import cupy as cp
        ...     return cp.asarray(x) * 2
        >>> double.local.__name__
        'double'
    """

    def __init__(self, function: Callable[P, R], options: CallOptions, packed: Packed | None = None) -> None:
        super().__init__(function, options, packed)
        functools.update_wrapper(self, function)

    def by_value(self) -> tuple[Any, ...]:
        return GpuFunction, (self._target, self._options)

    def _origin(self) -> Any:
        return self._target.__func__ if isinstance(self._target, types.MethodType) else self._target

    def _by_name(self, home: GpuFunction[..., Any]) -> tuple[Any, ...]:
        if isinstance(self._target, types.MethodType):
            return _bound, (self._target.__self__, self._target.__name__, self._options)
        return home._like, (self._options,)

    def _like(self, options: CallOptions) -> GpuFunction[P, R]:
        return GpuFunction(self._target, options, self._packed)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> GpuFunction[P, R]: ...
    @overload
    def __get__(
        self: GpuFunction[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> GpuFunction[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return GpuFunction(types.MethodType(self._target, instance), self._options)

    def __getitem__(self, launch: kernels.Launch) -> GpuKernel:
        """A function has no launch configuration. This is for pyright, to which what `cuda.jit` returns is a function.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{self._name()} is a function, and is called: only kernels, as numba.cuda.jit makes them, are launched with […]"
        )

    @property
    def __defaults__(self) -> Any:
        """A plain function has these. Numba asks for them first where its decorator stands above this one.

        Raises:
            AttributeError: always, so that `inspect` and others see that there are none.
        """
        raise AttributeError(
            f"{self._name()} is a gpu_function, which Numba cannot compile: decorators apply from the bottom up, so write "
            "@gpu_function above Numba's (@cuda.jit), not below it"
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function on a worker and wait; Ctrl-C cancels it.

        Raises:
            BaseException: what the function raised, with the remote frames in its traceback.
            NotSerializable: the function, or an argument, cannot travel.
            WorkerLost, CallTimeout, NoCapacity, DaemonLost …: see `plover.errors`.
        """
        if context.in_worker():
            return self._target(*args, **kwargs)  # type: ignore[no-any-return]
        future = None
        try:
            future = self._begin(args, kwargs, waits=True)
            return future.result()  # type: ignore[no-any-return]
        except BaseException as error:
            _leave(error, future)
            raise

    @property
    def local(self) -> Callable[P, R]:
        """The plain function, which runs in this process."""
        return self._target

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Begin a call and return its future. Arguments are taken as they are now: they may change afterwards."""
        if context.in_worker():
            return _done(self._target, args, kwargs)
        try:
            return self._begin(args, kwargs)
        except BaseException as error:
            leave_out_ours(error)
            raise

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a call and wait for it without blocking the event loop; cancelling the task cancels the call."""
        if context.in_worker():
            return self._target(*args, **kwargs)  # type: ignore[no-any-return]
        future = None
        try:
            future = self._begin(args, kwargs)
            return await future  # type: ignore[no-any-return]
        except BaseException as error:
            leave_out_ours(error, (future,) if future is not None else ())
            raise

    def map(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        in_flight: int | None = None,
        progress: bool = False,
        **not_built: Any,
    ) -> Iterator[R]:
        """A call for each item, as the built-in `map`; the results as an iterator.

        Args:
            iterables: one a positional argument; the shortest decides.
            timeout: seconds that each item's run may take.
            ordered: in the order of the items; else as they end.
            return_exceptions: give exceptions back in their item's place instead of raising the first; also where an item
                cannot be sent.
            in_flight: how many calls may be unfinished or unread at a time; 64 unless told.
            progress: draw a progress bar of the results that were read (needs tqdm).
        """
        from plover.client.mapping import expected, map_calls

        one = self._each(timeout, not_built)
        return map_calls(
            one.submit,
            zip(*iterables, strict=False),
            ordered=ordered,
            return_exceptions=return_exceptions,
            in_flight=in_flight,
            name=self._name(),
            total=expected(iterables),
            progress=progress,
        )

    def starmap(
        self,
        items: Iterable[Sequence[Any]],
        *,
        timeout: float | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        in_flight: int | None = None,
        progress: bool = False,
        **not_built: Any,
    ) -> Iterator[R]:
        """`map` over items that hold all positional arguments of a call each."""
        from plover.client.mapping import expected, map_calls

        one = self._each(timeout, not_built)
        return map_calls(
            one.submit,
            (tuple(item) for item in items),
            ordered=ordered,
            return_exceptions=return_exceptions,
            in_flight=in_flight,
            name=self._name(),
            total=expected((items,)),
            progress=progress,
        )

    def _each(self, timeout: float | None, changes: dict[str, Any]) -> GpuFunction[P, R]:
        """The function as the calls of a map make it."""
        if timeout is not None:
            changes = {**changes, "timeout": timeout}
        return self._like(parse_options(self._options, changes)) if changes else self

    def options(self, **changes: Unpack[Options]) -> GpuFunction[P, R]:
        """A copy with other options; see `plover.options.Options` for what there is.

        Raises:
            TypeError: there is no such option, or it is not built yet.
        """
        return self._like(parse_options(self._options, changes))


class GpuKernel(Remote):
    """A Numba or CuPy kernel that is launched on a GPU worker, with its own launch syntax.

    NumPy arguments are copied to the device and back in place before the launch returns, or before its future is done;
    those wrapped in ``cuda.In`` are not copied back.

    Example:
        ``add[blocks, threads](x, y, out)`` for a Numba kernel, ``stencil((blocks,), (threads,), (x, out))`` for CuPy's.
    """

    def __init__(
        self,
        kernel: Any,
        options: CallOptions,
        launch: tuple[Any, ...] | None = None,
        packed: Packed | None = None,
    ) -> None:
        kind = kernels.kind_of(kernel)
        if kind is None:
            raise TypeError(f"{kernel!r} is neither a Numba-CUDA nor a CuPy kernel")
        super().__init__(kernels.KernelLaunch(kernel, kind), options, packed)
        self._kernel = kernel
        self._kind = kind
        self._launch = launch
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            if getattr(kernel, name, None) is not None:
                setattr(self, name, getattr(kernel, name))

    def _looks(self) -> tuple[Any, ...]:
        python = kernels.python_function(self._kernel) if self._kind == "numba" else None
        return "gpu_function kernel", self._name(), python, self._options, self._launch

    def by_value(self) -> tuple[Any, ...]:
        return GpuKernel, (self._kernel, self._options, self._launch)

    def _origin(self) -> Any:
        return self._kernel

    def _by_name(self, home: GpuKernel) -> tuple[Any, ...]:
        return home._like, (self._options, self._launch)

    def _like(self, options: CallOptions, launch: tuple[Any, ...] | None) -> GpuKernel:
        return GpuKernel(self._kernel, options, launch, self._packed)

    def _name(self) -> str:
        return str(self._target.__name__)

    def __getitem__(self, launch: kernels.Launch) -> GpuKernel:
        """Numba's launch configuration: ``kernel[blocks, threads]``, and then stream (0 only) and shared memory bytes."""
        if self._kind != "numba":
            raise TypeError(
                f"{self._name()} is a CuPy kernel: launch it as kernel((blocks,), (threads,), (arguments…))"
            )
        given: tuple[Any, ...] = launch if isinstance(launch, tuple) else (launch,)
        if len(given) not in (2, 3, 4):
            raise ValueError("must specify at least the griddim and blockdim")
        if len(given) > 2 and given[2] not in (0, None):
            raise ValueError(f"a stream of this process means nothing on the worker: leave it out ({self._name()})")
        return self._like(self._options, given)

    @property
    def local(self) -> Any:
        """The kernel itself, which is launched in this process."""
        return self._kernel if self._launch is None else self._kernel[self._launch]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Launch the kernel and wait until its arrays are back in place."""
        if context.in_worker():
            return self.local(*args, **kwargs)
        future = None
        try:
            future = self._begin(args, kwargs, waits=True)
            return future.result()
        except BaseException as error:
            _leave(error, future)
            raise

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Launch the kernel; its arrays are back in place when the future is done."""
        if context.in_worker():
            return _done(self.local, args, kwargs)
        try:
            return self._begin(args, kwargs)
        except BaseException as error:
            leave_out_ours(error)
            raise

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        """Launch the kernel and wait without blocking the event loop."""
        if context.in_worker():
            return self.local(*args, **kwargs)
        future = None
        try:
            future = self._begin(args, kwargs)
            return await future
        except BaseException as error:
            leave_out_ours(error, (future,) if future is not None else ())
            raise

    def options(self, **changes: Unpack[Options]) -> GpuKernel:
        """A copy with other options, as for functions."""
        return self._like(parse_options(self._options, changes), self._launch)

    def _begin(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, waits: bool = False, session: TakesCalls | None = None
    ) -> Future[Any]:
        if self._kind == "numba":
            if self._launch is None:
                raise ValueError(
                    f"{self._name()} is a kernel: say how to launch it, {self._name()}[blocks, threads](…)"
                )
            marked = kernels.mark_arguments(args)
            sent, arrays = (self._launch, marked, kwargs), marked
        else:
            sent, arrays = ((), args, kwargs), tuple(kernels.array_arguments(args, kwargs))
        finish = functools.partial(kernels.back_in_place, arrays)
        return self._send(sent, {}, waits=waits, session=session, finish=finish)


def _bound(instance: Any, name: str, options: CallOptions) -> GpuFunction[..., Any]:
    """A bound method, found as pickle finds any, with options that may be others."""
    return GpuFunction(getattr(instance, name)._target, options)


def _done(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
    """Inside a worker: the call made inline, as a future that is done."""
    from plover.client.futures import Future

    future: Future[Any] = Future("inline")
    try:
        future.set_result(function(*args, **kwargs))
    except Exception as error:
        future.set_exception(error)
    return future


def _leave(error: BaseException, future: Future[Any] | None) -> None:
    """An error leaves a call that its caller waits for; if the wait was interrupted, the call is not wanted any more."""
    if future is not None and not future.done():
        future.cancel()
    leave_out_ours(error, (future,) if future is not None else ())


class _Decorator(Protocol):
    """What `gpu_function(…options…)` returns: it keeps the signature of what it is applied to."""

    @overload
    def __call__(self, target: kernels.Launchable, /) -> GpuKernel: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> GpuFunction[P, R]: ...


@overload
def gpu_function(target: kernels.Launchable, /) -> GpuKernel: ...
@overload
def gpu_function(target: Callable[P, R], /) -> GpuFunction[P, R]: ...
@overload
def gpu_function(**options: Unpack[Options]) -> _Decorator: ...
def gpu_function(target: Any = None, /, **options: Any) -> Any:
    """Make a function, or a Numba or CuPy kernel, run on a GPU worker when it is called.

    Args:
        target: the function or kernel; without it a decorator with these options is returned.
        **options: see `plover.options.Options`: gpu, require_gpu, timeout, queue_timeout, retries, priority …

    Returns:
        `GpuFunction`, or `GpuKernel` for a kernel.

    Raises:
        TypeError: `target` cannot be called, or an option does not exist.

    Example:
        >>> @gpu_function(timeout=30, retries=2)
        ... def total(x):
        ...     import cupy as cp
        ...     return cp.asarray(x).sum()
    """
    parsed = parse_options(CallOptions(), options)
    if target is None:
        return lambda function: _decorate(function, parsed)
    return _decorate(target, parsed)


def _decorate(target: Any, options: CallOptions) -> GpuFunction[..., Any] | GpuKernel:
    if isinstance(target, GpuFunction | GpuKernel):
        raise TypeError(f"{target!r} is a gpu_function already; for other options use .options(…)")
    if kernels.kind_of(target) is not None:
        return GpuKernel(target, options)
    if isinstance(target, type) or not callable(target):
        raise TypeError(f"gpu_function takes a function or a kernel, not {target!r}")
    if inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target):
        raise TypeError(f"{target!r} is async: make it a plain function, and await f.aio(…) or f.submit(…)")
    if inspect.isgeneratorfunction(target):
        raise TypeError(f"{target!r} is a generator function: streaming its items is not built yet; return a list")
    return GpuFunction(target, options)
