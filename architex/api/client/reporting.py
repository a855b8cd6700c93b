"""Reporting events, rooms and users to the administrators.

Spec: https://spec.matrix.org/v1.19/client-server-api/#reporting-content
"""

from __future__ import annotations

import falcon
from marshmallow import fields

from architex.api.requests import BodySchema, json_body, load, require_user
from architex.domain.identifiers import parse_room_id, parse_user_id
from architex.usecases.reporting import Reporting


class _ReasonSchema(BodySchema):
    reason = fields.String(required=True)


class _EventReasonSchema(BodySchema):
    # Older versions had a score, from -100 for the most offensive, and asked for no reason.
    reason = fields.String(load_default="", allow_none=True)


_REASON = _ReasonSchema()
_EVENT_REASON = _EventReasonSchema()


class _Reports:
    """What the resources share."""

    def __init__(self, reporting: Reporting) -> None:
        self._reporting = reporting


class ReportEventResource(_Reports):
    """POST /rooms/{roomId}/report/{eventId}."""

    def on_post(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """Report an event.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreporteventid
        """
        requester = require_user(req)
        reason = load(_EVENT_REASON, json_body(req))["reason"] or ""
        self._reporting.report_event(requester, room_id, event_id, reason)
        resp.media = {}


class ReportRoomResource(_Reports):
    """POST /rooms/{roomId}/report."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Report a room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreport
        """
        requester = require_user(req)
        reason = load(_REASON, json_body(req))["reason"]
        self._reporting.report_room(requester, parse_room_id(room_id), reason)
        resp.media = {}


class ReportUserResource(_Reports):
    """POST /users/{userId}/report."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """Report a user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3usersuseridreport
        """
        requester = require_user(req)
        reason = load(_REASON, json_body(req))["reason"]
        self._reporting.report_user(requester, parse_user_id(user_id), reason)
        resp.media = {}
