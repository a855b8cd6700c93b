"""Which events of a room we have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import EventId, RoomId
from architex.projections.current_state import FOREVER
from architex.storage.pool import Database

_KNOWN: Final = """
SELECT event_id FROM event_graph JOIN rooms USING (room_nid)
WHERE room_id = %s AND event_id = ANY(%s)"""

_CURRENT_STATE: Final = """
SELECT g.event_id FROM current_state s JOIN rooms USING (room_nid)
JOIN event_graph g ON g.position = s.position WHERE room_id = %s AND s.valid_to = %s"""

_PLACED: Final = _KNOWN + " AND is_placed"


@dataclass(frozen=True)
class KnownEvents:
    """Asks `event_graph` and `current_state`."""

    database: Database

    def list_unknown(self, room_id: RoomId, event_ids: Collection[EventId]) -> set[EventId]:
        """Those of the events that the room's log does not have at all."""
        return set(event_ids) - self._find(_KNOWN, room_id, event_ids)

    def list_unplaced(self, room_id: RoomId, event_ids: Collection[EventId]) -> set[EventId]:
        """Those of the events that have no place in the room's history: unknown, or outliers."""
        return set(event_ids) - self._find(_PLACED, room_id, event_ids)

    def list_current_state(self, room_id: RoomId) -> frozenset[EventId]:
        """The events of the room's current state."""
        rows = self.database.fetch_all(_CURRENT_STATE, (room_id, FOREVER))
        return frozenset(event_id for (event_id,) in rows)

    def _find(
        self, question: str, room_id: RoomId, event_ids: Collection[EventId]
    ) -> set[EventId]:
        if not event_ids:
            return set()
        rows = self.database.fetch_all(question, (room_id, list(event_ids)))
        return {event_id for (event_id,) in rows}
