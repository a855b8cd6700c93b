"""Backups of room keys, in versions.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.identifiers import RoomId, UserId
from architex.storage.pool import Database, PgConnection


@dataclass(frozen=True, slots=True)
class BackupVersion:
    """A backup.

    Attributes:
        auth_data: as JSON.
        etag: grows whenever a key is stored, replaced or deleted.
        count: of keys.
    """

    version: int
    algorithm: str
    auth_data: orjson.Fragment
    etag: int
    count: int


@dataclass(frozen=True, slots=True)
class BackedUpKey:
    """The key of a session.

    Attributes:
        session_data_json: encrypted by the client; as JSON.
    """

    room_id: RoomId
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data_json: str


_COLUMNS: Final = "version, algorithm, auth_data, etag, count"
_FIND: Final = f"""
SELECT {_COLUMNS} FROM key_backup_versions WHERE user_id = %s AND version = %s AND NOT deleted"""  # noqa: S608 - constant columns
_CURRENT: Final = f"""
SELECT {_COLUMNS} FROM key_backup_versions WHERE user_id = %s AND NOT deleted
ORDER BY version DESC LIMIT 1"""  # noqa: S608 - constant columns

# The better key stays: verified, then from an earlier message on, then passed on less often.
_PUT: Final = """
WITH given AS (SELECT * FROM unnest(%(rooms)s::text[], %(sessions)s::text[], %(indexes)s::int8[],
    %(counts)s::int8[], %(verified)s::bool[], %(data)s::text[])
    AS g (room_id, session_id, first_message_index, forwarded_count, is_verified, session_data)),
before AS (SELECT room_id, session_id, octet_length(k.session_data) AS bytes
    FROM backed_up_keys k JOIN given USING (room_id, session_id)
    WHERE k.user_id = %(user)s AND k.version = %(version)s),
put AS (INSERT INTO backed_up_keys AS held (user_id, version, room_id, session_id,
    first_message_index, forwarded_count, is_verified, session_data)
    SELECT %(user)s, %(version)s, * FROM given
    ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET
        first_message_index = excluded.first_message_index,
        forwarded_count = excluded.forwarded_count,
        is_verified = excluded.is_verified, session_data = excluded.session_data
    WHERE (NOT excluded.is_verified, excluded.first_message_index, excluded.forwarded_count)
        < (NOT held.is_verified, held.first_message_index, held.forwarded_count)
    RETURNING room_id, session_id, octet_length(session_data) AS bytes)
SELECT count(*), count(*) FILTER (WHERE before.bytes IS NULL),
    coalesce(sum(put.bytes - coalesce(before.bytes, 0)), 0)
FROM put LEFT JOIN before USING (room_id, session_id)"""

_DELETE: Final = """
WITH gone AS (DELETE FROM backed_up_keys WHERE user_id = %(user)s AND version = %(version)s
    AND (%(room)s::text IS NULL OR room_id = %(room)s)
    AND (%(session)s::text IS NULL OR session_id = %(session)s)
    RETURNING octet_length(session_data) AS bytes)
