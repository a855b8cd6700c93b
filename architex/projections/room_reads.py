"""Questions of readers about rooms: memberships, timelines, state at any moment, summaries.

Each function asks one statement for any number of rooms. Where a range of positions is meant, the
lower end is left out and the upper end included: `low < position <= high`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from architex.domain.event_filter import RoomEventFilter
from architex.domain.identifiers import RoomId, UserId
from architex.domain.room.visibility import EVER
from architex.projections.event_reads import Reference
from architex.storage.pool import PgConnection

MAX_SCANNED: Final = 5000
"""Events that one question looks at in a room when a filter hides most of them."""


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room as one user stands to it.

    Attributes:
        position: of the user's newest m.room.member event.
        sender: of that event.
        join_position: since when the user is joined without a break; None when not joined.
        left_position: the last time a join ended; None when never.
        last_position: of the room's newest fact.
        fact_count: how many facts the room has; its timeline has no more events.
        forgotten_position: up to where the user has forgotten the room; 0 for nowhere.
    """

    room_nid: int
    room_id: RoomId
    room_version: str
    last_position: int
    fact_count: int
    membership: str
    position: int
    sender: UserId
    join_position: int | None
    left_position: int | None
    forgotten_position: int

    @property
    def is_joined(self) -> bool:
        """Whether the user is in the room."""
        return self.membership == "join"

    @property
    def is_forgotten(self) -> bool:
        """Whether the user has left the room and forgotten it since."""
        return not self.is_joined and self.position <= self.forgotten_position


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """An event of a room's timeline.

    Attributes:
        resumes_at: of a backfilled event: the ordering at which goes on what we saw happen.
        state_at, overlay: the state before it, if it stands on a branch.
    """

    room_nid: int
    ordering: int
    position: int
    sender: UserId
    is_state: bool
    type: str
    resumes_at: int | None
    redacted_by: int | None
    state_at: int | None
    overlay: int | None

    @property
    def moment(self) -> int:
        """The position whose current state comes closest to the one after the event."""
        return self.ordering if self.resumes_at is None else self.resumes_at

    @property
    def reference(self) -> Reference:
        """By which the event is loaded."""
        return (self.position, self.redacted_by)


@dataclass(frozen=True, slots=True)
class StateRow:
    """An entry of a room's state, for a time.

    Attributes:
        position: of the event.
        valid_from, valid_to: the entry is part of the state at p when valid_from <= p < valid_to.
        membership: of m.room.member events.
        membership_before: of the same member at the lower end of the asked range; None when the
            question has no such end or there was none.
    """

    room_nid: int
    type: str
    state_key: str
    position: int
    valid_from: int
    valid_to: int
    membership: str | None
    redacted_by: int | None
    membership_before: str | None = None

    @property
    def reference(self) -> Reference:
        """By which the event is loaded."""
        return (self.position, self.redacted_by)

    def is_valid_at(self, position: int) -> bool:
        """Whether the entry is part of the state after the event at a position."""
        return self.valid_from <= position < self.valid_to


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a room's timeline: `low < ordering <= high`."""

    room_nid: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class StateSpan:
    """Which moments of a room's state are asked for: `start`, `end` and, for changes, `since`."""

    room_nid: int
    start: int
    end: int
    since: int = 0


# ---- who stands where

VIEW_COLUMNS: Final = """m.room_nid, r.room_id, r.room_version, r.last_position, r.version,
    m.membership, m.position, m.sender, m.join_position, m.left_position,
    coalesce(f.position, 0)"""
"""Of a RoomView, from VIEW_TABLES; memberships is `m`, and says whose."""

VIEW_TABLES: Final = """memberships m JOIN rooms r USING (room_nid)
LEFT JOIN forgotten_rooms f ON f.user_id = m.user_id AND f.room_nid = m.room_nid """

_ROOM_VIEW: Final = f"SELECT {VIEW_COLUMNS} FROM {VIEW_TABLES}"  # noqa: S608 - our own text


_NAMED: Final = """WHERE m.user_id = %s AND (m.room_nid = ANY(%s)
    OR m.room_nid IN (SELECT n.room_nid FROM rooms n WHERE n.room_id = ANY(%s)))"""


