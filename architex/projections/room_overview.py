"""Rooms as the operator of a server looks at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from architex.domain.identifiers import EventId, RoomAlias, RoomId, UserId
from architex.domain.redaction import redact_event
from architex.domain.room_versions import get_room_version
from architex.storage.event_log import RoomHead
from architex.storage.pool import Database, PgConnection

_LIST_ROOMS: Final = """
SELECT r.room_id, r.room_version, r.version, r.last_position, coalesce(c.joined, 0),
    p.room_id IS NOT NULL, n.state
FROM rooms r LEFT JOIN room_counts c USING (room_nid) LEFT JOIN published_rooms p USING (room_id)
    LEFT JOIN LATERAL (
        SELECT s.state FROM current_state e JOIN event_graph g USING (position)
            JOIN stored_events s ON s.notification_id = e.position
        WHERE e.room_nid = r.room_nid AND e.type = 'm.room.name' AND e.state_key = ''
            AND e.valid_to = 9223372036854775807 AND g.redacted_by IS NULL
    ) n ON true
ORDER BY coalesce(c.joined, 0) DESC, r.room_nid LIMIT %s"""

_STATE_AT: Final = """
SELECT e.type, e.state_key, g.event_id, e.position, s.originator_version, s.state,
    g.redacted_by IS NOT NULL
FROM current_state e JOIN event_graph g USING (position)
    JOIN stored_events s ON s.notification_id = e.position
WHERE e.room_nid = %s AND e.valid_from <= %s AND e.valid_to > %s
    AND (%s::text IS NULL OR e.state_key = %s)
ORDER BY e.type, e.state_key"""


@dataclass(frozen=True, slots=True)
class RoomLine:
    """A room in a list.

    Attributes:
        facts: how many facts its log has; also its newest in-room version.
    """

    room_id: RoomId
    room_version: str
    facts: int
    last_position: int
    joined_members: int
    is_published: bool
    name: str | None


@dataclass(frozen=True, slots=True)
class StateEntry:
    """An entry of a room's state.

    Attributes:
        position: of its event in the whole log.
        version: of its event in the room.
        content: as redacted, if the event has been redacted since.
    """

    type: str
    state_key: str
    event_id: EventId
    position: int
    version: int
    sender: UserId
    origin_server_ts: int
    content: Mapping[str, Any]
    is_redacted: bool


@dataclass(frozen=True, slots=True)
class RoomOverview:
    """A room, all in all."""

    head: RoomHead
    is_published: bool
    aliases: Sequence[RoomAlias]
    members: Mapping[str, int]
    state_events: int
    state: Mapping[str, StateEntry] = field(default_factory=dict)


@dataclass(frozen=True)
class RoomOverviews:
    """Answers the operator's questions about rooms."""

    database: Database

    def list_rooms(self, limit: int | None) -> list[RoomLine]:
        """The rooms this server knows, those with most members first."""
        rows = self.database.fetch_all(_LIST_ROOMS, (limit,))
        return [
            RoomLine(room_id, room_version, facts, position, joined, published, _name(fact))
            for room_id, room_version, facts, position, joined, published, fact in rows
        ]

    def count_rooms(self) -> int:
        """How many rooms this server knows."""
        row = self.database.fetch_one("SELECT count(*) FROM rooms")
        return 0 if row is None else int(row[0])

    def find_room_id(self, room_id_or_alias: str) -> RoomId | None:
        """The room of an ID or of an alias of this server; None when there is none."""
        row = self.database.fetch_one(
            "SELECT room_id FROM room_aliases WHERE room_alias = %(room)s"
            " UNION ALL SELECT room_id FROM rooms WHERE room_id = %(room)s",
            {"room": room_id_or_alias},
        )
        return None if row is None else str(row[0])

    def find_position(self, room_id: RoomId, version: int) -> int | None:
        """The position of the room's fact of that version; None when it has none."""
        row = self.database.fetch_one(
            "SELECT notification_id FROM stored_events"
            " WHERE originator_id = %s AND originator_version = %s",
            (room_id, version),
        )
        return None if row is None else int(row[0])

    def describe_room(self, head: RoomHead) -> RoomOverview:
        """A room as of now."""
        with self.database.snapshot() as connection:
            members = connection.execute(
                "SELECT membership, count(*) FROM memberships WHERE room_nid = %s"
                " GROUP BY membership ORDER BY membership",
                (head.room_nid,),
            ).fetchall()
            aliases = connection.execute(
                "SELECT room_alias FROM room_aliases WHERE room_id = %s"
                " ORDER BY created_ts, room_alias",
                (head.room_id,),
            ).fetchall()
            published = connection.execute(
                "SELECT 1 FROM published_rooms WHERE room_id = %s", (head.room_id,)
            ).fetchone()
            count = connection.execute(
                "SELECT count(*) FROM current_state WHERE room_nid = %s"
                " AND valid_to = 9223372036854775807",
                (head.room_nid,),
            ).fetchone()
            state = _list_state(connection, head, head.last_position, state_key="")
        return RoomOverview(
            head=head,
            is_published=published is not None,
            aliases=[alias for (alias,) in aliases],
            members=dict(members),
            state_events=0 if count is None else int(count[0]),
            state={entry.type: entry for entry in state},
        )

    def list_state(self, head: RoomHead, position: int) -> list[StateEntry]:
        """The room's state after every fact up to a position, by type and state key."""
        with self.database.snapshot() as connection:
            return _list_state(connection, head, position)


def _list_state(
    connection: PgConnection, head: RoomHead, position: int, state_key: str | None = None
) -> list[StateEntry]:
    rules = get_room_version(head.room_version)
    params = (head.room_nid, position, position, state_key, state_key)
    entries = []
    for type_, key, event_id, place, version, fact, is_redacted in connection.execute(
        _STATE_AT, params
    ):
        event = orjson.loads(fact)["pdu"]
        if is_redacted:
            event = redact_event(rules, event)
        entries.append(
            StateEntry(
                type=type_,
                state_key=key,
                event_id=event_id,
                position=place,
                version=version,
                sender=event["sender"],
                origin_server_ts=event["origin_server_ts"],
                content=event["content"],
                is_redacted=is_redacted,
            )
        )
    return entries


def _name(fact: bytes | None) -> str | None:
    name = None if fact is None else orjson.loads(fact)["pdu"]["content"].get("name")
    return name if isinstance(name, str) else None
