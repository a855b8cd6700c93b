"""Which rooms two users are both in.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mutual-rooms
"""

from __future__ import annotations

from typing import Any

import falcon

from architex.api.requests import require_user, string_param
from architex.domain.errors import InvalidParam, MissingParam
from architex.domain.identifiers import parse_user_id
from architex.usecases.mutual_rooms import MutualRooms


class MutualRoomsResource:
    """GET /mutual_rooms."""

    def __init__(self, mutual_rooms: MutualRooms) -> None:
        self._mutual_rooms = mutual_rooms

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The rooms that the requester shares with another user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms
        """
        requester = require_user(req)
        user_id = string_param(req, "user_id")
        if user_id is None:
            raise MissingParam("Missing: user_id.")
        begin = string_param(req, "from")
        if begin is not None and not begin.startswith("!"):
            raise InvalidParam("The from token is not one that this server gave.")
        page = self._mutual_rooms.list_rooms(requester, parse_user_id(user_id), begin)
        told: dict[str, Any] = {"joined": list(page.room_ids), "count": page.count}
        if page.next is not None:
            told["next_batch"] = page.next
        resp.media = told