def find_position(connection: PgConnection) -> int:
    """The newest position that this connection's snapshot sees."""
    row = connection.execute("SELECT position FROM log_position").fetchone()
    return 0 if row is None else int(row[0])


def find_room_nid(connection: PgConnection, room_id: RoomId) -> int | None:
    """The number of a room; None when this server does not know it."""
    row = connection.execute(
        "SELECT room_nid FROM rooms WHERE room_id = %s", (room_id,)
    ).fetchone()
    return None if row is None else int(row[0])


def find_room_view(connection: PgConnection, user_id: UserId, room_id: RoomId) -> RoomView | None:
    """How a user stands to a room; None when there is no membership at all."""
    row = connection.execute(
        _ROOM_VIEW + "WHERE m.user_id = %s AND r.room_id = %s", (user_id, room_id)
    ).fetchone()
    return None if row is None else RoomView(*row)


def list_room_views(
    connection: PgConnection, user_id: UserId, memberships: Sequence[str]
) -> list[RoomView]:
    """All rooms to which the user stands in one of these memberships."""
    rows = connection.execute(
        _ROOM_VIEW + "WHERE m.user_id = %s AND m.membership = ANY(%s)",
        (user_id, list(memberships)),
    ).fetchall()
    return [RoomView(*row) for row in rows]


def list_changed_room_views(
    connection: PgConnection, user_id: UserId, since: int, *, recent: bool
) -> list[RoomView]:
    """The rooms in which something happened for the user after a position.

    Those they are in where anything was recorded, and those where their own membership changed.

    Args:
        recent: whether few facts are expected after `since`; only the way to find them differs.
    """
    if recent:
        where = (
            "WHERE m.user_id = %(user)s AND (m.position > %(since)s OR m.membership = 'join')"
            " AND r.room_id IN (SELECT s.originator_id FROM stored_events s"
            "  WHERE s.notification_id > %(since)s)"
        )
    else:
        where = (
            "WHERE m.user_id = %(user)s AND (m.position > %(since)s"
            " OR (m.membership = 'join' AND r.last_position > %(since)s))"
        )
    rows = connection.execute(_ROOM_VIEW + where, {"user": user_id, "since": since}).fetchall()
    return [RoomView(*row) for row in rows]


def list_named_room_views(
    connection: PgConnection,
    user_id: UserId,
    *,
    room_nids: Collection[int] = (),
    room_ids: Collection[RoomId] = (),
) -> list[RoomView]:
    """How a user stands to rooms given by number or ID; those never entered are missing."""
    rows = connection.execute(
        _ROOM_VIEW + _NAMED, (user_id, list(room_nids), list(room_ids))
    ).fetchall()
    return [RoomView(*row) for row in rows]


def list_joined_rooms(connection: PgConnection, user_id: UserId) -> dict[int, RoomId]:
    """The rooms a user is in: room number → room ID."""
    return dict(
        connection.execute(
            "SELECT m.room_nid, r.room_id FROM memberships m JOIN rooms r USING (room_nid)"
            " WHERE m.user_id = %s AND m.membership = 'join'",
            (user_id,),
        ).fetchall()
    )


# ---- history visibility

# Looked up key by key. What another server told as part of a state counts from before all that was
# backfilled since, as long as it has no place there itself.
_HISTORY_CHANGES: Final = f"""
WITH k (room_nid, type, state_key) AS (SELECT r.room_nid, t.type, t.state_key
    FROM unnest(%(rooms)s::int8[]) AS r (room_nid), (VALUES ('m.room.create', ''),
    ('m.room.history_visibility', ''), ('m.room.member', %(user)s)) AS t (type, state_key))
SELECT c.room_nid, c.type, c.valid_from, c.position, g.redacted_by, c.membership, NULL::int8,
    CASE WHEN g.is_outlier AND NOT g.is_placed THEN coalesce((SELECT t.ordering FROM timeline t
        WHERE t.room_nid = c.room_nid AND t.ordering < c.valid_from AND t.resumes_at IS NULL
        ORDER BY t.ordering DESC LIMIT 1), -{EVER}) END,
    g.is_outlier AND g.is_placed AND c.valid_from = c.position
FROM k CROSS JOIN LATERAL (SELECT * FROM current_state c WHERE c.room_nid = k.room_nid
    AND c.type = k.type AND c.state_key = k.state_key OFFSET 0) c
JOIN event_graph g USING (position)
UNION ALL
SELECT p.room_nid, p.type, p.ordering, p.position, g.redacted_by, p.membership, p.resumes_at,
    NULL, false
FROM k CROSS JOIN LATERAL (SELECT * FROM past_state p WHERE p.room_nid = k.room_nid
    AND p.type = k.type AND p.state_key = k.state_key OFFSET 0) p
JOIN event_graph g USING (position)
ORDER BY 3"""  # noqa: S608 - all of it is our own text


