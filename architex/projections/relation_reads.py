"""Questions of readers about relations: children of events, what they add up to, threads.

What a reader may see is told by stretches of the timeline; events on branches there are for the
reader's use case to decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.identifiers import EventId, UserId
from architex.projections.event_reads import EventPlace
from architex.projections.room_reads import Stretch
from architex.storage.pool import PgConnection

MAX_DEPTH: Final = 3
"""How many relations away from a parent its indirect children are at most."""

MAX_WALKED: Final = 10_000
"""How many relations are followed for one question about indirect children."""

MAX_REFERENCES: Final = 500
"""How many references to an event are told with it."""

_PLACE_COLUMNS: Final = """
r.position, r.room_nid, r.event_id, g.verdict, g.redacted_by, r.ordering, g.state_at, g.overlay"""

_VISIBLE: Final = "r.sender <> ALL(%(ignored)s) AND r.ordering <@ p.visible"


@dataclass(frozen=True, slots=True)
class Parent:
    """An event that others may relate to.

    Attributes:
        visible: the stretches of the room's timeline that the reader may see.
    """

    room_nid: int
    event_id: EventId
    type: str
    sender: UserId
    visible: Sequence[Stretch]


@dataclass(frozen=True, slots=True)
class ThreadSummary:
    """What the events of a thread add up to, for one reader."""

    count: int
    has_participated: bool
    latest: EventPlace


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """A thread of a room; `latest` is the ordering of its newest event."""

    root: EventId
    latest: int


# ---- bundled aggregations

_PARENTS: Final = """
SELECT p.room_nid, p.event_id FROM unnest(%(parent_rooms)s::int8[], %(parents)s::text[])
    AS p (room_nid, event_id)
WHERE EXISTS (SELECT FROM relations r WHERE r.room_nid = p.room_nid AND r.parent = p.event_id
    AND r.rel_type IN ('m.replace', 'm.thread', 'm.reference'))"""

_ASKED: Final = """
FROM unnest(%(parent_rooms)s::int8[], %(parents)s::text[], %(types)s::text[], %(senders)s::text[],
    %(visible)s::text[]::int8multirange[])
    AS p (room_nid, event_id, type, sender, visible) CROSS JOIN LATERAL """

# "The most recent event is determined by comparing origin_server_ts; if two or more replacement
# events have identical origin_server_ts, the event with the lexicographically largest event_id".
_EDITS: Final = f"""
SELECT p.event_id, {_PLACE_COLUMNS} {_ASKED} (SELECT * FROM relations r
    WHERE r.room_nid = p.room_nid AND r.parent = p.event_id AND r.rel_type = 'm.replace'
    AND r.is_edit AND r.type = p.type AND r.sender = p.sender AND {_VISIBLE}
    ORDER BY r.origin_server_ts DESC, r.event_id DESC LIMIT 1) r
JOIN event_graph g ON g.position = r.position"""  # noqa: S608 - all of it is our own text

_THREADS: Final = f"""
SELECT p.event_id, t.count, t.participated, {_PLACE_COLUMNS} {_ASKED} (
    SELECT count(*) AS count, bool_or(r.sender = %(user)s) AS participated,
        max(r.ordering) AS latest
    FROM relations r WHERE r.room_nid = p.room_nid AND r.parent = p.event_id
    AND r.rel_type = 'm.thread' AND {_VISIBLE}) t
JOIN relations r ON r.room_nid = p.room_nid AND r.parent = p.event_id
    AND r.rel_type = 'm.thread' AND r.ordering = t.latest
JOIN event_graph g ON g.position = r.position"""  # noqa: S608 - all of it is our own text

_REFERENCES: Final = f"""
SELECT p.event_id, {_PLACE_COLUMNS} {_ASKED} (SELECT * FROM relations r
    WHERE r.room_nid = p.room_nid AND r.parent = p.event_id AND r.rel_type = 'm.reference'
    AND {_VISIBLE} ORDER BY r.ordering LIMIT %(limit)s) r
