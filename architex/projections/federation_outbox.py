"""federation_outbox: which events other servers are owed; a queue, written with the facts.

An event of ours is owed to the servers that have members in its room before or after it, and to
that of somebody whose invite or knock it ends. That is one row for the event, whatever their
number: who is owed it follows from `room_servers`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.identifiers import EventId, RoomId, ServerName, UserId, server_name_of
from architex.domain.pdu import Pdu
from architex.domain.room.events import Fact, PduAccepted, RecordedFact
from architex.storage.pool import Database, Execute, Params, PgConnection, Row
from architex.storage.room_session import RoomSession

KEPT_PER_ROOM: Final = 1000
"""So many events of a room wait at most. Servers that miss more fetch them when they come back."""

# A server in the room, or one that left with this very event.
_IS_OWED: Final = (
    " s.server_name <> %(own)s AND s.server_name IS DISTINCT FROM e.forwarded_for"
    " AND s.since <= e.position AND (s.until IS NULL OR s.until >= e.position)"
)

_INSERT_TEMPLATE: Final = """
INSERT INTO outgoing_events (position, event_position, room_nid, forwarded_for, also_to)
SELECT e.position, e.event_position, e.room_nid, e.forwarded_for, t.also_to FROM (
    SELECT unnest(%(positions)s::int8[]) AS position,
        unnest(%(event_positions)s::int8[]) AS event_position,
        unnest(%(rooms)s::int8[]) AS room_nid, NULL::text AS forwarded_for,
        unnest(%(removed)s::text[]) AS removed, unnest(%(removed_from)s::text[]) AS removed_from
) e LEFT JOIN LATERAL (
    SELECT e.removed_from AS also_to FROM current_state c
    WHERE c.room_nid = e.room_nid AND c.type = 'm.room.member' AND c.state_key = e.removed
        AND c.valid_to = e.position AND c.membership IN ('invite', 'knock')
        AND NOT EXISTS (SELECT 1 FROM room_servers s WHERE s.room_nid = e.room_nid
            AND s.server_name = e.removed_from AND {is_owed})
) t ON true
WHERE t.also_to IS NOT NULL
    OR EXISTS (SELECT 1 FROM room_servers s WHERE s.room_nid = e.room_nid AND {is_owed})"""
_INSERT: Final = _INSERT_TEMPLATE.format(is_owed=_IS_OWED)

_FORWARD: Final = (
    "INSERT INTO outgoing_events (position, event_position, room_nid, forwarded_for)"
    " SELECT %s, position, room_nid, %s FROM event_graph WHERE event_id = %s"
    " ON CONFLICT DO NOTHING"
)


class FederationOutbox:
    """Writes `outgoing_events` within the transactions that record facts.

    No projection: what was delivered is not in the log, so a rebuild could not know it.
    """

    def __init__(self, server_name: ServerName) -> None:
        self._server_name = server_name
        self._own_ending = f":{server_name}"

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """Nothing."""
        return None

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Add our events, also those that clients do not see. Comes after `memberships`."""
        own = [
            r for r in recorded if isinstance(r.fact, PduAccepted) and self._is_own(r.pdu.sender)
        ]
        if own:
            removed = [self._find_removed(r) for r in own]
            execute(
                _INSERT,
                {
                    "own": self._server_name,
                    "positions": [r.position for r in own],
                    "event_positions": [r.event_position for r in own],
                    "rooms": [r.room_nid for r in own],
                    "removed": removed,
                    "removed_from": [user_id and server_name_of(user_id) for user_id in removed],
                },
            )

    def _find_removed(self, recorded: RecordedFact) -> UserId | None:
        """Somebody of another server whom an event of ours makes leave, or bans."""
        user_id = recorded.pdu.state_key
        if user_id is None or recorded.pdu.membership not in ("leave", "ban"):
            return None
        return None if self._is_own(user_id) else user_id

    def _is_own(self, sender: str) -> bool:
        return sender[sender.find(":") :] == self._own_ending


