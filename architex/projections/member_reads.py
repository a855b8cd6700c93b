"""Questions about memberships that decisions need answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from architex.domain.identifiers import RoomId, ServerName, UserId
from architex.storage.pool import Database


@dataclass(frozen=True, slots=True)
class Member:
    """A user's membership of a room, and the position of the event that made it."""

    membership: str
    position: int
    sender: UserId


@dataclass(frozen=True)
class MemberReads:
    """Reads `memberships`."""

    database: Database

    def find_member(self, user_id: UserId, room_nid: int) -> Member | None:
        """The user's membership; None when they never had one."""
        row = self.database.fetch_one(
            "SELECT membership, position, sender FROM memberships"
            " WHERE user_id = %s AND room_nid = %s",
            (user_id, room_nid),
        )
        return Member(*row) if row is not None else None

    def list_joined_rooms(self, user_id: UserId) -> list[RoomId]:
        """The rooms that the user is joined to."""
        rows = self.database.fetch_all(
            "SELECT r.room_id FROM memberships m JOIN rooms r USING (room_nid)"
            " WHERE m.user_id = %s AND m.membership = 'join' ORDER BY r.room_nid",
            (user_id,),
        )
        return [row[0] for row in rows]

    def list_mutual_rooms(self, user_id: UserId, other_id: UserId) -> list[RoomId]:
        """The rooms that both users are in."""
        rows = self.database.fetch_all(
            "SELECT r.room_id FROM memberships m JOIN memberships o USING (room_nid)"
            " JOIN rooms r USING (room_nid) WHERE m.user_id = %s AND m.membership = 'join'"
            " AND o.user_id = %s AND o.membership = 'join'",
            (user_id, other_id),
        )
        return [room_id for (room_id,) in rows]

    def list_rooms_to_leave(self, user_id: UserId) -> list[RoomId]:
        """The rooms that the user is joined or invited to, or knocks at."""
        rows = self.database.fetch_all(
            "SELECT r.room_id FROM memberships m JOIN rooms r USING (room_nid)"
            " WHERE m.user_id = %s"
            " AND m.membership IN ('join', 'invite', 'knock') ORDER BY r.room_nid",
            (user_id,),
        )
        return [row[0] for row in rows]

    def is_joined_to_any(self, user_id: UserId, room_ids: Sequence[RoomId]) -> bool:
        """Whether the user is joined to one of the rooms."""
        row = self.database.fetch_one(
            "SELECT 1 FROM memberships m JOIN rooms r USING (room_nid) WHERE m.user_id = %s"
            " AND m.membership = 'join' AND r.room_id = ANY(%s) LIMIT 1",
            (user_id, list(room_ids)),
        )
        return row is not None

    def list_local_members(
        self, room_nid: int, server_name: ServerName, limit: int
    ) -> list[UserId]:
        """Some members of this server, at most `limit`."""
        rows = self.database.fetch_all(
            "SELECT user_id FROM memberships WHERE room_nid = %s AND membership = 'join'"
            " AND right(user_id, %s) = %s LIMIT %s",
            (room_nid, len(server_name) + 1, f":{server_name}", limit),
        )
        return [row[0] for row in rows]

    def has_create(self, room_nid: int) -> bool:
        """Whether the state of a room is known here, and not only memberships of our users."""
        row = self.database.fetch_one(
            "SELECT 1 FROM current_state WHERE room_nid = %s AND type = 'm.room.create'"
            " AND state_key = '' AND valid_to = 9223372036854775807",
            (room_nid,),
        )
        return row is not None

    def list_tellers(self, user_id: UserId, room_nid: int) -> list[ServerName]:
        """The server that told the user of a room, with an invite or when they knocked."""
        rows = self.database.fetch_all(
            "SELECT told_by FROM stripped_states WHERE user_id = %s AND room_nid = %s",
            (user_id, room_nid),
        )
        return [told_by for (told_by,) in rows]