JOIN event_graph g ON g.position = r.position ORDER BY r.ordering"""  # noqa: S608 - our own text


def list_related(connection: PgConnection, parents: Collection[Parent]) -> set[EventId]:
    """Those of the events with children that are told with them."""
    if not parents:
        return set()
    rows = connection.execute(_PARENTS, _parent_params(parents)).fetchall()
    return {event_id for _, event_id in rows}


def find_edits(
    connection: PgConnection,
    parents: Collection[Parent],
    ignored: Collection[UserId],
) -> dict[EventId, EventPlace]:
    """Event ID → the newest valid replacement of the event.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mreplace-relationships
    """
    rows = connection.execute(
        _EDITS.encode(), _parent_params(parents) | {"ignored": _sendable(ignored)}
    ).fetchall()
    return {row[0]: EventPlace(*row[1:]) for row in rows}


def find_threads(
    connection: PgConnection,
    user_id: UserId,
    parents: Collection[Parent],
    ignored: Collection[UserId],
) -> dict[EventId, ThreadSummary]:
    """Event ID → the thread of which the event is the root.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mthread-relationships
    """
    params = _parent_params(parents) | {"ignored": _sendable(ignored)} | {"user": user_id}
    rows = connection.execute(_THREADS.encode(), params).fetchall()
    return {row[0]: ThreadSummary(row[1], row[2], EventPlace(*row[3:])) for row in rows}


def list_references(
    connection: PgConnection,
    parents: Collection[Parent],
    ignored: Collection[UserId],
) -> dict[EventId, list[EventPlace]]:
    """Event ID → the events that refer to it, oldest first.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mreference
    """
    params = _parent_params(parents) | {"ignored": _sendable(ignored)}
    rows = connection.execute(_REFERENCES.encode(), params | {"limit": MAX_REFERENCES}).fetchall()
    found: dict[EventId, list[EventPlace]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(EventPlace(*row[1:]))
    return found


# ---- children

_CHILDREN: Final = f"""
SELECT {_PLACE_COLUMNS} FROM (
    SELECT r.* FROM (SELECT %(visible)s::int8multirange) AS p (visible), {{which}} r
    WHERE {{of_parent}} AND (%(rel_type)s::text IS NULL OR r.rel_type = %(rel_type)s)
    AND (%(type)s::text IS NULL OR r.type = %(type)s) AND {_VISIBLE}
    AND r.ordering > %(low)s AND r.ordering <= %(high)s
    ORDER BY r.ordering {{order}} LIMIT %(limit)s) r