def forward(session: RoomSession, pdu: Pdu, *, came_from: ServerName) -> None:
    """Let the other servers in the room have an event that came to us alone.

    For the resident server of a join, leave, knock or third-party invite: call it in the decision
    that has recorded the event as accepted.

    Args:
        came_from: has the event already.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
    """
    session.also(lambda execute, position: execute(_FORWARD, (position, came_from, pdu.event_id)))


# ---- questions of the sender

_OWED_SERVERS_TEMPLATE: Final = """
SELECT server_name, min(position) FROM (
    SELECT s.server_name, e.position FROM outgoing_events e JOIN room_servers s USING (room_nid)
    WHERE e.position > %(after)s AND e.position <= %(up_to)s AND {is_owed}
    UNION ALL SELECT also_to, position FROM outgoing_events
    WHERE position > %(after)s AND position <= %(up_to)s AND also_to IS NOT NULL) owed
GROUP BY server_name"""
_OWED_SERVERS: Final = _OWED_SERVERS_TEMPLATE.format(is_owed=_IS_OWED)

_OWED_TO: Final = (
    "FROM outgoing_events e"
    " LEFT JOIN room_servers s ON s.room_nid = e.room_nid AND s.server_name = %(to)s"
    " WHERE e.position > %(after)s AND e.position <= %(up_to)s"
    f" AND (({_IS_OWED}) OR e.also_to = %(to)s)"
)
_OWED_EVENTS_TEMPLATE: Final = """
SELECT e.position, e.event_position {owed_to}
ORDER BY e.position, e.event_position LIMIT %(limit)s"""
_OWED_EVENTS: Final = _OWED_EVENTS_TEMPLATE.format(owed_to=_OWED_TO)

_NEWEST_TEMPLATE: Final = """
WITH owed AS (SELECT e.position, e.event_position, e.room_nid, e.forwarded_for {owed_to}),
newest AS (SELECT room_nid, max(position) AS position FROM owed
    WHERE forwarded_for IS NULL GROUP BY room_nid)
SELECT o.position, o.event_position FROM owed o LEFT JOIN newest n USING (room_nid)
WHERE o.position >= coalesce(n.position, 0) ORDER BY 1, 2"""
_NEWEST_OWED_EVENTS: Final = _NEWEST_TEMPLATE.format(owed_to=_OWED_TO)

_COUNT_TEMPLATE: Final = "SELECT count(*) FROM (SELECT 1 {owed_to} LIMIT %(limit)s) owed"
_COUNT_OWED_EVENTS: Final = _COUNT_TEMPLATE.format(owed_to=_OWED_TO)


@dataclass(frozen=True, slots=True)
class OwedEvent:
    """An event that waits for a server.

    Attributes:
        position: its place in the queue.
        event_position: by which it is loaded.
    """

    position: int
    event_position: int


@dataclass(frozen=True, slots=True)
class OutgoingPdu:
    """An event as it is sent."""

    room_id: RoomId
    event_id: EventId
    event: Mapping[str, Any]


def list_owed_servers(
    connection: PgConnection, own: ServerName, after: int, up_to: int
) -> dict[ServerName, int]:
    """Who is owed events in a range of positions; server → the position of the first of them.

    Args:
        own: our server name.
    """
    rows = connection.execute(
        _OWED_SERVERS.encode(),
        {"own": own, "after": after, "up_to": up_to},
    ).fetchall()
    return dict(rows)


def list_owed_events(
    connection: PgConnection,
    own: ServerName,
    destination: ServerName,
    after: int,
    up_to: int,
    limit: int,
) -> list[OwedEvent]:
    """What a server is owed in a range of positions, in order; at most `limit`."""
    rows = connection.execute(
        _OWED_EVENTS.encode(),
        {"own": own, "to": destination, "after": after, "up_to": up_to, "limit": limit},
    ).fetchall()
    return [OwedEvent(*row) for row in rows]


