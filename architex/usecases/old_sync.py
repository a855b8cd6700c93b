"""The deprecated /initialSync and /events: what /sync tells, in the form of before.

Old clients look for `user_id` beside `sender` in events, and in the content of presence; it says
the same.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3initialsync
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from architex.domain.errors import NotFound
from architex.domain.event_filter import parse_sync_filter
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.sync_token import format_sync_token, parse_sync_token
from architex.gateways.clock import Clock
from architex.projections.event_lookup import EventLookup
from architex.projections.event_reads import EventReads
from architex.projections.room_reads import find_position
from architex.storage.pool import Database
from architex.storage.published_rooms import PublishedRoomStore
from architex.usecases.requester import Requester
from architex.usecases.room_reading import RoomReading
from architex.usecases.sync_parts import SyncRequest
from architex.usecases.syncing import MAX_TIMEOUT_MS, Syncing

MAX_EVENTS: Final = 500
"""Of one room, in one response."""

DEFAULT_LIMIT: Final = 10


@dataclass(frozen=True)
class OldSyncing:
    """Answers who still asks as one did before /sync."""

    database: Database
    syncing: Syncing
    reading: RoomReading
    event_reads: EventReads
    events: EventLookup
    published: PublishedRoomStore
    clock: Clock

    def get_everything(
        self, requester: Requester, *, limit: int = DEFAULT_LIMIT, archived: bool = False
    ) -> dict[str, Any]:
        """The user's rooms, each with its state and its newest events.

        Args:
            limit: how many events per room at most.
            archived: also the rooms that the user has left.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3initialsync
        """
        filter_ = {"room": {"timeline": {"limit": limit}, "include_leave": archived}}
        response = self.syncing.sync(
            SyncRequest(
                requester=_without_device(requester),
                filter=parse_sync_filter(filter_),
                use_state_after=True,
            )
        )
        rooms = response["rooms"]
        end = response["next_batch"]
        receipts = [
            {**event, "room_id": room_id}
            for room_id, room in rooms["join"].items()
            for event in room["ephemeral"]["events"]
            if event["type"] == "m.receipt"
        ]
        return {
            "end": end,
            "rooms": [
                *(
                    self._room(room_id, room, requester.user_id, end)
                    for room_id, room in (*rooms["join"].items(), *rooms["leave"].items())
                ),
                *_invites(rooms["invite"], requester.user_id),
            ],
            "presence": list(old_presence(response["presence"]["events"])),
            # Clients of then ask for push rules where they are kept.
            "account_data": [
                entry
                for entry in response["account_data"]["events"]
                if entry["type"] != "m.push_rules"
            ],
            "receipts": receipts,
        }

    def listen(
        self, requester: Requester, *, since: int | None, timeout_ms: int
    ) -> dict[str, Any]:
        """What is new for a user after a position; waits up to the timeout for something.

        Args:
            since: None for from now on.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events
        """
        deadline = self.clock.monotonic() + min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        filter_ = parse_sync_filter({"room": {"timeline": {"limit": MAX_EVENTS}}})
        if since is None:
            with self.database.connection() as connection:
                since = find_position(connection)
        begin = since
        while True:
            remaining_ms = max(0, round((deadline - self.clock.monotonic()) * 1000))
            request = SyncRequest(
                requester=_without_device(requester),
                since=begin,
                timeout_ms=remaining_ms,
                filter=filter_,
            )
            response = self.syncing.sync(request)
            chunk = self._chunk(response, begin, requester.user_id)
            end = parse_sync_token(response["next_batch"])
            # Something may have been new that only /sync tells of.
            if chunk or remaining_ms == 0 or end == begin:
                return {
                    "start": format_sync_token(since),
                    "end": format_sync_token(end),
                    "chunk": chunk,
                }
            begin = end

    def get_event(self, requester: Requester, event_id: EventId) -> dict[str, Any]:
        """An event of whichever room.

        Raises:
            NotFound: there is none that the requester may see.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3eventseventid
        """
        located = self.events.find_event(event_id) if "\0" not in event_id else None
        if located is None:
            raise NotFound("There is no such event, or you may not see it.")
        event = self.reading.get_event(requester, located.room_id, event_id)
        return next(old_events([event], located.room_id))

    def _room(
        self, room_id: RoomId, room: Mapping[str, Any], user_id: UserId, end: str
    ) -> dict[str, Any]:
        state = list(old_events(room["state_after"]["events"], room_id))
        own = (
            event["content"].get("membership")
            for event in state
            if event["type"] == "m.room.member" and event["state_key"] == user_id
        )
        return {
            "room_id": room_id,
            "membership": next(own, "leave"),
            "messages": {
                "start": room["timeline"]["prev_batch"],
                "end": end,
                "chunk": list(old_events(room["timeline"]["events"], room_id)),
            },
            "state": state,
            "visibility": "public" if self.published.is_published(room_id) else "private",
            "account_data": room["account_data"]["events"],
        }

    def _chunk(
        self, response: Mapping[str, Any], since: int, user_id: UserId
    ) -> list[dict[str, Any]]:
        """All that a response tells, as one list: events of rooms first, as they came."""
        rooms = response["rooms"]
        timelines = [
            event
            for room_id, room in (*rooms["join"].items(), *rooms["leave"].items())
            for event in old_events(room["timeline"]["events"], room_id)
        ]
        chunk = self._newer(timelines, since)
        chunk += [room["invite"] for room in _invites(rooms["invite"], user_id)]
        for room_id, room in rooms["join"].items():
            for event in (*room["ephemeral"]["events"], *room["account_data"]["events"]):
                chunk.append({**event, "room_id": room_id})
        presence = old_presence(response["presence"]["events"])
        return [*chunk, *presence, *response["account_data"]["events"]]

    def _newer(self, events: Iterable[dict[str, Any]], since: int) -> list[dict[str, Any]]:
        """Those that came after a position, in order: /sync also tells what new rooms had."""
        by_id = {event["event_id"]: event for event in events}
        if not by_id:
            return []
        with self.database.connection() as connection:
            places = self.event_reads.find_places(connection, by_id)
        orderings = {
            event_id: place.ordering
            for event_id, place in places.items()
            if place.ordering is not None and place.ordering > since
        }
        return [by_id[event_id] for event_id in sorted(orderings, key=orderings.__getitem__)]


def _without_device(requester: Requester) -> Requester:
    """Messages to the device are for its /sync, which alone says that they arrived."""
    return replace(requester, device_id=None)


def old_events(events: Iterable[Any], room_id: RoomId) -> Iterator[dict[str, Any]]:
    """Events of a room as clients see them, in the form of before."""
    for event in events:
        told: dict[str, Any] = orjson.loads(orjson.dumps(event))
        yield {**told, "room_id": room_id, "user_id": told["sender"]}


def old_presence(events: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Presence in the form of before, which says of whom in its content."""
    for event in events:
        yield {**event, "content": {**event["content"], "user_id": event["sender"]}}


def _invites(
    rooms: Mapping[RoomId, Mapping[str, Any]], user_id: UserId
) -> Iterator[dict[str, Any]]:
    """The rooms that a user is invited to."""
    for room_id, room in rooms.items():
        state = list(old_events(room["invite_state"]["events"], room_id))
        for event in state:
            if event["type"] == "m.room.member" and event["state_key"] == user_id:
                yield {
                    "room_id": room_id,
                    "membership": "invite",
                    "inviter": event["sender"],
                    "invite": event,
                    "state": state,
                }
