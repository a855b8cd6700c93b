"""Questions about what a user has not read: how much, and which of it needs a closer look.

Each function asks one statement for any number of rooms.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import EventId, UserId
from architex.domain.pdu import Pdu
from architex.domain.room_versions import get_room_version
from architex.storage.pool import PgConnection
from architex.storage.room_facts import decode_pdu

MAIN: Final = "main"
"""In place of a thread's root: events in no thread."""

REDACTED: Final = "redacted"
"""In place of a thread: not what somebody read, but the newest redaction of the room."""


@dataclass(frozen=True, slots=True)
class UnreadSpan:
    """Which part of a room's timeline is asked for: `low < ordering <= high`.

    Attributes:
        low_of_main: instead of `low`, for what is in no thread.
    """

    room_nid: int
    low: int
    high: int
    low_of_main: int | None = None


@dataclass(frozen=True, slots=True)
class ReadUpTo:
    """How far a user has read.

    Attributes:
        thread: "" for the whole room, MAIN, or the event ID of a thread's root.
        ordering: of the last event that was read.
    """

    room_nid: int
    thread: str
    ordering: int


@dataclass(frozen=True, slots=True)
class AlikeEvents:
    """So many unread events of a type and thread, which the push rules cannot tell apart."""

    room_nid: int
    thread: str
    type: str
    count: int


@dataclass(frozen=True, slots=True)
class SpecialEvent:
    """An unread event that the push rules must look at by itself."""

    room_nid: int
    thread: str
    position: int
    redacted_by: int | None


def list_read_up_to(
    connection: PgConnection, user_id: UserId, room_nids: Collection[int]
) -> list[ReadUpTo]:
    """A user's own receipts, public and private, the newer of both for each thread.

    As REDACTED, the rooms' newest redactions: what was counted before one may be gone.
    """
    rows = connection.execute(
        "SELECT room_nid, thread_id, max(event_ordering) FROM receipts"
        " WHERE user_id = %(user)s AND room_nid = ANY(%(rooms)s) GROUP BY room_nid, thread_id"
        " UNION ALL SELECT r.room_nid, %(redacted)s, t.ordering"
        " FROM unnest(%(rooms)s::int8[]) AS r (room_nid) CROSS JOIN LATERAL"
        "  (SELECT ordering FROM timeline t WHERE t.room_nid = r.room_nid"
        "   AND t.type = 'm.room.redaction' ORDER BY ordering DESC LIMIT 1) t"
        " ORDER BY room_nid, thread_id",
        {"user": user_id, "rooms": list(room_nids), "redacted": REDACTED},
    )
    return [ReadUpTo(*row) for row in rows.fetchall()]


def list_spoken_up_to(
    connection: PgConnection, user_id: UserId, spans: Sequence[UnreadSpan]
) -> list[ReadUpTo]:
    """A user's own newest messages in spans, by thread: who speaks has read what was said before.

    Neither state nor redactions are messages: programs send them by the dozen.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#marking-notifications-as-read
    """
    rows = connection.execute(_SPOKEN, _params(user_id, spans, (), ())).fetchall()
    return [ReadUpTo(*row) for row in rows]


_SPOKEN: Final = """
SELECT s.room_nid, coalesce(t.thread, 'main'), max(t.ordering)
FROM unnest(%(rooms)s::int8[], %(lows)s::int8[], %(highs)s::int8[]) AS s (room_nid, low, high)
JOIN timeline t ON t.room_nid = s.room_nid AND t.ordering > s.low AND t.ordering <= s.high
WHERE t.sender = %(user)s AND NOT t.is_state AND t.type <> 'm.room.redaction' GROUP BY 1, 2"""


def find_thread(connection: PgConnection, room_nid: int, ordering: int) -> EventId | None:
    """The root of the thread that an event came in, redacted since or not; None for none."""
    row = connection.execute(
        "SELECT thread FROM timeline WHERE room_nid = %s AND ordering = %s", (room_nid, ordering)
    ).fetchone()
    return None if row is None else row[0]


# Nothing of a redacted event is left that anybody could be notified of.
_UNREDACTED: Final = """AND NOT EXISTS (SELECT FROM event_graph x
            WHERE x.position = t.position AND x.redacted_by IS NOT NULL)"""

