"""Sending events, state and redactions.

Spec: https://spec.matrix.org/v1.19/client-server-api/#sending-events-to-a-room
"""

from __future__ import annotations

import falcon
from marshmallow import fields

from architex.api.requests import (
    BodySchema,
    counted_in_room,
    int_param,
    json_body,
    load,
    require_user,
    string_param,
)
from architex.domain.canonical_json import MAX_CANONICAL_INTEGER
from architex.usecases.requester import Requester
from architex.usecases.sending import Sending


class SendMessageResource:
    """PUT /rooms/{roomId}/send/{eventType}/{txnId}"""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

    def on_put(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        room_id: str,
        event_type: str,
        txn_id: str,
    ) -> None:
        """Send an event that is not state."""
        # Suspended users still redact what they said; `Sending.redact` knows what is theirs.
        is_redaction = event_type == "m.room.redaction"
        requester = require_user(
            req, guests=True, suspended=is_redaction, limit="messages", active=True
        )
        with counted_in_room(req, room_id, "messages"):
            event_id = self._sending.send_message(
                requester,
                room_id,
                event_type,
                json_body(req),
                txn_id,
                origin_server_ts=_timestamp(req, requester),
            )
        resp.media = {"event_id": event_id}


class RedactSchema(BodySchema):
    """Body of a redaction."""

    reason = fields.String()


class RedactResource:
    """PUT /rooms/{roomId}/redact/{eventId}/{txnId}"""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str, txn_id: str
    ) -> None:
        """Strip an event of its content."""
        requester = require_user(req, limit="messages", active=True)
        body = json_body(req, optional=True)
        load(RedactSchema(), body)
        with counted_in_room(req, room_id, "messages"):
            redaction_id = self._sending.redact(requester, room_id, event_id, txn_id, content=body)
        resp.media = {"event_id": redaction_id}


class StateEventResource:
    """/rooms/{roomId}/state/{eventType}/{stateKey}, the writing half."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

    def on_put(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        room_id: str,
        event_type: str,
        state_key: str = "",
    ) -> None:
        """Set an entry of the room's state."""
        requester = require_user(req, guests=True, suspended=False, limit="messages", active=True)
        content = json_body(req)
        if event_type == "m.room.member" and content.get("membership") == "invite":
            require_user(req, guests=True, suspended=False, limit="invites")
        if self._sending.is_joining(requester, room_id, event_type, state_key, content):
            require_user(req, guests=True, suspended=False, limit="joins")
        with counted_in_room(req, room_id, "messages"):
            event_id = self._sending.send_state(
                requester,
                room_id,
                event_type,
                state_key,
                content,
                origin_server_ts=_timestamp(req, requester),
            )
        resp.media = {"event_id": event_id}


def _timestamp(req: falcon.Request, requester: Requester) -> int | None:
    """The `ts` that application services may give.

    Spec: https://spec.matrix.org/v1.19/application-service-api/#timestamp-massaging
    """
    if requester.appservice_id is None or string_param(req, "ts") is None:
        return None
    return int_param(req, "ts", 0, at_most=MAX_CANONICAL_INTEGER)