@dataclass(frozen=True, slots=True)
class HistoryChange:
    """A change of the history visibility or of one user's membership; or the room's beginning.

    Attributes:
        since: the ordering from which on it holds.
        resumes_at: of a backfilled event: the ordering at which goes on what we saw happen.
        told_after: of an event that has no place in the timeline, as another server told it: the
            last ordering at which we saw something else.
        is_moved: the event has its place elsewhere: it is told of a second time.
    """

    room_nid: int
    type: str
    since: int
    position: int
    redacted_by: int | None
    membership: str | None
    resumes_at: int | None
    told_after: int | None
    is_moved: bool


def list_history_changes(
    connection: PgConnection, user_id: UserId, room_nids: Collection[int]
) -> list[HistoryChange]:
    """How history visibility and a user's membership changed in rooms, ascending."""
    rows = connection.execute(
        _HISTORY_CHANGES.encode(), {"user": user_id, "rooms": list(room_nids)}
    ).fetchall()
    return [HistoryChange(*row) for row in rows]


# Overlays of one branch stand on each other: each is looked at once, however many ask for it.
_READER_ENTRIES: Final = """
WITH RECURSIVE stack (overlay) AS (
    SELECT unnest(%(overlays)s::int8[])
    UNION SELECT o.parent FROM stack JOIN state_overlays o USING (overlay)
    WHERE o.parent IS NOT NULL)
SELECT o.overlay, o.parent, v.overlay IS NOT NULL, v.position, g.redacted_by,
    m.overlay IS NOT NULL, m.position
FROM stack JOIN state_overlays o USING (overlay)
LEFT JOIN overlay_entries v ON v.overlay = o.overlay
    AND v.type = 'm.room.history_visibility' AND v.state_key = ''
LEFT JOIN event_graph g ON g.position = v.position
LEFT JOIN overlay_entries m ON m.overlay = o.overlay
    AND m.type = 'm.room.member' AND m.state_key = %(user)s"""


@dataclass(frozen=True, slots=True)
class ReaderEntries:
    """What an overlay says about the history visibility and about one user's membership.

    Attributes:
        parent: the overlay below it.
        has_visibility, has_membership: whether it says anything about it.
        visibility, membership: the event; None for an entry that it takes away.
    """

    parent: int | None
    has_visibility: bool = False
    visibility: Reference | None = None
    has_membership: bool = False
    membership: Reference | None = None


def list_reader_entries(
    connection: PgConnection, user_id: UserId, overlays: Collection[int]
) -> dict[int, ReaderEntries]:
    """What overlays, with all that they stand on, say to a reader; one query."""
    if not overlays:
        return {}
    rows = connection.execute(
        _READER_ENTRIES, {"user": user_id, "overlays": list(overlays)}
    ).fetchall()
    single = {row[0]: _reader_entries(*row[1:]) for row in rows}
    return {overlay: _with_parents(single, overlay) for overlay in overlays}


def _reader_entries(
    parent: int | None,
    has_visibility: bool,
    visibility: int | None,
    redacted_by: int | None,
    has_membership: bool,
    membership: int | None,
) -> ReaderEntries:
    return ReaderEntries(
        parent,
        has_visibility,
        None if visibility is None else (visibility, redacted_by),
        has_membership,
        # What is left of a redacted m.room.member still says the membership.
        None if membership is None else (membership, None),
    )


def _with_parents(single: Mapping[int, ReaderEntries], overlay: int) -> ReaderEntries:
    found = at = single.get(overlay, ReaderEntries(None))
    while at.parent is not None and not (found.has_visibility and found.has_membership):
        at = single[at.parent]
        if not found.has_visibility:
            found = replace(found, has_visibility=at.has_visibility, visibility=at.visibility)
        if not found.has_membership:
            found = replace(found, has_membership=at.has_membership, membership=at.membership)
    return found


