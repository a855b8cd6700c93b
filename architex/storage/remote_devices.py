"""What other servers told of their users' devices.

Spec: https://spec.matrix.org/v1.19/server-server-api/#device-management
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.identifiers import ServerName, UserId
from architex.storage.pool import Database, Execute


@dataclass(frozen=True, slots=True)
class RemoteDevice:
    """A device of a user of another server.

    Attributes:
        keys: the JSON object that the server told.
    """

    device_id: str
    keys: dict[str, Any]
    display_name: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteList:
    """What we hold of a user's devices.

    Attributes:
        stream_id: by the user's server; None when it did not say.
        fetched_at: the position before the list was asked for; 0 for never.
        is_current: every change since must have been told to us, and was.
        is_stale: clients have been told that there are changes which we do not know.
        misled: clients that asked were not told the list as it is.
    """

    user_id: UserId
    stream_id: int | None
    fetched_at: int
    is_current: bool
    is_stale: bool
    misled: bool


# A server tells us of changes as long as its user and some user of ours are in the same room.
_FIND: Final = """
SELECT l.user_id, l.stream_id, l.fetched_at, l.stale_at <= l.fetched_at AND l.fetched_at > 0
    AND EXISTS (SELECT 1 FROM memberships m JOIN room_servers s ON s.room_nid = m.room_nid
        AND s.server_name = %(server)s AND s.joined > 0 AND s.since <= l.fetched_at
        WHERE m.user_id = l.user_id AND m.join_position <= l.fetched_at),
    l.stale_at > l.fetched_at, l.misled
FROM remote_device_lists l WHERE l.user_id = ANY(%(users)s)"""

# Something that came while the answer was under way may be newer than the answer.
_PUT_LIST: Final = """
INSERT INTO remote_device_lists AS held (user_id, stream_id, fetched_at)
VALUES (%(user)s, %(stream)s, %(fetched)s) ON CONFLICT (user_id) DO UPDATE SET
    stream_id = excluded.stream_id, fetched_at = greatest(held.fetched_at, excluded.fetched_at)
WHERE NOT (held.applied_at > excluded.fetched_at
    AND coalesce(held.stream_id > excluded.stream_id, false))
RETURNING user_id"""

_REPLACE: Final = f"""
WITH list AS ({_PUT_LIST}),
gone AS (DELETE FROM remote_devices d USING list WHERE d.user_id = list.user_id
    AND d.device_id <> ALL(%(devices)s))
INSERT INTO remote_devices (user_id, device_id, keys, display_name)
SELECT list.user_id, t.device_id, t.keys, t.display_name FROM list,
    unnest(%(devices)s::text[], %(keys)s::text[], %(names)s::text[])
        AS t (device_id, keys, display_name)
ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys,
    display_name = excluded.display_name"""  # noqa: S608 - constants


_MARK_STALE: Final = """
WITH marked AS (INSERT INTO remote_device_lists (user_id, fetched_at, stale_at)
    VALUES (%(user)s, 0, %(position)s)
    ON CONFLICT (user_id) DO UPDATE SET stale_at = excluded.stale_at
    RETURNING user_id, fetched_at)
INSERT INTO device_list_changes (user_id, position)
SELECT user_id, %(position)s FROM marked WHERE fetched_at > 0
ON CONFLICT (user_id) DO UPDATE SET position = excluded.position"""

# Whoever marks them at this moment waits, and then finds the list as it is.
_CALL_MISLED: Final = """
WITH called AS (UPDATE remote_device_lists SET misled = false
    WHERE user_id = %(user)s AND misled RETURNING user_id)
