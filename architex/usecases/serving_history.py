"""What other servers in a room may fetch of it: events, states, auth chains, history.

Spec: https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.errors import Forbidden, NotFound
from architex.domain.identifiers import EventId, RoomId, ServerName
from architex.gateways.clock import Clock
from architex.projections.room_servers import RoomServers
from architex.projections.server_acls import ServerAcls
from architex.projections.serving_reads import (
    ServedEvent,
    ServedRoom,
    find_events,
    find_room,
    find_room_with,
    is_served,
    list_event_ids,
    list_events_below,
)
from architex.projections.state_exports import iterate_events, list_auth_chain, list_state
from architex.storage.pool import Database, PgConnection
from architex.usecases.finding_by_time import iterate_events_near
from architex.usecases.rate_limits import RateLimits
from architex.usecases.server_visibility import list_hidden

MAX_BACKFILL: Final = 100
MAX_MISSING: Final = 20
DEFAULT_MISSING: Final = 10

MAX_ROUNDS: Final = 20
"""How often one walk through the graph asks for events that it did not foresee."""

MAX_WALKED_BYTES: Final = 16 * 2**20
"""How much of events one walk holds."""

MAX_NAMED: Final = 100
"""Events that a walk begins at; a room rarely has more ends."""

Fragment = orjson.Fragment


@dataclass(frozen=True)
class ServingHistory:
    """Answers servers that are in a room.

    Every method raises Forbidden when the server is not in the room, or its list of servers
    denies it; also when there is no such room, so that nobody learns which rooms there are. And
    LimitExceeded when the server asks too much.

    Attributes:
        server_name: ours.
    """

    database: Database
    servers: RoomServers
    acls: ServerAcls
    clock: Clock
    server_name: ServerName
    rate_limits: RateLimits

    def get_event(self, origin: ServerName, event_id: EventId) -> dict[str, Any]:
        """A transaction with a single event; pruned when the server may not see its content.

        Raises:
            NotFound: there is no such event.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid
        """
        self.rate_limits.spend("federation_reads", origin)
        with self.database.connection() as connection:
            room = find_room_with(connection, event_id)
        if room is None:
            raise NotFound("There is no such event.")
        self._check_may_ask(origin, room)
        with self.database.snapshot() as connection:
            event = _get_event(connection, room, event_id)
            return self._transaction(self._render(connection, room, origin, [event]))

    def get_state(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Iterator[bytes]:
        """The state before an event and what authorises it, as JSON in pieces.

        Raises:
            NotFound: the room has no such event, or the state before it is not known here.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid
        """
        self.rate_limits.spend("federation_states", origin)
        room = self._admit(origin, room_id)
        with self.database.snapshot() as connection:
            state, chain = _state_and_chain(connection, room, event_id)
        return _stream(
            ("pdus", iterate_events(self.database, room.rules, state)),
            ("auth_chain", iterate_events(self.database, room.rules, chain)),
        )

    def get_state_ids(
        self, origin: ServerName, room_id: RoomId, event_id: EventId
    ) -> dict[str, list[EventId]]:
        """The IDs of the state before an event and of what authorises it.

        Raises:
            NotFound: the room has no such event, or the state before it is not known here.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid
        """
        self.rate_limits.spend("federation_states", origin)
        room = self._admit(origin, room_id)
        with self.database.snapshot() as connection:
            state, chain = _state_and_chain(connection, room, event_id)
            return {
                "pdu_ids": list_event_ids(connection, state),
                "auth_chain_ids": list_event_ids(connection, chain),
            }

    def get_event_auth(
        self, origin: ServerName, room_id: RoomId, event_id: EventId
    ) -> Iterator[bytes]:
        """The auth chain of an event, as JSON in pieces.

        Raises:
            NotFound: the room has no such event.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1event_authroomideventid
        """
        self.rate_limits.spend("federation_states", origin)
        room = self._admit(origin, room_id)
        with self.database.snapshot() as connection:
            event = _get_event(connection, room, event_id)
            chain = list_auth_chain(connection, [event.position])
        return _stream(("auth_chain", iterate_events(self.database, room.rules, chain)))

    def backfill(
        self, origin: ServerName, room_id: RoomId, event_ids: Sequence[EventId], limit: int
    ) -> dict[str, Any]:
        """Events and those before them, the nearest first. What is not known is left out.

        Args:
            limit: at most so many, and never more than MAX_BACKFILL.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid
        """
        self.rate_limits.spend("federation_reads", origin)
        room = self._admit(origin, room_id)
        with self.database.snapshot() as connection:
            walk = _Walk(connection, room, min(limit, MAX_BACKFILL))
            events = walk.run(event_ids[:MAX_NAMED], without=())
            return self._transaction(self._render(connection, room, origin, events))

    def get_missing_events(
        self,
        origin: ServerName,
        room_id: RoomId,
        *,
        latest: Sequence[EventId],
        earliest: Collection[EventId],
        limit: int = DEFAULT_MISSING,
        min_depth: int = 0,
    ) -> dict[str, Any]:
        """The events between `latest` and `earliest`, both left out; the oldest first.

        Args:
            limit: at most so many, and never more than MAX_MISSING: those nearest to `latest`.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid
        """
        self.rate_limits.spend("federation_reads", origin)
        room = self._admit(origin, room_id)
        with self.database.snapshot() as connection:
            walk = _Walk(connection, room, min(limit, MAX_MISSING), min_depth=min_depth)
            events = walk.run_before(latest[:MAX_NAMED], without=earliest)
            events.sort(key=lambda event: (event.pdu["depth"], event.ordering))
            return {"events": self._render(connection, room, origin, events)}

    def find_event_at(
        self, origin: ServerName, room_id: RoomId, ts: int, *, backwards: bool
    ) -> dict[str, Any]:
        """The event nearest to a moment, on one side of it, that the server may see.

        Args:
            ts: the moment, in milliseconds since 1970.

        Raises:
            NotFound: there is none.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
        """
        self.rate_limits.spend("federation_reads", origin)
        room = self._admit(origin, room_id)
        with self.database.snapshot() as connection:
            for piece in iterate_events_near(connection, room.room_nid, ts, backwards=backwards):
                ids = [event.event_id for event in piece]
                served = find_events(connection, ids, room.room_nid)
                hidden = list_hidden(connection, room.room_nid, origin, served.values())
                for event in piece:
                    if event.event_id not in hidden:
                        return {
                            "event_id": event.event_id,
                            "origin_server_ts": event.origin_server_ts,
                        }
        direction = "backward" if backwards else "forward"
        raise NotFound(f"Unable to find event from {ts} in {direction} direction")

    # Within

    def _admit(self, origin: ServerName, room_id: RoomId) -> ServedRoom:
        # Before the snapshot is taken: nobody waits for a second connection while holding one.
        with self.database.connection() as connection:
            room = find_room(connection, room_id)
        if room is None:
            raise Forbidden("Your server is not in this room.")
        self._check_may_ask(origin, room)
        return room

    def _check_may_ask(self, origin: ServerName, room: ServedRoom) -> None:
        if not self.servers.is_in_room(room.room_nid, origin):
            raise Forbidden("Your server is not in this room.")
        if not self.acls.allows(room.room_nid, origin):
            raise Forbidden("Your server is denied by the room's server ACL.")

    def _render(
        self,
        connection: PgConnection,
        room: ServedRoom,
        origin: ServerName,
        events: Sequence[ServedEvent],
    ) -> list[Fragment]:
        hidden = list_hidden(connection, room.room_nid, origin, events)
        return [
            Fragment(event.bytes_of(room.rules, redacted=event.event_id in hidden))
            for event in events
        ]

    def _transaction(self, pdus: Sequence[Fragment]) -> dict[str, Any]:
        return {
            "origin": self.server_name,
            "origin_server_ts": self.clock.now_ms(),
            "pdus": pdus,
        }


class _Walk:
    """A breadth-first walk through a room's graph, from the newest events back.

    Events are loaded ahead in the order of the timeline, which most walks follow: a walk of a
    hundred events asks twice.
    """

    def __init__(
        self, connection: PgConnection, room: ServedRoom, limit: int, *, min_depth: int = 0
    ) -> None:
        self._connection = connection
        self._room = room
        self._limit = max(limit, 0)
        self._min_depth = min_depth
        self._loaded: dict[EventId, ServedEvent] = {}
        self._unknown: set[EventId] = set()
        self._rounds = 0
        self._bytes = 0

    def run(
        self, event_ids: Iterable[EventId], *, without: Collection[EventId]
    ) -> list[ServedEvent]:
        """The events and those before them, nearest first; nothing beyond those in `without`."""
        seen = set(without)
        waiting = deque(dict.fromkeys(event_id for event_id in event_ids if event_id not in seen))
        seen.update(waiting)
        found: list[ServedEvent] = []
        while waiting and len(found) < self._limit:
            event = self._find(waiting, waiting.popleft())
            # What is below the depth that was asked for has nothing above it behind it.
            if event is None or not event.is_placed or event.pdu["depth"] < self._min_depth:
                continue
            if is_served(event):
                found.append(event)
            for parent in event.prev_events:
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        return found

    def run_before(
        self, event_ids: Iterable[EventId], *, without: Collection[EventId]
    ) -> list[ServedEvent]:
        """As `run`, from what the events follow."""
        latest = list(event_ids)
        self._load(latest)
        parents = [
            parent
            for event_id in latest
            if event_id in self._loaded
            for parent in self._loaded[event_id].prev_events
        ]
        return self.run(parents, without={*without, *latest})

    def _find(self, waiting: Iterable[EventId], event_id: EventId) -> ServedEvent | None:
        if event_id not in self._loaded and event_id not in self._unknown:
            self._load([event_id, *waiting])
        return self._loaded.get(event_id)

    def _load(self, event_ids: Iterable[EventId]) -> None:
        """Load events, and what most likely comes next."""
        if self._rounds >= MAX_ROUNDS or self._bytes > MAX_WALKED_BYTES:
            return
        self._rounds += 1
        wanted = {event_id for event_id in event_ids if event_id not in self._loaded}
        found = find_events(self._connection, wanted, self._room.room_nid)
        self._unknown |= wanted - found.keys()
        self._keep(found.values())
        orderings = [event.ordering for event in found.values() if event.is_placed]
        if orderings:
            ahead = list_events_below(
                self._connection, self._room.room_nid, max(orderings), self._limit
            )
            self._keep(ahead)

    def _keep(self, events: Iterable[ServedEvent]) -> None:
        for event in events:
            if event.event_id not in self._loaded:
                self._loaded[event.event_id] = event
                self._bytes += len(event.state)


def _get_event(connection: PgConnection, room: ServedRoom, event_id: EventId) -> ServedEvent:
    event = find_events(connection, [event_id], room.room_nid).get(event_id)
    if event is None or not is_served(event):
        raise NotFound("There is no such event in this room.")
    return event


def _state_and_chain(
    connection: PgConnection, room: ServedRoom, event_id: EventId
) -> tuple[list[int], list[int]]:
    """Positions of the state before an event, and of all that authorises it."""
    before = _get_event(connection, room, event_id).before
    if before is None:
        raise NotFound("This server does not know the state of the room at this event.")
    state = list_state(connection, room.room_nid, before)
    return state, list_auth_chain(connection, state)


def _stream(*lists: tuple[str, Iterator[bytes]]) -> Iterator[bytes]:
    """A JSON object of lists of events, without ever having it whole."""
    opening = b"{"
    for name, events in lists:
        yield opening + b'"' + name.encode() + b'":['
        opening = b","
        separator = b""
        for event in events:
            yield separator + event
            separator = b","
        yield b"]"
    yield b"}"
