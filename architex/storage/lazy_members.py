"""Which members a device was told about by lazily-loaded syncs, so that they are not repeated.

A device knows a member's event once it comes back with a token at or after the sync that told it.
Forgetting any of it only makes a later sync say it again.

Spec: https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeAlias

from architex.domain.identifiers import UserId
from architex.storage.pool import Database, PgConnection

KEPT_POSITIONS: Final = 1_000_000
"""For so many positions it is remembered what a device was told."""

Member: TypeAlias = tuple[int, UserId]
"""A room's number and a member of it."""


def list_known_members(
    connection: PgConnection,
    user_id: UserId,
    device_id: str,
    members: Collection[Member],
    since: int,
) -> dict[Member, int]:
    """Of `members`, those a device knows that comes with a token of `since`.

    Returns the position of the event that it knows of each.
    """
    if not members:
        return {}
    rows = connection.execute(
        "SELECT l.room_nid, l.member, l.member_position"
        " FROM unnest(%(rooms)s::int8[], %(members)s::text[]) AS k (room_nid, member)"
        " JOIN lazy_members l USING (room_nid, member)"
        " WHERE l.user_id = %(user)s AND l.device_id = %(device)s AND l.sent_at <= %(since)s",
        {
            "user": user_id,
            "device": device_id,
            "since": since,
            "rooms": [room_nid for room_nid, _ in members],
            "members": [member for _, member in members],
        },
    ).fetchall()
    return {(room_nid, member): position for room_nid, member, position in rows}


class LazyMemberStore:
    """Notes what devices are told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(
        self,
        user_id: UserId,
        device_id: str,
        members: Collection[tuple[Member, int]],
        sent_at: int,
    ) -> None:
        """Note members told by a sync.

        Args:
            members: each with the position of its event.
            sent_at: the position of the sync's `next_batch`.
        """
        self._database.execute(
            "INSERT INTO lazy_members (user_id, device_id, room_nid, member, member_position,"
            " sent_at) SELECT %(user)s, %(device)s, room_nid, member, position, %(sent_at)s"
            " FROM unnest(%(rooms)s::int8[], %(members)s::text[], %(positions)s::int8[])"
            "  AS k (room_nid, member, position)"
            " ON CONFLICT (user_id, device_id, room_nid, member) DO UPDATE SET"
            " member_position = excluded.member_position, sent_at = excluded.sent_at",
            {
                "user": user_id,
                "device": device_id,
                "sent_at": sent_at,
                "rooms": [room_nid for (room_nid, _), _ in members],
                "members": [member for (_, member), _ in members],
                "positions": [position for _, position in members],
            },
        )

    def forget_device(self, user_id: UserId, device_id: str) -> None:
        """A device begins anew, or is gone: it knows nobody."""
        self._database.execute(
            "DELETE FROM lazy_members WHERE user_id = %s AND device_id = %s", (user_id, device_id)
        )

    def forget_old(self) -> int:
        """Forget what was told long ago; returns how many members that were."""
        return self._database.execute(
            "DELETE FROM lazy_members WHERE sent_at < (SELECT position FROM log_position) - %s",
            (KEPT_POSITIONS,),
        )
