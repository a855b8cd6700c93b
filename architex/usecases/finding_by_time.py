"""The event of a room that is nearest to a moment, asked of other servers where history lacks.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.errors import NotFound
from architex.domain.identifiers import EventId, RoomId, ServerName, is_event_id
from architex.domain.room.visibility import EVER
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteError
from architex.gateways.federation_client import FederationClient, federation_path
from architex.projections.room_servers import RoomServers
from architex.projections.serving_reads import find_events
from architex.projections.time_reads import TimedEvent, find_next_ordering, list_events_near
from architex.storage.pool import Database, PgConnection
from architex.usecases.event_rendering import EventRendering
from architex.usecases.requester import Requester
from architex.usecases.room_reader import RoomReader
from architex.usecases.room_reading import HistoryFiller

PIECE: Final = 50
MAX_LOOKED_AT: Final = 1_000
"""Events that one search looks at, if all of them are hidden."""

MAX_ASKED: Final = 3
MAX_FILLS: Final = 5
"""How often history is fetched in order to have the event that another server named."""
FILLED_AT_ONCE: Final = 100
TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event and its time."""

    event_id: EventId
    origin_server_ts: int

    def as_json(self) -> dict[str, Any]:
        """In the spec's form."""
        return {"event_id": self.event_id, "origin_server_ts": self.origin_server_ts}


@dataclass(frozen=True, slots=True)
class _Local:
    """What was found here, and the stretch in which history may be missing beside it."""

    room_nid: int
    found: FoundEvent | None
    low: int
    high: int


def iterate_events_near(
    connection: PgConnection, room_nid: int, ts: int, *, backwards: bool
) -> Iterator[list[TimedEvent]]:
    """The events nearest to a moment on one side of it, in pieces, up to MAX_LOOKED_AT."""
    after = None
    for _ in range(MAX_LOOKED_AT // PIECE):
        piece = list_events_near(
            connection, room_nid, ts, backwards=backwards, limit=PIECE, after=after
        )
        yield piece
        if len(piece) < PIECE:
            return
        ts, after = piece[-1].origin_server_ts, piece[-1].row.ordering


@dataclass(frozen=True)
class FindingByTime:
    """Finds events by time, for people.

    Attributes:
        server_name: ours.
        history: fetches history that lacks; None where there is no federation.
    """

    database: Database
    rendering: EventRendering
    servers: RoomServers
    client: FederationClient
    history: HistoryFiller | None
    clock: Clock
    server_name: ServerName

    def find_event(
        self, requester: Requester, room_id: RoomId, ts: int, *, backwards: bool
    ) -> FoundEvent:
        """The event that the requester may see nearest to a moment, on one side of it.

        Args:
            ts: the moment, in milliseconds since 1970.
            backwards: whether the event is to be from before it.

        Raises:
            Forbidden: the requester may not read the room.
            NotFound: there is no such event.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
        """
        local = self._look(requester, room_id, ts, backwards)
        found = local.found
        if self._is_history_missing(room_id, local):
            told = self._ask(room_id, local, ts, backwards)
            if told is not None and _is_nearer(told, found, ts):
                self._fill(room_id, local, told)
                found = self._look(requester, room_id, ts, backwards).found
        if found is None:
            direction = "backward" if backwards else "forward"
            raise NotFound(f"Unable to find event from {ts} in {direction} direction")
        return found

    def _look(self, requester: Requester, room_id: RoomId, ts: int, backwards: bool) -> _Local:
        """What is here."""
        with self.database.snapshot() as connection:
            reader = RoomReader(
                connection, self.rendering, requester, room_id, self.clock.now_ms()
            )
            for piece in iterate_events_near(connection, reader.room_nid, ts, backwards=backwards):
                self.rendering.standings.decide(
                    connection,
                    requester.user_id,
                    [(reader.standing, event.row) for event in piece],
                )
                for event in piece:
                    if reader.standing.is_visible(event.row):
                        return self._beside(connection, reader.room_nid, event, backwards)
            return _Local(reader.room_nid, None, -EVER, EVER if backwards else -EVER)

    def _beside(
        self, connection: PgConnection, room_nid: int, event: TimedEvent, backwards: bool
    ) -> _Local:
        """An event, with the place next to it on the side of the moment."""
        ordering = event.row.ordering
        found = FoundEvent(event.event_id, event.origin_server_ts)
        if not backwards:
            return _Local(room_nid, found, ordering - 1, ordering)
        following = find_next_ordering(connection, room_nid, ordering)
        return _Local(room_nid, found, ordering, ordering if following is None else following)

    def _is_history_missing(self, room_id: RoomId, local: _Local) -> bool:
        return self.history is not None and self.history.is_incomplete(
            room_id, local.low, local.high
        )

    def _ask(self, room_id: RoomId, local: _Local, ts: int, backwards: bool) -> FoundEvent | None:
        """What the first server of the room that knows better knows."""
        if not self.servers.is_in_room(local.room_nid, self.server_name):
            return None
        others = [s for s in self.servers.list_servers(local.room_nid) if s != self.server_name]
        for server in others[:MAX_ASKED]:
            try:
                told = self.client.get(
                    server,
                    federation_path("v1", "timestamp_to_event", room_id),
                    {"ts": str(ts), "dir": "b" if backwards else "f"},
                    timeout_s=TIMEOUT_S,
                    max_bytes=MAX_ANSWER_BYTES,
                )
            except RemoteError:
                continue
            event_id, made_ts = told.get("event_id"), told.get("origin_server_ts")
            if not isinstance(event_id, str) or not is_event_id(event_id):
                continue
            if type(made_ts) is int and (made_ts <= ts if backwards else made_ts >= ts):
                return FoundEvent(event_id, made_ts)
        return None

    def _fill(self, room_id: RoomId, local: _Local, told: FoundEvent) -> None:
        """Fetch history until the event is here, or nothing more comes."""
        for _ in range(MAX_FILLS):
            with self.database.connection() as connection:
                known = find_events(connection, [told.event_id], local.room_nid)
            if told.event_id in known and known[told.event_id].is_placed:
                return
            if self.history is None or not self.history.fill(
                room_id, local.low, local.high, FILLED_AT_ONCE
            ):
                return


def _is_nearer(told: FoundEvent, found: FoundEvent | None, ts: int) -> bool:
    return found is None or abs(told.origin_server_ts - ts) < abs(found.origin_server_ts - ts)
