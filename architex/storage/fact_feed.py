"""The facts of all rooms in order of position, batch by batch, for who follows the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.room.events import RecordedFact
from architex.storage.event_log import recorded_fact
from architex.storage.pool import PgConnection

# One statement, so one snapshot: whatever has a position up to log_position's is visible in it.
# What is of no concern is looked at by PostgreSQL alone.
_READ: Final = """
SELECT p.position, s.originator_id, s.originator_version, s.topic, s.state, s.notification_id,
    s.room_nid, s.room_version
FROM log_position p LEFT JOIN LATERAL (
    SELECT e.originator_id, e.originator_version, e.topic, e.notification_id, r.room_nid,
        r.room_version, {state} AS state
    FROM stored_events e JOIN rooms r ON r.room_id = e.originator_id
    WHERE e.notification_id > %(after)s AND e.notification_id <= p.position
    ORDER BY e.notification_id LIMIT %(limit)s
) s ON true ORDER BY s.notification_id"""

_COUNT: Final = "SELECT count({state}) FROM stored_events e WHERE e.notification_id > %(after)s"

STATE_MARKS: Final = ('"state_key":', '"delta":', '"redacts":')
"""One of these is in the JSON of each fact that changes state, and of each redaction."""


@dataclass(frozen=True, slots=True)
class FactBatch:
    """Some facts, and how far the log was read for them.

    Attributes:
        up_to: no fact after the last one asked for and up to this position is missing.
        more: there may be more after `up_to`.
    """

    facts: Sequence[RecordedFact]
    up_to: int
    more: bool


def read_facts(
    connection: PgConnection, after: int, limit: int, *, marks: Sequence[str] = ()
) -> FactBatch:
    """The facts after a position, in order, out of the next `limit` ones.

    Args:
        marks: leave out those in whose JSON none of these stands, such as `"type":"m.room.name"`
            or `"redacts":`. It is canonical JSON: strings inside contents cannot look like keys,
            because their quotation marks are escaped.
    """
    state, parameters = _marked("e.state", marks)
    rows = connection.execute(
        _READ.format(state=state).encode(), {"after": after, "limit": limit, **parameters}
    ).fetchall()
    facts = [recorded_fact(row[1:]) for row in rows if row[4] is not None]
    if len(rows) < limit or rows[-1][5] is None:
        return FactBatch(facts, max(after, rows[0][0] if rows else after), more=False)
    return FactBatch(facts, rows[-1][5], more=True)


def count_facts(connection: PgConnection, after: int, *, marks: Sequence[str] = ()) -> int:
    """How many facts `read_facts` would still give after a position."""
    state, parameters = _marked("e.state", marks)
    row = connection.execute(
        _COUNT.format(state=state).encode(), {"after": after, **parameters}
    ).fetchone()
    return 0 if row is None else int(row[0])


def _marked(column: str, marks: Sequence[str]) -> tuple[str, dict[str, bytes]]:
    """SQL for a column of JSON as bytes, NULL where none of the marks stands in it."""
    if not marks:
        return column, {}
    names = [f"mark_{number}" for number in range(len(marks))]
    found = " OR ".join(f"position(%({name})s::bytea IN {column}) > 0" for name in names)
    parameters = {name: mark.encode() for name, mark in zip(names, marks, strict=True)}
    return f"CASE WHEN {found} THEN {column} END", parameters
