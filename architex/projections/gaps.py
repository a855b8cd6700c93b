"""Gaps: where the history that we have of a room ends, though the room's own goes on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import EventId
from architex.storage.pool import PgConnection

_MISSING: Final = """
SELECT m.event_id, min(coalesce(g.ordering, m.follower)) FROM missing_events m
JOIN event_graph g ON g.position = m.follower
WHERE m.room_nid = %s GROUP BY m.event_id
HAVING min(coalesce(g.ordering, m.follower)) > %s
    AND min(coalesce(g.ordering, m.follower)) <= %s
ORDER BY 2 DESC, 1 LIMIT %s"""

_FOLLOWERS: Final = """
SELECT m.event_id, min(coalesce(g.ordering, m.follower)) FROM missing_events m
JOIN event_graph g ON g.position = m.follower
WHERE m.room_nid = %s AND m.event_id = ANY(%s) GROUP BY m.event_id"""

# Places that nobody is shown are taken as well: by redactions that redact nothing yet.
_TAKEN: Final = """
SELECT position FROM event_graph WHERE position > %(low)s AND position <= %(high)s
    AND room_nid = %(room)s AND ordering IS NULL
UNION ALL
SELECT ordering FROM event_graph WHERE room_nid = %(room)s
    AND ordering > %(low)s AND ordering <= %(high)s"""

_BLOCK: Final = 100


@dataclass(frozen=True, slots=True)
class MissingEvent:
    """An event that has no place in the timeline, though something there follows it.

    Attributes:
        ordering: of the earliest event that follows it.
    """

    event_id: EventId
    ordering: int


def list_missing_events(
    connection: PgConnection, room_nid: int, low: int, high: int, limit: int
) -> list[MissingEvent]:
    """What is missing just before events of `low < ordering <= high`, the newest first."""
    rows = connection.execute(_MISSING, (room_nid, low, high, limit))
    return [MissingEvent(event_id, ordering) for event_id, ordering in rows.fetchall()]


def list_followers_of_missing(
    connection: PgConnection, events: Collection[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Those of the events, (room number, position), before which something is missing."""
    rows = connection.execute(
        "SELECT e.room_nid, e.position FROM unnest(%s::int8[], %s::int8[])"
        " AS e (room_nid, position) WHERE EXISTS (SELECT FROM missing_events m"
        "  WHERE m.room_nid = e.room_nid AND m.follower = e.position)",
        ([room_nid for room_nid, _ in events], [position for _, position in events]),
    )
    return {(room_nid, position) for room_nid, position in rows.fetchall()}


def find_followers(
    connection: PgConnection, room_nid: int, event_ids: Collection[EventId]
) -> dict[EventId, int]:
    """Those of the events that are missing → the ordering of the earliest that follows them."""
    rows = connection.execute(_FOLLOWERS, (room_nid, list(event_ids)))
    return dict(rows.fetchall())


def find_deepest_follower(connection: PgConnection, room_nid: int) -> int | None:
    """The greatest depth of an event before which something is missing; None if nothing is."""
    row = connection.execute(
        "SELECT max(g.depth) FROM missing_events m JOIN event_graph g ON g.position = m.follower"
        " WHERE m.room_nid = %s",
        (room_nid,),
    ).fetchone()
    return None if row is None else row[0]


def find_free_ordering(
    connection: PgConnection, room_nid: int, below: int, taken: Collection[int]
) -> int:
    """The highest ordering below another that no event of the room has.

    Args:
        taken: orderings that are given away already.
    """
    candidate = below - 1
    while True:
        low = candidate - _BLOCK
        rows = connection.execute(
            _TAKEN.encode(), {"room": room_nid, "low": low, "high": candidate}
        ).fetchall()
        occupied = {ordering for (ordering,) in rows}
        while candidate > low and (candidate in occupied or candidate in taken):
            candidate -= 1
        if candidate > low:
            return candidate
