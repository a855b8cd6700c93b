"""Pushers.

Spec: https://spec.matrix.org/v1.19/client-server-api/#push-notifications
"""

from __future__ import annotations

import falcon
from marshmallow import fields

from architex.api.fields import JsonObject, TrueOrFalse, refuse_nul
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.usecases.pushers import Pushers

_SHOWN = (
    "pushkey",
    "kind",
    "app_id",
    "app_display_name",
    "device_display_name",
    "profile_tag",
    "lang",
    "data",
)


class PusherSchema(BodySchema):
    """Body of POST /pushers/set."""

    pushkey = fields.String(required=True, validate=refuse_nul)
    kind = fields.String(required=True, allow_none=True, validate=refuse_nul)
    app_id = fields.String(required=True, validate=refuse_nul)
    app_display_name = fields.String(allow_none=True, validate=refuse_nul)
    device_display_name = fields.String(allow_none=True, validate=refuse_nul)
    profile_tag = fields.String(allow_none=True, validate=refuse_nul)
    lang = fields.String(allow_none=True, validate=refuse_nul)
    data = JsonObject(allow_none=True)
    append = TrueOrFalse(load_default=False)


_PUSHER = PusherSchema()


class PushersResource:
    """GET /pushers"""

    def __init__(self, pushers: Pushers) -> None:
        self._pushers = pushers

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """One's pushers.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushers
        """
        pushers = self._pushers.list_pushers(require_user(req))
        resp.media = {
            "pushers": [{name: getattr(pusher, name) for name in _SHOWN} for pusher in pushers]
        }


class SetPusherResource:
    """POST /pushers/set"""

    def __init__(self, pushers: Pushers) -> None:
        self._pushers = pushers

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Set or delete a pusher.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset
        """
        requester = require_user(req)
        self._pushers.set_pusher(requester, load(_PUSHER, json_body(req)))
        resp.media = {}
