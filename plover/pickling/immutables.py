"""Which objects never change inside: the same object has the same content, so that comparing identities is enough.

Guarantees: an object that is said to be constant pickles to the same bytes for as long as it lives. Recognizing one imports
nothing. Assumes: nobody writes into the private attributes of what Python documents as immutable (dates, paths, fractions,
dtypes without names, types of `typing`), or into the fields of a dataclass that is made.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import re
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["inside_constant", "is_constant"]

_CONSTANT_TYPES = frozenset(
    {
        type(None),
        type(...),
        type(NotImplemented),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        range,
        datetime.date,
        datetime.datetime,
        datetime.time,
        datetime.timedelta,
        datetime.timezone,
        re.Pattern,
        types.CodeType,
        types.GetSetDescriptorType,
        types.MemberDescriptorType,
        types.WrapperDescriptorType,
        types.MethodDescriptorType,
        types.ClassMethodDescriptorType,
        np.ufunc,
    }
)
_CONSTANT_NAMES = frozenset(
    {
        "dataclasses._DataclassParams",
        "dataclasses._FIELD_BASE",
        "dataclasses._MISSING_TYPE",
        "decimal.Decimal",
        "fractions.Fraction",
        "uuid.UUID",
        "zoneinfo.ZoneInfo",
    }
)


def is_constant(obj: Any) -> bool:
    """Whether comparing its identity tells that an object is as it was, and it refers to nothing that may change."""
    kind = type(obj)
    if kind in _CONSTANT_TYPES:
        return True
    if isinstance(obj, np.generic):
        return not isinstance(obj, np.void | np.object_) and kind.__module__ == "numpy"
    if isinstance(obj, np.dtype):
        return obj.names is None and obj.subdtype is None and not obj.hasobject and obj.metadata is None
    if kind is types.BuiltinFunctionType:
        return obj.__self__ is None or isinstance(obj.__self__, types.ModuleType)
    if isinstance(obj, pathlib.PurePath):
        return kind.__module__.partition(".")[0] == "pathlib"
    return f"{kind.__module__}.{kind.__qualname__}" in _CONSTANT_NAMES


_TYPING_ATTRIBUTES = ("__origin__", "__args__", "__metadata__", "__bound__", "__constraints__", "__supertype__")
_FIELD_ATTRIBUTES = ("default", "default_factory", "type", "metadata")


def inside_constant(obj: Any) -> Iterator[Any] | None:
    """What an annotation such as ``list[Point]``, or a field of a dataclass, refers to, itself being constant; None if the
    object is no such thing.
    """
    kind = type(obj)
    if kind is dataclasses.Field:
        names: tuple[str, ...] = _FIELD_ATTRIBUTES
    elif kind.__module__ == "typing" or kind is types.GenericAlias or kind is types.UnionType:
        names = _TYPING_ATTRIBUTES
    else:
        return None
    return (inner for name in names if (inner := getattr(obj, name, None)) is not None)
