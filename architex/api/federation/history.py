"""Events, states and history of rooms, for servers that are in them.

Spec: https://spec.matrix.org/v1.19/server-server-api/#retrieving-events
"""

from __future__ import annotations

from typing import Final

import falcon
from marshmallow import fields

from architex.api.federation.authentication import require_server, signed_content
from architex.api.fields import WholeNumber
from architex.api.requests import (
    BodySchema,
    int_param,
    list_param,
    load,
    moment_params,
    string_param,
)
from architex.api.streams import send_stream
from architex.domain.errors import BadJson, MissingParam
from architex.domain.identifiers import EventId, parse_event_id, parse_room_id
from architex.usecases.serving_history import DEFAULT_MISSING, MAX_BACKFILL, ServingHistory

MAX_EARLIEST: Final = 10_000


class _MissingEventsSchema(BodySchema):
    limit = WholeNumber(load_default=DEFAULT_MISSING)
    min_depth = WholeNumber(load_default=0)
    earliest_events = fields.List(fields.String(), load_default=list)
    latest_events = fields.List(fields.String(), load_default=list)


_MISSING_EVENTS = _MissingEventsSchema()


class EventResource:
    """GET /event/{eventId}"""

    def __init__(self, history: ServingHistory) -> None:
        self._history = history

    def on_get(self, req: falcon.Request, resp: falcon.Response, event_id: str) -> None:
        """A single event.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid
        """
        origin = require_server(req)
        resp.media = self._history.get_event(origin, parse_event_id(event_id))


class StateResource:
    """GET /state/{roomId} and /state_ids/{roomId}"""

    def __init__(self, history: ServingHistory) -> None:
        self._history = history

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The state before an event, with its auth chain.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid
        """
        origin = require_server(req)
        event_id = _event_param(req)
        send_stream(resp, self._history.get_state(origin, parse_room_id(room_id), event_id))

    def on_get_ids(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The same, as event IDs.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid
        """
        origin = require_server(req)
        event_id = _event_param(req)
        resp.media = self._history.get_state_ids(origin, parse_room_id(room_id), event_id)


class EventAuthResource:
    """GET /event_auth/{roomId}/{eventId}"""

    def __init__(self, history: ServingHistory) -> None:
        self._history = history

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """The auth chain of an event.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1event_authroomideventid
        """
        origin = require_server(req)
        chain = self._history.get_event_auth(
            origin, parse_room_id(room_id), parse_event_id(event_id)
        )
        send_stream(resp, chain)


class BackfillResource:
    """GET /backfill/{roomId}"""

    def __init__(self, history: ServingHistory) -> None:
        self._history = history

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Events and what came before them.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid
        """
        origin = require_server(req)
        event_ids = list_param(req, "v")
        if not event_ids:
            raise MissingParam("Missing: v.")
        if string_param(req, "limit") is None:
            raise MissingParam("Missing: limit.")
        limit = int_param(req, "limit", 0, at_most=MAX_BACKFILL)
        resp.media = self._history.backfill(origin, parse_room_id(room_id), event_ids, limit)


class MissingEventsResource:
    """POST /get_missing_events/{roomId}"""

    def __init__(self, history: ServingHistory) -> None:
        self._history = history

    def on_post(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The events between some and others.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid
        """
        origin = require_server(req)
        wanted = load(_MISSING_EVENTS, signed_content(req))
        if len(wanted["earliest_events"]) > MAX_EARLIEST:
            raise BadJson(f"earliest_events names more than {MAX_EARLIEST} events.")
        resp.media = self._history.get_missing_events(
            origin,
            parse_room_id(room_id),
            latest=wanted["latest_events"],
            earliest=wanted["earliest_events"],
            limit=wanted["limit"],
            min_depth=wanted["min_depth"],
        )


class TimestampResource:
    """GET /timestamp_to_event/{roomId}"""

    def __init__(self, history: ServingHistory) -> None:
        self._history = history

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The event nearest to a moment.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
        """
        origin = require_server(req)
        ts, backwards = moment_params(req)
        resp.media = self._history.find_event_at(
            origin, parse_room_id(room_id), ts, backwards=backwards
        )


def _event_param(req: falcon.Request) -> EventId:
    event_id = string_param(req, "event_id")
    if not event_id:
        raise MissingParam("Missing: event_id.")
    return parse_event_id(event_id)
