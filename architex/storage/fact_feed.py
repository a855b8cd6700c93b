"""The facts of all rooms in order of position, batch by batch, for who follows the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.room.events import RecordedFact
from architex.storage.event_log import recorded_fact
from architex.storage.pool import PgConnection

# One statement, so one snapshot: whatever has a position up to log_position's is visible in it.
_READ: Final = """
SELECT p.position, s.originator_id, s.originator_version, s.topic, s.state, s.notification_id,
    s.room_nid, s.room_version
FROM log_position p LEFT JOIN LATERAL (
    SELECT e.*, r.room_nid, r.room_version
    FROM stored_events e JOIN rooms r ON r.room_id = e.originator_id
    WHERE e.notification_id > %(after)s AND e.notification_id <= p.position{only_state}
    ORDER BY e.notification_id LIMIT %(limit)s
) s ON true ORDER BY s.notification_id"""

# A fact that changes state has one of these keys in its canonical JSON; strings inside contents
# cannot look like them, because their quotation marks are escaped.
_ONLY_STATE: Final = """
        AND (position('"state_key":'::bytea IN e.state) > 0
            OR position('"delta":'::bytea IN e.state) > 0
            OR position('"redacts":'::bytea IN e.state) > 0)"""

_READ_ALL: Final = _READ.format(only_state="")
_READ_STATE: Final = _READ.format(only_state=_ONLY_STATE)


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
    connection: PgConnection, after: int, limit: int, *, only_state: bool = False
) -> FactBatch:
    """The facts after a position, in order; at most `limit`.

    Args:
        only_state: leave out those that neither change state nor redact.
    """
    sql = _READ_STATE if only_state else _READ_ALL
    rows = connection.execute(sql.encode(), {"after": after, "limit": limit}).fetchall()
    position = rows[0][0] if rows else after
    facts = [recorded_fact(row[1:]) for row in rows if row[1] is not None]
    if len(facts) < limit:
        return FactBatch(facts, max(after, position), more=False)
    return FactBatch(facts, facts[-1].position, more=True)


def count_facts(connection: PgConnection, after: int, *, only_state: bool = False) -> int:
    """How many facts `read_facts` would still give after a position."""
    query = "SELECT count(*) FROM stored_events e WHERE e.notification_id > %s"
    row = connection.execute(
        (query + _ONLY_STATE if only_state else query).encode(), (after,)
    ).fetchone()
    return 0 if row is None else int(row[0])