JOIN event_graph g ON g.position = r.position
ORDER BY r.ordering {{order}}"""  # noqa: S608 - all of it is our own text

# UNION ALL and a depth: the walk ends in any case. In circles, which room versions 1 and 2 allow,
# it meets events again.
_WALK: Final = """(
    WITH RECURSIVE walk AS (
        SELECT c.*, 1 AS depth FROM relations c
        WHERE c.room_nid = %(room)s AND c.parent = %(parent)s
        UNION ALL SELECT c.*, w.depth + 1 FROM walk w
        JOIN relations c ON c.room_nid = %(room)s AND c.parent = w.event_id
        WHERE w.depth < %(depth)s)
    SELECT DISTINCT event_id, room_nid, rel_type, type, sender, ordering, position
    FROM (SELECT * FROM walk LIMIT %(walked)s) walked)"""

_CHILDREN_SQL: Final = {
    (recurse, order): _CHILDREN.format(
        which=_WALK if recurse else "relations",
        of_parent="r.event_id <> %(parent)s"
        if recurse
        else "r.room_nid = %(room)s AND r.parent = %(parent)s",
        order=order,
    )
    for recurse in (False, True)
    for order in ("ASC", "DESC")
}


def list_children(
    connection: PgConnection,
    room_nid: int,
    parent: EventId,
    visible: Sequence[Stretch],
    *,
    rel_type: str | None,
    type: str | None,
    ignored: Collection[UserId],
    recurse: bool,
    newest_first: bool,
    limit: int,
) -> list[EventPlace]:
    """The events that relate to an event, from one end of what is visible.

    Args:
        rel_type, type: only such relations, and such events; None for any.
        recurse: also those that relate to such events, MAX_DEPTH relations away at most.
    """
    sql = _CHILDREN_SQL[recurse, "DESC" if newest_first else "ASC"]
    params = {
        "visible": _multirange(visible),
        "ignored": _sendable(ignored),
        "low": min((stretch.low for stretch in visible), default=0),
        "high": max((stretch.high for stretch in visible), default=0),
        "room": room_nid,
        "parent": parent,
        "rel_type": rel_type,
        "type": type,
        "depth": MAX_DEPTH,
        "walked": MAX_WALKED,
        "limit": limit,
    }
    return [EventPlace(*row) for row in connection.execute(sql.encode(), params).fetchall()]


# ---- threads

_THREAD_LIST: Final = """
SELECT t.root, t.latest FROM threads t WHERE t.room_nid = %(room)s AND t.latest <= %(high)s
{only} ORDER BY t.latest DESC LIMIT %(limit)s"""

_PARTICIPATED: Final = """AND (
    EXISTS (SELECT FROM relations r WHERE r.room_nid = t.room_nid AND r.parent = t.root
        AND r.rel_type = 'm.thread' AND r.sender = %(user)s)
    OR EXISTS (SELECT FROM event_graph g JOIN timeline e ON e.room_nid = g.room_nid
        AND e.ordering = coalesce(g.ordering, g.position)
        WHERE g.event_id = t.root AND g.room_nid = t.room_nid AND e.sender = %(user)s))"""


def list_threads(
    connection: PgConnection,
    room_nid: int,
    high: int,
    *,
    participated_by: UserId | None,
    limit: int,
) -> list[ThreadRow]:
    """Threads of a room whose newest event does not come after an ordering, newest first.

    Args:
        participated_by: only those that this user began or wrote in.
    """
    sql = _THREAD_LIST.format(only="" if participated_by is None else _PARTICIPATED)
    params = {"room": room_nid, "high": high, "user": participated_by, "limit": limit}
    return [ThreadRow(*row) for row in connection.execute(sql.encode(), params).fetchall()]


# ---- what a new relation may not be


def is_child(connection: PgConnection, room_nid: int, event_id: EventId) -> bool:
    """Whether an event of a room relates to another."""
    row = connection.execute(
        "SELECT 1 FROM relations WHERE event_id = %s AND room_nid = %s", (event_id, room_nid)
    ).fetchone()
    return row is not None


def has_annotation(
    connection: PgConnection,
    room_nid: int,
    parent: EventId,
    sender: UserId,
    type: str,
    key: str,
) -> bool:
    """Whether somebody has annotated an event in the same way before."""
    row = connection.execute(
        "SELECT 1 FROM relations WHERE room_nid = %s AND parent = %s"
        " AND rel_type = 'm.annotation' AND sender = %s AND type = %s AND annotation = %s LIMIT 1",
        (room_nid, parent, sender, type, key),
    ).fetchone()
    return row is not None


def _parent_params(parents: Collection[Parent]) -> dict[str, Any]:
    return {
        "parent_rooms": [parent.room_nid for parent in parents],
        "parents": [parent.event_id for parent in parents],
        "types": [parent.type for parent in parents],
        "senders": [parent.sender for parent in parents],
        "visible": [_multirange(parent.visible) for parent in parents],
    }


def _multirange(stretches: Iterable[Stretch]) -> str:
    """Stretches of one room's timeline as PostgreSQL writes them."""
    return "{" + ",".join(f"({stretch.low},{stretch.high}]" for stretch in stretches) + "}"


def _sendable(user_ids: Iterable[UserId]) -> list[UserId]:
    """Without those that hold U+0000: PostgreSQL's text cannot hold it."""
    return [user_id for user_id in user_ids if "\0" not in user_id]
