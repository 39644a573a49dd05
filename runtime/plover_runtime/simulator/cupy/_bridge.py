"""How a table of names and parameters becomes functions over NumPy.

An entry reads ``"name": "a! | axis dtype out keepdims"``: CuPy's parameters in CuPy's order. Those before the bar are
passed to NumPy by position, the others by keyword. A mark says what a parameter may be:

* ``!`` a device array, nothing else;
* ``?`` a device array, a scalar, or None;
* ``*`` a sequence of such, or one device array;
* no mark: anything but a host array; device arrays inside tuples and lists are opened.

``out`` and ``dtype`` are known by their names. A parameter that *begins* with ``*`` takes the remaining positional
arguments. A ``>`` at the end makes a device array of a result that NumPy gives as a Python scalar.

Guarantees: a keyword that CuPy's function does not have is a TypeError here too. Assumes that a target takes the
parameters under the table's names, or by position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from plover_runtime.simulator.memory import DEVICE

from ._core import OutOfMemoryError, checked_dtype, opened, operand, parameter, wrap, wrap_result


def _either(value: Any) -> Any:
    return None if value is None else operand(value)


def _sequence(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_sequence(item) if isinstance(item, (list, tuple)) else operand(item) for item in value]
    return opened(value)


def _out(value: Any) -> Any:
    return None if value is None else opened(value)


def _dtype(value: Any) -> Any:
    return None if value is None else checked_dtype(value)


_MARKS: dict[str, Callable[[Any], Any]] = {"!": opened, "?": _either, "*": _sequence}
_NAMED: dict[str, Callable[[Any], Any]] = {"out": _out, "dtype": _dtype}


def host_memory_error(error: MemoryError) -> OutOfMemoryError:
    """NumPy's own 'unable to allocate', as the device being full."""
    shape, dtype = getattr(error, "shape", ()), getattr(error, "dtype", np.dtype("u1"))
    asked = int(np.prod(shape, dtype=object)) * dtype.itemsize if shape else 0
    used, idle = DEVICE.pool_bytes()
    return OutOfMemoryError(asked, used + idle, DEVICE.pool_limit_bytes)


def bridge(name: str, spec: str, target: Callable[..., Any], module: str = "cupy") -> Callable[..., Any]:
    """One function of CuPy's over one of NumPy's; see the module's text for ``spec``."""
    to_array = spec.endswith(">")
    words = spec.rstrip("> ").split()
    bar = words.index("|") if "|" in words else len(words)
    variadic: Callable[[Any], Any] | None = None
    names: list[str] = []
    convert: dict[str, Callable[[Any], Any]] = {}
    for word in words:
        if word == "|":
            continue
        if word.startswith("*"):
            variadic = _MARKS.get(word[-1], parameter)
            continue
        bare = word.rstrip("!?*")
        convert[bare] = _NAMED.get(bare) or _MARKS.get(word[-1], parameter)
        if variadic is None:
            names.append(bare)
    positional = tuple(names[:bar])
    known = frozenset(convert)

    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > len(names) and variadic is None:
            raise TypeError(f"{name}() takes at most {len(names)} positional arguments ({len(args)} given)")
        given = dict(zip(names, args, strict=False))
        for key, value in kwargs.items():
            if key not in known:
                raise TypeError(f"{name}() got an unexpected keyword argument '{key}'")
            if key in given:
                raise TypeError(f"{name}() got multiple values for argument '{key}'")
            given[key] = value
        out = given.get("out")
        given = {key: convert[key](value) for key, value in given.items()}
        first: list[Any] = []
        for key in positional:  # in order; from the first that is missing on, the others go by keyword
            if key not in given:
                break
            first.append(given.pop(key))
        if variadic is not None:
            first.extend([variadic(item) for item in args[len(names) :]])
        try:
            with np.errstate(all="ignore"):
                result = target(*first, **given)
        except OutOfMemoryError:
            raise
        except MemoryError as error:
            raise host_memory_error(error) from None
        if out is not None:
            return out
        if to_array and isinstance(result, (bool, int, float)):
            return wrap(np.asarray(result))
        return wrap_result(result)

    call.__name__ = call.__qualname__ = name
    call.__module__ = module
    call.__doc__ = f"As NumPy's function of this name, on device arrays: ``{name}({', '.join(words)})``."
    call.spec = spec  # type: ignore[attr-defined]
    return call


def bridge_all(
    table: dict[str, str], namespace: Any, own: dict[str, Callable[..., Any]], module: str = "cupy"
) -> dict[str, Callable[..., Any]]:
    """Every entry of a table that has a target: one of ``own``, or NumPy's function of that name."""
    made = {}
    for name, spec in table.items():
        target = own.get(name) or getattr(namespace, name, None)
        if target is not None:
            made[name] = bridge(name, spec, target, module)
    return made
