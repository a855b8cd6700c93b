"""Device lists: telling whoever shares rooms with a user that the user's devices have changed.

A change costs one row for our clients and one for other servers; who must hear of it is found out
by whoever reads.

Spec: https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from architex.domain.identifiers import UserId
from architex.gateways.clock import Clock
from architex.projections.device_list_reads import SharedRooms
from architex.storage.commit_queue import CommitQueue
from architex.storage.device_lists import (
    MAX_DEVICES,
    DeviceListStore,
    delete_devices,
    note_device_changes,
)
from architex.storage.pool import Execute, WriteRows


@dataclass(frozen=True)
class DeviceLists:
    """Changes devices so that everybody concerned hears of it."""

    lists: DeviceListStore
    shared_rooms: SharedRooms
    commits: CommitQueue
    clock: Clock

    def announce(self, user_id: UserId, write: WriteRows) -> int:
        """Write a change of a user's devices or keys, and wake those who share rooms with them.

        Args:
            write: also notes the change, by the functions of storage.device_lists.

        Returns the position.
        """
        rooms = self.shared_rooms.list_rooms(user_id)
        return self.commits.write_rows(write, wake_users=[user_id], wake_rooms=rooms)

    def note_changed(self, user_id: UserId, device_ids: Collection[str]) -> None:
        """Say that devices of a user of ours are new, or have another name."""
        now_ms = self.clock.now_ms()

        def write(execute: Execute, position: int) -> None:
            note_device_changes(execute, position, user_id, device_ids, now_ms)

        self.announce(user_id, write)

    def delete_devices(self, user_id: UserId, device_ids: Sequence[str]) -> None:
        """Delete devices of a user of ours, with their tokens, keys and messages.

        IDs that the user does not have are ignored.
        """
        now_ms = self.clock.now_ms()
        for start in range(0, len(device_ids), MAX_DEVICES):
            some = device_ids[start : start + MAX_DEVICES]

            def write(execute: Execute, position: int, some: Sequence[str] = some) -> None:
                delete_devices(execute, position, user_id, some, now_ms)

            self.announce(user_id, write)

    def delete_all_devices(self, user_id: UserId, *, keep: str | None = None) -> None:
        """Delete all devices of a user of ours, except the one to keep."""
        device_ids = self.lists.list_device_ids(user_id)
        self.delete_devices(user_id, [device_id for device_id in device_ids if device_id != keep])
