"""Looking into rooms without being in them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-previews
"""

from __future__ import annotations

import falcon

from architex.api.requests import int_param, require_user
from architex.usecases.peeking import MAX_EVENTS, Peeking


class RoomInitialSyncResource:
    """GET /rooms/{roomId}/initialSync"""

    def __init__(self, peeking: Peeking) -> None:
        self._peeking = peeking

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The room's state and its newest events."""
        requester = require_user(req, guests=True)
        limit = int_param(req, "limit", 20, at_most=MAX_EVENTS)
        resp.media = self._peeking.get_room(requester, room_id, limit=limit)
