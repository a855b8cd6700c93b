"""Questions about server notice rooms."""

from __future__ import annotations

from dataclasses import dataclass

from architex.domain.identifiers import RoomId, UserId
from architex.storage.pool import Database


@dataclass(frozen=True)
class NoticeReads:
    """Reads `memberships`."""

    database: Database

    def find_room(self, sender: UserId, user_id: UserId) -> tuple[RoomId, str] | None:
        """The room in which a user gets notices, and the user's membership; None for none.

        Args:
            sender: whom notices are from; they are in notice rooms only.
        """
        row = self.database.fetch_one(
            "SELECT r.room_id, own.membership FROM memberships own"
            " JOIN memberships his ON his.room_nid = own.room_nid AND his.user_id = %s"
            " AND his.membership = 'join' JOIN rooms r ON r.room_nid = own.room_nid"
            " WHERE own.user_id = %s ORDER BY own.room_nid LIMIT 1",
            (sender, user_id),
        )
        return None if row is None else (row[0], row[1])
