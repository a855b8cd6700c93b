"""What clients asked before there was /sync; deprecated.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3initialsync
"""

from __future__ import annotations

import falcon

from architex.api.requests import bool_param, int_param, require_user, string_param
from architex.domain.errors import InvalidParam
from architex.domain.sync_token import parse_sync_token
from architex.usecases.old_sync import DEFAULT_LIMIT, MAX_EVENTS, OldSyncing
from architex.usecases.peeking import MAX_TIMEOUT_MS, Peeking


class InitialSyncResource:
    """GET /initialSync"""

    def __init__(self, old_syncing: OldSyncing) -> None:
        self._old_syncing = old_syncing

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The user's rooms, each with its state and its newest events."""
        resp.media = self._old_syncing.get_everything(
            require_user(req),
            limit=int_param(req, "limit", DEFAULT_LIMIT, at_most=MAX_EVENTS),
            archived=bool_param(req, "archived"),
        )


class EventsResource:
    """GET /events"""

    def __init__(self, peeking: Peeking, old_syncing: OldSyncing) -> None:
        self._peeking = peeking
        self._old_syncing = old_syncing

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """What is new, or wait for it: in a room, or for the user if no room is named."""
        room_id = string_param(req, "room_id")
        requester = require_user(req, guests=bool(room_id))
        if room_id is not None and "\0" in room_id:
            raise InvalidParam("room_id holds a NUL.")
        token = string_param(req, "from")
        since = parse_sync_token(token) if token else None
        timeout_ms = int_param(req, "timeout", 0, at_most=MAX_TIMEOUT_MS)
        # The specification has no limit here any more; one that makes no sense is a mistake.
        int_param(req, "limit", MAX_EVENTS, at_most=MAX_EVENTS)
        if room_id:
            resp.media = self._peeking.listen(
                requester, room_id, since=since, timeout_ms=timeout_ms
            )
        else:
            resp.media = self._old_syncing.listen(requester, since=since, timeout_ms=timeout_ms)


class OneEventResource:
    """GET /events/{eventId}"""

    def __init__(self, old_syncing: OldSyncing) -> None:
        self._old_syncing = old_syncing

    def on_get(self, req: falcon.Request, resp: falcon.Response, event_id: str) -> None:
        """An event, in whichever room."""
        resp.media = self._old_syncing.get_event(require_user(req), event_id)
