"""Receipts, read markers and typing notifications.

Spec: https://spec.matrix.org/v1.19/client-server-api/#receipts
"""

from __future__ import annotations

import falcon
from marshmallow import fields

from architex.api.fields import TrueOrFalse, WholeNumber
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.domain.errors import InvalidParam
from architex.usecases.receipts import RECEIPT_TYPES, Receipts
from architex.usecases.typing import DEFAULT_TIMEOUT_MS, Typing


class ReceiptResource:
    """POST /rooms/{roomId}/receipt/{receiptType}/{eventId}"""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    def on_post(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        room_id: str,
        receipt_type: str,
        event_id: str,
    ) -> None:
        """Note that the requester has read up to an event."""
        requester = require_user(req, guests=True, active=True)
        thread_id = json_body(req, optional=True).get("thread_id")
        # The specification has M_INVALID_PARAM for a thread_id that is no string, too.
        if thread_id is not None and not isinstance(thread_id, str):
            raise InvalidParam("thread_id must be a string.")
        self._receipts.send_receipt(requester, room_id, receipt_type, event_id, thread_id)
        resp.media = {}


class ReadMarkersSchema(BodySchema):
    """Body of POST /read_markers."""

    fully_read = fields.String(data_key="m.fully_read")
    read = fields.String(data_key="m.read")
    read_private = fields.String(data_key="m.read.private")


class ReadMarkersResource:
    """POST /rooms/{roomId}/read_markers"""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Set the read marker, and receipts with it."""
        requester = require_user(req, guests=True, active=True)
        body = json_body(req)
        load(ReadMarkersSchema(), body)
        markers: dict[str, str] = {kind: body[kind] for kind in RECEIPT_TYPES if kind in body}
        self._receipts.set_read_markers(requester, room_id, markers)
        resp.media = {}


class TypingSchema(BodySchema):
    """Body of PUT /typing."""

    typing = TrueOrFalse(required=True)
    timeout = WholeNumber(load_default=DEFAULT_TIMEOUT_MS)


class TypingResource:
    """PUT /rooms/{roomId}/typing/{userId}"""

    def __init__(self, typing: Typing) -> None:
        self._typing = typing

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, user_id: str
    ) -> None:
        """Say that the requester is typing, or has stopped."""
        requester = require_user(req, guests=True, active=True)
        body = load(TypingSchema(), json_body(req))
        self._typing.set_typing(
            requester, user_id, room_id, typing=body["typing"], timeout_ms=body["timeout"]
        )
        resp.media = {}
