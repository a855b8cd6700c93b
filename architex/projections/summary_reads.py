"""Rooms from outside: their summaries, and the children of spaces.

A few statements for any number of rooms, read from their current states: never behind them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.identifiers import RoomId, ServerName, UserId
from architex.domain.room.visibility import EVER
from architex.domain.room_summary import (
    CHILD,
    MAX_CHILDREN,
    SPACE,
    SUMMARY_TYPES,
    RoomSummary,
    SpaceChild,
    read_child,
    summarise,
)
from architex.projections.event_reads import EventReads
from architex.projections.room_reads import StateSpan, list_state_entries
from architex.storage.pool import PgConnection

# Rooms that a server is in: of others it knows what once was.
_ROOMS: Final = """
SELECT r.room_id, r.room_nid, r.room_version, coalesce(c.joined, 0) FROM rooms r
JOIN room_servers s ON s.room_nid = r.room_nid AND s.server_name = %s AND s.joined > 0
LEFT JOIN room_counts c ON c.room_nid = r.room_nid WHERE r.room_id = ANY(%s)"""

# LATERAL with a LIMIT: no space costs more than the children anybody looks at.
_CHILDREN: Final = """
SELECT n.room_nid, c.position, g.redacted_by FROM unnest(%s::int8[]) AS n (room_nid), LATERAL
 (SELECT position FROM current_state WHERE room_nid = n.room_nid AND type = %s
  AND valid_to = 9223372036854775807 ORDER BY state_key LIMIT %s) c
JOIN event_graph g USING (position)"""


@dataclass(frozen=True, slots=True)
class SummaryReads:
    """Reads summaries of the rooms that this server is in.

    Attributes:
        server_name: ours.
    """

    event_reads: EventReads
    server_name: ServerName

    def find_summaries(
        self, connection: PgConnection, room_ids: Collection[RoomId]
    ) -> dict[RoomId, RoomSummary]:
        """Summaries of those of the rooms that this server is in, with the children of spaces."""
        rooms = connection.execute(_ROOMS, (self.server_name, list(room_ids))).fetchall()
        if not rooms:
            return {}
        contents = self._contents(connection, [row[1] for row in rooms])
        spaces = [
            nid
            for nid, held in contents.items()
            if held.get("m.room.create", {}).get("type") == SPACE
        ]
        children = self._children(connection, spaces)
        return {
            room_id: summarise(
                room_id, version, joined, contents.get(nid, {}), children.get(nid, ())
            )
            for room_id, nid, version, joined in rooms
        }

    def _contents(
        self, connection: PgConnection, room_nids: Sequence[int]
    ) -> dict[int, dict[str, Mapping[str, Any]]]:
        spans = [StateSpan(nid, EVER, EVER) for nid in room_nids]
        rows = list_state_entries(
            connection, [(span, type_, "") for span in spans for type_ in SUMMARY_TYPES]
        )
        events = self.event_reads.load_events(connection, [row.reference for row in rows])
        contents: dict[int, dict[str, Mapping[str, Any]]] = {}
        for row in rows:
            if row.position in events:
                contents.setdefault(row.room_nid, {})[row.type] = events[row.position].content
        return contents

    def _children(
        self, connection: PgConnection, room_nids: Sequence[int]
    ) -> dict[int, list[SpaceChild]]:
        if not room_nids:
            return {}
        rows = connection.execute(_CHILDREN, (list(room_nids), CHILD, MAX_CHILDREN)).fetchall()
        events = self.event_reads.load_events(
            connection, [(position, redacted_by) for _, position, redacted_by in rows]
        )
        children: dict[int, list[SpaceChild]] = {}
        for nid, position, _ in rows:
            child = read_child(events[position].pdu) if position in events else None
            if child is not None:
                children.setdefault(nid, []).append(child)
        return children


def list_memberships(
    connection: PgConnection, user_id: UserId, room_ids: Collection[RoomId]
) -> dict[RoomId, str]:
    """A user's memberships in rooms; those they never had any in are missing."""
    rows = connection.execute(
        "SELECT r.room_id, m.membership FROM rooms r JOIN memberships m USING (room_nid)"
        " WHERE r.room_id = ANY(%s) AND m.user_id = %s",
        (list(room_ids), user_id),
    ).fetchall()
    return dict(rows)


def list_rooms_of_server(
    connection: PgConnection, server: ServerName, room_ids: Collection[RoomId]
) -> set[RoomId]:
    """Those of the rooms that a server has joined members in."""
    rows = connection.execute(
        "SELECT r.room_id FROM rooms r JOIN room_servers s USING (room_nid)"
        " WHERE r.room_id = ANY(%s) AND s.server_name = %s AND s.joined > 0",
        (list(room_ids), server),
    ).fetchall()
    return {room_id for (room_id,) in rows}


def list_rooms_with_invited(
    connection: PgConnection, server: ServerName, room_ids: Collection[RoomId]
) -> set[RoomId]:
    """Those of the rooms to which some user of a server is invited."""
    rows = connection.execute(
        "SELECT DISTINCT r.room_id FROM rooms r JOIN memberships m USING (room_nid)"
        " WHERE r.room_id = ANY(%s) AND m.membership = 'invite'"
        " AND substr(m.user_id, strpos(m.user_id, ':') + 1) = %s",
        (list(room_ids), server),
    ).fetchall()
    return {room_id for (room_id,) in rows}
