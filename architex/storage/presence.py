"""Presence, as last announced. Ephemeral: a crash of the database forgets it without harm.

Spec: https://spec.matrix.org/v1.19/client-server-api/#presence
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from architex.domain.identifiers import UserId
from architex.storage.pool import Database, Execute, PgConnection


@dataclass(frozen=True, slots=True)
class Presence:
    """What a user's presence is.

    Attributes:
        presence: `online`, `unavailable` or `offline`.
        last_active_ts: when the user last did something, milliseconds since 1970; 0 when that
            is not known.
        last_sync_ts: when the user's clients last asked for news and set presence; 0 for never,
            in the future for who waits for long.
        online_devices: the devices that show the user to be online, and when each last did:
            device ID → milliseconds since 1970.
    """

    user_id: UserId
    presence: str
    status_msg: str | None
    last_active_ts: int
    last_sync_ts: int
    online_devices: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShownPresence:
    """A user's presence, with the names that the user's profile gives.

    Attributes:
        displayname, avatar_url: None when there is none, and for users of other servers.
    """

    presence: Presence
    displayname: str | None
    avatar_url: str | None


_COLUMNS: Final = (
    "SELECT p.user_id, p.presence, p.status_msg, p.last_active_ts, p.last_sync_ts,"
    " coalesce(p.online_devices, '{}') FROM presence p"
)


def put_presence(execute: Execute, position: int, presence: Presence) -> None:
    """Announce a user's presence, within a batch of the commit queue."""
    execute(
        "INSERT INTO presence (user_id, presence, status_msg, last_active_ts, last_sync_ts,"
        " position, online_devices) VALUES (%s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (user_id) DO UPDATE SET"
        " presence = excluded.presence, status_msg = excluded.status_msg,"
        " last_active_ts = excluded.last_active_ts, last_sync_ts = excluded.last_sync_ts,"
        " position = excluded.position, online_devices = excluded.online_devices",
        (
            presence.user_id,
            presence.presence,
            presence.status_msg,
            presence.last_active_ts,
            presence.last_sync_ts,
            position,
            _jsonb(presence.online_devices),
        ),
    )


class PresenceStore:
    """Questions to the presence table, and what it keeps without telling anybody."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_presence(self, user_id: UserId) -> Presence | None:
        """A user's presence; None when nothing was ever said about it."""
        row = self._database.fetch_one(_COLUMNS + " WHERE p.user_id = %s", (user_id,))
        return None if row is None else Presence(*row)

    def touch(self, presence: Presence) -> None:
        """Keep what nobody is told: when the user did something, and which device when."""
        self._database.execute(
            "UPDATE presence SET last_active_ts = greatest(last_active_ts, %s),"
            " last_sync_ts = greatest(last_sync_ts, %s), online_devices = %s WHERE user_id = %s",
            (
                presence.last_active_ts,
                presence.last_sync_ts,
                _jsonb(presence.online_devices),
                presence.user_id,
            ),
        )

    def list_silent(self, before_ms: int, *, limit: int = 500) -> list[Presence]:
        """Users who are shown as present although their clients went silent before a moment."""
        rows = self._database.fetch_all(
            _COLUMNS + " WHERE p.presence <> 'offline' AND p.last_sync_ts > 0"
            " AND p.last_sync_ts < %s LIMIT %s",
            (before_ms, limit),
        )
        return [Presence(*row) for row in rows]

    def list_inactive(self, before_ms: int, *, limit: int = 500) -> list[Presence]:
        """Users of ours who are shown as online and have done nothing since a moment."""
        rows = self._database.fetch_all(
            _COLUMNS + " WHERE p.presence = 'online'"
            " AND p.last_active_ts < %s AND p.online_devices <> '{}' LIMIT %s",
            (before_ms, limit),
        )
        return [Presence(*row) for row in rows]

    def share_room(self, user_id: UserId, other: UserId) -> bool:
        """Whether two users are in one room."""
        row = self._database.fetch_one(
            "SELECT 1 FROM memberships a JOIN memberships b USING (room_nid)"
            " WHERE a.user_id = %s AND a.membership = 'join'"
            " AND b.user_id = %s AND b.membership = 'join' LIMIT 1",
            (user_id, other),
        )
        return row is not None

    def list_rooms_to_tell(self, *user_ids: UserId) -> list[int]:
        """Numbers of the rooms whose members see the presence of some users.

        All of them: who is not told that there is news may be told later that there was none.
        """
        rows = self._database.fetch_all(
            "SELECT DISTINCT room_nid FROM memberships"
            " WHERE user_id = ANY(%s) AND membership = 'join'",
            (list(user_ids),),
        )
        return [room_nid for (room_nid,) in rows]


