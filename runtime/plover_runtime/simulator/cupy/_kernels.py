"""Kernels in CUDA C: they can be made, looked at and pickled; launching one raises NotSimulated.

Guarantees: making one does what CuPy does without a GPU, wrong arguments included. Assumes that a kernel is made from
text alone, so that its pickle is its arguments.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ._core import not_simulated


def _no_launch(kind: str, name: str) -> NoReturn:
    raise not_simulated(f"launching the {kind} '{name}'", "kernels in CUDA C do not run on a simulated device (yet)")


class _Made:
    """A kernel that remembers how it was made."""

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        made._made_with = args, kwargs
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), *self._made_with)


def _remake(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return cls(*args, **kwargs)


class RawKernel(_Made):
    """A kernel from CUDA C source."""

    __module__ = "cupy"

    def __init__(
        self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc",
        translate_cucomplex: bool = False, *, enable_cooperative_groups: bool = False, jitify: Any = None,
    ) -> None:  # fmt: skip
        self.code, self.name, self.options, self.backend = code, name, tuple(options), backend
        self.enable_cooperative_groups = enable_cooperative_groups
        self.file_path = None

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0, stream: Any = None) -> None:
        _no_launch("RawKernel", self.name)

    def compile(self, log_stream: Any = None) -> None:
        raise not_simulated("cupy.RawKernel.compile", "kernels in CUDA C do not run on a simulated device (yet)")


class RawModule(_Made):
    """A module of kernels from CUDA C source."""

    __module__ = "cupy"

    def __init__(
        self, code: str | None = None, *, path: str | None = None, options: tuple[str, ...] = (),
        backend: str = "nvrtc", translate_cucomplex: bool = False, enable_cooperative_groups: bool = False,
        name_expressions: Any = None, jitify: Any = None,
    ) -> None:  # fmt: skip
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        self.code, self.file_path, self.options, self.backend = code, path, tuple(options), backend
        self.enable_cooperative_groups, self.name_expressions = enable_cooperative_groups, name_expressions

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.code or "", name, self.options, self.backend)

    def get_global(self, name: str) -> Any:
        raise not_simulated("cupy.RawModule.get_global", "kernels in CUDA C do not run on a simulated device (yet)")

    def compile(self, log_stream: Any = None) -> None:
        raise not_simulated("cupy.RawModule.compile", "kernels in CUDA C do not run on a simulated device (yet)")


class ElementwiseKernel(_Made):
    """A kernel from a CUDA C expression on elements."""

    __module__ = "cupy"

    def __init__(
        self, in_params: str, out_params: str, operation: str, name: str = "kernel", reduce_dims: bool = True,
        preamble: str = "", no_return: bool = False, return_tuple: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        self.operation, self.name, self.preamble, self.kwargs = operation, name, preamble, kwargs
        self.reduce_dims, self.no_return, self.return_tuple = reduce_dims, no_return, return_tuple
        self.nin = len([part for part in in_params.split(",") if part.strip()])
        self.nout = len([part for part in out_params.split(",") if part.strip()])
        self.nargs = self.nin + self.nout

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _no_launch("ElementwiseKernel", self.name)


class ReductionKernel(_Made):
    """A kernel from CUDA C expressions that reduce."""

    __module__ = "cupy"

    def __init__(
        self, in_params: str, out_params: str, map_expr: str, reduce_expr: str, post_map_expr: str, identity: Any,
        name: str = "reduce_kernel", reduce_type: Any = None, reduce_dims: bool = True, preamble: str = "",
        options: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.map_expr, self.reduce_expr, self.post_map_expr = map_expr, reduce_expr, post_map_expr
        self.identity, self.name, self.reduce_type, self.preamble = identity, name, reduce_type, preamble
        self.reduce_dims, self.options = reduce_dims, options
        self.nin = len([part for part in in_params.split(",") if part.strip()])
        self.nout = len([part for part in out_params.split(",") if part.strip()])
        self.nargs = self.nin + self.nout

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _no_launch("ReductionKernel", self.name)
