"""What a room hands on to the room that replaces it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from architex.domain.client_event import RecordedEvent
from architex.domain.identifiers import RoomId
from architex.projections.event_reads import EventReads
from architex.storage.pool import Database

_STATE: Final = """
SELECT position, g.redacted_by
FROM rooms r JOIN current_state c USING (room_nid) JOIN event_graph g USING (position)
WHERE r.room_id = %s AND c.valid_to = 9223372036854775807 AND """


@dataclass(frozen=True)
class RoomUpgradeReads:
    """Reads `current_state`; the events come pruned where they were redacted."""

    database: Database
    events: EventReads = field(default_factory=EventReads)

    def list_state(self, room_id: RoomId, types: Collection[str]) -> list[RecordedEvent]:
        """The current state events of some types, oldest first; none for an unknown room."""
        return self._list(_STATE + "c.type = ANY(%s)", room_id, list(types))

    def list_bans(self, room_id: RoomId) -> list[RecordedEvent]:
        """The m.room.member events of everybody who is banned, oldest first."""
        return self._list(
            _STATE + "c.type = 'm.room.member' AND c.membership = %s", room_id, "ban"
        )

    def find_replacement(self, room_id: RoomId) -> RoomId | None:
        """The room that a room's m.room.tombstone points to; None when it has none.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomtombstone
        """
        for event in self.list_state(room_id, ["m.room.tombstone"]):
            replacement = event.content.get("replacement_room")
            if event.state_key == "" and isinstance(replacement, str):
                return replacement
        return None

    def _list(self, sql: str, room_id: RoomId, wanted: object) -> list[RecordedEvent]:
        with self.database.snapshot() as connection:
            references = connection.execute(sql, (room_id, wanted)).fetchall()
            events = self.events.load_events(connection, references)
        return [events[position] for position in sorted(events)]
