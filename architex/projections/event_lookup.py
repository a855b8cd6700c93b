"""Single events by their IDs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from architex.domain.identifiers import EventId, RoomId, UserId
from architex.storage.pool import Database, PgConnection


@dataclass(frozen=True, slots=True)
class LocatedEvent:
    """Where an event is, and whose."""

    event_id: EventId
    room_id: RoomId
    room_nid: int
    position: int
    sender: UserId
    type: str


def is_redacted(connection: PgConnection, event_id: EventId) -> bool:
    """Whether an event was redacted."""
    row = connection.execute(
        "SELECT 1 FROM event_graph WHERE event_id = %s AND redacted_by IS NOT NULL", (event_id,)
    ).fetchone()
    return row is not None


@dataclass(frozen=True)
class EventLookup:
    """Finds accepted events by event ID."""

    database: Database

    def find_event(self, event_id: EventId) -> LocatedEvent | None:
        """The accepted event of that ID, in whichever room; None when there is none."""
        row = self.database.fetch_one(
            "SELECT r.room_id, g.room_nid, g.position, s.state FROM event_graph g"
            " JOIN rooms r USING (room_nid) JOIN stored_events s ON s.notification_id = g.position"
            " WHERE g.event_id = %s AND g.verdict = 0",
            (event_id,),
        )
        if row is None:
            return None
        room_id, room_nid, position, state = row
        pdu = orjson.loads(state)["pdu"]
        return LocatedEvent(event_id, room_id, room_nid, position, pdu["sender"], pdu["type"])

    def find_known(self, room_id: RoomId, event_ids: Sequence[EventId]) -> set[EventId]:
        """Those of the events that the room's log has, whatever the verdict."""
        rows = self.database.fetch_all(
            "SELECT g.event_id FROM event_graph g JOIN rooms r USING (room_nid)"
            " WHERE g.event_id = ANY(%b) AND r.room_id = %s",
            (list(event_ids), room_id),
        )
        return {event_id for (event_id,) in rows}
