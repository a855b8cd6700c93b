"""Room aliases and the list of published rooms.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-aliases
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.authentication import count_question_to
from architex.api.requests import BodySchema, json_body, load, require_user, string_param
from architex.api.room_lists import (
    public_rooms_response,
    room_list_of_body,
    room_list_of_query,
)
from architex.domain.errors import Forbidden, InvalidParam
from architex.domain.identifiers import parse_room_alias, parse_room_id, server_name_of
from architex.usecases.directory import Directory
from architex.usecases.public_rooms import PublicRooms, RoomListRequest

_VISIBILITIES = ("public", "private")


class _AliasSchema(BodySchema):
    room_id = fields.String(required=True)


class _VisibilitySchema(BodySchema):
    visibility = fields.String(load_default="public")


class _AppserviceVisibilitySchema(BodySchema):
    visibility = fields.String(required=True)


_ALIAS = _AliasSchema()
_VISIBILITY = _VisibilitySchema()
_APPSERVICE_VISIBILITY = _AppserviceVisibilitySchema()


class AliasResource:
    """GET, PUT and DELETE /directory/room/{roomAlias}."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_alias: str) -> None:
        """Where an alias points; needs no account.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directoryroomroomalias
        """
        alias = parse_room_alias(room_alias)
        count_question_to(req, server_name_of(alias), self._directory.server_name)
        target = self._directory.resolve(alias)
        resp.media = {"room_id": target.room_id, "servers": list(target.servers)}

    def on_put(self, req: falcon.Request, resp: falcon.Response, room_alias: str) -> None:
        """Make an alias.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directoryroomroomalias
        """
        requester = require_user(req, suspended=False)
        room_id = parse_room_id(load(_ALIAS, json_body(req))["room_id"])
        self._directory.create_alias(requester, room_alias, room_id)
        resp.media = {}

    def on_delete(self, req: falcon.Request, resp: falcon.Response, room_alias: str) -> None:
        """Delete an alias.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3directoryroomroomalias
        """
        self._directory.delete_alias(require_user(req, suspended=False), room_alias)
        resp.media = {}


class RoomAliasesResource:
    """GET /rooms/{roomId}/aliases."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The aliases that this server has for a room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidaliases
        """
        requester = require_user(req, guests=True)
        resp.media = {"aliases": self._directory.list_aliases(requester, parse_room_id(room_id))}


class RoomVisibilityResource:
    """GET and PUT /directory/list/room/{roomId}."""

    def __init__(self, public_rooms: PublicRooms) -> None:
        self._public_rooms = public_rooms

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Whether a room is in the list; needs no account.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directorylistroomroomid
        """
        published = self._public_rooms.is_published(parse_room_id(room_id))
        resp.media = {"visibility": "public" if published else "private"}

    def on_put(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Put a room into the list, or take it out.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directorylistroomroomid
        """
        requester = require_user(req, suspended=False)
        published = _is_public(load(_VISIBILITY, json_body(req)))
        self._public_rooms.set_published(requester, parse_room_id(room_id), published)
        resp.media = {}


class AppserviceRoomVisibilityResource:
    """PUT /directory/list/appservice/{networkId}/{roomId}."""

    def __init__(self, public_rooms: PublicRooms) -> None:
        self._public_rooms = public_rooms

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, network_id: str, room_id: str
    ) -> None:
        """Put a room into the list of an application service's network, or take it out.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directorylistappservicenetworkidroomid
        """
        requester = require_user(req)
        if requester.appservice_id is None:
            raise Forbidden("Only application services may do this.")
        published = _is_public(load(_APPSERVICE_VISIBILITY, json_body(req)))
        self._public_rooms.set_published(requester, parse_room_id(room_id), published)
        resp.media = {}


class PublicRoomsResource:
    """GET and POST /publicRooms."""

    def __init__(self, public_rooms: PublicRooms) -> None:
        self._public_rooms = public_rooms

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The list of published rooms.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3publicrooms
        """
        if self._public_rooms.policy.list_needs_account:
            require_user(req, guests=True)
        request = room_list_of_query(req)
        self._answer(req, resp, request)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The list of published rooms, filtered.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3publicrooms
        """
        require_user(req, guests=True)
        request = room_list_of_body(json_body(req, optional=True))
        self._answer(req, resp, request)

    def _answer(
        self, req: falcon.Request, resp: falcon.Response, request: RoomListRequest
    ) -> None:
        server = string_param(req, "server") or None
        ours = self._public_rooms.server_name
        count_question_to(req, server or ours, ours)
        resp.media = public_rooms_response(self._public_rooms.list_rooms(request, server))


def _is_public(body: dict[str, Any]) -> bool:
    if body["visibility"] not in _VISIBILITIES:
        raise InvalidParam("visibility is public or private.")
    return bool(body["visibility"] == "public")
