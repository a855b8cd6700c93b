"""What is new in a room where members cannot tell their answers apart: one question for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import UserId
from architex.projections.event_reads import Reference
from architex.projections.room_reads import (
    VIEW_COLUMNS,
    VIEW_TABLES,
    RoomView,
    StateRow,
    TimelineRow,
)
from architex.storage.pool import PgConnection
from architex.storage.receipts import Receipt

_MEMBER: Final = "m.room.member"

WHOLE_POSITIONS: Final = 20
"""The events of so many positions come as they were stored, too; of many, few are told."""


@dataclass(frozen=True, slots=True)
class PlainEvent:
    """An event of a room's timeline that everybody in the room is told alike.

    Attributes:
        row: its place in the timeline.
        thread: event ID of its root, or MAIN.
        notifies: of `Notifying`, but for SOME.
        member: the m.room.member event of its sender.
        stored: its fact as it was stored; None when it was not read.
    """

    row: TimelineRow
    thread: str
    notifies: int
    has_url: bool
    member: StateRow | None
    stored: bytes | None

    @property
    def position(self) -> int:
        """The event's integer ID."""
        return self.row.position

    @property
    def type(self) -> str:
        """The event's type."""
        return self.row.type

    @property
    def sender(self) -> UserId:
        """Who sent it."""
        return self.row.sender

    @property
    def reference(self) -> Reference:
        """By which it is loaded."""
        return self.row.reference


@dataclass(frozen=True, slots=True)
class PlainNews:
    """What is new in a room since a position.

    Attributes:
        view: the room as the user stands to it who asked.
        joined: how many are in the room now.
        stirred: numbers of the rooms of users whose presence or devices changed.
        typing: who is typing, which may be nobody; None: nobody began or stopped.
        receipts: private ones among them.
    """

    view: RoomView
    joined: int
    stirred: frozenset[int]
    typing: list[UserId] | None
    receipts: Sequence[Receipt]
    events: Sequence[PlainEvent]


# The log between two positions is short; the room's part of the log may be long, and so may be all
# receipts of the room and all its members. OFFSET 0 has the short one read, and || '' has people
# looked for by their names alone: also while PostgreSQL does not know yet how much there is of
# each. The positions come by way of a row: what it cannot see, it does not plan anew each time.
_PLAIN_NEWS: Final = f"""
WITH asked (since, now) AS MATERIALIZED (SELECT %(since)s::int8, %(now)s::int8)
SELECT {VIEW_COLUMNS}, n.joined,
    ARRAY(SELECT DISTINCT s.room_nid FROM memberships s WHERE s.membership || '' = 'join'
        AND s.user_id = ANY(ARRAY(SELECT user_id FROM presence WHERE position > q.since
            UNION SELECT user_id FROM device_list_changes WHERE position > q.since))),
    (SELECT coalesce(array_agg(t.user_id ORDER BY t.user_id)
            FILTER (WHERE t.expires_ts > %(now_ms)s), '{{}}')
        FROM typing t WHERE t.room_nid = m.room_nid HAVING max(t.position) > q.since),
    (SELECT jsonb_agg(jsonb_build_array(x.receipt_type, x.user_id, x.thread_id, x.event_id, x.ts))
        FROM (SELECT * FROM receipts WHERE position > q.since OFFSET 0) x
        WHERE x.room_nid = m.room_nid),
    EXISTS (SELECT FROM current_state c WHERE c.room_nid = m.room_nid
        AND c.valid_from > q.since AND c.valid_from <= q.now),
    (SELECT count(*) FROM timeline t WHERE t.room_nid = m.room_nid
        AND t.ordering > q.since AND t.ordering <= q.now),
    e.*
FROM asked q CROSS JOIN {VIEW_TABLES} LEFT JOIN room_counts n ON n.room_nid = m.room_nid
LEFT JOIN LATERAL (
    SELECT s.notification_id AS position, t.sender, t.type, g.redacted_by,
        coalesce(t.thread, 'main'), t.notifies, t.has_url,
        t.position IS NOT NULL AND NOT (t.is_state OR t.on_branch OR t.notifies = 2), b.state,
        c.position AS member, c.valid_from, c.valid_to, c.membership, cg.redacted_by
    FROM (SELECT notification_id, originator_id FROM stored_events
        WHERE notification_id > q.since AND notification_id <= q.now OFFSET 0) s
    LEFT JOIN timeline t ON t.room_nid = m.room_nid
        AND t.ordering = s.notification_id AND t.position = s.notification_id
    LEFT JOIN event_graph g ON g.position = s.notification_id
    LEFT JOIN stored_events b ON b.notification_id = s.notification_id
        AND s.notification_id > q.now - {WHOLE_POSITIONS}
    LEFT JOIN LATERAL (SELECT * FROM current_state c WHERE c.room_nid = m.room_nid
        AND c.type = '{_MEMBER}' AND c.state_key = t.sender
        AND c.valid_from <= q.since AND c.valid_to > q.now OFFSET 0) c ON true
    LEFT JOIN event_graph cg ON cg.position = c.position
    WHERE s.originator_id = r.room_id) e ON true
WHERE m.user_id = %(user)s AND m.room_nid = %(room)s ORDER BY e.position"""  # noqa: S608 - our own text


def read_plain_news(
    connection: PgConnection, user_id: UserId, room_nid: int, since: int, now: int, now_ms: int
) -> PlainNews | None:
    """What happened in a room between two positions, if members cannot tell their answers apart.

    One statement, so one snapshot of the database.

    Returns None when something else happened: a change of state, an event on a branch, one that
    nobody is shown, one that the push rules must look at by itself; or when the user came later.

    Args:
        user_id: somebody who is in the room.
    """
    rows = connection.execute(
        _PLAIN_NEWS.encode(),
        {"user": user_id, "room": room_nid, "since": since, "now": now, "now_ms": now_ms},
        binary=True,
    ).fetchall()
    if not rows:
        return None
    view = RoomView(*rows[0][:11])
    joined, stirred, typing, receipts, has_new_state, shown = rows[0][11:17]
    found = [row[17:] for row in rows if row[17] is not None]
    is_plain = len(found) == shown and all(row[7] for row in found)
    if has_new_state or not is_plain or (view.join_position or now) > since:
        return None
    return PlainNews(
        view=view,
        joined=joined or 0,
        stirred=frozenset(stirred),
        typing=typing,
        receipts=[Receipt(room_nid, *receipt) for receipt in receipts or ()],
        events=[_plain_event(room_nid, *row) for row in found],
    )


def _plain_event(
    room_nid: int,
    position: int,
    sender: UserId,
    type: str,
    redacted_by: int | None,
    thread: str,
    notifies: int,
    has_url: bool,
    _is_plain: bool,
    stored: bytes | None,
    member: int | None,
    valid_from: int,
    valid_to: int,
    membership: str,
    member_redacted_by: int | None,
) -> PlainEvent:
    return PlainEvent(
        row=TimelineRow(
            room_nid=room_nid,
            ordering=position,
            position=position,
            sender=sender,
            is_state=False,
            type=type,
            resumes_at=None,
            redacted_by=redacted_by,
            state_at=None,
            overlay=None,
        ),
        thread=thread,
        notifies=notifies,
        has_url=has_url,
        member=None
        if member is None
        else StateRow(
            room_nid=room_nid,
            type=_MEMBER,
            state_key=sender,
            position=member,
            valid_from=valid_from,
            valid_to=valid_to,
            membership=membership,
            redacted_by=member_redacted_by,
        ),
        stored=stored,
    )
