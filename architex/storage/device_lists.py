"""Changes of users' devices and keys: one row per user for our clients, a queue for other servers.

Spec: https://spec.matrix.org/v1.19/server-server-api/#device-management
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import UserId
from architex.storage.pool import Database, Execute

CROSS_SIGNING: Final = ""
"""In place of a device ID: the user's cross-signing keys."""

MAX_DEVICES: Final = 1000
"""In one change."""

_UPSERT_CHANGE: Final = """
ON CONFLICT (user_id) DO UPDATE SET position = excluded.position"""

# A stream ID per device: servers tell updates apart by it, and find gaps by the one before.
_INSERT_UPDATES: Final = """
INSERT INTO device_list_updates (user_id, stream_id, device_id, previous, position, created_ts)
SELECT %(user)s, %(position)s::int8 * 1024 + n, device_id,
    CASE WHEN n = 1 THEN (SELECT max(stream_id) FROM device_list_updates
        WHERE user_id = %(user)s AND device_id <> '')
    ELSE %(position)s::int8 * 1024 + n - 1 END,
    %(position)s, %(now)s FROM numbered"""

_NOTE_CHANGES: Final = f"""
WITH numbered AS (SELECT device_id, row_number() OVER (ORDER BY device_id) AS n
    FROM unnest(%(devices)s::text[]) AS d (device_id)),
told AS ({_INSERT_UPDATES})
INSERT INTO device_list_changes (user_id, position) VALUES (%(user)s, %(position)s)
{_UPSERT_CHANGE}"""  # noqa: S608 - constants

# On the devices that are gone, and by them on the master key: another device may get the ID.
_FORGOTTEN_SIGNATURES: Final = """
forgotten AS (DELETE FROM key_signatures USING gone WHERE target_user_id = %(user)s
    AND (target_id = gone.device_id OR (signer_user_id = %(user)s
        AND signer_key_id = 'ed25519:' || gone.device_id)))"""

# The gone one first: the same position tells other servers of both.
_REPLACE_DEHYDRATED: Final = f"""
WITH gone AS (DELETE FROM devices d USING dehydrated_devices h WHERE h.user_id = %(user)s
    AND h.device_id <> %(device)s AND d.user_id = h.user_id AND d.device_id = h.device_id
    RETURNING d.device_id),
numbered AS (SELECT device_id, 1 AS n FROM gone
    UNION ALL SELECT %(device)s, 1 + (SELECT count(*) FROM gone)),
{_FORGOTTEN_SIGNATURES},
told AS ({_INSERT_UPDATES})
INSERT INTO device_list_changes (user_id, position) VALUES (%(user)s, %(position)s)
{_UPSERT_CHANGE}"""  # noqa: S608 - constants

# A device that gets the ID later is another, and repeats nothing that this one has asked.
_FORGOTTEN_ANSWERS: Final = """
forgotten_answers AS (DELETE FROM transactions t USING gone WHERE t.user_id = %(user)s
    AND t.device_id = gone.device_id)"""

_DELETE_DEVICES: Final = f"""
WITH gone AS (DELETE FROM devices WHERE user_id = %(user)s AND device_id = ANY(%(devices)s)
    RETURNING device_id),
numbered AS (SELECT device_id, row_number() OVER (ORDER BY device_id) AS n FROM gone),
{_FORGOTTEN_SIGNATURES},
{_FORGOTTEN_ANSWERS},
told AS ({_INSERT_UPDATES})
INSERT INTO device_list_changes (user_id, position)
SELECT %(user)s, %(position)s WHERE EXISTS (SELECT 1 FROM gone)
{_UPSERT_CHANGE}"""  # noqa: S608 - constants


def note_device_changes(
    execute: Execute, position: int, user_id: UserId, device_ids: Collection[str], now_ms: int
) -> None:
    """Say that devices of a user of ours have changed, within a batch of the commit queue.

    Args:
        device_ids: at most MAX_DEVICES; CROSS_SIGNING for the keys of the user.
    """
    execute(
        _NOTE_CHANGES,
        {"user": user_id, "position": position, "devices": list(device_ids), "now": now_ms},
    )


def delete_devices(
    execute: Execute, position: int, user_id: UserId, device_ids: Collection[str], now_ms: int
) -> None:
    """Delete devices of a user of ours, with their tokens, keys and messages, and say so.

    Args:
        device_ids: at most MAX_DEVICES; those the user does not have are ignored.
    """
    execute(
        _DELETE_DEVICES,
        {"user": user_id, "position": position, "devices": list(device_ids), "now": now_ms},
    )


def replace_dehydrated_device(
    execute: Execute, position: int, user_id: UserId, device_id: str, now_ms: int
) -> None:
    """Delete the dehydrated device of a user of ours, unless it is this one; say that it changed.

    Args:
        device_id: of the dehydrated device that the user has from now on.
    """
    execute(
        _REPLACE_DEHYDRATED,
        {"user": user_id, "position": position, "device": device_id, "now": now_ms},
    )


def note_list_change(execute: Execute, position: int, user_id: UserId) -> None:
    """Say to our clients that devices or keys of a user have changed."""
    execute(
        "INSERT INTO device_list_changes (user_id, position) VALUES (%s, %s)"
        " ON CONFLICT (user_id) DO UPDATE SET position = excluded.position",
        (user_id, position),
    )


def note_own_change(execute: Execute, position: int, user_id: UserId) -> None:
    """Say to a user's own devices that keys have changed which nobody else sees."""
    execute(
        "INSERT INTO device_list_changes (user_id, position, own_position) VALUES (%s, 0, %s)"
        " ON CONFLICT (user_id) DO UPDATE SET own_position = excluded.own_position",
        (user_id, position),
    )


@dataclass(frozen=True, slots=True)
class DeviceListUpdate:
    """One device of a user of ours that has changed.

    Attributes:
        device_id: CROSS_SIGNING for the user's cross-signing keys.
        previous: the stream ID of the user's update before, of any device.
    """

    user_id: UserId
    stream_id: int
    device_id: str
    previous: int | None
    position: int


class DeviceListStore:
    """Questions to the tables of device list changes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_stream_id(self, user_id: UserId) -> int:
        """The newest stream ID of a user of ours; 0 when there is none."""
        row = self._database.fetch_one(
            "SELECT max(stream_id) FROM device_list_updates"
            " WHERE user_id = %s AND device_id <> ''",
            (user_id,),
        )
        return 0 if row is None or row[0] is None else int(row[0])

    def delete_old_updates(self, created_before_ts: int, limit: int = 10_000) -> int:
        """Forget updates that newer ones of their user follow; returns how many.

        A server that has not heard of them by then finds a gap before the next one, and asks for
        the whole list.
        """
        return self._database.execute(
            "DELETE FROM device_list_updates WHERE (user_id, stream_id) IN ("
            " SELECT u.user_id, u.stream_id FROM device_list_updates u WHERE u.created_ts < %s"
            " AND EXISTS (SELECT 1 FROM device_list_updates n WHERE n.user_id = u.user_id"
            "  AND n.stream_id > u.stream_id AND n.device_id <> '')"
            " ORDER BY u.position LIMIT %s)",
            (created_before_ts, limit),
        )

    def list_device_ids(self, user_id: UserId) -> Sequence[str]:
        """The devices of a user of ours, in the order of their IDs."""
        rows = self._database.fetch_all(
            "SELECT device_id FROM devices WHERE user_id = %s ORDER BY device_id", (user_id,)
        )
        return [device_id for (device_id,) in rows]
