"""Dehydrated devices.

Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3814
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.fields import JsonObject
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.domain.errors import InvalidParam
from architex.usecases.dehydrated_devices import DehydratedDevices

_MAX_BODY_BYTES = 4 * 1024 * 1024


class _DeviceSchema(BodySchema):
    device_id = fields.String(required=True)
    device_data = JsonObject(required=True)
    device_keys = JsonObject(required=True)
    initial_device_display_name = fields.String(allow_none=True)
    one_time_keys = JsonObject(allow_none=True)
    fallback_keys = JsonObject(allow_none=True)


class _EventsSchema(BodySchema):
    next_batch = fields.String(allow_none=True)


_DEVICE = _DeviceSchema()
_EVENTS = _EventsSchema()


class DehydratedDeviceResource:
    """PUT, GET and DELETE /dehydrated_device."""

    def __init__(self, devices: DehydratedDevices) -> None:
        self._devices = devices

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Leave a device behind.

        Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3814
        """
        requester = require_user(req, limit="devices")
        given: dict[str, Any] = load(_DEVICE, json_body(req, max_bytes=_MAX_BODY_BYTES))
        resp.media = {"device_id": self._devices.put(requester, given)}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The device that was left behind.

        Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3814
        """
        held = self._devices.get(require_user(req))
        resp.media = {"device_id": held.device_id, "device_data": held.device_data}

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Delete it.

        Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3814
        """
        resp.media = {"device_id": self._devices.delete(require_user(req))}


class DehydratedDeviceEventsResource:
    """POST /dehydrated_device/{deviceId}/events."""

    def __init__(self, devices: DehydratedDevices) -> None:
        self._devices = devices

    def on_post(self, req: falcon.Request, resp: falcon.Response, device_id: str) -> None:
        """The messages that it has received, a piece at a time; an empty one is the last.

        Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3814
        """
        requester = require_user(req)
        after = _parse_token(load(_EVENTS, json_body(req, optional=True)).get("next_batch"))
        messages, reached = self._devices.list_messages(requester, device_id, after)
        resp.media = {
            "events": [
                {"sender": message.sender, "type": message.type, "content": message.content}
                for message in messages
            ],
            "next_batch": f"d{reached}",
        }


def _parse_token(token: str | None) -> int:
    if token is None:
        return 0
    digits = token.removeprefix("d")
    if token == digits or not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise InvalidParam("next_batch is none that this server gave.")
    return int(digits)
