"""Account data: what clients keep here for their user, globally and per room, with positions."""

from __future__ import annotations

from architex.domain.identifiers import RoomId, UserId
from architex.storage.pool import Database, Execute

GLOBAL = ""
"""In place of a room ID: account data that belongs to no room."""


def put_account_data(
    execute: Execute,
    position: int,
    *,
    user_id: UserId,
    room_id: RoomId,
    type: str,
    content_json: str,
) -> None:
    """Replace one entry, within a batch of the commit queue.

    Args:
        room_id: GLOBAL for none.
        content_json: the content, as JSON.
    """
    execute(
        "INSERT INTO account_data (user_id, room_id, type, content, position)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (user_id, room_id, type)"
        " DO UPDATE SET content = excluded.content, position = excluded.position",
        (user_id, room_id, type, content_json, position),
    )


def put_tag(
    execute: Execute, position: int, *, user_id: UserId, room_id: RoomId, tag: str, tag_json: str
) -> None:
    """Set one tag of a room, leaving the others as they are at that moment.

    Args:
        tag: without U+0000, which jsonb cannot hold.
        tag_json: what is said about the tag, as JSON without U+0000.
    """
    execute(
        "INSERT INTO account_data AS held (user_id, room_id, type, content, position)"
        " VALUES (%(user_id)s, %(room_id)s, 'm.tag', jsonb_build_object('tags',"
        "  jsonb_build_object(%(tag)s::text, %(tag_json)s::jsonb))::text, %(position)s)"
        " ON CONFLICT (user_id, room_id, type) DO UPDATE SET position = excluded.position,"
        " content = jsonb_set(CASE WHEN jsonb_typeof(held.content::jsonb -> 'tags') = 'object'"
        "  THEN held.content::jsonb ELSE '{\"tags\": {}}' END,"
        "  ARRAY['tags', %(tag)s::text], %(tag_json)s::jsonb)::text",
        {
            "user_id": user_id,
            "room_id": room_id,
            "tag": tag,
            "tag_json": tag_json,
            "position": position,
        },
    )


def delete_tag(
    execute: Execute, position: int, *, user_id: UserId, room_id: RoomId, tag: str
) -> None:
    """Remove one tag of a room, leaving the others as they are at that moment."""
    execute(
        "UPDATE account_data SET position = %(position)s,"
        " content = (content::jsonb #- ARRAY['tags', %(tag)s::text])::text"
        " WHERE user_id = %(user_id)s AND room_id = %(room_id)s AND type = 'm.tag'"
        " AND content::jsonb -> 'tags' ? %(tag)s::text",
        {"user_id": user_id, "room_id": room_id, "tag": tag, "position": position},
    )


def copy_room_account_data(
    execute: Execute,
    position: int,
    *,
    user_id: UserId,
    from_room: RoomId,
    to_room: RoomId,
    type: str,
) -> None:
    """Set an entry of one room to what it is in another, unless it is set there already."""
    execute(
        "INSERT INTO account_data (user_id, room_id, type, content, position)"
        " SELECT user_id, %s, type, content, %s FROM account_data"
        " WHERE user_id = %s AND room_id = %s AND type = %s"
        " ON CONFLICT (user_id, room_id, type) DO NOTHING",
        (to_room, position, user_id, from_room, type),
    )


def replace_account_data(
    execute: Execute, position: int, *, user_id: UserId, type: str, before: str, after: str
) -> None:
    """Change an entry that belongs to no room, if nobody else did in the meantime.

    Args:
        before, after: the content, as JSON.
    """
    execute(
        "UPDATE account_data SET content = %s, position = %s"
        " WHERE user_id = %s AND room_id = '' AND type = %s AND content = %s",
        (after, position, user_id, type, before),
    )


class AccountDataStore:
    """Questions to the account_data table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_content(self, user_id: UserId, room_id: RoomId, type: str) -> str | None:
        """The content of one entry, as JSON; None when there is none."""
        row = self._database.fetch_one(
            "SELECT content FROM account_data WHERE user_id = %s AND room_id = %s AND type = %s",
            (user_id, room_id, type),
        )
        return None if row is None else str(row[0])

    def measure_others(self, user_id: UserId, room_id: RoomId, type: str) -> tuple[int, int]:
        """How many entries a user has besides one, and their bytes together."""
        row = self._database.fetch_one(
            "SELECT count(*), coalesce(sum(octet_length(content)), 0) FROM account_data"
            " WHERE user_id = %s AND (room_id, type) <> (%s, %s)",
            (user_id, room_id, type),
        )
        return (0, 0) if row is None else (int(row[0]), int(row[1]))
