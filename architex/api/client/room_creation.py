"""Creating rooms.

Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom
"""

from __future__ import annotations

from typing import ClassVar

import falcon
from marshmallow import fields, validate

from architex.api.client.membership import AddressSchema, read_address_wish
from architex.api.fields import TrueOrFalse
from architex.api.requests import BodySchema, count_several, json_body, load, require_user
from architex.usecases.address_invites import AddressInvites
from architex.usecases.room_creation import PRESETS, RoomCreation, RoomRequest


class CreateRoomSchema(BodySchema):
    """Body of POST /createRoom."""

    visibility = fields.String(validate=validate.OneOf(["public", "private"]))
    room_alias_name = fields.String()
    name = fields.String()
    topic = fields.String()
    invite = fields.List(fields.String())
    invite_3pid = fields.List(fields.Nested(AddressSchema))
    room_version = fields.String()
    creation_content = fields.Dict(keys=fields.String())
    initial_state = fields.List(fields.Dict(keys=fields.String()))
    preset = fields.String(validate=validate.OneOf(list(PRESETS)))
    is_direct = TrueOrFalse()
    power_level_content_override = fields.Dict(keys=fields.String())


class CreateRoomResource:
    """POST /createRoom"""

    SCHEMA: ClassVar[CreateRoomSchema] = CreateRoomSchema()

    def __init__(self, room_creation: RoomCreation, address_invites: AddressInvites) -> None:
        self._room_creation = room_creation
        self._address_invites = address_invites

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Create a room."""
        requester = require_user(req, suspended=False, limit="joins")
        wish = load(self.SCHEMA, json_body(req))
        invites = len(wish.get("invite", ())) + len(wish.get("invite_3pid", ()))
        if invites:
            count_several(req, requester, "invites", invites)
        if "invite_3pid" in wish:
            wish["invite_3pid"] = [
                read_address_wish(self._address_invites, given) for given in wish["invite_3pid"]
            ]
        room_id = self._room_creation.create_room(requester, RoomRequest(**wish))
        resp.media = {"room_id": room_id}
