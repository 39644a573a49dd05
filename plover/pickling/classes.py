"""Classes that travel by value: ids that every process agrees on, and a namespace for each function in a worker.

cloudpickle gives such a class a random id, by which both ends know it again. Here the id is made of the class's name, so
that a function's bytes are the same in every process.

Guarantees:
  * A class of the client's ``__main__`` comes home as itself: a worker writes only its id into a result, and never its
    state, which would overwrite the client's own class.
  * In a worker each function has its own `ClassNamespace`: one function's version of a class is not another's.

Assumes: cloudpickle's private tables of classes, which are read and exchanged in this file alone.
"""

from __future__ import annotations

import itertools
import pickle
import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from cloudpickle import cloudpickle as _internals

__all__ = ["ClassNamespace", "goes_by_value", "name_class"]

#: Class ids that a client made begin with this; a worker sends those home as ids.
_HOME = "plover/"

_name_counters: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)


def goes_by_value(cls: type) -> bool:
    """Whether a class travels with its whole content, because no worker could import it."""
    return cls.__module__ != "builtins" and not _internals._should_pickle_by_reference(cls)


def name_class(cls: Any) -> None:
    """Give a class (or type variable) that goes by value an id: its name, and its number among those of that name here."""
    with _internals._DYNAMIC_CLASS_TRACKER_LOCK:
        if cls not in _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS:
            name = f"{_HOME}{cls.__module__}.{getattr(cls, '__qualname__', cls.__name__)}"
            identity = f"{name}#{next(_name_counters[name])}"
            _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls] = identity
            _internals._DYNAMIC_CLASS_TRACKER_BY_ID[identity] = cls


def class_at_home(identity: str) -> type:
    """Found at the client: the class that it sent under this id."""
    try:
        return _internals._DYNAMIC_CLASS_TRACKER_BY_ID[identity]  # type: ignore[no-any-return]
    except KeyError:
        name = identity.removeprefix(_HOME).rpartition("#")[0]
        raise pickle.UnpicklingError(f"the class {name!r} of this result no longer exists in this process") from None


class ClassNamespace:
    """The classes that one function brought to a worker, by id.

    While it is entered, cloudpickle finds and keeps its classes here instead of in its tables for the whole process.
    Assumes: one thread at a time enters a namespace (the worker's main thread).
    """

    def __init__(self) -> None:
        self._by_id: Any = weakref.WeakValueDictionary()
        self._by_class: Any = weakref.WeakKeyDictionary()
        self._outer: list[tuple[Any, Any]] = []  # the tables that stood before, as often as it is entered

    def entered(self) -> ClassNamespace:
        """For a ``with``: cloudpickle's own tables, exchanged for these."""
        return self

    def __enter__(self) -> None:
        self._outer.append((_internals._DYNAMIC_CLASS_TRACKER_BY_ID, _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS))
        _internals._DYNAMIC_CLASS_TRACKER_BY_ID = self._by_id
        _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS = self._by_class

    def __exit__(self, *_: object) -> None:
        tables = self._outer.pop()
        _internals._DYNAMIC_CLASS_TRACKER_BY_ID, _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS = tables

    def reduce(self, obj: Any) -> Any:
        """A reducer for results: a class that came from the client goes back as its id."""
        if isinstance(obj, type):
            identity = self._by_class.get(obj)
            if identity is not None and identity.startswith(_HOME):
                return class_at_home, (identity,)
        return NotImplemented
