"""What other servers tell of their users' devices: messages, changes of devices and of keys.

Spec: https://spec.matrix.org/v1.19/server-server-api/#device-management
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from architex.domain.canonical_json import Json
from architex.domain.identifiers import ServerName, UserId, is_user_id, server_name_of
from architex.projections.device_list_reads import SharedRooms
from architex.storage.commit_queue import CommitQueue
from architex.storage.device_lists import note_list_change
from architex.storage.pool import Execute
from architex.storage.remote_devices import RemoteDeviceStore, mark_stale, put_device
from architex.usecases.receiving_edus import EduHandler
from architex.usecases.remote_keys import RemoteKeys, ToldList, put_keys, read_told_keys
from architex.usecases.remote_keys import read_device as read_remote_device
from architex.usecases.to_device import EDU_TYPE, ToDevice


@dataclass(frozen=True)
class DeviceEdus:
    """Takes in EDUs about devices."""

    to_device: ToDevice
    remote: RemoteKeys
    lists: RemoteDeviceStore
    shared_rooms: SharedRooms
    commits: CommitQueue
    server_name: ServerName

    def handlers(self) -> dict[str, EduHandler]:
        """By type."""
        return {
            EDU_TYPE: self.to_device.receive,
            "m.device_list_update": self.receive_device_list_update,
            "m.signing_key_update": self.receive_signing_key_update,
        }

    def receive_device_list_update(self, origin: ServerName, content: Json) -> None:
        """A device of a user is new, has changed, or is gone.

        What does not follow what we hold shows that something was missed: the list is marked as
        such and asked for anew, and our clients are told that it has changed.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#device-management
        """
        user_id, device_id = content.get("user_id"), content.get("device_id")
        stream_id, prev_id = content.get("stream_id"), content.get("prev_id", [])
        if not self._is_concerning(user_id, origin) or not isinstance(device_id, str):
            return
        if not _is_stream_id(stream_id) or "\0" in device_id:
            return
        held = self.lists.find_lists([user_id]).get(user_id)
        known = held.stream_id if held is not None and held.is_current else None
        if known is None or prev_id != [known]:
            if known != stream_id:  # else we have had it
                self._mark_stale(user_id)
            return
        device = None
        if content.get("deleted") is not True:
            # One without keys, or with keys that we cannot hand on, is none to encrypt for.
            device = read_remote_device(
                user_id, device_id, content.get("keys"), content.get("device_display_name")
            )
        follows = known

        def write(execute: Execute, position: int) -> None:
            put_device(
                execute,
                position,
                user_id,
                known_stream_id=follows,
                stream_id=stream_id,
                device_id=device_id,
                device=device,
            )
            note_list_change(execute, position, user_id)

        self.commits.write_rows(write, wake_rooms=self.shared_rooms.list_rooms(user_id))

    def receive_signing_key_update(self, origin: ServerName, content: Json) -> None:
        """A user has other cross-signing keys.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption
        """
        user_id = content.get("user_id")
        if not self._is_concerning(user_id, origin):
            return
        keys = read_told_keys(user_id, content.get("master_key"), content.get("self_signing_key"))
        if len(keys) < 2:  # not both, or not valid: the list says what there is
            self._mark_stale(user_id)
            return
        told = ToldList(user_id, None, (), keys)

        def write(execute: Execute, position: int) -> None:
            put_keys(execute, told)
            note_list_change(execute, position, user_id)

        self.commits.write_rows(write, wake_rooms=self.shared_rooms.list_rooms(user_id))

    def _mark_stale(self, user_id: UserId) -> None:
        """Have a list asked for anew; clients that were told what we hold of it hear of it now.

        Of one that we never held they hear when we do.
        """
        held = self.lists.find_lists([user_id]).get(user_id)
        is_held = held is not None and held.fetched_at > 0

        def write(execute: Execute, position: int) -> None:
            mark_stale(execute, position, user_id)

        rooms = self.shared_rooms.list_rooms(user_id) if is_held else ()
        self.commits.write_rows(write, wake_rooms=rooms)
        self.remote.resync(user_id)

    def _is_concerning(self, user_id: object, origin: ServerName) -> TypeGuard[UserId]:
        """Whether it is a user of the origin who shares a room with users of ours."""
        return (
            isinstance(user_id, str)
            and "\0" not in user_id
            and is_user_id(user_id)
            and server_name_of(user_id) == origin
            and bool(self.shared_rooms.list_shared_with_server([user_id], self.server_name))
        )


def _is_stream_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62
