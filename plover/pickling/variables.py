"""Variables that cross as a whole, as those of a ``%%gpu`` cell do."""

from __future__ import annotations

from typing import Any

__all__ = ["Variables"]


class Variables(dict[str, Any]):
    """Values by the names that they have at their author's; what cannot travel in one is named by that name alone."""
