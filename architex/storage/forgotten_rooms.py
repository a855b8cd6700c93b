"""Rooms that users have forgotten.

Spec: https://spec.matrix.org/v1.19/client-server-api/#leaving-rooms
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from architex.domain.identifiers import RoomId, UserId

WriteRows = Callable[[Callable[[str, Sequence[Any]], None], int], None]


class ForgottenRooms:
    """Writes `forgotten_rooms`, in the commit queue's transactions."""

    def forget(self, user_id: UserId, room_id: RoomId) -> WriteRows:
        """Show the user nothing of the room up to now."""

        def write(execute: Callable[[str, Sequence[Any]], None], position: int) -> None:
            execute(
                "INSERT INTO forgotten_rooms (user_id, room_nid, position)"
                " SELECT %s, room_nid, %s FROM rooms WHERE room_id = %s"
                " ON CONFLICT (user_id, room_nid) DO UPDATE SET position = excluded.position",
                (user_id, position, room_id),
            )

        return write

    def remember_again(self, user_id: UserId, room_id: RoomId) -> WriteRows:
        """The user is back: the room is shown again."""

        def write(execute: Callable[[str, Sequence[Any]], None], position: int) -> None:
            execute(
                "DELETE FROM forgotten_rooms WHERE user_id = %s"
                " AND room_nid = (SELECT room_nid FROM rooms WHERE room_id = %s)",
                (user_id, room_id),
            )

        return write
