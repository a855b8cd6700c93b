"""Whose devices a user must look at again, and whose no longer: by who shares rooms with whom.

Spec: https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import ServerName, UserId
from architex.storage.pool import Database, PgConnection

_LARGE_ROOM: Final = 500
"""Members. Who joins or leaves a larger room that is not encrypted is not told of its members:
nobody tracks their devices for it."""

_SHARES_A_ROOM: Final = """EXISTS (SELECT 1 FROM memberships o JOIN memberships m
    ON m.room_nid = o.room_nid AND m.user_id = %(user)s AND m.membership = 'join'
    WHERE o.user_id = {whose} AND o.membership = 'join')"""

HAS_CHANGES: Final = f"""(EXISTS (SELECT 1 FROM device_list_changes c
    WHERE c.position > %(since)s AND {_SHARES_A_ROOM.format(whose="c.user_id")})
OR EXISTS (SELECT 1 FROM device_list_changes c WHERE c.user_id = %(user)s
    AND (c.position > %(since)s OR c.own_position > %(since)s))
OR EXISTS (SELECT 1 FROM key_signatures s
    WHERE s.signer_user_id = %(user)s AND s.position > %(since)s))"""  # noqa: S608 - constants
"""Whether devices or keys changed after a position that concern a user (params: user, since)."""

_CHANGED: Final = f"""
SELECT c.user_id FROM device_list_changes c
    WHERE c.position > %(since)s AND {_SHARES_A_ROOM.format(whose="c.user_id")}
UNION SELECT c.user_id FROM device_list_changes c WHERE c.user_id = %(user)s
    AND (c.position > %(since)s OR c.own_position > %(since)s)
UNION SELECT s.target_user_id FROM key_signatures s
    WHERE s.signer_user_id = %(user)s AND s.position > %(since)s"""  # noqa: S608 - constants

_TRACKED: Final = f"""(
    (SELECT joined FROM room_counts n WHERE n.room_nid = {{room}}) <= {_LARGE_ROOM}
    OR EXISTS (SELECT 1 FROM current_state e WHERE e.room_nid = {{room}}
        AND e.type = 'm.room.encryption' AND e.state_key = ''
        AND e.valid_to = 9223372036854775807))"""  # noqa: S608 - constants

# Who came into rooms the user is in, or was invited there (keys may be shared with them before
# they come); everybody in rooms into which the user came. Not whom the user has shared another
# room with all the time.
_NEWCOMERS: Final = f"""
WITH mine AS (SELECT m.room_nid, m.join_position > %(since)s AS is_new
    FROM memberships m JOIN rooms r USING (room_nid)
    WHERE m.user_id = %(user)s AND m.membership = 'join' AND r.last_position > %(since)s),
found AS (
    SELECT o.user_id FROM mine JOIN memberships o ON o.room_nid = mine.room_nid
        AND o.join_position > %(since)s WHERE NOT mine.is_new
    UNION SELECT e.state_key FROM mine JOIN current_state e ON e.room_nid = mine.room_nid
        AND e.valid_from > %(since)s AND e.valid_to = 9223372036854775807
        AND e.type = 'm.room.member' AND e.membership = 'invite'
    UNION SELECT o.user_id FROM mine JOIN memberships o ON o.room_nid = mine.room_nid
        AND o.join_position IS NOT NULL
        WHERE mine.is_new AND {_TRACKED.format(room="mine.room_nid")})
SELECT f.user_id FROM found f WHERE f.user_id <> %(user)s AND NOT EXISTS (
    SELECT 1 FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid
    WHERE a.user_id = f.user_id AND a.join_position <= %(since)s
    AND b.user_id = %(user)s AND b.join_position <= %(since)s)"""  # noqa: S608 - constants

# Who left rooms the user is in; everybody in rooms that the user left.
_LEFT: Final = f"""
WITH mine AS (SELECT m.room_nid, m.membership = 'join' AS is_in
    FROM memberships m JOIN rooms r USING (room_nid)
    WHERE m.user_id = %(user)s AND r.last_position > %(since)s
    AND (m.membership = 'join' OR m.left_position > %(since)s)),
found AS (
    SELECT o.user_id FROM mine JOIN memberships o ON o.room_nid = mine.room_nid
        AND o.left_position > %(since)s AND o.membership <> 'join'
    UNION SELECT o.user_id FROM mine JOIN memberships o ON o.room_nid = mine.room_nid
        AND o.join_position IS NOT NULL
        WHERE NOT mine.is_in AND {_TRACKED.format(room="mine.room_nid")})
SELECT f.user_id FROM found f WHERE f.user_id <> %(user)s
    AND NOT {_SHARES_A_ROOM.format(whose="f.user_id")}"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class DeviceListNews:
    """What a client is told about other users' devices.

    Attributes:
        changed: users whose devices or keys changed, or who share a room with the user now.
        left: users who no longer share any room with the user.
    """

    changed: Collection[UserId] = ()
    left: Collection[UserId] = ()

    @property
    def is_anything(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.changed or self.left)


def read_device_list_news(
    connection: PgConnection, user_id: UserId, since: int, *, devices: bool, rooms: bool
) -> DeviceListNews:
    """What a user is to be told since a position.

    Args:
        devices: whether devices or keys have changed since.
        rooms: whether something has happened in rooms since.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync
    """
    params = {"user": user_id, "since": since}
    changed: set[UserId] = set()
    left: set[UserId] = set()
    if devices:
        changed.update(row[0] for row in connection.execute(_CHANGED, params).fetchall())
    if rooms:
        changed.update(row[0] for row in connection.execute(_NEWCOMERS, params).fetchall())
        left.update(row[0] for row in connection.execute(_LEFT, params).fetchall())
    return DeviceListNews(sorted(changed), sorted(left))


class SharedRooms:
    """Who shares rooms with whom, over all rooms of this server."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_rooms(self, user_id: UserId) -> Collection[int]:
        """The numbers of the rooms a user is in."""
        rows = self._database.fetch_all(
            "SELECT room_nid FROM memberships WHERE user_id = %s AND membership = 'join'",
            (user_id,),
        )
        return [room_nid for (room_nid,) in rows]

    def list_shared_with_server(
        self, user_ids: Collection[UserId], server_name: ServerName
    ) -> frozenset[UserId]:
        """Those of the users who are in some room with members of a server."""
        rows = self._database.fetch_all(
            "SELECT u.user_id FROM unnest(%s::text[]) AS u (user_id) WHERE EXISTS ("
            " SELECT 1 FROM memberships m JOIN room_servers s ON s.room_nid = m.room_nid"
            " AND s.server_name = %s AND s.joined > 0"
            " WHERE m.user_id = u.user_id AND m.membership = 'join')",
            (list(user_ids), server_name),
        )
        return frozenset(user_id for (user_id,) in rows)

    def list_servers_of(self, user_ids: Collection[UserId]) -> frozenset[ServerName]:
        """The servers with members in rooms where some of the users are."""
        rows = self._database.fetch_all(
            "SELECT DISTINCT s.server_name FROM memberships m JOIN room_servers s"
            " ON s.room_nid = m.room_nid AND s.joined > 0"
            " WHERE m.user_id = ANY(%s) AND m.membership = 'join'",
            (list(user_ids),),
        )
        return frozenset(server_name for (server_name,) in rows)
