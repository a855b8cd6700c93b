"""Room aliases of this server: alias → room.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-aliases
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from psycopg import errors

from architex.domain.errors import RoomInUse
from architex.domain.identifiers import RoomAlias, RoomId, UserId
from architex.storage.pool import Database

INSERT_ALIAS: Final = (
    "INSERT INTO room_aliases (room_alias, room_id, creator, created_ts) VALUES (%s, %s, %s, %s)"
)
"""Its parameters are `alias_row`; a taken alias breaks the primary key (`taken_alias_named`)."""

DELETE_ALIAS: Final = "DELETE FROM room_aliases WHERE room_alias = %s"

MOVE_ALIASES: Final = "UPDATE room_aliases SET room_id = %s WHERE room_id = %s"
"""Parameters: the room the aliases shall point to, the room they point to."""


@dataclass(frozen=True, slots=True)
class AliasRow:
    """An alias of this server.

    Attributes:
        creator: the user who made it; may delete it.
        created_ts: milliseconds since 1970.
    """

    room_alias: RoomAlias
    room_id: RoomId
    creator: UserId
    created_ts: int


def alias_row(
    alias: RoomAlias, room_id: RoomId, creator: UserId, now_ms: int
) -> tuple[RoomAlias, RoomId, UserId, int]:
    """The parameters of INSERT_ALIAS."""
    return (alias, room_id, creator, now_ms)


@contextmanager
def taken_alias_named() -> Iterator[None]:
    """Turn the database's complaint about a taken alias into RoomInUse."""
    try:
        yield
    except errors.UniqueViolation as error:
        if error.diag.constraint_name != "room_aliases_pkey":
            raise
        raise RoomInUse("This alias is taken.") from error


class RoomAliasStore:
    """The room_aliases table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_alias(self, alias: RoomAlias) -> AliasRow | None:
        """The alias, or None when nobody has made it."""
        row = self._database.fetch_one(
            "SELECT room_alias, room_id, creator, created_ts FROM room_aliases"
            " WHERE room_alias = %s",
            (alias,),
        )
        return None if row is None else AliasRow(*row)

    def list_aliases(self, room_id: RoomId) -> list[RoomAlias]:
        """The aliases of a room, oldest first."""
        return [
            row[0]
            for row in self._database.fetch_all(
                "SELECT room_alias FROM room_aliases WHERE room_id = %s"
                " ORDER BY created_ts, room_alias",
                (room_id,),
            )
        ]

    def insert_alias(
        self, alias: RoomAlias, room_id: RoomId, creator: UserId, now_ms: int
    ) -> bool:
        """Make an alias; False (and nothing is changed) when it is taken."""
        made = self._database.execute(
            INSERT_ALIAS + " ON CONFLICT DO NOTHING", alias_row(alias, room_id, creator, now_ms)
        )
        return made == 1

    def delete_alias(self, alias: RoomAlias) -> bool:
        """Delete an alias; False when there was none."""
        return self._database.execute(DELETE_ALIAS, (alias,)) == 1
