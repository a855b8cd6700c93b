"""Profiles: what our users say about themselves, one JSON value per field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from architex.domain.identifiers import UserId
from architex.storage.pool import Database


class ProfileStore:
    """The profiles table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_profile(self, user_id: UserId) -> Mapping[str, Any] | None:
        """All fields of a user's profile; None when there is no such active user."""
        rows = self._database.fetch_all(
            "SELECT p.key_name, p.value FROM users u LEFT JOIN profiles p USING (user_id)"
            " WHERE u.user_id = %s AND u.deactivated_ts IS NULL",
            (user_id,),
        )
        if not rows:
            return None
        return {key_name: orjson.loads(value) for key_name, value in rows if key_name is not None}

    def set_field(
        self, user_id: UserId, key_name: str, value: Any, *, max_profile_bytes: int
    ) -> bool:
        """Set one field; False (and nothing is changed) when the profile would grow too large.

        Args:
            value: any JSON value.
            max_profile_bytes: for the JSON of the whole profile.
        """
        text = orjson.dumps(value).decode()
        with self._database.transaction() as connection:
            # One change of a profile at a time, or two could outgrow the limit together.
            connection.execute("SELECT 1 FROM users WHERE user_id = %s FOR UPDATE", (user_id,))
            row = connection.execute(
                # A field costs its name and value, two quotes, a colon and a comma.
                "SELECT coalesce(sum(octet_length(key_name) + octet_length(value) + 4), 0)"
                " FROM profiles WHERE user_id = %s AND key_name <> %s",
                (user_id, key_name),
            ).fetchone()
            others = 0 if row is None else int(row[0])
            if others + len(key_name.encode()) + len(text.encode()) + 5 > max_profile_bytes:
                return False
            connection.execute(
                "INSERT INTO profiles (user_id, key_name, value) VALUES (%s, %s, %s)"
                " ON CONFLICT (user_id, key_name) DO UPDATE SET value = excluded.value",
                (user_id, key_name, text),
            )
        return True

    def delete_field(self, user_id: UserId, key_name: str) -> None:
        """Remove one field, if it is there."""
        self._database.execute(
            "DELETE FROM profiles WHERE user_id = %s AND key_name = %s", (user_id, key_name)
        )
