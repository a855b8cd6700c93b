"""What is new for one user since a position: the first questions of every /sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.identifiers import RoomId, UserId
from architex.projections.device_list_reads import HAS_CHANGES
from architex.storage.pool import Database, PgConnection


@dataclass(frozen=True, slots=True)
class News:
    """In which respects something is new for a user.

    Attributes:
        position: up to where the answer holds.
        received: messages to the device are still here that it has shown to have.
    """

    position: int
    rooms: bool = False
    account_data: bool = False
    receipts: bool = False
    typing: bool = False
    presence: bool = False
    device_lists: bool = False
    to_device: bool = False
    received: bool = False

    @property
    def is_anything(self) -> bool:
        """Whether it is worth looking closer."""
        return (
            self.rooms
            or self.account_data
            or self.receipts
            or self.typing
            or self.presence
            or self.device_lists
            or self.to_device
            or self.received
        )


# Own membership changes, then facts of rooms the user is in: by the log when few facts are newer
# than the token, else by the rooms.
_RECENT_ROOMS: Final = """EXISTS (SELECT 1 FROM stored_events s
    JOIN rooms r ON r.room_id = s.originator_id
    JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = %(user)s
    WHERE s.notification_id > %(since)s AND (m.membership = 'join' OR m.position > %(since)s))"""

_OLDER_ROOMS: Final = """EXISTS (SELECT 1 FROM memberships m JOIN rooms r USING (room_nid)
    WHERE m.user_id = %(user)s
    AND (m.position > %(since)s OR (m.membership = 'join' AND r.last_position > %(since)s)))"""

_IN_A_JOINED_ROOM: Final = """EXISTS (SELECT 1 FROM memberships m
    WHERE m.user_id = %(user)s AND m.room_nid = x.room_nid AND m.membership = 'join')"""

_NEWS: Final = """
SELECT p.position, p.position > %(since)s AND {rooms},
    EXISTS (SELECT 1 FROM account_data a
        WHERE a.user_id = %(user)s AND a.position > %(since)s),
    EXISTS (SELECT 1 FROM receipts x WHERE x.position > %(since)s AND {joined}),
    EXISTS (SELECT 1 FROM typing x WHERE x.position > %(since)s AND {joined}),
    EXISTS (SELECT 1 FROM presence x WHERE x.position > %(since)s),
    {device_lists},
    EXISTS (SELECT 1 FROM to_device_messages t WHERE t.user_id = %(user)s
        AND t.device_id = %(device)s AND t.position > %(received)s),
    EXISTS (SELECT 1 FROM to_device_messages t WHERE t.user_id = %(user)s
        AND t.device_id = %(device)s AND t.position <= %(received)s)
FROM log_position p"""

_NEWS_BY_LOG: Final = _NEWS.format(
    rooms=_RECENT_ROOMS, joined=_IN_A_JOINED_ROOM, device_lists=HAS_CHANGES
)
_NEWS_BY_ROOMS: Final = _NEWS.format(
    rooms=_OLDER_ROOMS, joined=_IN_A_JOINED_ROOM, device_lists=HAS_CHANGES
)


def look_for_news(
    source: Database | PgConnection,
    user_id: UserId,
    since: int,
    *,
    recent: bool,
    device_id: str | None = None,
    received: int = 0,
) -> News:
    """In which respects something is new for a user after a position; one statement.

    Args:
        source: a connection inside a snapshot, or the database itself for an answer that is
            its own snapshot.
        recent: whether few facts are expected after `since`; only the way to find them differs.
        device_id: the user's device that asks.
        received: up to which position the device has messages to it.
    """
    sql = _NEWS_BY_LOG if recent else _NEWS_BY_ROOMS
    params = {
        "user": user_id,
        "since": since,
        "device": device_id or "",
        "received": received,
    }
    if isinstance(source, Database):
        row = source.fetch_one(sql, params)
    else:
        row = source.execute(sql, params).fetchone()
    return News(0) if row is None else News(*row)


@dataclass(frozen=True, slots=True)
class AccountData:
    """One entry of a user's account data.

    Attributes:
        room_id: empty for what belongs to no room.
        content: as JSON.
    """

    room_id: RoomId
    type: str
    content: orjson.Fragment


def list_account_data(
    connection: PgConnection, user_id: UserId, since: int, new_rooms: Sequence[RoomId] = ()
) -> list[AccountData]:
    """A user's account data, global and of rooms.

    What changed after a position, and everything of rooms that the user joined since.
    """
    rows = connection.execute(
        "SELECT room_id, type, content FROM account_data WHERE user_id = %(user)s"
        " AND (position > %(since)s OR room_id = ANY(%(rooms)s)) ORDER BY position",
        {"user": user_id, "since": since, "rooms": list(new_rooms)},
    ).fetchall()
    return [
        AccountData(room_id, type_, orjson.Fragment(content)) for room_id, type_, content in rows
    ]


def list_ignored_users(connection: PgConnection, user_id: UserId) -> frozenset[UserId]:
    """The users that a user ignores.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#ignoring-users
    """
    content = _find_account_data(connection, user_id, "m.ignored_user_list")
    ignored = content.get("ignored_users")
    return frozenset(ignored) - {user_id} if isinstance(ignored, dict) else frozenset()


def blocks_invites(connection: PgConnection, user_id: UserId) -> bool:
    """Whether a user wants no invites.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#invite-permission
    """
    content = _find_account_data(connection, user_id, "m.invite_permission_config")
    return content.get("default_action") == "block"


def _find_account_data(connection: PgConnection, user_id: UserId, type: str) -> Mapping[str, Any]:
    """The content of a user's global account data; empty when it is none or no object."""
    row = connection.execute(
        "SELECT content FROM account_data WHERE user_id = %s AND room_id = '' AND type = %s",
        (user_id, type),
    ).fetchone()
    # Clients write it: it can be anything.
    content = {} if row is None else orjson.loads(row[0])
    return content if isinstance(content, dict) else {}
