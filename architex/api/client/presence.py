"""Presence.

Spec: https://spec.matrix.org/v1.19/client-server-api/#presence
"""

from __future__ import annotations

import falcon
from marshmallow import fields, validate

from architex.api.fields import refuse_nul
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.usecases.presence import STATES, PresenceUpdates


class PresenceSchema(BodySchema):
    """Body of PUT /presence/{userId}/status."""

    presence = fields.String(required=True, validate=validate.OneOf(STATES))
    status_msg = fields.String(allow_none=True, validate=refuse_nul)


class PresenceResource:
    """/presence/{userId}/status"""

    def __init__(self, presence: PresenceUpdates) -> None:
        self._presence = presence

    def on_get(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """How a user is to be seen."""
        resp.media = self._presence.get_status(require_user(req), user_id)

    def on_put(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """Say how the requester is to be seen."""
        requester = require_user(req)
        body = load(PresenceSchema(), json_body(req))
        self._presence.set_status(requester, user_id, body["presence"], body.get("status_msg"))
        resp.media = {}
