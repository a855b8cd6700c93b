"""Reading rooms: history, events, their surroundings, state and members.

Spec: https://spec.matrix.org/v1.19/client-server-api/#getting-events-for-a-room
"""

from __future__ import annotations

from typing import Final

import falcon

from architex.api.requests import int_param, moment_params, require_user, string_param
from architex.domain.canonical_json import parse_json
from architex.domain.errors import InvalidParam, MissingParam
from architex.domain.event_filter import RoomEventFilter, parse_room_event_filter
from architex.domain.sync_token import parse_pagination_token
from architex.usecases.finding_by_time import FindingByTime
from architex.usecases.room_reading import NO_FILTER, RoomReading

MAX_PAGE: Final = 1000
MAX_CONTEXT: Final = 200
MEMBERSHIPS: Final = ("join", "invite", "knock", "leave", "ban")


class MessagesResource:
    """GET /rooms/{roomId}/messages"""

    def __init__(self, room_reading: RoomReading) -> None:
        self._room_reading = room_reading

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """A page of the room's history."""
        requester = require_user(req, guests=True)
        direction = string_param(req, "dir")
        if direction is None:
            raise MissingParam("Missing: dir.")
        if direction not in ("b", "f"):
            raise InvalidParam("dir must be b or f.")
        resp.media = self._room_reading.get_messages(
            requester,
            room_id,
            backwards=direction == "b",
            begin=_token_param(req, "from"),
            end=_token_param(req, "to"),
            limit=int_param(req, "limit", 10, at_most=MAX_PAGE),
            event_filter=_filter_param(req),
        )


class EventResource:
    """GET /rooms/{roomId}/event/{eventId}"""

    def __init__(self, room_reading: RoomReading) -> None:
        self._room_reading = room_reading

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """A single event."""
        requester = require_user(req, guests=True)
        resp.media = self._room_reading.get_event(requester, room_id, event_id)


class ContextResource:
    """GET /rooms/{roomId}/context/{eventId}"""

    def __init__(self, room_reading: RoomReading) -> None:
        self._room_reading = room_reading

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """An event and those around it."""
        requester = require_user(req, guests=True)
        resp.media = self._room_reading.get_context(
            requester,
            room_id,
            event_id,
            limit=int_param(req, "limit", 10, at_most=MAX_CONTEXT),
            event_filter=_filter_param(req),
        )


class MembersResource:
    """GET /rooms/{roomId}/members"""

    def __init__(self, room_reading: RoomReading) -> None:
        self._room_reading = room_reading

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The member events of the room's state."""
        requester = require_user(req, guests=True)
        chunk = self._room_reading.list_members(
            requester,
            room_id,
            at=_token_param(req, "at"),
            membership=_membership_param(req, "membership"),
            not_membership=_membership_param(req, "not_membership"),
        )
        resp.media = {"chunk": chunk}


class JoinedMembersResource:
    """GET /rooms/{roomId}/joined_members"""

    def __init__(self, room_reading: RoomReading) -> None:
        self._room_reading = room_reading

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Who is in the room, with names and avatars."""
        requester = require_user(req, guests=True)
        resp.media = {"joined": self._room_reading.list_joined_members(requester, room_id)}


class TimestampResource:
    """GET /rooms/{roomId}/timestamp_to_event"""

    def __init__(self, finding: FindingByTime) -> None:
        self._finding = finding

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The event nearest to a moment.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
        """
        requester = require_user(req, guests=True)
        ts, backwards = moment_params(req)
        found = self._finding.find_event(requester, room_id, ts, backwards=backwards)
        resp.media = found.as_json()


def _token_param(req: falcon.Request, name: str) -> int | None:
    text = string_param(req, name)
    return parse_pagination_token(text) if text else None


def _membership_param(req: falcon.Request, name: str) -> str | None:
    membership = string_param(req, name)
    if membership is not None and membership not in MEMBERSHIPS:
        raise InvalidParam(f"{name} must be one of {', '.join(MEMBERSHIPS)}.")
    return membership


def _filter_param(req: falcon.Request) -> RoomEventFilter:
    """The RoomEventFilter that the query gives as JSON."""
    text = string_param(req, "filter")
    if not text:
        return NO_FILTER
    content = parse_json(text.encode("utf-8", "surrogatepass"))
    if not isinstance(content, dict):
        raise InvalidParam("A filter must be a JSON object.")
    return parse_room_event_filter(content)
