"""Questions about guests in rooms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from architex.domain.identifiers import RoomId, UserId
from architex.storage.pool import Database


@dataclass(frozen=True)
class GuestReads:
    """Reads `memberships` beside `room_directory`."""

    database: Database

    def list_guests_out_of_place(self, limit: int) -> Sequence[tuple[RoomId, UserId]]:
        """Guests of ours in rooms that seem not to let guests join, at most `limit`.

        The directory may lag: what a room lets guests do is to be looked at again.
        """
        return [
            (room_id, user_id)
            for room_id, user_id in self.database.fetch_all(
                "SELECT r.room_id, m.user_id FROM users u JOIN memberships m USING (user_id)"
                " JOIN rooms r USING (room_nid) JOIN room_directory d USING (room_nid)"
                " WHERE u.is_guest AND m.membership = 'join' AND NOT d.guest_can_join LIMIT %s",
                (limit,),
            )
        ]