# ---- timelines

_TIMELINE: Final = """
SELECT s.room_nid, e.ordering, e.position, e.sender, e.is_state, e.type, e.resumes_at,
    g.redacted_by, g.state_at, g.overlay
FROM unnest(%({stretches}_rooms)s::int8[], %({stretches}_lows)s::int8[],
    %({stretches}_highs)s::int8[]) AS s (room_nid, low, high)
CROSS JOIN LATERAL (
    SELECT t.* FROM {source} t {where} ORDER BY t.ordering {order} LIMIT %(limit)s) e
JOIN event_graph g ON g.position = e.position"""

_STRETCH: Final = "WHERE t.room_nid = s.room_nid AND t.ordering > s.low AND t.ordering <= s.high"

_SCANNED: Final = """
(SELECT * FROM timeline t {stretch} ORDER BY t.ordering {order} LIMIT %(scanned)s)"""

_FILTERED: Final = """
WHERE (%(types)s::text[] IS NULL OR t.type LIKE ANY(%(types)s))
    AND NOT t.type LIKE ANY(%(not_types)s)
    AND (%(senders)s::text[] IS NULL OR t.sender = ANY(%(senders)s))
    AND NOT t.sender = ANY(%(not_senders)s)
    AND (%(contains_url)s::boolean IS NULL OR t.has_url = %(contains_url)s)
    AND (t.is_state OR NOT t.sender = ANY(%(ignored)s))"""


def _timeline_sql(*, filtered: bool, order: str, branches: bool) -> str:
    stretch = f"{_STRETCH} AND t.on_branch" if branches else _STRETCH
    return _TIMELINE.format(
        stretches="branch" if branches else "whole",
        source=_SCANNED.format(stretch=stretch, order=order) if filtered else "timeline",
        where=_FILTERED if filtered else stretch,
        order=order,
    )


def _timeline_statements(filtered: bool, order: str) -> tuple[str, str]:
    whole = _timeline_sql(filtered=filtered, order=order, branches=False)
    branches = _timeline_sql(filtered=filtered, order=order, branches=True)
    return whole, f"{whole} UNION ALL {branches}"


_TIMELINE_SQL: Final = {
    (filtered, order): _timeline_statements(filtered, order)
    for filtered in (False, True)
    for order in ("ASC", "DESC")
}


_SCAN_END: Final = """
SELECT ordering FROM timeline WHERE room_nid = %s AND ordering > %s AND ordering <= %s {only}
ORDER BY ordering {order} OFFSET %s LIMIT 1"""


def list_timeline(
    connection: PgConnection,
    stretches: Collection[Stretch],
    *,
    limit: int,
    newest_first: bool = True,
    event_filter: RoomEventFilter | None = None,
    ignored: Collection[UserId] = (),
    branches: Collection[Stretch] = (),
) -> list[TimelineRow]:
    """Events of stretches of timelines, from one end of each.

    Args:
        limit: how many events per stretch at most.
        newest_first: from which end.
        event_filter: what passes; at most MAX_SCANNED events per stretch are looked at then (see
            `find_scan_end`). Rooms are not looked at: leave those out that do not pass.
        ignored: users of whom only state events pass.
        branches: further stretches, of which only events that stand on branches are wanted.
    """
    if not (stretches or branches) or limit <= 0:
        return []
    params: dict[str, Any] = _stretch_params("whole", stretches)
    params["limit"] = limit
    filtered = is_hiding(event_filter, ignored)
    if filtered:
        params |= _filter_params(event_filter or RoomEventFilter())
        params |= {"ignored": sendable(ignored), "scanned": MAX_SCANNED}
    whole, with_branches = _TIMELINE_SQL[filtered, "DESC" if newest_first else "ASC"]
    if branches:
        params |= _stretch_params("branch", branches)
    sql = with_branches if branches else whole
    return [TimelineRow(*row) for row in connection.execute(sql.encode(), params).fetchall()]


def _stretch_params(name: str, stretches: Collection[Stretch]) -> dict[str, Any]:
    return {
        f"{name}_rooms": [stretch.room_nid for stretch in stretches],
        f"{name}_lows": [stretch.low for stretch in stretches],
        f"{name}_highs": [stretch.high for stretch in stretches],
    }


