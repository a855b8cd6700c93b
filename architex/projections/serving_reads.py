"""Questions that other servers ask of a room's graph: events, states, auth chains.

One statement each, whatever the number of events; states and chains are lists of positions, and
whoever sends them loads the events piece by piece.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.identifiers import EventId, RoomId, ServerName, UserId
from architex.domain.room.events import FACT_CLASSES, REJECTED, StateBefore
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.projections.state_exports import event_json
from architex.storage.pool import PgConnection

_EVENT_COLUMNS: Final = """
SELECT g.position, coalesce(g.ordering, g.position), g.room_nid, g.event_id, g.verdict,
 g.redacted_by, g.is_outlier, g.is_placed, g.state_at, g.overlay, s.topic, s.state"""

_EVENT_TABLES: Final = """
JOIN stored_events s ON s.notification_id = g.position"""

_EVENTS: Final = (
    f"{_EVENT_COLUMNS} FROM event_graph g {_EVENT_TABLES}"
    " WHERE g.event_id = ANY(%s) AND (%s::int8 IS NULL OR g.room_nid = %s)"
)

_EVENTS_BELOW: Final = f"""{_EVENT_COLUMNS}
FROM (SELECT l.ordering, l.position FROM timeline l
 WHERE l.room_nid = %s AND l.ordering < %s ORDER BY l.ordering DESC LIMIT %s) t
JOIN event_graph g USING (position) JOIN stored_events s ON s.notification_id = g.position"""  # noqa: S608 - all of it is our own text

_VISIBILITIES: Final = """
SELECT c.valid_from, c.valid_to, s.state FROM current_state c
JOIN stored_events s ON s.notification_id = c.position
WHERE c.room_nid = %s AND c.type = 'm.room.history_visibility' AND c.state_key = ''
AND c.valid_from <= %s AND c.valid_to > %s ORDER BY c.valid_from"""

_PLACED_VISIBILITIES: Final = """
SELECT t.ordering, s.state FROM timeline t JOIN stored_events s ON s.notification_id = t.position
WHERE t.room_nid = %s AND t.type = 'm.room.history_visibility' AND t.is_state
ORDER BY t.ordering"""

_TOLD_VISIBILITIES: Final = """
SELECT s.state FROM current_state c JOIN event_graph g USING (position)
JOIN stored_events s ON s.notification_id = c.position
WHERE c.room_nid = %s AND c.type = 'm.room.history_visibility' AND c.state_key = ''
AND NOT g.is_placed"""

_IS_BEGINNING_KNOWN: Final = """
SELECT 1 FROM timeline WHERE room_nid = %s AND type = 'm.room.create' AND is_state LIMIT 1"""

_OF_SERVER: Final = "substr({column}, strpos({column}, ':') + 1) = %(server)s"

# When a server had somebody joined, and when somebody invited.
_STAYS: Final = f"""
SELECT range_agg(int8range(c.valid_from, c.valid_to)) FILTER (WHERE c.membership = 'join'),
 range_agg(int8range(c.valid_from, c.valid_to)) FILTER (WHERE c.membership = 'invite')
FROM current_state c WHERE c.room_nid = %(room)s AND c.type = 'm.room.member'
AND c.membership IN ('join', 'invite') AND c.valid_from <= %(high)s AND c.valid_to > %(low)s
AND {_OF_SERVER.format(column="c.state_key")}"""  # noqa: S608 - all of it is our own text

_OVERLAYS: Final = f"""
WITH RECURSIVE stack (top, overlay, parent, above) AS (
 SELECT overlay, overlay, parent, 0 FROM state_overlays WHERE overlay = ANY(%(overlays)s)
 UNION ALL SELECT s.top, o.overlay, o.parent, s.above + 1
 FROM stack s JOIN state_overlays o ON o.overlay = s.parent
)
SELECT DISTINCT ON (s.top, e.type, e.state_key) s.top, e.type, e.state_key, f.state
FROM stack s JOIN overlay_entries e USING (overlay)
LEFT JOIN stored_events f ON f.notification_id = e.position
WHERE e.type = 'm.room.history_visibility' AND e.state_key = ''
 OR e.type = 'm.room.member' AND {_OF_SERVER.format(column="e.state_key")}
