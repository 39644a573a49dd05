"""Which modules an object mentions that is being pickled, told by how it is reduced.

Guarantees: nothing is imported. Assumes: private parts of cloudpickle 3 (what goes by reference, and whose it is).
"""

from __future__ import annotations

import pickle
import types
from typing import Any

from cloudpickle import cloudpickle as _internals

from plover.bundles.references import References

__all__ = ["of_function", "of_object"]


def of_function(references: References, function: Any, reduced: Any) -> None:
    """A function goes by its name, or by value: then what its code imports is mentioned."""
    if reduced is NotImplemented:
        module = function.__module__ or _internals._whichmodule(function, function.__qualname__)
        references.refer(module or "__main__")  # as pickle has it
    else:
        references.use(function)


def of_object(references: References, obj: Any, reduced: Any, *, stands_where_it_says: bool) -> None:
    """An object that is neither a function nor a class.

    Args:
        references: takes the note.
        obj: the object.
        reduced: what was found for it; `NotImplemented` leaves it to pickle.
        stands_where_it_says: if it is left to pickle, then because it is found by its name (a function under `lru_cache`).
    """
    kind = type(obj)
    if kind is types.ModuleType:
        if _internals._should_pickle_by_reference(obj):
            references.refer(obj.__name__)
    elif kind is types.BuiltinFunctionType:
        if type(obj.__module__) is str:  # not a method of an object
            references.refer(obj.__module__)
    else:
        references.touch(kind.__module__)
        if type(reduced) is str:
            references.refer(pickle.whichmodule(obj, reduced))  # type: ignore[attr-defined]
        elif stands_where_it_says and reduced is NotImplemented:
            references.touch(getattr(obj, "__module__", None))  # an array of objects has none
