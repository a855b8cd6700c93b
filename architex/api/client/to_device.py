"""Messages to devices.

Spec: https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging
"""

from __future__ import annotations

import falcon

from architex.api.fields import JsonObject
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.usecases.to_device import ToDevice

_MAX_BODY_BYTES = 8 * 1024 * 1024


class _MessagesSchema(BodySchema):
    messages = JsonObject(required=True)


_MESSAGES = _MessagesSchema()


class SendToDeviceResource:
    """PUT /sendToDevice/{eventType}/{txnId}."""

    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, event_type: str, txn_id: str
    ) -> None:
        """Send messages to devices.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid
        """
        requester = require_user(req, guests=True)
        given = load(_MESSAGES, json_body(req, max_bytes=_MAX_BODY_BYTES))
        self._to_device.send(requester, event_type, txn_id, given["messages"])
        resp.media = {}