ORDER BY s.top, e.type, e.state_key, s.above"""  # noqa: S608 - all of it is our own text

_OTHER_MEMBERS: Final = f"""
SELECT bool_or(c.membership = 'join'), bool_or(c.membership = 'invite') FROM current_state c
WHERE c.room_nid = %(room)s AND c.type = 'm.room.member' AND c.membership IN ('join', 'invite')
AND c.valid_from <= %(at)s AND c.valid_to > %(at)s AND c.state_key <> ALL(%(except)s)
AND {_OF_SERVER.format(column="c.state_key")}"""  # noqa: S608 - all of it is our own text


@dataclass(frozen=True, slots=True)
class ServedRoom:
    """A room that another server asks about."""

    room_nid: int
    room_id: RoomId
    rules: RoomVersionRules


@dataclass(frozen=True, slots=True)
class ServedEvent:
    """An event of the graph, as far as it matters to whoever serves it.

    Attributes:
        position: the event's integer ID.
        ordering: its place among the events of the room.
        verdict: 0 accepted, 1 soft-failed, 2 rejected.
        redacted_by: the position of its redaction, if any.
        is_outlier: whether the state before it is not known.
        is_placed: whether it has a place in the history.
        state_at, overlay: the state before it, where that was not the one at the end of the room.
        topic, state: the name and the bytes of its first fact.
        pdu: the event as exchanged.
    """

    position: int
    ordering: int
    room_nid: int
    event_id: EventId
    verdict: int
    redacted_by: int | None
    is_outlier: bool
    is_placed: bool
    state_at: int | None
    overlay: int | None
    topic: str
    state: bytes
    pdu: Mapping[str, Any]

    @property
    def before(self) -> StateBefore | None:
        """The state before it; None when nobody here knows it."""
        if self.is_outlier:
            return None
        if self.state_at is not None:
            return StateBefore(self.state_at, self.overlay)
        if self.ordering == self.position and FACT_CLASSES[self.topic].is_outlier:
            # It stopped being an outlier later, and nothing here says when.
            return None
        return StateBefore(self.ordering - 1)

    @property
    def is_state(self) -> bool:
        """Whether it is a state event."""
        return "state_key" in self.pdu

    @property
    def sender(self) -> UserId:
        """Who sent it."""
        return str(self.pdu["sender"])

    @property
    def prev_events(self) -> list[EventId]:
        """What it follows."""
        return [
            parent if isinstance(parent, str) else parent[0] for parent in self.pdu["prev_events"]
        ]

    def bytes_of(self, rules: RoomVersionRules, *, redacted: bool = False) -> bytes:
        """The event's JSON; pruned when it was redacted, or shall be."""
        redacted = redacted or self.redacted_by is not None
        return event_json(rules, self.state, redacted=redacted)


@dataclass(frozen=True, slots=True)
class Stays:
    """When a server had somebody joined to a room, and when somebody invited.

    Each as ascending stretches of positions: from, until.
    """

    joined: Sequence[tuple[int, int]]
    invited: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class OverlayView:
    """What an overlay says that matters for what a server may see.

    Attributes:
        has_visibility: whether it changes the history visibility.
        visibility: to which; None when it takes the entry away.
        members: members of the server whose entry it changes → their membership there.
    """

    has_visibility: bool
    visibility: str | None
    members: Mapping[UserId, str | None]


def find_room(connection: PgConnection, room_id: RoomId) -> ServedRoom | None:
    """A room by its ID; None when this server does not know it."""
    row = connection.execute(
        "SELECT room_nid, room_version FROM rooms WHERE room_id = %s", (room_id,)
    ).fetchone()
    return None if row is None else ServedRoom(row[0], room_id, get_room_version(row[1]))


def find_room_with(connection: PgConnection, event_id: EventId) -> ServedRoom | None:
    """The room that an event is in; None when the log has no such event."""
    row = connection.execute(
        "SELECT r.room_nid, r.room_id, r.room_version FROM event_graph g"
        " JOIN rooms r USING (room_nid) WHERE g.event_id = %s",
        (event_id,),
    ).fetchone()
    return None if row is None else ServedRoom(row[0], row[1], get_room_version(row[2]))


def find_events(
    connection: PgConnection, event_ids: Collection[EventId], room_nid: int | None = None
) -> dict[EventId, ServedEvent]:
    """Those of the events that the log has, of one room (None: of any)."""
    rows = connection.execute(
        _EVENTS.encode(),
        ([event_id for event_id in event_ids if "\0" not in event_id], room_nid, room_nid),
    ).fetchall()
    return {event.event_id: event for event in map(_event, rows)}


