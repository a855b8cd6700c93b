"""Events by the time they claim to be from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import EventId
from architex.projections.room_reads import TimelineRow
from architex.storage.pool import PgConnection

_COLUMNS: Final = """
SELECT t.room_nid, t.ordering, t.position, t.sender, t.is_state, t.type, t.resumes_at,
 g.redacted_by, g.state_at, g.overlay, g.event_id, t.origin_server_ts
FROM timeline t JOIN event_graph g USING (position) WHERE t.room_nid = %(room)s"""

# The second condition goes on after an event of the same time.
_FORWARDS: Final = f"""{_COLUMNS}
 AND t.origin_server_ts >= %(ts)s AND (t.origin_server_ts, t.ordering) > (%(ts)s, %(after)s)
ORDER BY t.origin_server_ts, t.ordering LIMIT %(limit)s"""
_BACKWARDS: Final = f"""{_COLUMNS}
 AND t.origin_server_ts <= %(ts)s AND (t.origin_server_ts, t.ordering) < (%(ts)s, %(after)s)
ORDER BY t.origin_server_ts DESC, t.ordering DESC LIMIT %(limit)s"""

_NOWHERE: Final = 2**62


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event of a timeline, with the time that it claims."""

    row: TimelineRow
    event_id: EventId
    origin_server_ts: int


def list_events_near(
    connection: PgConnection,
    room_nid: int,
    ts: int,
    *,
    backwards: bool,
    limit: int,
    after: int | None = None,
) -> list[TimedEvent]:
    """The events of a room's timeline from a time on, or before it, the nearest first.

    Args:
        ts: milliseconds since 1970.
        after: of events of exactly that time, only those beyond this ordering.
    """
    if after is None:
        after = _NOWHERE if backwards else -_NOWHERE
    rows = connection.execute(
        (_BACKWARDS if backwards else _FORWARDS).encode(),
        {"room": room_nid, "ts": ts, "after": after, "limit": limit},
    ).fetchall()
    return [TimedEvent(TimelineRow(*row[:-2]), row[-2], row[-1]) for row in rows]


def find_next_ordering(connection: PgConnection, room_nid: int, ordering: int) -> int | None:
    """Where the event stands that comes next in the timeline; None when nothing does."""
    row = connection.execute(
        "SELECT ordering FROM timeline WHERE room_nid = %s AND ordering > %s"
        " ORDER BY ordering LIMIT 1",
        (room_nid, ordering),
    ).fetchone()
    return None if row is None else int(row[0])
