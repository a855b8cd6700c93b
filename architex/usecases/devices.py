"""Devices: where a user is logged in.

Spec: https://spec.matrix.org/v1.19/client-server-api/#device-management
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from architex.domain.errors import NotFound
from architex.storage.devices import Device, DeviceStore
from architex.usecases.device_lists import DeviceLists
from architex.usecases.interactive_auth import PASSWORD, InteractiveAuth, Operation
from architex.usecases.requester import Requester
from architex.usecases.sessions import check_device_name


@dataclass(frozen=True)
class Devices:
    """The devices of whoever asks."""

    devices: DeviceStore
    device_lists: DeviceLists
    interactive_auth: InteractiveAuth

    def list_devices(self, requester: Requester) -> Sequence[Device]:
        """All devices of the requester."""
        return self.devices.list_devices(requester.user_id)

    def get_device(self, requester: Requester, device_id: str) -> Device:
        """One device of the requester.

        Raises:
            NotFound: the requester has no such device.
        """
        device = self.devices.find_device(requester.user_id, device_id)
        if device is None:
            raise NotFound("You have no such device.")
        return device

    def rename_device(
        self, requester: Requester, device_id: str, display_name: str | None
    ) -> None:
        """Give a device another name; None leaves it as it is.

        Raises:
            NotFound: the requester has no such device.
            InvalidParam: the name is too long.
        """
        if display_name is None:
            self.get_device(requester, device_id)
            return
        check_device_name(display_name)
        if self.devices.set_display_name(requester.user_id, device_id, display_name):
            self.device_lists.note_changed(requester.user_id, [device_id])
        else:
            self.get_device(requester, device_id)

    def delete_device(self, requester: Requester, device_id: str, auth: Any) -> None:
        """Delete one device and end its tokens, once the user has been authenticated.

        Raises:
            AuthenticationRequired: stages are still to be completed.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3devicesdeviceid
        """
        self._delete(requester, f"DELETE /devices/{device_id}", [device_id], auth)

    def delete_devices(self, requester: Requester, device_ids: Sequence[str], auth: Any) -> None:
        """Delete devices and end their tokens, once the user has been authenticated.

        Raises:
            AuthenticationRequired: stages are still to be completed.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3delete_devices
        """
        self._delete(requester, "POST /delete_devices", device_ids, auth)

    def _delete(
        self, requester: Requester, operation: str, device_ids: Sequence[str], auth: Any
    ) -> None:
        authenticated = self.interactive_auth.authenticate(
            Operation(
                name=operation,
                flows=((PASSWORD,),),
                user_id=requester.user_id,
                request={"devices": list(device_ids)},
                secrets={},
            ),
            auth,
        )
        self.interactive_auth.end(authenticated)
        # A NUL is in no device ID, and PostgreSQL would refuse it.
        self.device_lists.delete_devices(
            requester.user_id, [device_id for device_id in device_ids if "\0" not in device_id]
        )
