"""timeline: the accepted events of each room in the order in which clients read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from architex.domain.push_evaluation import notifying_class
from architex.domain.relations import THREAD, find_relation
from architex.domain.room.aggregate import DUMMY_EVENT_TYPE
from architex.domain.room.events import RecordedFact
from architex.projections.base import Projection, Timing
from architex.storage.pool import Execute, Row

# What belongs to an event of a thread is in the thread too, over any number of hops.
_THREAD_OF_PARENT: Final = """(SELECT p.thread FROM event_graph g
    JOIN timeline p ON p.room_nid = g.room_nid AND p.ordering = coalesce(g.ordering, g.position)
    WHERE g.event_id = %(parent)s AND g.room_nid = %(room)s)"""

_INTO: Final = """
INSERT INTO timeline (room_nid, ordering, position, type, sender, is_state, has_url, on_branch,
    notifies, thread, origin_server_ts) """
_INSERT: Final = (
    _INTO + "VALUES (%(room)s, %(ordering)s, %(position)s, %(type)s, %(sender)s, %(is_state)s,"
    " %(has_url)s, %(on_branch)s, %(notifies)s, %(thread)s, %(origin_server_ts)s)"
)

# What stands next above a backfilled event tells where the history goes on that we saw happen.
_RESUMES_AT: Final = """coalesce((SELECT coalesce(t.resumes_at, t.ordering) FROM timeline t
    WHERE t.room_nid = {room} AND t.ordering > {ordering} ORDER BY t.ordering LIMIT 1), {fact})"""

_INSERT_BACKFILLED: Final = """
INSERT INTO timeline
    (room_nid, ordering, position, type, sender, is_state, has_url, thread, origin_server_ts,
    resumes_at)
