"""Kernels as values: how Numba dispatchers and CuPy kernel objects travel, and how they are launched on arrival.

A client may have the real Numba or its simulator, and so may a worker, in any combination: a dispatcher is reduced to
its Python function and its options, and made anew by whichever Numba the worker has. CuPy kernels are reduced to the
arguments of their public constructors.

Guarantees: recognizing a kernel imports neither Numba nor CuPy. What a kernel was made with travels or is refused by
name, and is never dropped; but for two things that mean nothing elsewhere: Numba's ``cache=``, which is about this machine's
disk, and signatures, as whatever was compiled for them is compiled anew at its first launch. A launch copies NumPy
arguments to the device and, unless they are wrapped in ``cuda.In``, back afterwards, which is what Numba itself does.

Assumes: attribute names of numba-cuda 0.2x-0.30 and CuPy 13-14, each read in one place here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NoReturn, Protocol, SupportsIndex

import msgspec
import numpy as np

from plover.errors import NotSerializable

__all__ = [
    "KernelArgument",
    "KernelLaunch",
    "Launch",
    "Launchable",
    "array_arguments",
    "back_in_place",
    "kind_of",
    "mark_arguments",
    "python_function",
    "reduce",
]

Kind = Literal["numba", "cupy"]
#: The size of a grid or of a block, and what stands in ``kernel[blocks, threads, stream, shared memory bytes]``.
Size = SupportsIndex | Sequence[SupportsIndex]
Launch = tuple[Size, Size] | tuple[Size, Size, Literal[0] | None] | tuple[Size, Size, Literal[0] | None, int]
Direction = Literal["in", "out", "inout"]

_DISPATCHERS = {
    ("numba.cuda.dispatcher", "CUDADispatcher"),
    ("numba.cuda.simulator.kernel", "FakeCUDAKernel"),
    ("plover_runtime.simulator.kernels.launch", "Kernel"),  # what a simulated worker has in its place
}
_CUPY_KERNELS = {
    ("cupy._core.raw", "RawKernel"),
    ("cupy._core._kernel", "ElementwiseKernel"),
    ("cupy._core._reduction", "ReductionKernel"),
}
_CUPY_MODULE = ("cupy._core.raw", "RawModule")
_DIRECTIONS: tuple[tuple[str, Direction], ...] = (("In", "in"), ("Out", "out"), ("InOut", "inout"))
_WRAPPERS: dict[tuple[str, str], Direction] = {
    (module, name): direction
    for module in ("numba.cuda.args", "numba.cuda.simulator.args")
    for name, direction in _DIRECTIONS
}

#: What a RawModule's own pickle holds, in its order. CuPy shows all but three of these as attributes, too.
_MODULE_STATE = (
    "backend",
    "code",
    "enable_cooperative_groups",
    "file_path",
    "jitify",
    "module",
    "name_expressions",
    "options",
    "translate_cucomplex",
)
#: The arguments of RawKernel and RawModule that both have.
_RAW_OPTIONS = ("code", "options", "backend", "translate_cucomplex", "enable_cooperative_groups", "jitify")


class Launchable(Protocol):
    """A kernel as a type checker sees it, if it sees one: ``kernel[blocks, threads](…)``."""

    def __getitem__(self, launch: Any, /) -> Callable[..., Any]: ...


def _class_name(obj: Any) -> tuple[str, str]:
    cls = type(obj)
    return getattr(cls, "__module__", ""), cls.__qualname__


def kind_of(obj: Any) -> Kind | None:
    """Whether `obj` is a kernel, and whose."""
    name = _class_name(obj)
    if name in _DISPATCHERS:
        return "numba"
    return "cupy" if name in _CUPY_KERNELS else None


# -- reducing ----------------------------------------------------------------------------------------------------------


def reduce(obj: Any) -> Any:
    """A reducer for `serialize.Packer`: kernels as what they are made from."""
    name = _class_name(obj)
    if name in _DISPATCHERS:
        return _make_dispatcher, (python_function(obj), _dispatcher_options(obj))
    if name in _CUPY_KERNELS or name == _CUPY_MODULE:
        return _make_cupy, (name[1], _cupy_arguments(obj, name[1]))
    return NotImplemented


def python_function(dispatcher: Any) -> Any:
    """What a Numba kernel was made from."""
    return dispatcher.py_func if hasattr(dispatcher, "py_func") else dispatcher.fn


def _dispatcher_options(dispatcher: Any) -> dict[str, Any]:
    """The options of `cuda.jit` that are not its defaults, on whatever machine it is called again."""
    options = getattr(dispatcher, "targetoptions", None)
    if options is None:
        return _simulated_options(dispatcher)
    kept = {name: value for name, value in options.items() if value or name == "opt"}
    kept.pop("lto", None)
    if "lto" in options and bool(options["lto"]) != _default_lto(options):
        kept["lto"] = bool(options["lto"])
    for linked in kept.get("link", ()):
        if isinstance(linked, (str, os.PathLike)):
            _refuse(
                f"kernel {dispatcher.__name__!r} → link → {os.fspath(linked)!r}",
                "it is a file on this machine; link its content instead: cuda.CUSource(…) or cuda.PTXSource(…)",
            )
    return kept


def _default_lto(options: dict[str, Any]) -> bool:
    """What `cuda.jit` sets where nobody says: it depends on a library, which the worker may have and the client not."""
    try:
        from numba.cuda.cudadrv.driver import _have_nvjitlink
    except ImportError:  # an older one, without LTO
        return False
    return bool(_have_nvjitlink()) and not options.get("debug")


def _simulated_options(kernel: Any) -> dict[str, Any]:
    """Of what a simulator's kernel was made with, it keeps but this."""
    options: dict[str, Any] = {"device": bool(kernel._device), "fastmath": bool(kernel._fastmath)}
    if getattr(kernel, "_debug", False):
        options |= {"debug": True, "opt": False}  # the real one warns of `debug` with `opt`, which is its default
    if getattr(kernel, "extensions", None):
        options["extensions"] = list(kernel.extensions)
    return options