_EVENTS_OF_STATE: Final = """
SELECT s.room_nid, t.ordering, t.position, t.sender, t.is_state, t.type, t.resumes_at,
    g.redacted_by, g.state_at, g.overlay
FROM unnest(%(rooms)s::int8[], %(lows)s::int8[], %(highs)s::int8[], %(ats)s::int8[])
    AS s (room_nid, low, high, at)
CROSS JOIN LATERAL (
    SELECT t.* FROM current_state c
    JOIN timeline t ON t.room_nid = c.room_nid AND t.ordering = c.valid_from
        AND t.position = c.position
    WHERE c.room_nid = s.room_nid AND c.valid_from > s.low AND c.valid_from <= s.high
        AND c.valid_to > s.at
    ORDER BY c.valid_from DESC LIMIT %(limit)s) t
JOIN event_graph g ON g.position = t.position"""


def list_events_of_state(
    connection: PgConnection, stretches: Collection[tuple[Stretch, int]], *, limit: int
) -> list[TimelineRow]:
    """Of stretches of timelines, the newest events that are part of the state at a position.

    Args:
        stretches: each with that position, which does not lie before the stretch's end.
        limit: how many events per stretch at most.
    """
    if not stretches or limit <= 0:
        return []
    params = {
        "rooms": [stretch.room_nid for stretch, _ in stretches],
        "lows": [stretch.low for stretch, _ in stretches],
        "highs": [stretch.high for stretch, _ in stretches],
        "ats": [at for _, at in stretches],
        "limit": limit,
    }
    return [TimelineRow(*row) for row in connection.execute(_EVENTS_OF_STATE, params).fetchall()]


def is_hiding(event_filter: RoomEventFilter | None, ignored: Collection[UserId]) -> bool:
    """Whether a filter (or ignoring users) hides any event."""
    return bool(ignored) or (event_filter is not None and not event_filter.passes_everything)


def find_scan_end(
    connection: PgConnection, stretch: Stretch, *, newest_first: bool, branches: bool = False
) -> int | None:
    """Where a filtered question about a stretch stopped looking.

    Args:
        branches: whether only events on branches were wanted.

    Returns the ordering of the last event it looked at; None when it looked at all of them.
    """
    sql = _SCAN_END.format(
        only="AND on_branch" if branches else "", order="DESC" if newest_first else "ASC"
    )
    row = connection.execute(
        sql.encode(), (stretch.room_nid, stretch.low, stretch.high, MAX_SCANNED - 1)
    ).fetchone()
    return None if row is None else int(row[0])


def _filter_params(event_filter: RoomEventFilter) -> dict[str, Any]:
    types, senders = event_filter.types, event_filter.senders
    return {
        "types": None if types is None else [like_pattern(type_) for type_ in sendable(types)],
        "not_types": [like_pattern(type_) for type_ in sendable(event_filter.not_types)],
        "senders": None if senders is None else sendable(senders),
        "not_senders": sendable(event_filter.not_senders),
        "contains_url": event_filter.contains_url,
    }


def sendable(texts: Iterable[str]) -> list[str]:
    """Without those that hold U+0000: PostgreSQL's text cannot hold it, so they match nothing."""
    return [text for text in texts if "\0" not in text]


def like_pattern(pattern: str) -> str:
    r"""A filter's pattern in SQL's terms: `*` becomes `%`, and `\`, `%`, `_` mean themselves."""
    for special in "\\%_":
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")


# ---- state

_FOREVER: Final = 2**63 - 1

_STATE_COLUMNS: Final = """
SELECT c.room_nid, c.type, c.state_key, c.position, c.valid_from, c.valid_to, c.membership,
    g.redacted_by"""

_SPANS: Final = """
FROM unnest(%(rooms)s::int8[], %(starts)s::int8[], %(ends)s::int8[], %(sinces)s::int8[])
    AS s (room_nid, span_start, span_end, span_since)"""

_MEMBERSHIP_BEFORE: Final = """, CASE WHEN c.type = 'm.room.member' THEN
    (SELECT b.membership FROM current_state b WHERE b.room_nid = c.room_nid AND b.type = c.type
        AND b.state_key = c.state_key AND b.valid_from <= s.span_since
        AND b.valid_to > s.span_since) END"""

