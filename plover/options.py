"""What a call may ask for, checked where the author wrote it.

Guarantees: an option that does not exist, or that is not built yet, is a `TypeError` that names it; a value that makes no
sense is refused here and not on a GPU host. Assumes nothing of the rest of Plover but the wire's record.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import msgspec

from plover.wire.messages import CallOptions

__all__ = ["Options", "parse_options", "with_environment"]

#: Options of the design that this version does not have: named, so that nobody thinks they were taken.
_NOT_YET = {
    "batch": "batching",
    "chunksize": "chunks of a map",
    "device_memory": "limits and shares of device memory",
    "keep_on_device": "device arrays",
    "retry_on": "retries of user exceptions",
}


class Options(TypedDict, total=False):
    """The keywords of `gpu_function` and `GpuFunction.options`.

    Keys:
        gpu: ``"H100"`` (a GPU whose model has this in its name), ``"H100:2"``, ``True`` (any GPU) or a number of GPUs;
            never a simulated device.
        require_gpu: refuse simulated devices.
        timeout: seconds that each run may take, loading and compiling included; no limit by default.
        queue_timeout: seconds that the call may wait in all.
        retries: how often a call whose worker, device or daemon was lost is tried again.
        priority: higher goes first among the calls of one function.
        environment: the name of what the function's nest runs with.
        output: ``"show"`` what the call writes, as it is written, or ``"capture"`` it on the receipt.
    """

    gpu: str | bool | int | None
    require_gpu: bool
    timeout: float | None
    queue_timeout: float | None
    retries: int
    priority: int
    environment: str
    output: Literal["show", "capture"]


def parse_options(base: CallOptions, given: Mapping[str, Any]) -> CallOptions:
    """`base` with what was given.

    Args:
        base: the options so far.
        given: see `Options`.

    Raises:
        TypeError: an option that does not exist or is not built yet.
        ValueError: a value that makes no sense.
    """
    changes: dict[str, Any] = {}
    for name, value in given.items():
        match name:
            case "gpu":
                changes["gpu"] = _gpu(value)
            case "require_gpu":
                changes["require_gpu"] = bool(value)
            case "timeout" | "queue_timeout":
                changes[f"{name}_s"] = _seconds(name, value)
            case "retries":
                changes["retries"] = _whole(name, value, least=0)
            case "priority":
                changes["priority"] = _whole(name, value, least=-(1 << 31))
            case "environment":
                if not isinstance(value, str) or not value:
                    raise ValueError(f"environment is the name of an environment, not {value!r}")
                changes["environment"] = value
            case "output":
                if value not in ("show", "capture"):
                    raise ValueError(f"output is 'show' or 'capture', not {value!r}")
                changes["output"] = value
            case _ if name in _NOT_YET:
                raise TypeError(f"the option {name!r} is not built yet ({_NOT_YET[name]})")
            case _:
                raise TypeError(f"there is no option {name!r}")
    return msgspec.structs.replace(base, **changes)


#: As bytes where the system has it so: this is asked at each call, and text costs three times as much.
_environment: Any = getattr(os, "environb", os.environ)
_REQUIRE_GPU: Any = b"PLOVER_REQUIRE_GPU" if hasattr(os, "environb") else "PLOVER_REQUIRE_GPU"
_NO = (None, b"", b"0", "", "0")


def with_environment(options: CallOptions) -> CallOptions:
    """What this process adds to every call: ``$PLOVER_REQUIRE_GPU``, and the level from which log records are wanted."""
    level = logging.root.level
    if level != options.log_level:
        options = msgspec.structs.replace(options, log_level=level)
    if _environment.get(_REQUIRE_GPU) not in _NO:
        return msgspec.structs.replace(options, require_gpu=True)
    return options


def _gpu(value: Any) -> tuple[str, int] | None:
    if value is None or value is False:
        return None
    if value is True:
        return "", 1
    if isinstance(value, int) and value > 0:
        return "", value
    if isinstance(value, str):
        model, _, count = value.partition(":")
        if not count:
            return model.strip(), 1
        if count.isdecimal() and int(count) > 0:
            return model.strip(), int(count)
    raise ValueError(f'gpu is a model such as "H100" or "H100:2", True, or a number of GPUs, not {value!r}')


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise ValueError(f"{name} is a number of seconds above 0, not {value!r}")


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 31:
        return value
    raise ValueError(f"{name} is a whole number from {least} to {(1 << 31) - 1}, not {value!r}")
