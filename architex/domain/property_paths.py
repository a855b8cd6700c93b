"""Dot-separated property paths: how filters and push rules name a part of an event.

Spec: https://spec.matrix.org/v1.19/appendices/#dot-separated-property-paths
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

PropertyPath: TypeAlias = tuple[str, ...]
"""The keys that lead into an event, from outside in."""


@lru_cache(maxsize=1024)
def parse_property_path(text: str) -> PropertyPath:
    r"""The keys that a path names; `\.` and `\\` stand for a dot and a backslash in a key.

    Any other backslash stands for itself, so every text is a path.
    """
    keys = []
    key = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            key += escaped if escaped in (".", "\\") else "\\" + escaped
        elif character == ".":
            keys.append(key)
            key = ""
        else:
            key += character
    return (*keys, key)
