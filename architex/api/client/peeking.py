"""Looking into rooms and following them without being in them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-previews
"""

from __future__ import annotations

import falcon

from architex.api.requests import int_param, require_user, string_param
from architex.domain.errors import InvalidParam, MissingParam
from architex.domain.sync_token import parse_sync_token
from architex.usecases.peeking import MAX_EVENTS, MAX_TIMEOUT_MS, Peeking


class RoomInitialSyncResource:
    """GET /rooms/{roomId}/initialSync"""

    def __init__(self, peeking: Peeking) -> None:
        self._peeking = peeking

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The room's state and its newest events."""
        requester = require_user(req, guests=True)
        limit = int_param(req, "limit", 20, at_most=MAX_EVENTS)
        resp.media = self._peeking.get_room(requester, room_id, limit=limit)


class RoomEventsResource:
    """GET /events, of one room"""

    def __init__(self, peeking: Peeking) -> None:
        self._peeking = peeking

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """What is new in a room, or wait for it."""
        requester = require_user(req, guests=True)
        room_id = string_param(req, "room_id")
        if not room_id:
            raise MissingParam("Missing: room_id. Without it this endpoint is gone; use /sync.")
        if "\0" in room_id:
            raise InvalidParam("room_id holds a NUL.")
        since = string_param(req, "from")
        resp.media = self._peeking.listen(
            requester,
            room_id,
            since=parse_sync_token(since) if since else None,
            timeout_ms=int_param(req, "timeout", 0, at_most=MAX_TIMEOUT_MS),
        )