_CHANGED: Final = """
JOIN current_state c ON c.room_nid = s.room_nid AND c.valid_from > s.span_since
    AND c.valid_from <= s.span_end
JOIN event_graph g ON g.position = c.position
WHERE c.valid_to > s.span_end OR (c.valid_from <= s.span_start AND c.valid_to > s.span_start)"""

_STATE_CHANGES: Final = _STATE_COLUMNS + _MEMBERSHIP_BEFORE + _SPANS + _CHANGED

_ENTRY: Final = (
    _STATE_COLUMNS + _SPANS + " JOIN current_state c ON c.room_nid = s.room_nid"
    " AND c.valid_from <= s.span_end {condition} JOIN event_graph g ON g.position = c.position"
)

_CURRENT: Final = f"AND c.valid_to = {_FOREVER}"
_ENDED: Final = f"AND c.valid_to < {_FOREVER} AND c.valid_to > s.span_start"

_FULL_STATE: Final = " UNION ALL ".join(
    _ENTRY.format(condition=condition) for condition in (_CURRENT, _ENDED)
)

# By ranges of types, so that the entries of all members are not even read.
_STATE_WITHOUT_MEMBERS: Final = " UNION ALL ".join(
    _ENTRY.format(condition=condition)
    for condition in (
        f"{_CURRENT} AND c.type < 'm.room.member'",
        f"{_CURRENT} AND c.type > 'm.room.member'",
        f"{_ENDED} AND c.type <> 'm.room.member'",
    )
)

_STATE_ENTRIES: Final = (
    _STATE_COLUMNS
    + """
FROM unnest(%(rooms)s::int8[], %(types)s::text[], %(keys)s::text[], %(starts)s::int8[],
    %(ends)s::int8[]) AS s (room_nid, type, state_key, span_start, span_end)
JOIN current_state c ON c.room_nid = s.room_nid AND c.type = s.type AND c.state_key = s.state_key
    AND c.valid_from <= s.span_end AND c.valid_to > s.span_start
JOIN event_graph g ON g.position = c.position"""
)

_STATE_OF_TYPE: Final = (
    _STATE_COLUMNS
    + """
FROM current_state c JOIN event_graph g ON g.position = c.position
WHERE c.room_nid = %(room)s AND c.type = %(type)s AND """
)
_STATE_OF_TYPE_NOW: Final = f"{_STATE_OF_TYPE} c.valid_to = {_FOREVER}"
_STATE_OF_TYPE_THEN: Final = f"{_STATE_OF_TYPE} c.valid_from <= %(at)s AND c.valid_to > %(at)s"


def list_state_changes(connection: PgConnection, spans: Collection[StateSpan]) -> list[StateRow]:
    """Entries that changed in `since < p <= end`: those valid at the end or at the start."""
    if not spans:
        return []
    rows = connection.execute(_STATE_CHANGES, _span_params(spans)).fetchall()
    return [StateRow(*row) for row in rows]


def list_state(
    connection: PgConnection, spans: Collection[StateSpan], *, with_members: bool
) -> list[StateRow]:
    """All entries valid at some moment from the start to the end of each span.

    Args:
        with_members: False to leave out m.room.member, at no cost per member.
    """
    if not spans:
        return []
    sql = _FULL_STATE if with_members else _STATE_WITHOUT_MEMBERS
    return [StateRow(*row) for row in connection.execute(sql, _span_params(spans)).fetchall()]


def list_state_entries(
    connection: PgConnection, wanted: Collection[tuple[StateSpan, str, str]]
) -> list[StateRow]:
    """Single entries: (span, type, state key) → valid at some moment from start to end."""
    if not wanted:
        return []
    rows = connection.execute(
        _STATE_ENTRIES,
        {
            "rooms": [span.room_nid for span, _, _ in wanted],
            "types": [type_ for _, type_, _ in wanted],
            "keys": [state_key for _, _, state_key in wanted],
            "starts": [span.start for span, _, _ in wanted],
            "ends": [span.end for span, _, _ in wanted],
        },
    ).fetchall()
    return [StateRow(*row) for row in rows]


def list_state_of_type(
    connection: PgConnection, room_nid: int, type: str, at: int | None
) -> list[StateRow]:
    """The entries of one type, now (None) or after the event at a position."""
    sql = _STATE_OF_TYPE_NOW if at is None else _STATE_OF_TYPE_THEN
    params = {"room": room_nid, "type": type, "at": at}
    return [StateRow(*row) for row in connection.execute(sql, params).fetchall()]