_SPANS: Final = """
FROM unnest(%(rooms)s::int8[], %(lows)s::int8[], %(highs)s::int8[], %(lows_of_main)s::int8[])
    AS s (room_nid, low, high, low_of_main)
CROSS JOIN LATERAL (SELECT coalesce(t.thread, 'main') AS thread, t.type, t.position, t.ordering
    FROM timeline t WHERE t.room_nid = s.room_nid AND t.ordering > s.low AND t.ordering <= s.high
        AND (t.thread IS NOT NULL OR t.ordering > s.low_of_main)
        AND (t.thread IS NULL OR NOT EXISTS (SELECT
            FROM unnest(%(spoken_rooms)s::int8[], %(spoken_threads)s::text[], %(spoken)s::int8[])
                AS o (room_nid, thread, ordering)
            WHERE o.room_nid = t.room_nid AND o.thread = t.thread AND o.ordering >= t.ordering))
        AND t.notifies = ANY(%(classes)s::smallint[]) AND t.sender <> %(user)s
        AND (t.is_state OR NOT t.sender = ANY(%(ignored)s))
        AND NOT EXISTS (SELECT FROM receipts r WHERE r.user_id = %(user)s
            AND r.room_nid = s.room_nid AND r.thread_id = coalesce(t.thread, 'main')
            AND r.event_ordering >= t.ordering)
        {unredacted}
    {limit}) e """.replace("{unredacted}", _UNREDACTED)

_COUNT: Final = (
    "SELECT s.room_nid, e.thread, e.type, count(*)"
    + _SPANS.format(limit="")
    + "GROUP BY s.room_nid, e.thread, e.type"
)

_LIST: Final = (
    "SELECT s.room_nid, e.thread, e.position, g.redacted_by"
    + _SPANS.format(limit="ORDER BY t.ordering DESC LIMIT %(limit)s")
    + "JOIN event_graph g ON g.position = e.position"
)


def count_alike(
    connection: PgConnection,
    user_id: UserId,
    spans: Sequence[UnreadSpan],
    classes: Collection[int],
    ignored: Collection[UserId],
    spoken: Sequence[ReadUpTo] = (),
) -> list[AlikeEvents]:
    """How many events of others are unread in spans, by thread and type.

    Args:
        classes: of `Notifying`.
        ignored: users of whom only state events count.
        spoken: how far threads are read besides.
    """
    rows = connection.execute(_COUNT, _params(user_id, spans, classes, ignored, spoken))
    return [AlikeEvents(*row) for row in rows.fetchall()]


def list_special(
    connection: PgConnection,
    user_id: UserId,
    spans: Sequence[UnreadSpan],
    classes: Collection[int],
    ignored: Collection[UserId],
    limit: int,
    spoken: Sequence[ReadUpTo] = (),
) -> list[SpecialEvent]:
    """Unread events of others in spans, the newest of each room.

    Args:
        limit: how many in a room at most.
        spoken: how far threads are read besides.
    """
    params = {**_params(user_id, spans, classes, ignored, spoken), "limit": limit}
    return [SpecialEvent(*row) for row in connection.execute(_LIST, params).fetchall()]


def _params(
    user_id: UserId,
    spans: Sequence[UnreadSpan],
    classes: Collection[int],
    ignored: Collection[UserId],
    spoken: Sequence[ReadUpTo] = (),
) -> dict[str, object]:
    return {
        "user": user_id,
        "rooms": [span.room_nid for span in spans],
        "lows": [span.low for span in spans],
        "highs": [span.high for span in spans],
        "lows_of_main": [
            span.low if span.low_of_main is None else span.low_of_main for span in spans
        ],
        "spoken_rooms": [one.room_nid for one in spoken],
        "spoken_threads": [one.thread for one in spoken],
        "spoken": [one.ordering for one in spoken],
        "classes": list(classes),
        "ignored": list(ignored),
    }


def list_power_pdus(
    connection: PgConnection, room_nids: Collection[int]
) -> dict[int, tuple[Pdu, Pdu | None]]:
    """Room number → the current m.room.create and m.room.power_levels events."""
    rows = connection.execute(
        "SELECT r.room_nid, r.room_version, c.type, s.state FROM rooms r"
        " JOIN current_state c ON c.room_nid = r.room_nid AND c.state_key = ''"
        "  AND c.type = ANY('{m.room.create,m.room.power_levels}')"
        "  AND c.valid_to = 9223372036854775807"
        " JOIN stored_events s ON s.notification_id = c.position"
        " WHERE r.room_nid = ANY(%s) ORDER BY c.type",
        (list(room_nids),),
    )
    found: dict[int, tuple[Pdu, Pdu | None]] = {}
    for room_nid, version, type_, state in rows.fetchall():
        pdu = decode_pdu(state, get_room_version(version))
        if type_ == "m.room.create":
            found[room_nid] = (pdu, None)
        elif room_nid in found:
            found[room_nid] = (found[room_nid][0], pdu)
    return found


