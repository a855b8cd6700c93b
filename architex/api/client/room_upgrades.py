"""Upgrading rooms.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-upgrades
"""

from __future__ import annotations

from typing import ClassVar

import falcon
from marshmallow import fields

from architex.api.requests import BodySchema, json_body, load, require_user
from architex.usecases.room_upgrades import RoomUpgrades


class UpgradeSchema(BodySchema):
    """Body of an upgrade."""

    new_version = fields.String(required=True)
    additional_creators = fields.List(fields.String(), load_default=[])


class UpgradeResource:
    """POST /rooms/{roomId}/upgrade"""

    SCHEMA: ClassVar[UpgradeSchema] = UpgradeSchema()

    def __init__(self, room_upgrades: RoomUpgrades) -> None:
        self._room_upgrades = room_upgrades

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Replace a room by one of another version.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade
        """
        requester = require_user(req, suspended=False, limit="joins")
        body = load(self.SCHEMA, json_body(req))
        replacement = self._room_upgrades.upgrade(
            requester, room_id, body["new_version"], body["additional_creators"]
        )
        resp.media = {"replacement_room": replacement}
