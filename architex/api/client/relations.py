"""Relations: the events that belong to an event, and the threads of a room.

Spec: https://spec.matrix.org/v1.19/client-server-api/#relationships-api
"""

from __future__ import annotations

import falcon

from architex.api.requests import bool_param, int_param, require_user, string_param
from architex.domain.errors import InvalidParam
from architex.domain.sync_token import parse_pagination_token
from architex.usecases.relating import MAX_PAGE, Relating

DEFAULT_LIMIT = 5
"""How many children there are on a page, when nobody says; so clients are used to."""

DEFAULT_THREADS = 20


class ChildrenResource:
    """GET /v1/rooms/{roomId}/relations/{eventId}, perhaps /{relType} and /{eventType}"""

    def __init__(self, relating: Relating) -> None:
        self._relating = relating

    def on_get(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        room_id: str,
        event_id: str,
        rel_type: str | None = None,
        event_type: str | None = None,
    ) -> None:
        """The events that relate to an event."""
        requester = require_user(req)
        direction = string_param(req, "dir", "b")
        if direction not in ("b", "f"):
            raise InvalidParam("dir must be b or f.")
        if "\0" in f"{rel_type}{event_type}":
            raise InvalidParam("There is a NUL in the path.")
        asks_about_recursion = string_param(req, "recurse") is not None
        resp.media = self._relating.list_children(
            requester,
            room_id,
            event_id,
            rel_type=rel_type,
            type=event_type,
            begin=_token_param(req, "from"),
            end=_token_param(req, "to"),
            backwards=direction == "b",
            recurse=bool_param(req, "recurse") if asks_about_recursion else None,
            limit=int_param(req, "limit", DEFAULT_LIMIT, at_least=1, at_most=MAX_PAGE),
        )


class ThreadsResource:
    """GET /v1/rooms/{roomId}/threads"""

    def __init__(self, relating: Relating) -> None:
        self._relating = relating

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The roots of the room's threads."""
        include = string_param(req, "include", "all")
        if include not in ("all", "participated"):
            raise InvalidParam("include must be all or participated.")
        resp.media = self._relating.list_threads(
            require_user(req),
            room_id,
            only_participated=include == "participated",
            begin=_token_param(req, "from"),
            limit=int_param(req, "limit", DEFAULT_THREADS, at_least=1, at_most=MAX_PAGE),
        )


def _token_param(req: falcon.Request, name: str) -> int | None:
    text = string_param(req, name)
    return parse_pagination_token(text) if text else None
