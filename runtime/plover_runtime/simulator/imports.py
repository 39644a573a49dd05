"""What ``import cupy``, ``import cupyx`` and ``import numba.cuda`` find in a simulated process.

The stand-ins are ordinary packages beside this file, loaded under the names that they stand in for, so that submodules,
pickling by reference and ``__name__`` work in the normal way. Numba's own simulator is mended right after its import.

Guarantees: nothing is imported before somebody asks for it. Assumes that this finder stands first on
``sys.meta_path``; numba-cuda's own redirecting finder is asked after it.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import pathlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from plover.errors import NotSimulated

_HERE = pathlib.Path(__file__).parent
_STAND_INS = ("cupy", "cupyx")
#: module → the function of ``kernels.mend`` that mends it once it is imported
_MENDED = {"numba.cuda": "mend", "numba.cuda.random": "mend_random"}


class _MendingLoader(importlib.abc.Loader):
    """Runs another loader, then mends the module that it made."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        with warnings.catch_warnings():  # numba.cuda.random warns of its own options when it is simulated
            warnings.simplefilter("ignore")
            self._loader.exec_module(module)
        from plover_runtime.simulator.kernels import mend

        getattr(mend, _MENDED[module.__name__])(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the stand-ins, and Numba's CUDA module with a loader that mends it."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname in _STAND_INS:
            folder = _HERE / fullname
            return importlib.util.spec_from_file_location(
                fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
        top, _, rest = fullname.partition(".")
        if top in _STAND_INS and rest:
            path_of = _HERE.joinpath(top, *rest.split("."))
            if not path_of.is_dir() and not path_of.with_suffix(".py").exists():
                raise NotSimulated(f"{fullname} is not simulated: the stand-in for CuPy lacks it", feature=fullname)
        if fullname in _MENDED:
            for finder in sys.meta_path:
                if finder is self or not hasattr(finder, "find_spec"):
                    continue
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    spec.loader = _MendingLoader(spec.loader)
                    return spec
        return None


def install() -> None:
    """Put the finder first; once a process."""
    if not installed():
        sys.meta_path.insert(0, _Finder())


def installed() -> bool:
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)
