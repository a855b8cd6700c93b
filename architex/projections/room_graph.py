"""A room's event graph as the operator looks at it: windows of it, its ends, what stands since."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.identifiers import EventId, UserId
from architex.domain.pdu import StateKey
from architex.projections.current_state import FOREVER
from architex.storage.event_log import RoomHead
from architex.storage.pool import PgConnection

_EVENTS: Final = """
SELECT g.position, s.originator_version, g.event_id, g.verdict, g.depth, g.prev_events,
    g.auth_events, g.redacted_by, s.state, EXISTS (SELECT 1 FROM current_state c
        WHERE c.position = g.position AND c.valid_to = 9223372036854775807)
FROM stored_events s JOIN event_graph g ON g.position = s.notification_id
WHERE s.originator_id = %(room)s AND {which} ORDER BY g.position"""

# Accepted events that no accepted event follows, as it was at a position.
_ENDS: Final = """
WITH edges AS MATERIALIZED (
    SELECT g.position, g.prev_events
    FROM stored_events s JOIN event_graph g ON g.position = s.notification_id
    WHERE s.originator_id = %s AND s.notification_id <= %s AND g.verdict = 0)
SELECT position FROM edges EXCEPT SELECT unnest(prev_events) FROM edges"""

_AUTH_CHAIN: Final = """
WITH RECURSIVE chain (position) AS (
    SELECT unnest(auth_events) FROM event_graph WHERE position = %s
    UNION SELECT unnest(g.auth_events) FROM chain JOIN event_graph g USING (position))
SELECT position FROM chain"""


@dataclass(frozen=True, slots=True)
class GraphEvent:
    """An event and its place in the graph and the log.

    Attributes:
        version: of its fact in the room: 1, 2, 3, …
        verdict: 0 accepted, 1 soft-failed, 2 rejected.
        reason: for soft-failed and rejected events, the rule that said so.
        prev_events, auth_events: positions.
        is_current: whether it is part of the room's current state.
    """

    position: int
    version: int
    event_id: EventId
    verdict: int
    depth: int
    prev_events: Sequence[int]
    auth_events: Sequence[int]
    redacted_by: int | None
    type: str
    state_key: str | None
    sender: UserId
    origin_server_ts: int
    membership: str | None
    reason: str | None
    is_current: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """What stood last under a state key.

    Attributes:
        position: of the event.
        since: the position of the fact with which it came to stand there.
        until: the position of the fact with which it went; None while it stands.
    """

    position: int
    since: int
    until: int | None


def find_standing(connection: PgConnection, head: RoomHead, key: StateKey) -> Standing | None:
    """What stands under a state key, or stood there last; None when nothing ever did."""
    row = connection.execute(
        "SELECT position, valid_from, valid_to FROM current_state WHERE room_nid = %s"
        " AND type = %s AND state_key = %s ORDER BY valid_from DESC LIMIT 1",
        (head.room_nid, *key),
    ).fetchone()
    if row is None:
        return None
    position, since, until = row
    return Standing(position, since, None if until == FOREVER else until)


def list_window(
    connection: PgConnection, head: RoomHead, first_version: int, last_version: int
) -> list[GraphEvent]:
    """The events of a room's facts between two versions, both included, in order of position."""
    return _list(
        connection,
        head,
        "s.originator_version BETWEEN %(first)s AND %(last)s",
        first=first_version,
        last=last_version,
    )


def list_events(
    connection: PgConnection, head: RoomHead, positions: Collection[int]
) -> list[GraphEvent]:
    """The events at positions."""
    which = "s.notification_id = ANY (%(positions)s)"
    return _list(connection, head, which, positions=list(positions))


def find_event(connection: PgConnection, head: RoomHead, event_id: EventId) -> GraphEvent | None:
    """An event of the room; None when the room does not have it."""
    found = _list(
        connection,
        head,
        "s.notification_id = (SELECT position FROM event_graph WHERE event_id = %(event)s)",
        event=event_id,
    )
    return found[0] if found else None


def list_ends(connection: PgConnection, head: RoomHead, position: int) -> list[int]:
    """The positions of the room's forward extremities as they were at a position."""
    rows = connection.execute(_ENDS, (head.room_id, position)).fetchall()
    return sorted(position for (position,) in rows)


def list_auth_chain(connection: PgConnection, position: int) -> list[int]:
    """The positions of all events that authorise an event, directly or not."""
    rows = connection.execute(_AUTH_CHAIN, (position,)).fetchall()
    return sorted(position for (position,) in rows)


def list_branchings(
    connection: PgConnection, head: RoomHead, since: int, limit: int
) -> list[EventId]:
    """The newest accepted events from a position on that did not follow the room's end."""
    rows = connection.execute(
        "SELECT g.event_id FROM stored_events s JOIN event_graph g ON"
        " g.position = s.notification_id WHERE s.originator_id = %s AND s.notification_id >= %s"
        " AND g.verdict = 0 AND g.state_at IS NOT NULL"
        " ORDER BY s.originator_version DESC LIMIT %s",
        (head.room_id, since, limit),
    ).fetchall()
    return [event_id for (event_id,) in rows]


def _list(connection: PgConnection, head: RoomHead, which: str, **params: Any) -> list[GraphEvent]:
    statement = _EVENTS.format(which=which).encode()
    rows = connection.execute(statement, {"room": head.room_id, **params}).fetchall()
    return [_event(row) for row in rows]


def _event(row: tuple[Any, ...]) -> GraphEvent:
    position, version, event_id, verdict, depth, prevs, auths, redacted_by, state, current = row
    envelope = orjson.loads(state)
    pdu = envelope["pdu"]
    membership = pdu["content"].get("membership") if pdu["type"] == "m.room.member" else None
    return GraphEvent(
        position=position,
        version=version,
        event_id=event_id,
        verdict=verdict,
        depth=depth,
        prev_events=prevs,
        auth_events=auths,
        redacted_by=redacted_by,
        type=pdu["type"],
        state_key=pdu.get("state_key"),
        sender=pdu["sender"],
        origin_server_ts=pdu["origin_server_ts"],
        membership=membership if isinstance(membership, str) else None,
        reason=envelope.get("reason"),
        is_current=current,
    )
