"""Joining, inviting, leaving, kicking, banning.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-membership
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import falcon
from marshmallow import fields

from architex.api.requests import BodySchema, counted_in_room, json_body, load, require_user
from architex.usecases.address_invites import AddressInvites, AddressWish
from architex.usecases.directory import Directory
from architex.usecases.inviting import Inviting
from architex.usecases.joining import Joining
from architex.usecases.removing import Removing

MAX_VIA: Final = 20


class ReasonSchema(BodySchema):
    """A body that may say why."""

    reason = fields.String()


class JoinSchema(ReasonSchema):
    """Body of a join."""

    third_party_signed = fields.Dict(keys=fields.String())


class TargetSchema(ReasonSchema):
    """A body that names somebody."""

    user_id = fields.String(required=True)


class AddressSchema(ReasonSchema):
    """A body that names somebody by an address."""

    medium = fields.String(required=True)
    address = fields.String(required=True)
    id_server = fields.String(required=True)
    id_access_token = fields.String()


TARGET: Final = TargetSchema()
ADDRESS: Final = AddressSchema()


class _OwnMembership:
    """What the resources share that are about who asks."""

    schema: ClassVar[BodySchema] = ReasonSchema()

    def __init__(self, joining: Joining) -> None:
        self._joining = joining

    def _body(self, req: falcon.Request) -> dict[str, Any]:
        return load(self.schema, json_body(req, optional=True))


class _Joining(_OwnMembership):
    """What both ways to join share."""

    schema = JoinSchema()

    def _body(self, req: falcon.Request) -> dict[str, Any]:
        """The body as arguments of a join: what the spec does not name is the client's own."""
        body = json_body(req, optional=True)
        custom = {key: value for key, value in body.items() if key not in self.schema.fields}
        return {**load(self.schema, body), "custom": custom}


class JoinResource(_Joining):
    """POST /rooms/{roomId}/join"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Join a room by its ID."""
        requester = require_user(req, guests=True, suspended=False, limit="joins")
        with counted_in_room(req, room_id, "joins"):
            joined = self._joining.join(requester, room_id, via=_via(req), **self._body(req))
        resp.media = {"room_id": joined}


class JoinByIdOrAliasResource(_Joining):
    """POST /join/{roomIdOrAlias}"""

    def __init__(self, joining: Joining, directory: Directory) -> None:
        super().__init__(joining)
        self._directory = directory

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id_or_alias: str) -> None:
        """Join a room by its ID or one of its aliases."""
        requester = require_user(req, guests=True, suspended=False, limit="joins")
        room_id, via = self._directory.locate_room(room_id_or_alias, _via(req))
        with counted_in_room(req, room_id, "joins"):
            joined = self._joining.join(requester, room_id, via=via, **self._body(req))
        resp.media = {"room_id": joined}


class KnockResource(_OwnMembership):
    """POST /knock/{roomIdOrAlias}"""

    def __init__(self, joining: Joining, directory: Directory) -> None:
        super().__init__(joining)
        self._directory = directory

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id_or_alias: str) -> None:
        """Ask to be let into a room."""
        requester = require_user(req, suspended=False, limit="joins")
        room_id, via = self._directory.locate_room(room_id_or_alias, _via(req))
        with counted_in_room(req, room_id, "joins"):
            knocked = self._joining.knock(requester, room_id, via=via, **self._body(req))
        resp.media = {"room_id": knocked}


class InviteResource:
    """POST /rooms/{roomId}/invite"""

    def __init__(self, inviting: Inviting, address_invites: AddressInvites) -> None:
        self._inviting = inviting
        self._address_invites = address_invites

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Invite a user, or whoever has an e-mail address."""
        requester = require_user(req, suspended=False, limit="invites")
        body = json_body(req)
        if "address" in body and "user_id" not in body:
            given = load(ADDRESS, body)
            reason = given.pop("reason", None)
            wish = read_address_wish(self._address_invites, given)
            self._address_invites.invite(requester, room_id, wish, reason=reason)
        else:
            self._inviting.invite(requester, room_id, **load(TARGET, body))
        resp.media = {}


def read_address_wish(address_invites: AddressInvites, given: dict[str, Any]) -> AddressWish:
    """Who is to be invited, as `AddressSchema` has read it."""
    return address_invites.read_wish(
        medium=given["medium"],
        address=given["address"],
        identity_server=given["id_server"],
        access_token=given.get("id_access_token"),
    )


class LeaveResource(_OwnMembership):
    """POST /rooms/{roomId}/leave"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Leave a room, or reject an invite."""
        self._joining.leave(
            require_user(req, guests=True, limit="messages"), room_id, **self._body(req)
        )
        resp.media = {}


class ForgetResource(_OwnMembership):
    """POST /rooms/{roomId}/forget"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Forget a room one has left."""
        self._joining.forget(require_user(req, guests=True), room_id)
        resp.media = {}


class _Removal:
    """What the resources share by which others are made to leave."""

    def __init__(self, removing: Removing) -> None:
        self._removing = removing


class KickResource(_Removal):
    """POST /rooms/{roomId}/kick"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Make a user leave."""
        requester = require_user(req, suspended=False, limit="messages")
        self._removing.kick(requester, room_id, **load(TARGET, json_body(req, optional=True)))
        resp.media = {}


class BanResource(_Removal):
    """POST /rooms/{roomId}/ban"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Make a user leave and stay away."""
        requester = require_user(req, suspended=False, limit="messages")
        self._removing.ban(requester, room_id, **load(TARGET, json_body(req, optional=True)))
        resp.media = {}


class UnbanResource(_Removal):
    """POST /rooms/{roomId}/unban"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Lift a ban."""
        requester = require_user(req, suspended=False, limit="messages")
        self._removing.unban(requester, room_id, **load(TARGET, json_body(req, optional=True)))
        resp.media = {}


class JoinedRoomsResource(_OwnMembership):
    """GET /joined_rooms"""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The rooms that the user is a member of."""
        requester = require_user(req, guests=True)
        resp.media = {"joined_rooms": self._joining.list_joined_rooms(requester)}


def _via(req: falcon.Request) -> list[str]:
    """The servers that the request names as being in the room.

    `server_name` is what `via` was called before version 1.12.
    """
    named = [
        name
        for parameter in ("via", "server_name")
        for name in req.get_param_as_list(parameter) or ()
    ]
    return named[:MAX_VIA]