INSERT INTO device_list_changes (user_id, position) SELECT user_id, %(position)s FROM called
ON CONFLICT (user_id) DO UPDATE SET position = excluded.position"""

_MOVED: Final = """
WITH moved AS (UPDATE remote_device_lists SET stream_id = %(stream)s, applied_at = %(position)s
    WHERE user_id = %(user)s AND stream_id = %(known)s RETURNING user_id)"""

_APPLY_DELETION: Final = f"""{_MOVED}
DELETE FROM remote_devices d USING moved
WHERE d.user_id = moved.user_id AND d.device_id = %(device)s"""  # noqa: S608 - constants

_APPLY_CHANGE: Final = f"""{_MOVED}
INSERT INTO remote_devices (user_id, device_id, keys, display_name)
SELECT user_id, %(device)s, %(keys)s, %(name)s FROM moved
ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys,
    display_name = excluded.display_name"""  # noqa: S608 - constants


def put_list(
    execute: Execute,
    user_id: UserId,
    stream_id: int | None,
    fetched_at: int,
    devices: Collection[RemoteDevice],
) -> None:
    """Replace the list of a user, within a batch of the commit queue."""
    execute(
        _REPLACE,
        {
            "user": user_id,
            "stream": stream_id,
            "fetched": fetched_at,
            "devices": [device.device_id for device in devices],
            "keys": [orjson.dumps(device.keys).decode() for device in devices],
            "names": [device.display_name for device in devices],
        },
    )


def put_device(
    execute: Execute,
    position: int,
    user_id: UserId,
    *,
    known_stream_id: int,
    stream_id: int,
    device_id: str,
    device: RemoteDevice | None,
) -> None:
    """Apply an update of one device to the list that has the stream ID it builds on.

    Args:
        device: None when it has no keys any more, or was deleted.
    """
    # When another update came first, this one may not follow it: the list is asked for anew.
    execute(
        "UPDATE remote_device_lists SET stale_at = %s"
        " WHERE user_id = %s AND stream_id IS DISTINCT FROM %s",
        (position, user_id, known_stream_id),
    )
    params = {
        "position": position,
        "user": user_id,
        "known": known_stream_id,
        "stream": stream_id,
        "device": device_id,
    }
    if device is None:
        execute(_APPLY_DELETION, params)
        return
    execute(
        _APPLY_CHANGE,
        {
            **params,
            "keys": orjson.dumps(device.keys).decode(),
            "name": device.display_name,
        },
    )


def call_misled(execute: Execute, position: int, user_id: UserId) -> None:
    """Say that a list has changed, if clients were not told it as it is."""
    execute(_CALL_MISLED, {"user": user_id, "position": position})


def mark_stale(execute: Execute, position: int, user_id: UserId) -> None:
    """Note that the list of a user must be asked for anew, within a batch of the commit queue.

    Clients are told so, if they may have been told the list that we hold.
    """
    execute(_MARK_STALE, {"user": user_id, "position": position})


class RemoteDeviceStore:
    """Questions to the tables remote_device_lists and remote_devices."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        """Remember whose rooms count.

        Args:
            server_name: ours.
        """
        self._database = database
        self._server_name = server_name

    def find_lists(self, user_ids: Collection[UserId]) -> Mapping[UserId, RemoteList]:
        """What we hold of users' devices."""
        rows = self._database.fetch_all(
            _FIND, {"server": self._server_name, "users": list(user_ids)}
        )
        return {row[0]: RemoteList(*row) for row in rows}

    def list_devices(
        self, user_ids: Collection[UserId]
    ) -> Mapping[UserId, Sequence[RemoteDevice]]:
        """The devices we hold of users; nothing for those without."""
        rows = self._database.fetch_all(
            "SELECT user_id, device_id, keys, display_name FROM remote_devices"
            " WHERE user_id = ANY(%s) ORDER BY user_id, device_id",
            (list(user_ids),),
        )
        devices: dict[UserId, list[RemoteDevice]] = {}
        for user_id, device_id, keys, display_name in rows:
            device = RemoteDevice(device_id, orjson.loads(keys), display_name)
            devices.setdefault(user_id, []).append(device)
        return devices

    def note_misled(self, user_ids: Collection[UserId]) -> None:
        """Note that clients are about to be told lists that are not as they are, or nothing."""
        self._database.execute(
            "INSERT INTO remote_device_lists AS held (user_id, fetched_at, misled)"
            " SELECT user_id, 0, true FROM unnest(%s::text[]) AS u (user_id) ORDER BY user_id"
            " ON CONFLICT (user_id) DO UPDATE SET misled = true WHERE NOT held.misled",
            (list(user_ids),),
        )

    def delete_unused(self, limit: int = 1000) -> int:
        """Forget lists of users who are in no room any more; returns how many."""
        return self._database.execute(
            "DELETE FROM remote_device_lists WHERE user_id IN (SELECT l.user_id"
            " FROM remote_device_lists l WHERE NOT EXISTS (SELECT 1 FROM memberships m"
            "  WHERE m.user_id = l.user_id AND m.membership = 'join') LIMIT %s)",
            (limit,),
        )
