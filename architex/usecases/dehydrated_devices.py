"""Dehydrated devices: left behind by a client, to receive keys while nobody is logged in.

A client uploads one, encrypted, with its public keys. Others send it keys as to any device; the
next device that logs in fetches it and its messages, and reads what was said meanwhile.

Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3814
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.canonical_json import encode_canonical_json, encode_lenient_json
from architex.domain.encryption_keys import (
    check_device_keys,
    check_fallback_keys,
    check_one_time_keys,
)
from architex.domain.errors import BadJson, Forbidden, InvalidParam, NotFound
from architex.domain.identifiers import MAX_IDENTIFIER_BYTES, UserId
from architex.gateways.clock import Clock
from architex.storage.dehydrated_devices import (
    DehydratedDevice,
    DehydratedDeviceStore,
    NewDehydratedDevice,
    put_dehydrated_device,
)
from architex.storage.device_keys import DeviceKeyStore
from architex.storage.devices import DeviceStore
from architex.storage.pool import Database, Execute
from architex.storage.to_device import WaitingMessage, list_waiting
from architex.usecases.device_lists import DeviceLists
from architex.usecases.encryption_keys import MAX_UNCLAIMED_KEYS
from architex.usecases.requester import Requester
from architex.usecases.sessions import check_device_name

MAX_DEVICE_DATA_BYTES: Final = 1024 * 1024
"""Its private keys, encrypted: some hundred bytes for each of its one-time keys."""


@dataclass(frozen=True)
class DehydratedDevices:
    """The dehydrated device of whoever asks; there is one at most."""

    database: Database
    dehydrated: DehydratedDeviceStore
    devices: DeviceStore
    keys: DeviceKeyStore
    device_lists: DeviceLists
    clock: Clock

    def put(self, requester: Requester, body: Mapping[str, Any]) -> str:
        """Leave a device behind, in the place of the one before; gives its ID.

        Args:
            body: `device_id`, `device_data`, `device_keys`; perhaps
                `initial_device_display_name`, `one_time_keys` and `fallback_keys`.

        Raises:
            BadJson, InvalidParam, InvalidKeySignature: it is not of the form that the proposal
                gives.
            Forbidden: the ID is that of another device or of a cross-signing key of the user.
        """
        user_id = requester.user_id
        device_id: str = body["device_id"]
        name = body.get("initial_device_display_name")
        if not 0 < len(device_id.encode()) <= MAX_IDENTIFIER_BYTES or "\0" in device_id:
            raise InvalidParam("A device ID has 1 to 255 bytes, none of them NUL.")
        if name is not None:
            check_device_name(name)
        device_data = encode_lenient_json(body["device_data"])
        if len(device_data) > MAX_DEVICE_DATA_BYTES:
            raise BadJson(f"device_data has at most {MAX_DEVICE_DATA_BYTES} bytes.")
        device_keys = check_device_keys(body["device_keys"], user_id, device_id)
        device = NewDehydratedDevice(
            device_id,
            name,
            device_data.decode(),
            encode_canonical_json(device_keys).decode(),
            check_one_time_keys(body.get("one_time_keys") or {}, user_id, device_id, device_keys),
            check_fallback_keys(body.get("fallback_keys") or {}, user_id, device_id, device_keys),
        )
        self._check_is_free(user_id, device_id)
        now_ms = self.clock.now_ms()

        def write(execute: Execute, position: int) -> None:
            put_dehydrated_device(
                execute, position, user_id, device, now_ms, max_unclaimed=MAX_UNCLAIMED_KEYS
            )

        self.device_lists.announce(user_id, write)
        return device_id

    def _check_is_free(self, user_id: UserId, device_id: str) -> None:
        held = self.dehydrated.find_device(user_id)
        if held is not None and held.device_id == device_id:
            return
        if self.devices.find_device(user_id, device_id) is not None:
            raise Forbidden("You have a device of this ID that is not dehydrated.")
        # Both are names of keys on signatures.
        if self.keys.is_cross_signing_key(user_id, device_id):
            raise Forbidden("The device has the name of one of your cross-signing keys.")

    def get(self, requester: Requester) -> DehydratedDevice:
        """The device that was left behind.

        Raises:
            NotFound: there is none.
        """
        held = self.dehydrated.find_device(requester.user_id)
        if held is None:
            raise NotFound("You have no dehydrated device.")
        return held

    def delete(self, requester: Requester) -> str:
        """Delete the device that was left behind; gives its ID.

        Raises:
            NotFound: there is none.
        """
        device_id = self.get(requester).device_id
        self.device_lists.delete_devices(requester.user_id, [device_id])
        return device_id

    def list_messages(
        self, requester: Requester, device_id: str, after: int
    ) -> tuple[Sequence[WaitingMessage], int]:
        """A piece of the messages that the device has received, and where the next one begins.

        They stay until the device goes: whoever takes it over may not come to the end.

        Args:
            after: where the piece before ended; 0 for the first one.

        Raises:
            Forbidden: the requester has no dehydrated device of this ID.
        """
        held = self.dehydrated.find_device(requester.user_id)
        if held is None or held.device_id != device_id:
            raise Forbidden("This is not your dehydrated device.")
        with self.database.connection() as connection:
            messages, _ = list_waiting(connection, requester.user_id, device_id, after)
        return messages, messages[-1].position if messages else after
