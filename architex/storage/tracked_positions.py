"""How far each follower of the log has come; moves only from where the follower read it."""

from __future__ import annotations

from typing import Final

from architex.storage.pool import PgConnection

_MOVE: Final = (
    "UPDATE tracking SET notification_id = %(to)s"
    " WHERE application_name = %(name)s AND notification_id = %(from)s"
)


def find_position(connection: PgConnection, name: str) -> int | None:
    """The follower's position; None before its first."""
    row = connection.execute(
        "SELECT notification_id FROM tracking WHERE application_name = %s", (name,)
    ).fetchone()
    return None if row is None else int(row[0])


def start_position(connection: PgConnection, name: str) -> int:
    """The follower's position; a new follower begins at 0."""
    connection.execute(
        "INSERT INTO tracking (application_name, notification_id) VALUES (%s, 0)"
        " ON CONFLICT DO NOTHING",
        (name,),
    )
    return find_position(connection, name) or 0


def move_position(connection: PgConnection, name: str, from_: int, to: int) -> bool:
    """Move the follower on; False, and nothing is changed, when another process has moved it.

    Until the transaction's end no one else can: what is written in the same transaction is
    written once, whatever processes believe they hold the follower's lease.
    """
    moved = connection.execute(_MOVE, {"name": name, "from": from_, "to": to})
    return moved.rowcount == 1


def set_position(connection: PgConnection, name: str, to: int) -> None:
    """Put the follower at a position, wherever it is: its tables were made anew."""
    connection.execute(
        "INSERT INTO tracking (application_name, notification_id) VALUES (%s, %s)"
        " ON CONFLICT (application_name) DO UPDATE"
        " SET notification_id = excluded.notification_id",
        (name, to),
    )
