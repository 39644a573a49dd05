"""What a test needs of the machine that it runs on, and what happens where that is missing.

Guarantees: nothing is skipped behind anybody's back. A person without it gets a skip that names what is missing; where
``$CI`` is set, a machine that should have everything that can be installed, the test fails and names it too.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def needs(condition: object, what: str) -> None:
    """Go on where `condition` holds. Otherwise skip the test, or the whole module; in CI fail it.

    Args:
        condition: whether it is there.
        what: what is missing otherwise, to be read after "needs".
    """
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"needs {what}; in CI that must be there", pytrace=False)
    pytest.skip(f"needs {what}", allow_module_level=True)


def needs_host(condition: object, what: str) -> None:
    """As `needs`, for what no installation brings (a kernel's feature, a network's): a skip that names it, in CI too."""
    if not condition:
        pytest.skip(f"needs {what}, which this host has not")


def needs_module(name: str) -> ModuleType:
    """An installed module, imported. Only its absence is a skip: one that is there and cannot be imported is an error."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
    needs(False, f"the package {name}")
    raise AssertionError("unreachable")
