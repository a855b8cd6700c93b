"""How commits are announced to all processes.

On one channel of PostgreSQL's: {"p": position, "r": room numbers, "u": user IDs}, or {"p": …,
"all": true}; and changed supplies of keys: {"k": user IDs, or null for everybody's}.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import orjson

from architex.domain.identifiers import UserId

CHANNEL: Final = "architex_log"

MAX_ANNOUNCEMENT_BYTES: Final = 7800
"""PostgreSQL takes no longer ones."""


def build_announcement(position: int, rooms: Collection[int], users: Collection[UserId]) -> str:
    """Who should look again, up to a position: these users, and who is in these rooms.

    Args:
        rooms: their numbers.
    """
    payload = orjson.dumps({"p": position, "r": sorted(rooms), "u": sorted(users)})
    return (
        payload.decode()
        if len(payload) <= MAX_ANNOUNCEMENT_BYTES
        else build_announcement_to_all(position)
    )


def build_announcement_to_all(position: int) -> str:
    """Everybody should look again."""
    return orjson.dumps({"p": position, "all": True}).decode()
