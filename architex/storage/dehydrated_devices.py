"""Dehydrated devices: each user's device that nobody is logged in with.

Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3814
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from architex.domain.encryption_keys import OneTimeKey
from architex.domain.identifiers import UserId
from architex.storage.device_keys import put_device_keys
from architex.storage.device_lists import replace_dehydrated_device
from architex.storage.one_time_keys import put_keys
from architex.storage.pool import Database, Execute

# Not a device with which somebody is logged in: that one keeps its keys.
_PUT_DEVICE: Final = """
INSERT INTO devices (user_id, device_id, display_name, created_ts)
VALUES (%(user)s, %(device)s, %(name)s, %(now)s) ON CONFLICT DO NOTHING"""

_PUT: Final = """
INSERT INTO dehydrated_devices (user_id, device_id, device_data)
VALUES (%(user)s, %(device)s, %(data)s)
ON CONFLICT (user_id) DO UPDATE SET device_data = excluded.device_data"""


@dataclass(frozen=True, slots=True)
class DehydratedDevice:
    """A device for a later one to take over.

    Attributes:
        device_data: as JSON; encrypted by the client.
    """

    device_id: str
    device_data: orjson.Fragment


@dataclass(frozen=True, slots=True)
class NewDehydratedDevice:
    """A device that a client leaves behind, with its keys.

    Attributes:
        display_name: None for none.
    """

    device_id: str
    display_name: str | None
    device_data_json: str
    device_keys_json: str
    one_time: Sequence[OneTimeKey]
    fallback: Sequence[OneTimeKey]


def put_dehydrated_device(
    execute: Execute,
    position: int,
    user_id: UserId,
    device: NewDehydratedDevice,
    now_ms: int,
    *,
    max_unclaimed: int,
) -> None:
    """Put a dehydrated device in the place of the one before, in a batch of the commit queue.

    The same one again keeps the messages that it has received.

    Args:
        max_unclaimed: so many of its one-time keys may wait to be claimed.
    """
    replace_dehydrated_device(execute, position, user_id, device.device_id, now_ms)
    named = {"user": user_id, "device": device.device_id}
    execute(_PUT_DEVICE, {**named, "name": device.display_name, "now": now_ms})
    execute(_PUT, {**named, "data": device.device_data_json})
    put_device_keys(execute, user_id, device.device_id, device.device_keys_json)
    put_keys(
        execute,
        user_id,
        device.device_id,
        device.one_time,
        device.fallback,
        max_unclaimed=max_unclaimed,
    )


class DehydratedDeviceStore:
    """Questions to the table dehydrated_devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_device(self, user_id: UserId) -> DehydratedDevice | None:
        """The dehydrated device of a user; None when there is none."""
        row = self._database.fetch_one(
            "SELECT device_id, device_data FROM dehydrated_devices WHERE user_id = %s",
            (user_id,),
        )
        return None if row is None else DehydratedDevice(row[0], orjson.Fragment(row[1]))