def _make_dispatcher(function: Any, options: dict[str, Any]) -> Any:
    from numba import cuda

    return cuda.jit(function, **options)  # in one step: ``cuda.jit(**options)(function)`` loses `lto`


def _refuse(path: str, why: str) -> NoReturn:
    raise NotSerializable(f"{path} cannot be sent: {why}", path=path)


def _cupy_arguments(kernel: Any, name: str) -> dict[str, Any]:
    if name in ("RawKernel", "RawModule"):
        return _raw_arguments(kernel, name)
    made = {
        "in_params": _parameters(kernel.in_params, "_non_const "),
        "out_params": _parameters(kernel.out_params),
        "name": kernel.name,
        "preamble": kernel.preamble,
        "reduce_dims": kernel.reduce_dims,
    }
    if name == "ElementwiseKernel":
        return {
            **made,
            "operation": kernel.operation,
            "no_return": kernel.no_return,
            "return_tuple": kernel.return_tuple,
            **kernel.kwargs,
        }
    return {
        **made,
        "map_expr": kernel.map_expr,
        "reduce_expr": kernel.reduce_expr,
        "post_map_expr": kernel.post_map_expr,
        "identity": kernel.identity,
        "reduce_type": kernel.reduce_type,
        "options": kernel.options,
    }


def _raw_arguments(kernel: Any, name: str) -> dict[str, Any]:
    state = kernel.__reduce_ex__(2)[2] if name == "RawKernel" else _module_state(kernel)
    if state["file_path"]:
        _refuse(
            f"{name} → path → {state['file_path']!r}",
            "it is a file on this machine. Pass the source, RawModule(code=…), or make the module inside the function "
            "from a file that the environment has",
        )
    # A kernel that a module gave has the module's expressions; its own constructor does not take them.
    own = ("name", "name_expressions") if name == "RawKernel" else ("name_expressions",)
    return {key: state[key] for key in (*_RAW_OPTIONS, *own) if state.get(key)}


def _module_state(module: Any) -> dict[str, Any]:
    """All that a RawModule was made with. Two of its arguments are nowhere but in its pickle, which has no names."""
    try:
        state = dict(zip(_MODULE_STATE, module.__reduce_ex__(2)[2], strict=True))
    except (TypeError, ValueError, IndexError):
        state = {}
    shown = [key for key in _MODULE_STATE if hasattr(type(module), key) and key != "module"]
    if not state or any(state[key] != getattr(module, key) for key in shown):
        _refuse(
            "RawModule",
            "this version of CuPy keeps it in a way that is not known. Make it inside the function",
        )
    return state


