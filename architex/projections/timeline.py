"""timeline: the accepted events of each room in the order in which clients read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from architex.domain.identifiers import MAX_IDENTIFIER_BYTES, EventId
from architex.domain.push_evaluation import notifying_class
from architex.domain.room.aggregate import DUMMY_EVENT_TYPE
from architex.domain.room.events import RecordedFact
from architex.projections.base import Execute, Projection, Row, Timing

_INTO: Final = """
INSERT INTO timeline (room_nid, ordering, position, type, sender, is_state, has_url, on_branch,
    notifies, thread, origin_server_ts) """
_INSERT: Final = _INTO + "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"

# A redaction is for clients only once it redacts something: its event may come later, or never.
# https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions
_INSERT_REDACTION: Final = _INSERT.replace("VALUES (", "SELECT ").replace(
    "%s)",
    "%s WHERE EXISTS (SELECT FROM event_graph g"
    " WHERE g.event_id = %s AND g.room_nid = %s AND g.redacted_by IS NOT NULL)"
    # Where its event came in the same transaction, that has shown it already.
    " ON CONFLICT DO NOTHING",
)
_INSERT_WAITING: Final = (
    _INTO
    + """
SELECT x.room_nid, x.position, x.position, 'm.room.redaction', f.pdu ->> 'sender', false, false,
    g.state_at IS NOT NULL, 0, NULL, (f.pdu ->> 'origin_server_ts')::int8
FROM redactions x JOIN event_graph g ON g.position = x.position
JOIN event_graph e ON e.event_id = x.event_id AND e.redacted_by IS NOT NULL
JOIN stored_events s ON s.notification_id = x.position
CROSS JOIN LATERAL (SELECT convert_from(s.state, 'UTF8')::json -> 'pdu' AS pdu) f
WHERE x.room_nid = %s AND x.event_id = %s ON CONFLICT DO NOTHING"""
)

# What stands next above a backfilled event tells where the history goes on that we saw happen.
_INSERT_BACKFILLED: Final = """
INSERT INTO timeline
    (room_nid, ordering, position, type, sender, is_state, has_url, thread, origin_server_ts,
    resumes_at)
SELECT %(room)s, %(ordering)s, %(position)s, %(type)s, %(sender)s, %(is_state)s, %(has_url)s,
    %(thread)s, %(origin_server_ts)s,
    coalesce((SELECT coalesce(t.resumes_at, t.ordering) FROM timeline t
        WHERE t.room_nid = %(room)s AND t.ordering > %(ordering)s
        ORDER BY t.ordering LIMIT 1), %(fact)s)"""

_INSERT_PAST_STATE: Final = """
INSERT INTO past_state (room_nid, type, state_key, ordering, position, resumes_at, membership)
SELECT t.room_nid, t.type, %s, t.ordering, t.position, t.resumes_at, %s
FROM timeline t WHERE t.room_nid = %s AND t.ordering = %s"""

PAST_STATE_TYPES: Final = frozenset({"m.room.history_visibility", "m.room.member"})
"""The types of backfilled state that are remembered by their keys."""


class Timeline(Projection):
    """Writes `timeline` and `past_state`."""

    name: ClassVar[str] = "timeline"
    timing: ClassVar[Timing] = Timing.INLINE
    tables: ClassVar[tuple[str, ...]] = ("timeline", "past_state")

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Add the accepted events: at the end, those that were backfilled where they belong."""
        for r in recorded:
            if not r.fact.is_in_timeline or r.pdu.type == DUMMY_EVENT_TYPE:
                continue
            if r.fact.ordering is not None:
                _add_backfilled(execute, r, r.fact.ordering)
                continue
            execute(
                _INSERT if r.pdu.redacts is None else _INSERT_REDACTION,
                (
                    r.room_nid,
                    r.position,
                    r.event_position,
                    r.pdu.type,
                    r.pdu.sender,
                    r.pdu.is_state,
                    _has_url(r),
                    r.fact.before is not None,
                    notifying_class(r.pdu.type, r.content, r.pdu.state_key),
                    _thread(r),
                    r.pdu.origin_server_ts,
                    *(() if r.pdu.redacts is None else (r.pdu.redacts, r.room_nid)),
                ),
            )
            # Where IDs are hashes, nothing at the end of the room can have been redacted before.
            if r.fact.before is not None or ":" in r.pdu.event_id:
                execute(_INSERT_WAITING, (r.room_nid, r.pdu.event_id))


def _add_backfilled(execute: Execute, r: RecordedFact, ordering: int) -> None:
    execute(
        _INSERT_BACKFILLED,
        {
            "room": r.room_nid,
            "ordering": ordering,
            "position": r.event_position,
            "type": r.pdu.type,
            "sender": r.pdu.sender,
            "is_state": r.pdu.is_state,
            "has_url": _has_url(r),
            "thread": _thread(r),
            "origin_server_ts": r.pdu.origin_server_ts,
            "fact": r.position,
        },
    )
    if r.pdu.state_key is not None and r.pdu.type in PAST_STATE_TYPES:
        membership = r.content.get("membership") if r.pdu.type == "m.room.member" else None
        execute(
            _INSERT_PAST_STATE,
            (
                r.pdu.state_key,
                membership if isinstance(membership, str) else None,
                r.room_nid,
                ordering,
            ),
        )


def _has_url(r: RecordedFact) -> bool:
    return isinstance(r.content.get("url"), str)


def _thread(r: RecordedFact) -> EventId | None:
    """The root of the thread that an event says it is in."""
    relation = r.content.get("m.relates_to")
    if isinstance(relation, Mapping) and relation.get("rel_type") == "m.thread":
        root = relation.get("event_id")
        if isinstance(root, str) and "\0" not in root and len(root) <= MAX_IDENTIFIER_BYTES:
            return root
    return None
