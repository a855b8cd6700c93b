"""Rooms from outside: their summaries, and the rooms below spaces.

Spec: https://spec.matrix.org/v1.19/client-server-api/#discovering-rooms-within-spaces
"""

from __future__ import annotations

import falcon

from architex.api.authentication import count_question, find_user
from architex.api.requests import bool_param, int_param, list_param, require_user, string_param
from architex.domain.identifiers import parse_room_id, parse_server_name
from architex.usecases.directory import Directory
from architex.usecases.spaces import DEFAULT_ROOMS, MAX_DEPTH, MAX_ROOMS, Spaces


class HierarchyResource:
    """GET /rooms/{roomId}/hierarchy"""

    def __init__(self, spaces: Spaces) -> None:
        self._spaces = spaces

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The rooms below a space.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy
        """
        requester = require_user(req, guests=True)
        max_depth = None
        if string_param(req, "max_depth"):
            max_depth = int_param(req, "max_depth", MAX_DEPTH, at_most=MAX_DEPTH)
        resp.media = self._spaces.get_hierarchy(
            requester,
            parse_room_id(room_id),
            suggested_only=bool_param(req, "suggested_only"),
            limit=int_param(req, "limit", DEFAULT_ROOMS, at_least=1, at_most=MAX_ROOMS),
            max_depth=max_depth,
            begin=string_param(req, "from") or None,
        )


class RoomSummaryResource:
    """GET /room_summary/{roomIdOrAlias}"""

    def __init__(self, spaces: Spaces, directory: Directory) -> None:
        self._spaces = spaces
        self._directory = directory

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id_or_alias: str) -> None:
        """What a room looks like; needs no account where the room is open to anybody.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias
        """
        requester = find_user(req)
        # Whether another server is asked shows later; to count is cheap.
        count_question(req)
        via = [parse_server_name(server) for server in list_param(req, "via")]
        if room_id_or_alias.startswith("#"):
            target = self._directory.resolve(room_id_or_alias)
            room_id, via = target.room_id, [*via, *target.servers]
        else:
            room_id = parse_room_id(room_id_or_alias)
        resp.media = self._spaces.get_summary(requester, room_id, via)
