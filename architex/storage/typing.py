"""Who is typing in which room. Ephemeral: a crash of the database forgets it without harm.

A row whose `expires_ts` has passed says that somebody stopped; it stays for a while, so that its
position tells readers about the change.

Spec: https://spec.matrix.org/v1.19/client-server-api/#typing-notifications
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from architex.domain.identifiers import ServerName, UserId
from architex.storage.pool import Database, Execute, PgConnection

STOPPED: Final = 0
"""`expires_ts` of a user who stopped typing, and of whom the readers were told."""


def put_typing(
    execute: Execute, position: int, *, room_nid: int, user_id: UserId, expires_ts: int
) -> None:
    """Say that a user types until a moment, within a batch of the commit queue.

    Args:
        expires_ts: milliseconds since 1970; STOPPED when the user stopped.
    """
    execute(
        "INSERT INTO typing (room_nid, user_id, expires_ts, position) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (room_nid, user_id) DO UPDATE SET expires_ts = excluded.expires_ts,"
        " position = excluded.position",
        (room_nid, user_id, expires_ts, position),
    )


def prolong_typing(database: Database, room_nid: int, user_id: UserId, expires_ts: int) -> None:
    """Move the end of somebody's typing; nobody needs to be told."""
    database.execute(
        "UPDATE typing SET expires_ts = %s"
        " WHERE room_nid = %s AND user_id = %s AND expires_ts > 0",
        (expires_ts, room_nid, user_id),
    )


def find_next_expiry(database: Database) -> int | None:
    """When the next user's time is over, milliseconds since 1970; None when nobody types."""
    row = database.fetch_one("SELECT min(expires_ts) FROM typing WHERE expires_ts > 0")
    return None if row is None or row[0] is None else int(row[0])


def stop_expired_typing(execute: Execute, position: int, *, now_ms: int) -> None:
    """Announce, at a new position, that those whose time is over stopped typing."""
    execute(
        "UPDATE typing SET expires_ts = 0, position = %s"
        " WHERE expires_ts > 0 AND expires_ts <= %s",
        (position, now_ms),
    )


def stop_typing_of_leavers(execute: Execute, left: Sequence[tuple[UserId, int, int]]) -> None:
    """Announce that users who left a room stopped typing there, if they were.

    Args:
        left: user, number of the room, position of the event by which they left.
    """
    execute(
        "UPDATE typing t SET expires_ts = 0, position = l.position"
        " FROM unnest(%s::text[], %s::int8[], %s::int8[]) AS l (user_id, room_nid, position)"
        " WHERE t.user_id = l.user_id AND t.room_nid = l.room_nid AND t.expires_ts > 0",
        [list(column) for column in zip(*left, strict=True)],
    )


def delete_stopped_typing(execute: Execute, *, before_position: int) -> None:
    """Forget about those who stopped so long ago that every reader has been told."""
    execute(
        "DELETE FROM typing WHERE expires_ts = 0 AND position < %s",
        (before_position,),
    )


def list_expired_rooms(connection: PgConnection, now_ms: int) -> list[int]:
    """The numbers of the rooms in which somebody's time is over, unannounced."""
    rows = connection.execute(
        "SELECT DISTINCT room_nid FROM typing WHERE expires_ts > 0 AND expires_ts <= %s",
        (now_ms,),
    ).fetchall()
    return [room_nid for (room_nid,) in rows]


_TYPING_AMONG_OTHERS: Final = """
FROM room_servers s WHERE s.room_nid = t.room_nid AND s.server_name <> %(own)s AND s.joined > 0
    AND t.expires_ts > %(now)s
    AND substring(t.user_id FROM position(':' IN t.user_id) + 1) = %(own)s"""

_COUNT_TEMPLATE: Final = "SELECT count(*) FROM typing t WHERE EXISTS (SELECT 1 {among_others})"
_COUNT: Final = _COUNT_TEMPLATE.format(among_others=_TYPING_AMONG_OTHERS)
_REPEAT_TEMPLATE: Final = "UPDATE typing t SET position = %(position)s {among_others}"
_REPEAT: Final = _REPEAT_TEMPLATE.format(among_others=_TYPING_AMONG_OTHERS)


def count_typing_among_others(connection: PgConnection, own: ServerName, now_ms: int) -> int:
    """How many of our users are typing in rooms with members of other servers."""
    row = connection.execute(_COUNT.encode(), {"own": own, "now": now_ms}).fetchone()
    return 0 if row is None else int(row[0])


def repeat_typing_among_others(
    execute: Execute, position: int, *, own: ServerName, now_ms: int
) -> None:
    """Give those users a new position, so that other servers are told again."""
    execute(
        _REPEAT,
        {"position": position, "own": own, "now": now_ms},
    )


def is_typing(connection: PgConnection, room_nid: int, user_id: UserId, now_ms: int) -> bool:
    """Whether a user is typing in a room."""
    row = connection.execute(
        "SELECT 1 FROM typing WHERE room_nid = %s AND user_id = %s AND expires_ts > %s",
        (room_nid, user_id, now_ms),
    ).fetchone()
    return row is not None


def list_changed_typing(
    connection: PgConnection, user_id: UserId, since: int, now_ms: int
) -> dict[int, list[UserId]]:
    """Where somebody began or stopped typing after a position, among the rooms a user is in.

    Returns room number → who is typing there now, which may be nobody.
    """
    rows = connection.execute(
        "SELECT t.room_nid, coalesce(array_agg(t.user_id ORDER BY t.user_id)"
        "  FILTER (WHERE t.expires_ts > %(now)s), '{}')"
        " FROM typing t JOIN memberships m ON m.user_id = %(user)s AND m.room_nid = t.room_nid"
        "  AND m.membership = 'join'"
        " GROUP BY t.room_nid HAVING max(t.position) > %(since)s",
        {"user": user_id, "since": since, "now": now_ms},
    ).fetchall()
    return dict(rows)


def list_typing(
    connection: PgConnection, room_nids: Collection[int], now_ms: int
) -> dict[int, list[UserId]]:
    """Room number → who is typing there now, which is nobody where somebody stopped lately.

    Who asks afresh may have been told before that they type. Other rooms are missing.
    """
    if not room_nids:
        return {}
    rows = connection.execute(
        "SELECT room_nid, coalesce(array_agg(user_id ORDER BY user_id)"
        "  FILTER (WHERE expires_ts > %s), '{}')"
        " FROM typing WHERE room_nid = ANY(%s) GROUP BY room_nid",
        (now_ms, list(room_nids)),
    ).fetchall()
    return dict(rows)
