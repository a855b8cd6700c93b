"""Pushers: where users want to be notified; each ends with the device that set it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.identifiers import UserId
from architex.storage.pool import Database


@dataclass(frozen=True, slots=True)
class Pusher:
    """One pusher of a user, in the words of the specification.

    Attributes:
        device_id: of the device that set it.
        created_ts: milliseconds since 1970.
    """

    user_id: UserId
    app_id: str
    pushkey: str
    device_id: str
    kind: str
    app_display_name: str
    device_display_name: str
    profile_tag: str
    lang: str
    data: Mapping[str, Any]
    created_ts: int


class PusherStore:
    """The pushers table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_pushers(self, user_id: UserId) -> Sequence[Pusher]:
        """The pushers of a user, oldest first."""
        rows = self._database.fetch_all(
            "SELECT user_id, app_id, pushkey, device_id, kind, app_display_name,"
            " device_display_name, profile_tag, lang, data, created_ts FROM pushers"
            " WHERE user_id = %s ORDER BY created_ts, app_id, pushkey",
            (user_id,),
        )
        return [_pusher(*row) for row in rows]

    def put_pusher(self, pusher: Pusher, *, append: bool) -> None:
        """Set a pusher.

        Args:
            append: other users may go on having one of the same app ID and pushkey.
        """
        with self._database.transaction() as connection:
            if not append:
                connection.execute(
                    "DELETE FROM pushers WHERE pushkey = %s AND app_id = %s AND user_id <> %s",
                    (pusher.pushkey, pusher.app_id, pusher.user_id),
                )
            connection.execute(
                "INSERT INTO pushers (user_id, app_id, pushkey, device_id, kind,"
                " app_display_name, device_display_name, profile_tag, lang, data, created_ts)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET"
                " device_id = excluded.device_id, kind = excluded.kind,"
                " app_display_name = excluded.app_display_name,"
                " device_display_name = excluded.device_display_name,"
                " profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data",
                (
                    pusher.user_id,
                    pusher.app_id,
                    pusher.pushkey,
                    pusher.device_id,
                    pusher.kind,
                    pusher.app_display_name,
                    pusher.device_display_name,
                    pusher.profile_tag,
                    pusher.lang,
                    encode_lenient_json(pusher.data).decode(),
                    pusher.created_ts,
                ),
            )

    def delete_pusher(self, user_id: UserId, app_id: str, pushkey: str) -> None:
        """Delete a pusher, if the user has it."""
        self._database.execute(
            "DELETE FROM pushers WHERE user_id = %s AND app_id = %s AND pushkey = %s",
            (user_id, app_id, pushkey),
        )


def _pusher(*row: Any) -> Pusher:
    *others, data_json, created_ts = row
    fields: list[Any] = [*others, orjson.loads(data_json), created_ts]
    return Pusher(*fields)