def list_own_names(
    connection: PgConnection, user_id: UserId, room_nids: Collection[int]
) -> dict[int, str]:
    """Room number → what a user is called there; rooms where they have no name are missing."""
    rows = connection.execute(
        "SELECT c.room_nid, r.room_version, s.state FROM current_state c"
        " JOIN rooms r USING (room_nid) JOIN stored_events s ON s.notification_id = c.position"
        " WHERE c.room_nid = ANY(%s) AND c.type = 'm.room.member' AND c.state_key = %s"
        " AND c.valid_to = 9223372036854775807",
        (list(room_nids), user_id),
    )
    names = {
        room_nid: decode_pdu(state, get_room_version(version)).content.get("displayname")
        for room_nid, version, state in rows.fetchall()
    }
    return {room_nid: name for room_nid, name in names.items() if isinstance(name, str)}


@dataclass(frozen=True, slots=True)
class Stay:
    """When a user was in a room without a break, or the moment when they were invited.

    Attributes:
        since, until: orderings; the m.room.member event stands at `since`.
    """

    room_nid: int
    is_invite: bool
    since: int
    until: int


# A profile that changes while somebody is in a room begins no new stay; each invite is its own.
_STAYS: Final = """
SELECT room_nid, bool_or(is_invite), min(valid_from),
    CASE WHEN bool_or(is_invite) THEN min(valid_from) ELSE max(valid_to) - 1 END
FROM (SELECT *, sum(begins) OVER (PARTITION BY room_nid ORDER BY valid_from) AS stay
    FROM (SELECT room_nid, valid_from, valid_to, membership = 'invite' AS is_invite,
            CASE WHEN membership = 'join' AND lag(membership) OVER times = 'join'
                AND lag(valid_to) OVER times = valid_from THEN 0 ELSE 1 END AS begins
        FROM current_state WHERE room_nid = ANY(%s) AND type = 'm.room.member' AND state_key = %s
            AND membership IN ('join', 'invite')
        WINDOW times AS (PARTITION BY room_nid ORDER BY valid_from)) m) n
GROUP BY room_nid, stay ORDER BY room_nid, min(valid_from)"""


def list_stays(
    connection: PgConnection, user_id: UserId, room_nids: Collection[int]
) -> list[Stay]:
    """A user's stays in rooms, and the invites to them, in the order of rooms and time."""
    rows = connection.execute(_STAYS, (list(room_nids), user_id)).fetchall()
    return [Stay(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class NotifyingEvent:
    """An event that may have notified a user.

    Attributes:
        is_read: whether a receipt of theirs is on it or after it.
    """

    room_nid: int
    thread: str
    position: int
    redacted_by: int | None
    ordering: int
    is_read: bool


_NEWEST: Final = """
SELECT s.room_nid, e.thread, e.position, g.redacted_by, e.ordering,
    EXISTS (SELECT FROM receipts r WHERE r.user_id = %(user)s AND r.room_nid = s.room_nid
        AND r.thread_id IN ('', e.thread) AND r.event_ordering >= e.ordering)
FROM unnest(%(rooms)s::int8[], %(lows)s::int8[], %(highs)s::int8[]) AS s (room_nid, low, high)
CROSS JOIN LATERAL (SELECT coalesce(t.thread, 'main') AS thread, t.position, t.ordering
    FROM timeline t WHERE t.room_nid = s.room_nid AND t.ordering > s.low AND t.ordering <= s.high
        AND t.notifies = ANY(%(classes)s::smallint[]) AND t.sender <> %(user)s
        AND (t.is_state OR NOT t.sender = ANY(%(ignored)s))
        {unredacted}
    ORDER BY t.ordering DESC LIMIT %(limit)s) e
JOIN event_graph g ON g.position = e.position
ORDER BY e.ordering DESC LIMIT %(limit)s""".replace("{unredacted}", _UNREDACTED)


def list_newest(
    connection: PgConnection,
    user_id: UserId,
    spans: Sequence[UnreadSpan],
    classes: Collection[int],
    ignored: Collection[UserId],
    limit: int,
) -> list[NotifyingEvent]:
    """The newest events of others in all spans together that may have notified a user."""
    params = {**_params(user_id, spans, classes, ignored), "limit": limit}
    return [NotifyingEvent(*row) for row in connection.execute(_NEWEST, params).fetchall()]