def list_events_below(
    connection: PgConnection, room_nid: int, ordering: int, limit: int
) -> list[ServedEvent]:
    """The events of a room's timeline before a place, newest first."""
    rows = connection.execute(_EVENTS_BELOW.encode(), (room_nid, ordering, limit)).fetchall()
    return sorted(map(_event, rows), key=lambda event: -event.ordering)


def list_event_ids(connection: PgConnection, positions: Sequence[int]) -> list[EventId]:
    """The IDs of events, in the order of their positions."""
    rows = connection.execute(
        "SELECT event_id FROM event_graph WHERE position = ANY(%s) ORDER BY position",
        (list(positions),),
    ).fetchall()
    return [row[0] for row in rows]


# ---- what a server may see


def list_visibilities(
    connection: PgConnection, room_nid: int, low: int, high: int
) -> list[tuple[int, int, str]]:
    """The history visibility of a room between two positions: (valid from, valid to, value)."""
    rows = connection.execute(_VISIBILITIES, (room_nid, high, low)).fetchall()
    return [(since, until, _visibility(state)) for since, until, state in rows]


def list_placed_visibilities(
    connection: PgConnection, room_nid: int
) -> tuple[list[tuple[int, str]], list[str], bool]:
    """What is known of the history visibility where the room's state is not.

    Returns the values that events of the timeline set, with their orderings; the values that
    were told without a place in it; and whether the timeline has the room's beginning.
    """
    placed = connection.execute(_PLACED_VISIBILITIES, (room_nid,)).fetchall()
    told = connection.execute(_TOLD_VISIBILITIES, (room_nid,)).fetchall()
    beginning = connection.execute(_IS_BEGINNING_KNOWN, (room_nid,)).fetchone()
    return (
        [(ordering, _visibility(state)) for ordering, state in placed],
        [_visibility(state) for (state,) in told],
        beginning is not None,
    )


def find_stays(
    connection: PgConnection, room_nid: int, server: ServerName, low: int, high: int
) -> Stays:
    """When a server had members in a room, as far as it concerns positions from low to high."""
    row = connection.execute(
        _STAYS.encode(), {"room": room_nid, "server": server, "low": low, "high": high}
    ).fetchone()
    joined, invited = (None, None) if row is None else row
    return Stays(*([(r.lower, r.upper) for r in ranges or ()] for ranges in (joined, invited)))


def find_overlay_views(
    connection: PgConnection, server: ServerName, overlays: Collection[int]
) -> dict[int, OverlayView]:
    """What overlays say about the history visibility and a server's members."""
    if not overlays:
        return {}
    rows = connection.execute(
        _OVERLAYS.encode(), {"overlays": list(overlays), "server": server}
    ).fetchall()
    found: dict[int, tuple[list[str | None], dict[UserId, str | None]]] = {}
    for overlay, type_, state_key, state in rows:
        visibility, members = found.setdefault(overlay, ([], {}))
        if type_ == "m.room.member":
            members[state_key] = None if state is None else membership_in(_pdu(state))
        else:
            visibility.append(None if state is None else _visibility(state))
    return {
        overlay: OverlayView(bool(visibility), visibility[0] if visibility else None, members)
        for overlay, (visibility, members) in found.items()
    }


def has_other_members(
    connection: PgConnection,
    room_nid: int,
    server: ServerName,
    at: int,
    others_than: Collection[UserId],
) -> tuple[bool, bool]:
    """Whether a server had further members at a position: joined ones, invited ones."""
    row = connection.execute(
        _OTHER_MEMBERS.encode(),
        {"room": room_nid, "server": server, "at": at, "except": list(others_than)},
    ).fetchone()
    return (False, False) if row is None else (bool(row[0]), bool(row[1]))


def visibility_in(pdu: Mapping[str, Any]) -> str:
    """What an m.room.history_visibility sets; "" for what is no string."""
    value = pdu["content"].get("history_visibility")
    return value if isinstance(value, str) else ""


def membership_in(pdu: Mapping[str, Any]) -> str | None:
    """What an m.room.member says."""
    value = pdu["content"].get("membership")
    return value if isinstance(value, str) else None


def _event(row: tuple[Any, ...]) -> ServedEvent:
    return ServedEvent(*(*row, _pdu(row[-1])))


def _pdu(state: bytes) -> dict[str, Any]:
    pdu: dict[str, Any] = orjson.loads(state)["pdu"]
    return pdu


def _visibility(state: bytes) -> str:
    return visibility_in(_pdu(state))


def is_served(event: ServedEvent) -> bool:
    """Whether an event is told to others at all: rejected ones are not."""
    return event.verdict != REJECTED
