"""Rooms that are published in this server's room directory.

Spec: https://spec.matrix.org/v1.19/client-server-api/#published-room-directory
"""

from __future__ import annotations

from typing import Final

from architex.domain.identifiers import RoomId, UserId
from architex.storage.pool import Database

PUBLISH_ROOM: Final = (
    "INSERT INTO published_rooms (room_id, published_by, published_ts) VALUES (%s, %s, %s)"
    " ON CONFLICT (room_id) DO NOTHING"
)
"""Parameters: room ID, user ID, milliseconds since 1970. A published room stays as it is."""

MOVE_PUBLICATION: Final = (
    "WITH withdrawn AS (DELETE FROM published_rooms WHERE room_id = %s"
    "  RETURNING published_by, published_ts)"
    " INSERT INTO published_rooms (room_id, published_by, published_ts)"
    " SELECT %s, published_by, published_ts FROM withdrawn ON CONFLICT (room_id) DO NOTHING"
)
"""Parameters: the room that leaves the list, the one that takes its place if it was there."""


class PublishedRoomStore:
    """The published_rooms table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_published(self, room_id: RoomId) -> bool:
        """Whether the directory has the room."""
        row = self._database.fetch_one(
            "SELECT 1 FROM published_rooms WHERE room_id = %s", (room_id,)
        )
        return row is not None

    def publish(self, room_id: RoomId, by: UserId, now_ms: int) -> None:
        """Put a room into the directory; nothing happens when it is there."""
        self._database.execute(PUBLISH_ROOM, (room_id, by, now_ms))

    def withdraw(self, room_id: RoomId) -> None:
        """Take a room out of the directory; nothing happens when it is not there."""
        self._database.execute("DELETE FROM published_rooms WHERE room_id = %s", (room_id,))