def find_resumption(connection: PgConnection, room_nid: int, ordering: int) -> int | None:
    """Of a place in backfilled history: the ordering at which goes on what we saw happen.

    None for a place in what came as it happened.
    """
    row = connection.execute(
        "SELECT resumes_at FROM timeline WHERE room_nid = %s AND ordering <= %s"
        " ORDER BY ordering DESC LIMIT 1",
        (room_nid, ordering),
    ).fetchone()
    if row is None:  # before all that we have
        row = connection.execute(
            "SELECT coalesce(resumes_at, ordering) FROM timeline WHERE room_nid = %s"
            " ORDER BY ordering LIMIT 1",
            (room_nid,),
        ).fetchone()
    return None if row is None or row[0] is None or row[0] <= ordering else int(row[0])


def is_in_state(connection: PgConnection, room_nid: int, position: int, at: int) -> bool:
    """Whether an event is part of a room's state after a position."""
    row = connection.execute(
        "SELECT 1 FROM current_state WHERE position = %s AND room_nid = %s"
        " AND valid_from <= %s AND valid_to > %s",
        (position, room_nid, at, at),
    ).fetchone()
    return row is not None


def _span_params(spans: Collection[StateSpan]) -> dict[str, Any]:
    return {
        "rooms": [span.room_nid for span in spans],
        "starts": [span.start for span in spans],
        "ends": [span.end for span in spans],
        "sinces": [span.since for span in spans],
    }


# ---- summaries and members


def list_member_counts(
    connection: PgConnection, room_nids: Collection[int]
) -> dict[int, tuple[int, int]]:
    """Room number → how many users are joined and how many are invited, now."""
    rows = connection.execute(
        "SELECT room_nid, joined, invited FROM room_counts WHERE room_nid = ANY(%s)",
        (list(room_nids),),
    ).fetchall()
    return {room_nid: (joined, invited) for room_nid, joined, invited in rows}


# The joined by an index in the order in which they came; the invited are few.
_PRESENT_HEROES: Final = """
SELECT r.room_nid, h.user_id FROM unnest(%(rooms)s::int8[]) AS r (room_nid)
CROSS JOIN LATERAL (
    (SELECT m.user_id, m.join_position AS since FROM memberships m
    WHERE m.room_nid = r.room_nid AND m.join_position IS NOT NULL AND m.user_id <> %(user)s
    ORDER BY m.join_position LIMIT %(limit)s)
    UNION ALL
    (SELECT m.user_id, m.position FROM memberships m
    WHERE m.room_nid = r.room_nid AND m.membership = 'invite' AND m.user_id <> %(user)s
    ORDER BY m.position LIMIT %(limit)s)
    ORDER BY 2, 1 LIMIT %(limit)s) h
ORDER BY r.room_nid, h.since, h.user_id"""

_DEPARTED_HEROES: Final = """
SELECT r.room_nid, h.user_id FROM unnest(%(rooms)s::int8[]) AS r (room_nid)
CROSS JOIN LATERAL (
    SELECT m.user_id, m.position AS since FROM memberships m
    WHERE m.room_nid = r.room_nid AND m.membership IN ('leave', 'ban') AND m.user_id <> %(user)s
    ORDER BY 2, 1 LIMIT %(limit)s) h
ORDER BY r.room_nid, h.since, h.user_id"""


def list_heroes(
    connection: PgConnection, user_id: UserId, room_nids: Iterable[int], *, limit: int = 5
) -> dict[int, list[UserId]]:
    """Room number → the users to name it after, in the order in which they came.

    The joined and invited, without the user themselves; when there are none, those who left.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync
    """
    heroes: dict[int, list[UserId]] = {room_nid: [] for room_nid in room_nids}
    for question in (_PRESENT_HEROES, _DEPARTED_HEROES):
        nameless = [room_nid for room_nid, users in heroes.items() if not users]
        if not nameless:
            break
        rows = connection.execute(
            question, {"rooms": nameless, "user": user_id, "limit": limit}
        ).fetchall()
        for room_nid, hero in rows:
            heroes[room_nid].append(hero)
    return heroes
