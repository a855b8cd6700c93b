"""Rooms that users have forgotten.

Spec: https://spec.matrix.org/v1.19/client-server-api/#leaving-rooms
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from architex.domain.identifiers import RoomId, UserId

WriteRows = Callable[[Callable[[str, Sequence[Any]], None], int], None]

Left = Sequence[tuple[UserId, int, int]]
"""User, number of the room, position of the event by which they left."""


@dataclass(frozen=True, slots=True)
class ForgottenRooms:
    """Writes `forgotten_rooms`, in the commit queue's transactions.

    Attributes:
        on_leave: whoever leaves a room forgets it.
    """

    on_leave: bool = False

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

    def forget_as_left(self, execute: Callable[[str, Sequence[Any]], None], left: Left) -> None:
        """Show users nothing of rooms that they have just left."""
        execute(
            "INSERT INTO forgotten_rooms (user_id, room_nid, position)"
            " SELECT * FROM unnest(%s::text[], %s::int8[], %s::int8[])"
            " ON CONFLICT (user_id, room_nid) DO UPDATE SET position = excluded.position",
            [list(column) for column in zip(*left, strict=True)],
        )

    def remember_again(self, user_id: UserId, room_id: RoomId) -> WriteRows:
        """The user is back: the room is shown again."""

        def write(execute: Callable[[str, Sequence[Any]], None], position: int) -> None:
            execute(
                "DELETE FROM forgotten_rooms WHERE user_id = %s"
                " AND room_nid = (SELECT room_nid FROM rooms WHERE room_id = %s)",
                (user_id, room_id),
            )

        return write
