"""Devices: where a user is logged in. Deleting one ends its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from architex.domain.identifiers import UserId
from architex.storage.pool import Database

_COLUMNS = "device_id, display_name, last_seen_ip, last_seen_ts, last_seen_user_agent"


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a user.

    Attributes:
        last_seen_ts: milliseconds since 1970, a few minutes coarse; None when never seen.
        last_seen_user_agent: the program that was seen, as it calls itself.
    """

    device_id: str
    display_name: str | None
    last_seen_ip: str | None
    last_seen_ts: int | None
    last_seen_user_agent: str | None


class DeviceStore:
    """The devices table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_devices(self, user_id: UserId) -> Sequence[Device]:
        """All devices of a user, in the order of their IDs."""
        rows = self._database.fetch_all(
            f"SELECT {_COLUMNS} FROM devices"  # noqa: S608 - constant columns
            " WHERE user_id = %s ORDER BY device_id",
            (user_id,),
        )
        return [Device(*row) for row in rows]

    def find_device(self, user_id: UserId, device_id: str) -> Device | None:
        """One device; None when the user has none of this ID."""
        row = self._database.fetch_one(
            f"SELECT {_COLUMNS} FROM devices"  # noqa: S608 - constant columns
            " WHERE user_id = %s AND device_id = %s",
            (user_id, device_id),
        )
        return None if row is None else Device(*row)

    def set_display_name(self, user_id: UserId, device_id: str, display_name: str) -> bool:
        """Rename a device; False when the user has none of this ID that has another name."""
        changed = self._database.execute(
            "UPDATE devices SET display_name = %(name)s WHERE user_id = %(user)s"
            " AND device_id = %(device)s AND display_name IS DISTINCT FROM %(name)s",
            {"name": display_name, "user": user_id, "device": device_id},
        )
        return changed == 1

    def note_seen(
        self, user_id: UserId, device_id: str, ip: str, user_agent: str, now_ms: int
    ) -> None:
        """Remember when, from which address and with which program a device was last seen."""
        self._database.execute(
            "UPDATE devices SET last_seen_ts = %s, last_seen_ip = %s, last_seen_user_agent = %s"
            " WHERE user_id = %s AND device_id = %s",
            (now_ms, ip, user_agent, user_id, device_id),
        )