_SHARES_A_ROOM: Final = """EXISTS (SELECT 1 FROM memberships a JOIN memberships b USING (room_nid)
    WHERE a.user_id = %(user)s AND a.membership = 'join'
    AND b.user_id = p.user_id AND b.membership = 'join')"""

# Not joins: a plan for many rows would read all profiles for the few there are.
_NAMES: Final = """
    (SELECT n.value FROM profiles n WHERE n.user_id = p.user_id AND n.key_name = 'displayname'),
    (SELECT a.value FROM profiles a WHERE a.user_id = p.user_id AND a.key_name = 'avatar_url')"""

_SHOWN: Final = f"""
SELECT p.user_id, p.presence, p.status_msg, p.last_active_ts, p.last_sync_ts, {_NAMES}
FROM presence p"""  # noqa: S608 - constants

_CHANGED: Final = (
    f"{_SHOWN} WHERE p.position > %(since)s AND (p.user_id = %(user)s OR {_SHARES_A_ROOM})"
)

# Whoever is new to the reader is told of, also when nothing was ever said of their presence.
_NEW: Final = f"""
SELECT p.user_id, coalesce(x.presence, 'offline'), x.status_msg, coalesce(x.last_active_ts, 0),
    coalesce(x.last_sync_ts, 0), {_NAMES}
FROM (SELECT unnest(%(newcomers)s::text[]) AS user_id
    UNION (SELECT m.user_id FROM memberships m
        WHERE m.room_nid = ANY(%(rooms)s) AND m.membership = 'join' LIMIT %(limit)s)) p
LEFT JOIN presence x USING (user_id) WHERE p.user_id <> %(user)s"""  # noqa: S608 - constants

_CHANGED_AND_NEW: Final = f"{_CHANGED} UNION {_NEW}"

_PRESENT: Final = (
    f"{_SHOWN} WHERE p.user_id = %(user)s OR (p.presence <> 'offline' AND {_SHARES_A_ROOM})"
)

MAX_NEW_MEMBERS: Final = 500
"""Of rooms that somebody has joined, the presence of so many members is told at most."""


def list_changed_presence(
    connection: PgConnection,
    user_id: UserId,
    since: int,
    *,
    new_rooms: Collection[int] = (),
    newcomers: Collection[UserId] = (),
) -> list[ShownPresence]:
    """The presence that a user has not been told: of the user and of who shares a room.

    Args:
        since: the position up to which changes have been told.
        new_rooms: numbers of rooms the user joined since; all their members are news.
        newcomers: users who joined the user's rooms since.
    """
    rows = connection.execute(
        _CHANGED_AND_NEW if new_rooms or newcomers else _CHANGED,
        {
            "user": user_id,
            "since": since,
            "rooms": list(new_rooms),
            "newcomers": list(newcomers),
            "limit": MAX_NEW_MEMBERS,
        },
    ).fetchall()
    return [_shown(row) for row in rows]


def list_present_users(connection: PgConnection, user_id: UserId) -> list[ShownPresence]:
    """The presence of a user, and of those sharing a room who are not offline."""
    return [_shown(row) for row in connection.execute(_PRESENT, {"user": user_id}).fetchall()]


def _shown(row: Sequence[Any]) -> ShownPresence:
    displayname, avatar_url = (None if text is None else orjson.loads(text) for text in row[5:])
    return ShownPresence(Presence(*row[:5]), displayname, avatar_url)


def _jsonb(online_devices: Mapping[str, int]) -> str:
    return orjson.dumps(dict(online_devices)).decode()
