"""What a call needs of the author's own modules: the question that every call asks.

Guarantees: a call that mentions no module is answered at once, and nothing is imported for it; one whose modules were looked
at a moment ago in about a microsecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plover.bundles.references import NO_NAMES, Names

if TYPE_CHECKING:
    from plover.bundles.collect import Collected

__all__ = ["needed"]


def needed(function: Names, arguments: Names) -> Collected | None:
    """The set that travels with a call, and its bundles; None where nothing is mentioned that could be the author's.

    Args:
        function: what the packed function mentions.
        arguments: what the packed arguments do.

    Raises:
        NotSerializable, PayloadTooLarge: as `Bundler.collect`.
    """
    if arguments is NO_NAMES:
        if function is NO_NAMES:
            return None
        names: tuple[Names, ...] = (function,)
    else:
        names = (function, arguments)
    from plover.bundles.collect import current

    return current().collect(*names)
