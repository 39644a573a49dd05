"""``plover doctor``: what this machine has, what would run where, and why not; with --address, the same of another daemon.

Guarantees: it starts nothing and makes no context; every line that is not well says what to do. Exit status 1 if something
is there and cannot be used.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
from typing import Any

from plover import addresses, profiles
from plover.cli import reach
from plover.daemon.config import DaemonConfig, limits_table
from plover.daemon.devices import Survey, survey
from plover.errors import PloverError
from plover.versions import PLOVER, of_packages

__all__ = ["add_command", "examine"]


def add_command(commands: Any) -> None:
    """Add this command to the parser."""
    command = commands.add_parser("doctor", help="say what this machine has and what would run on it")
    command.add_argument("--address", metavar="ADDRESS", help="of a daemon, or a profile: can it be used from here?")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    lines, is_well = reach.examine(arguments.address) if arguments.address else examine()
    print("\n".join(lines))
    return 0 if is_well else 1


def examine() -> tuple[list[str], bool]:
    """The report's lines, and whether everything that is there can be used."""
    found = survey()
    packages = of_packages()
    lines = [
        f"plover-gpu {PLOVER}, Python {platform.python_version()} ({sys.executable})",
        f"{platform.system()} {platform.release()} on {platform.machine()}, {os.cpu_count()} processors",
        "",
        "packages",
        *_packages(packages),
        "",
        "devices",
        *_devices(found),
        "",
        "what would run where",
        *_placement(found, packages),
        "",
        "daemon",
        *_daemon(),
        "",
        "limits",
        *_limits(),
    ]
    return lines, found.problem is None


def _packages(packages: dict[str, str]) -> list[str]:
    lines = [f"  {name} {version}" for name, version in packages.items()]
    if not any(name.startswith("cupy") for name in packages):
        lines.append(
            "  CuPy: not installed (pip install 'plover-gpu[cuda13]' or [cuda12]; a simulated device needs none)"
        )
    if "numba-cuda" not in packages:
        lines.append("  numba-cuda: not installed (pip install 'plover-gpu[sim]', or with CUDA [cuda13] or [cuda12])")
    if importlib.util.find_spec("pynvml") is None:
        lines.append("  nvidia-ml-py: not installed (pip install 'plover-gpu[host]'; needed to see GPUs)")
    return lines


def _devices(found: Survey) -> list[str]:
    if found.problem is not None:
        return [f"  problem: {found.problem}"]
    if not found.gpus:
        return [f"  no GPU: {found.absence}"]
    driver = f"  driver {found.driver}"
    return [driver, *(f"  {gpu.id}  {gpu.model}  {gpu.memory_bytes / 2**30:.1f} GiB" for gpu in found.gpus)]


def _placement(found: Survey, packages: dict[str, str]) -> list[str]:
    if found.problem is not None:
        return [
            "  nothing, until the problem above is mended; `plover start --devices simulated:1` runs without the GPU"
        ]
    if found.gpus:
        lines = [f"  calls run on {len(found.gpus)} GPU{'s' if len(found.gpus) > 1 else ''}, one worker each"]
        if "numba-cuda" not in packages:
            lines.append("  calls that import numba.cuda fail: numba-cuda is not installed")
        if not any(name.startswith("cupy") for name in packages):
            lines.append("  calls that import cupy fail: CuPy is not installed")
        return lines
    lines = [
        "  calls run on a simulated device: right, but slow, and no timing says anything about a GPU",
        "  calls with gpu=… or require_gpu are refused (NoCapacity): there is no GPU",
    ]
    if "numba-cuda" not in packages:
        lines.append("  calls that import numba.cuda fail: pip install 'plover-gpu[sim]'")
    return lines


def _daemon() -> list[str]:
    path = addresses.default_directory() / addresses.SOCKET_NAME
    try:
        configured = profiles.configured()
    except (PloverError, ValueError) as error:
        return [f"  problem: {error}"]
    if configured is not None:
        return [
            f"  calls go to {configured.address} ({configured.source}); "
            f"`plover doctor --address {configured.address}` says whether they get there"
        ]
    if path.exists() and addresses.is_alive(path):
        return [f"  a daemon serves ipc://{path}: calls go there"]
    return [f"  none at ipc://{path}: the first call starts an embedded one"]


def _limits() -> list[str]:
    config = DaemonConfig(addresses=("ipc:///",), state_dir=addresses.default_directory())
    return [*(f"  {name} = {value}" for name, value in limits_table(config).items()), *_open_files()]


def _open_files() -> list[str]:
    if importlib.util.find_spec("resource") is None:
        return []  # Windows, which has no such limit
    import resource

    from plover.daemon import descriptors

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    line = f"  open files: {soft}, a daemon's: {hard}"
    if hard != resource.RLIM_INFINITY and hard < descriptors.ENOUGH:
        return [f"{line} (few: raise it, as root, with `ulimit -n {descriptors.ENOUGH}`)"]
    return [line]
