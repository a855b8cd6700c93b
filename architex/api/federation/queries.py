"""What other servers ask about this one's users, aliases and published rooms.

Spec: https://spec.matrix.org/v1.19/server-server-api/#querying-for-information
"""

from __future__ import annotations

import falcon

from architex.api.federation.authentication import require_server, signed_content
from architex.api.requests import string_param
from architex.api.room_lists import (
    public_rooms_response,
    room_list_of_body,
    room_list_of_query,
)
from architex.domain.errors import InvalidParam, MissingParam
from architex.domain.identifiers import parse_room_alias, parse_user_id, server_name_of
from architex.usecases.directory import Directory
from architex.usecases.profiles import Profiles
from architex.usecases.public_rooms import PublicRooms


class ProfileQueryResource:
    """GET /query/profile"""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The profile of a user of this server, or one field of it.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile
        """
        require_server(req)
        user_id = parse_user_id(_needed(req, "user_id"))
        if server_name_of(user_id) != self._profiles.server_name:
            raise InvalidParam("This is no user of this server.")
        field = string_param(req, "field")
        if field is None:
            resp.media = self._profiles.get_profile(user_id)
        else:
            resp.media = self._profiles.get_field(user_id, field)


class DirectoryQueryResource:
    """GET /query/directory"""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Where an alias of this server points.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1querydirectory
        """
        require_server(req)
        alias = parse_room_alias(_needed(req, "room_alias"))
        if server_name_of(alias) != self._directory.server_name:
            raise InvalidParam("This is no alias of this server.")
        target = self._directory.resolve(alias)
        resp.media = {"room_id": target.room_id, "servers": list(target.servers)}


class PublicRoomsResource:
    """GET and POST /publicRooms"""

    def __init__(self, public_rooms: PublicRooms) -> None:
        self._public_rooms = public_rooms

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The rooms that this server publishes.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1publicrooms
        """
        require_server(req)
        page = self._public_rooms.list_for_server(room_list_of_query(req))
        resp.media = public_rooms_response(page)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The rooms that this server publishes, filtered.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1publicrooms
        """
        require_server(req)
        page = self._public_rooms.list_for_server(room_list_of_body(signed_content(req)))
        resp.media = public_rooms_response(page)


def _needed(req: falcon.Request, name: str) -> str:
    value = string_param(req, name)
    if not value:
        raise MissingParam(f"Missing: {name}.")
    return value
