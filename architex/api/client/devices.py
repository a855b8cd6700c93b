"""The devices of whoever asks.

Spec: https://spec.matrix.org/v1.19/client-server-api/#device-management
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.interactive_auth import interactive
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.storage.devices import Device
from architex.usecases.devices import Devices


class _DeviceSchema(BodySchema):
    display_name = fields.String(allow_none=True)


class _DeleteDevicesSchema(BodySchema):
    devices = fields.List(fields.String(), required=True)


_DEVICE = _DeviceSchema()
_DELETE_DEVICES = _DeleteDevicesSchema()


class DevicesResource:
    """GET /devices."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All devices of the requester.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3devices
        """
        requester = require_user(req, guests=True)
        devices = self._devices.list_devices(requester)
        resp.media = {"devices": [_device_fields(device) for device in devices]}


class DeviceResource:
    """GET, PUT and DELETE /devices/{deviceId}."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    def on_get(self, req: falcon.Request, resp: falcon.Response, device_id: str) -> None:
        """One device.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3devicesdeviceid
        """
        requester = require_user(req, guests=True)
        resp.media = _device_fields(self._devices.get_device(requester, device_id))

    def on_put(self, req: falcon.Request, resp: falcon.Response, device_id: str) -> None:
        """Give a device another name.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3devicesdeviceid
        """
        requester = require_user(req, guests=True, limit="devices")
        given = load(_DEVICE, json_body(req))
        self._devices.rename_device(requester, device_id, given.get("display_name"))
        resp.media = {}

    def on_delete(self, req: falcon.Request, resp: falcon.Response, device_id: str) -> None:
        """Delete a device.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3devicesdeviceid
        """
        requester = require_user(req)
        body = json_body(req, optional=True)
        with interactive():
            self._devices.delete_device(requester, device_id, body.get("auth"))
        resp.media = {}


class DeleteDevicesResource:
    """POST /delete_devices."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Delete several devices.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3delete_devices
        """
        requester = require_user(req)
        body = json_body(req)
        given = load(_DELETE_DEVICES, body)
        with interactive():
            self._devices.delete_devices(requester, given["devices"], body.get("auth"))
        resp.media = {}


def _device_fields(device: Device) -> dict[str, Any]:
    told = {
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_ts": device.last_seen_ts,
    }
    return {name: value for name, value in told.items() if value is not None}