SELECT %(room)s, %(ordering)s, %(position)s, %(type)s, %(sender)s, %(is_state)s, %(has_url)s,
    %(thread)s, %(origin_server_ts)s, """ + _RESUMES_AT.format(
    room="%(room)s", ordering="%(ordering)s", fact="%(fact)s"
)

# PostgreSQL reads no field of an event that has U+0000 in any other.
_PDU: Final = r"""regexp_replace(convert_from(s.state, 'UTF8'),
    '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::json -> 'pdu'"""

# A redaction is for clients only once it redacts something: its event may come later, or never.
# https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions
_REACHES: Final = f"""(x.server IS NULL OR x.server = (
    SELECT substr(f.sender, strpos(f.sender, ':') + 1)
    FROM (SELECT {_PDU} ->> 'sender' AS sender FROM stored_events s
        WHERE s.notification_id = e.position) f))"""  # noqa: S608 - our own text

# Facts that were recorded together come one after the other all the same: or a replay, which reads
# them in other groups, would show something else.
_REDACTS: Final = f"""WHERE EXISTS (SELECT FROM redactions x
    JOIN event_graph e ON e.event_id = x.event_id AND e.room_nid = x.room_nid
    WHERE x.room_nid = %(room)s AND x.event_id = %(redacts)s AND x.position = %(position)s
    AND e.position < %(fact)s AND {_REACHES})"""

_INSERT_REDACTION: Final = (
    _INTO
    + """
SELECT %(room)s, %(ordering)s, %(position)s, %(type)s, %(sender)s, %(is_state)s, %(has_url)s,
    %(on_branch)s, %(notifies)s, %(thread)s, %(origin_server_ts)s """
    + _REDACTS
)
_INSERT_BACKFILLED_REDACTION: Final = _INSERT_BACKFILLED + _REDACTS

# Redactions whose events come now. Where one stands on a branch, it came as it happened.
_INSERT_WAITING: Final = (
    _INTO.replace(")", ", resumes_at)")
    + f"""
SELECT x.room_nid, p.ordering, x.position, 'm.room.redaction', f.pdu ->> 'sender', false, false,
    g.state_at IS NOT NULL AND NOT g.is_outlier, 0, NULL, (f.pdu ->> 'origin_server_ts')::int8,
    CASE WHEN g.is_outlier THEN
        {_RESUMES_AT.format(room="x.room_nid", ordering="p.ordering", fact="n.fact")} END
FROM unnest(%(rooms)b::int8[], %(events)b::text[], %(facts)b::int8[])
    AS n (room_nid, event_id, fact)
JOIN redactions x ON x.room_nid = n.room_nid AND x.event_id = n.event_id
JOIN event_graph g ON g.position = x.position AND g.is_placed AND g.verdict = 0
JOIN event_graph e ON e.event_id = n.event_id AND e.room_nid = n.room_nid
JOIN stored_events s ON s.notification_id = x.position
CROSS JOIN LATERAL (SELECT {_PDU} AS pdu) f
CROSS JOIN LATERAL (SELECT coalesce(g.ordering, g.position) AS ordering) p
WHERE x.position <> ALL(%(later)b::int8[]) AND {_REACHES} ON CONFLICT DO NOTHING"""  # noqa: S608 - our own text
)

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
        later = [r.event_position for r in recorded if r.fact.is_in_timeline and r.pdu.redacts]
        targets: list[RecordedFact] = []
        for r in recorded:
            if r.fact.is_in_timeline and r.pdu.type != DUMMY_EVENT_TYPE:
                _show_waiting(execute, targets, later)
                targets = []
                _add(execute, r)
                if r.pdu.redacts:
                    later.remove(r.event_position)
            if _may_have_been_redacted(r):
                targets.append(r)
        _show_waiting(execute, targets, later)


def _may_have_been_redacted(r: RecordedFact) -> bool:
    """Whether a redaction of an event can have come before it.

    Where IDs are hashes, nothing that follows the end of the room can have been named before.
    """
    follows_the_end = r.fact.is_in_timeline and r.fact.before is None and r.fact.ordering is None
    return r.fact.known_at is None and (not follows_the_end or ":" in r.pdu.event_id)


def _show_waiting(execute: Execute, targets: Sequence[RecordedFact], later: Sequence[int]) -> None:
    """Add the redactions that waited for events.

    Args:
        later: the positions of those whose own facts come after these.
    """
    if targets:
        execute(
            _INSERT_WAITING,
            {
                "rooms": [r.room_nid for r in targets],
                "events": [r.pdu.event_id for r in targets],
                "facts": [r.position for r in targets],
                "later": list(later),
            },
        )


def _add(execute: Execute, r: RecordedFact) -> None:
    if r.fact.ordering is not None:
        _add_backfilled(execute, r)
    elif r.pdu.redacts is not None:
        execute(_INSERT_REDACTION, _row(r))
    else:
        execute(_in_thread_of_parent(_INSERT, r), _row(r))


def _in_thread_of_parent(sql: str, r: RecordedFact) -> str:
    """The statement for an event that is in the thread of its parent, if there is one."""
    relation = find_relation(r.content)
    if relation is None or relation.rel_type == THREAD:
        return sql
    return sql.replace("%(thread)s", _THREAD_OF_PARENT)


def _row(r: RecordedFact) -> dict[str, object]:
    relation = find_relation(r.content)
    parent = None if relation is None else relation.parent
    return {
        "room": r.room_nid,
        "ordering": r.ordering,
        "position": r.event_position,
        "type": r.pdu.type,
        "sender": r.pdu.sender,
        "is_state": r.pdu.is_state,
        "has_url": _has_url(r),
        "on_branch": r.fact.before is not None,
        "notifies": notifying_class(r.pdu.type, r.content, r.pdu.state_key),
        "thread": parent if relation is not None and relation.rel_type == THREAD else None,
        "parent": parent,
        "origin_server_ts": r.pdu.origin_server_ts,
        "fact": r.position,
        "redacts": r.pdu.redacts,
    }


def _add_backfilled(execute: Execute, r: RecordedFact) -> None:
    if r.pdu.redacts is not None:
        execute(_INSERT_BACKFILLED_REDACTION, _row(r))
    else:
        execute(_in_thread_of_parent(_INSERT_BACKFILLED, r), _row(r))
    if r.pdu.state_key is not None and r.pdu.type in PAST_STATE_TYPES:
        membership = r.content.get("membership") if r.pdu.type == "m.room.member" else None
        execute(
            _INSERT_PAST_STATE,
            (
                r.pdu.state_key,
                membership if isinstance(membership, str) else None,
                r.room_nid,
                r.ordering,
            ),
        )


def _has_url(r: RecordedFact) -> bool:
    return isinstance(r.content.get("url"), str)