SELECT count(*), coalesce(sum(bytes), 0) FROM gone"""


class BackupsTooLarge(Exception):
    """The backups of the user would take more than they may."""


class KeyBackupStore:
    """The tables key_backup_versions and backed_up_keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_version(
        self, user_id: UserId, algorithm: str, auth_data_json: str, *, max_bytes: int
    ) -> int:
        """Begin a new backup; gives its version, higher than any before.

        Args:
            max_bytes: so much may all backups of the user take; 0 for any amount.

        Raises:
            BackupsTooLarge: it would be more. Nothing is written then.
        """
        with self._database.transaction() as connection:
            # One after the other, per user.
            connection.execute(
                "SELECT 1 FROM users WHERE user_id = %s FOR NO KEY UPDATE", (user_id,)
            )
            row = connection.execute(
                "INSERT INTO key_backup_versions (user_id, version, algorithm, auth_data)"
                " SELECT %(user)s, coalesce(max(version), 0) + 1, %(algorithm)s, %(auth)s"
                " FROM key_backup_versions WHERE user_id = %(user)s RETURNING version",
                {"user": user_id, "algorithm": algorithm, "auth": auth_data_json},
            ).fetchone()
            _check_bytes(connection, user_id, max_bytes)
        return 0 if row is None else int(row[0])

    def find_version(self, user_id: UserId, version: int) -> BackupVersion | None:
        """A backup; None when there is none, or it was deleted."""
        return _as_version(self._database.fetch_one(_FIND, (user_id, version)))

    def find_current(self, user_id: UserId) -> BackupVersion | None:
        """The newest backup; None when there is none."""
        return _as_version(self._database.fetch_one(_CURRENT, (user_id,)))

    def set_auth_data(
        self, user_id: UserId, version: int, auth_data_json: str, *, max_bytes: int
    ) -> None:
        """Replace the auth data of a backup.

        Args:
            max_bytes: so much may all backups of the user take; 0 for any amount.

        Raises:
            BackupsTooLarge: it would be more. Nothing is written then.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE key_backup_versions SET auth_data = %s"
                " WHERE user_id = %s AND version = %s AND NOT deleted",
                (auth_data_json, user_id, version),
            )
            _check_bytes(connection, user_id, max_bytes)

    def delete_version(self, user_id: UserId, version: int) -> bool:
        """Delete a backup and its keys; False when there never was one. Its number stays used."""
        with self._database.transaction() as connection:
            known = connection.execute(
                "UPDATE key_backup_versions SET deleted = true, count = 0, bytes = 0,"
                " auth_data = 'null'"
                " WHERE user_id = %s AND version = %s",
                (user_id, version),
            ).rowcount
            connection.execute(
                "DELETE FROM backed_up_keys WHERE user_id = %s AND version = %s",
                (user_id, version),
            )
        return known == 1

    def put_keys(
        self, user_id: UserId, version: int, keys: Collection[BackedUpKey], *, max_bytes: int
    ) -> BackupVersion | None:
        """Store keys in the current backup, where they are better than what is there.

        Gives the current backup as it is then; when that is another version, nothing was stored.
        None when there is no backup.

        Args:
            max_bytes: so much may all backups of the user take; 0 for any amount.

        Raises:
            BackupsTooLarge: it would be more. Nothing is stored then.
        """
        with self._database.transaction() as connection:
            current = _as_version(
                connection.execute(_CURRENT + " FOR NO KEY UPDATE", (user_id,)).fetchone()
            )
            if current is None or current.version != version or not keys:
                return current
            put, new, more_bytes = _one(
                connection,
                _PUT,
                {
                    "user": user_id,
                    "version": version,
                    "rooms": [key.room_id for key in keys],
                    "sessions": [key.session_id for key in keys],
                    "indexes": [key.first_message_index for key in keys],
                    "counts": [key.forwarded_count for key in keys],
                    "verified": [key.is_verified for key in keys],
                    "data": [key.session_data_json for key in keys],
                },
            )
            if not put:
                return current
            counted = _count(connection, user_id, version, new, more_bytes)
            if more_bytes > 0:
                _check_bytes(connection, user_id, max_bytes)
            return counted

    def list_keys(
        self,
        user_id: UserId,
        version: int,
        room_id: RoomId | None = None,
        session_id: str | None = None,
    ) -> Sequence[BackedUpKey]:
        """The keys of a backup, of a room, or of a session."""
        rows = self._database.fetch_all(
            "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified,"
            " session_data FROM backed_up_keys WHERE user_id = %(user)s AND version = %(version)s"
            " AND (%(room)s::text IS NULL OR room_id = %(room)s)"
            " AND (%(session)s::text IS NULL OR session_id = %(session)s)"
            " ORDER BY room_id, session_id",
            {"user": user_id, "version": version, "room": room_id, "session": session_id},
        )
        return [BackedUpKey(*row) for row in rows]

    def delete_keys(
        self,
        user_id: UserId,
        version: int,
        room_id: RoomId | None = None,
        session_id: str | None = None,
    ) -> BackupVersion | None:
        """Delete keys of a backup; gives it as it is then, or None when there is none."""
        with self._database.transaction() as connection:
            found = _as_version(
                connection.execute(_FIND + " FOR NO KEY UPDATE", (user_id, version)).fetchone()
            )
            if found is None:
                return None
            gone, gone_bytes = _one(
                connection,
                _DELETE,
                {"user": user_id, "version": version, "room": room_id, "session": session_id},
            )
            if not gone:
                return found
            return _count(connection, user_id, version, -gone, -gone_bytes)


def _check_bytes(connection: PgConnection, user_id: UserId, max_bytes: int) -> None:
    """Raises BackupsTooLarge when the backups of a user take more than they may."""
    if max_bytes:
        # None when there is no backup (any more).
        (taken,) = _one(
            connection,
            "SELECT sum(bytes + octet_length(auth_data)) FROM key_backup_versions"
            " WHERE user_id = %s AND NOT deleted",
            (user_id,),
        )
        if taken is not None and taken > max_bytes:
            raise BackupsTooLarge


def _count(
    connection: PgConnection, user_id: UserId, version: int, more: int, more_bytes: int
) -> BackupVersion:
    """Note that the keys of a backup have changed."""
    return BackupVersion(
        *_one(
            connection,
            "UPDATE key_backup_versions SET etag = etag + 1, count = count + %s,"
            " bytes = bytes + %s WHERE user_id = %s AND version = %s"
            " RETURNING version, algorithm, auth_data, etag, count",
            (more, more_bytes, user_id, version),
        )
    )


def _one(connection: PgConnection, sql: str, params: Any) -> tuple[Any, ...]:
    row = connection.execute(sql.encode(), params).fetchone()
    if row is None:
        raise LookupError("the backup has vanished")
    return row


def _as_version(row: tuple[Any, ...] | None) -> BackupVersion | None:
    if row is None:
        return None
    version, algorithm, auth_data, etag, count = row
    return BackupVersion(version, algorithm, orjson.Fragment(auth_data), etag, count)