def _parameters(parameters: Sequence[Any], written: str = "") -> str:
    return ", ".join(
        f"{'' if p.is_const else written}{'raw ' if p.raw else ''}{p.ctype if p.dtype is None else p.dtype.name} {p.name}"
        for p in parameters
    )


def _make_cupy(name: str, arguments: dict[str, Any]) -> Any:
    import cupy

    if name == "RawKernel" and "name_expressions" in arguments:
        function = arguments["name"]
        return cupy.RawModule(**{key: arguments[key] for key in arguments if key != "name"}).get_function(function)
    return getattr(cupy, name)(**arguments)


# -- launching ---------------------------------------------------------------------------------------------------------


class KernelArgument(msgspec.Struct, frozen=True):
    """An argument that the caller wrapped in ``cuda.In``, ``cuda.Out`` or ``cuda.InOut``."""

    value: Any
    direction: Direction


def mark_arguments(args: Sequence[Any]) -> tuple[Any, ...]:
    """Numba's argument wrappers, of either Numba, as `KernelArgument`s; the rest as it is."""
    return tuple(
        KernelArgument(arg.value, direction) if (direction := _WRAPPERS.get(_class_name(arg))) else arg for arg in args
    )


def array_arguments(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """The NumPy arrays among a CuPy kernel's arguments, those inside its argument tuples too, always in the same order."""
    for arg in (*args, *kwargs.values()):
        if isinstance(arg, np.ndarray):
            yield arg
        elif isinstance(arg, tuple):
            yield from (item for item in arg if isinstance(item, np.ndarray))


class KernelLaunch:
    """What a kernel's payload holds: called in a worker, it launches the kernel and returns the changed arrays.

    The result is ``(value, {argument's index: its new content})``; `value` is None but for CuPy kernels that return
    arrays of their own.
    """

    def __init__(self, kernel: Any, kind: Kind) -> None:
        self.kernel = kernel
        self.kind = kind
        self.__name__ = str(getattr(kernel, "__name__", None) or getattr(kernel, "name", "kernel"))

    def __call__(self, launch: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (self._numba if self.kind == "numba" else self._cupy)(launch, args, kwargs)

    def _numba(self, launch: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from numba import cuda

        on_device: list[Any] = []
        changed: dict[int, Any] = {}
        for index, arg in enumerate(args):
            value, direction = (arg.value, arg.direction) if isinstance(arg, KernelArgument) else (arg, "inout")
            if isinstance(value, np.ndarray):
                value = cuda.device_array_like(value) if direction == "out" else cuda.to_device(value)
                if direction != "in":
                    changed[index] = value
            on_device.append(value)
        self.kernel[launch](*on_device, **kwargs)
        return None, {index: array.copy_to_host() for index, array in changed.items()}

    def _cupy(self, launch: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import cupy

        on_device: dict[int, Any] = {}  # the same array given twice is one array on the device too

        def to_device(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                if id(value) not in on_device:
                    on_device[id(value)] = cupy.asarray(value)
                return on_device[id(value)]
            return tuple(to_device(item) for item in value) if isinstance(value, tuple) else value

        sent = tuple(to_device(arg) for arg in args)
        keywords = {name: to_device(value) for name, value in kwargs.items()}
        value = self.kernel(*launch, *sent, **keywords)
        arrays = list(array_arguments(args, kwargs))
        changed = {index: cupy.asnumpy(on_device[id(array)]) for index, array in enumerate(arrays)}
        return value, changed


def back_in_place(arrays: Sequence[Any], outcome: tuple[Any, dict[int, Any]]) -> Any:
    """Write what a kernel changed into the caller's own arrays; returns what it returned."""
    value, changed = outcome
    for index, content in changed.items():
        array = arrays[index]
        target = array.value if isinstance(array, KernelArgument) else array
        if target.flags.writeable:
            np.copyto(target, content)
        elif target.tobytes() != content.tobytes():
            raise ValueError(
                f"array argument {index} of the kernel is read-only here, and the kernel wrote to it: pass a writable copy, "
                "or cuda.In(…) if what is written does not matter"
            )
    return value
