"""The state of rooms.

Spec: https://spec.matrix.org/v1.19/client-server-api/#getting-events-for-a-room
"""

from __future__ import annotations

import falcon

from architex.api.client import sending
from architex.api.requests import require_user, string_param
from architex.domain.errors import InvalidParam
from architex.usecases.room_reading import RoomReading
from architex.usecases.sending import Sending


class StateResource:
    """GET /rooms/{roomId}/state"""

    def __init__(self, room_reading: RoomReading) -> None:
        self._room_reading = room_reading

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """All of the room's state."""
        requester = require_user(req, guests=True)
        resp.media = self._room_reading.get_state(requester, room_id)


class StateEventResource(sending.StateEventResource):
    """/rooms/{roomId}/state/{eventType}/{stateKey}: reading here, writing in `sending`."""

    def __init__(self, sending: Sending, room_reading: RoomReading) -> None:
        super().__init__(sending)
        self._room_reading = room_reading

    def on_get(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        room_id: str,
        event_type: str,
        state_key: str = "",
    ) -> None:
        """An entry of the room's state."""
        requester = require_user(req, guests=True)
        form = string_param(req, "format") or "content"
        if form not in ("content", "event"):
            raise InvalidParam("format must be content or event.")
        resp.media = self._room_reading.get_state_event(
            requester, room_id, event_type, state_key, whole_event=form == "event"
        )