def list_newest_owed_events(
    connection: PgConnection, own: ServerName, destination: ServerName, after: int, up_to: int
) -> list[OwedEvent]:
    """For each room the newest event of ours that a server is owed, and what is forwarded since.

    What came before follows from them: the server asks for it, as after any gap.
    """
    rows = connection.execute(
        _NEWEST_OWED_EVENTS.encode(),
        {"own": own, "to": destination, "after": after, "up_to": up_to},
    ).fetchall()
    return [OwedEvent(*row) for row in rows]


def count_owed_events(
    connection: PgConnection,
    own: ServerName,
    destination: ServerName,
    after: int,
    up_to: int,
    limit: int,
) -> int:
    """How many events a server is owed in a range of positions; counts no further than `limit`."""
    row = connection.execute(
        _COUNT_OWED_EVENTS.encode(),
        {"own": own, "to": destination, "after": after, "up_to": up_to, "limit": limit},
    ).fetchone()
    return 0 if row is None else int(row[0])


def load_outgoing_pdus(
    connection: PgConnection, event_positions: Collection[int]
) -> dict[int, OutgoingPdu]:
    """Events as they were signed, by the positions of their first facts."""
    rows = connection.execute(
        "SELECT notification_id, originator_id, state FROM stored_events"
        " WHERE notification_id = ANY(%s)",
        (list(event_positions),),
        binary=True,
    ).fetchall()
    loaded: dict[int, OutgoingPdu] = {}
    for position, room_id, state in rows:
        envelope = orjson.loads(state)
        loaded[position] = OutgoingPdu(room_id, envelope["event_id"], envelope["pdu"])
    return loaded


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a server, in numbers.

    Attributes:
        since_ts: when the oldest event that waits was made, milliseconds since 1970.
    """

    events: int
    rooms: int
    since_ts: int | None


_WAITING_TEMPLATE: Final = """
SELECT w.server_name, w.events, w.rooms, x.received_ts FROM (
    SELECT d.server_name, count(*) AS events, count(DISTINCT e.room_nid) AS rooms,
        min(e.event_position) AS oldest
    FROM destinations d JOIN room_servers s USING (server_name) JOIN outgoing_events e
        ON e.room_nid = s.room_nid AND e.position > d.delivered
    WHERE d.delivered IS NOT NULL AND {is_owed} GROUP BY d.server_name
) w LEFT JOIN LATERAL (
    SELECT substring(encode(f.state, 'escape') FROM '"received_ts":([0-9]+)')::int8 AS received_ts
    FROM stored_events f WHERE f.notification_id = w.oldest
) x ON true"""
_WAITING: Final = _WAITING_TEMPLATE.format(is_owed=_IS_OWED)


def count_waiting(database: Database, own: ServerName) -> dict[ServerName, Waiting]:
    """Server → the events that wait for it; servers for which none wait are missing."""
    rows = database.fetch_all(_WAITING, {"own": own})
    return {server_name: Waiting(*rest) for server_name, *rest in rows}


def forget_delivered_events(database: Database) -> int:
    """Delete from the queue what everybody has; gives the number. For the housekeeping."""
    return database.execute(
        "DELETE FROM outgoing_events WHERE position <= (SELECT least("
        " (SELECT min(delivered) FROM destinations WHERE delivered IS NOT NULL),"
        " (SELECT notification_id FROM tracking WHERE application_name = 'federation_sender')))"
    )


def forget_oldest_events(database: Database) -> int:
    """Delete from the queue the oldest events of rooms of which too many wait; gives the number.

    For the housekeeping.
    """
    return database.execute(
        "DELETE FROM outgoing_events e USING (SELECT position, event_position, row_number()"
        "  OVER (PARTITION BY room_nid ORDER BY position DESC) AS place FROM outgoing_events) o"
        " WHERE o.place > %s AND e.position = o.position AND e.event_position = o.event_position"
        " AND e.position <= (SELECT notification_id FROM tracking"
        "  WHERE application_name = 'federation_sender')",
        (KEPT_PER_ROOM,),
    )
