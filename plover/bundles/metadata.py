"""The metadata of an editable install, for modules that ask for their own version when they are imported.

``__version__ = importlib.metadata.version("mypkg")`` works at the client since the install's metadata lies in
`site-packages`; a bundle brings it along, in the same form, beside the module.

Guarantees: only a distribution that says it is an editable install of a directory around the module is taken.
Assumes: `direct_url.json` as PEP 610 has it, which pip, uv and what builds on them write.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from plover.bundles.files import DirectoryPortion, FilePortion
from plover.bundles.format import METADATA_FILES, path_fault
from plover.bundles.locate import Own

if TYPE_CHECKING:
    from importlib import metadata

__all__ = ["asks", "of_editable"]

_WORDS = (b"importlib.metadata", b"importlib_metadata", b"pkg_resources", b"import metadata")


def asks(source: bytes) -> bool:
    """Whether a source may ask for metadata. Told by its text, so that it does not depend on what is reached."""
    return any(word in source for word in _WORDS)


def of_editable(own: Own) -> dict[str, bytes]:
    """The metadata files of the editable installs that a module belongs to, by their paths in its bundle."""
    from importlib import metadata  # 5 ms, and few sources ask

    places = [
        os.path.normcase(os.path.realpath(portion.path))
        for portion in own.portions
        if isinstance(portion, DirectoryPortion | FilePortion)
    ]
    found: dict[str, bytes] = {}
    for distribution in metadata.distributions():
        root = _editable_root(distribution)
        if root is None or not any(place.startswith(root + os.sep) for place in places):
            continue
        name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"] or "")
        directory = f"{name}-{distribution.version}.dist-info"
        for file in METADATA_FILES:
            text = distribution.read_text(file)
            if text is not None and path_fault(directory) is None:
                found[f"{directory}/{file}"] = text.encode()
    return found


def _editable_root(distribution: metadata.Distribution) -> str | None:
    """The directory of which a distribution is an editable install."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # 10 ms

    try:
        said = json.loads(distribution.read_text("direct_url.json") or "{}")
        url = urlsplit(said["url"])
        if not said["dir_info"].get("editable") or url.scheme != "file":
            return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None
    return os.path.normcase(os.path.realpath(url2pathname(url.path)))
