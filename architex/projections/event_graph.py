"""event_graph: every event of every room, its verdict, what it follows, and what is missing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

import orjson

from architex.domain.identifiers import EventId, UserId, server_name_of
from architex.domain.room.events import (
    ACCEPTED,
    Fact,
    JoinImported,
    RecordedFact,
    may_come_from_outside,
)
from architex.projections.base import Projection, Timing
from architex.storage.pool import Execute, Params, Row

MAX_REMEMBERED: Final = 20_000


_SELECT_POSITIONS_AND_FACTS: Final = """
SELECT event_id, position, NULL::bytea FROM event_graph WHERE event_id = ANY(%s)
UNION ALL
SELECT g.event_id, NULL, s.state FROM event_graph g
JOIN stored_events s ON s.notification_id = g.position WHERE g.event_id = ANY(%s)"""


class EventGraph(Projection):
    """Writes `event_graph`: event ID → position, verdict, depth, edges, redaction."""

    name: ClassVar[str] = "event_graph"
    timing: ClassVar[Timing] = Timing.INLINE
    tables: ClassVar[tuple[str, ...]] = (
        "event_graph",
        "redactions",
        "state_overlays",
        "overlay_entries",
        "missing_events",
    )

    def __init__(self) -> None:
        # Positions of events that others lately referred to.
        self._positions: OrderedDict[EventId, int] = OrderedDict()

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """The positions of earlier events that these refer to, as far as not remembered."""
        own = {fact.pdu.event_id for fact in facts}
        wanted = {
            event_id
            for fact in facts
            for event_id in referred_events(fact)
            if event_id not in own and event_id not in self._positions
        }
        redacted = [
            fact.pdu.redacts
            for fact in facts
            if fact.redaction_server is not None and fact.pdu.redacts is not None
        ]
        if not wanted and not redacted:
            return None
        return _SELECT_POSITIONS_AND_FACTS, (list(wanted), redacted)

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Add the events; mark those that they redact."""
        positions: dict[EventId, int] = {
            event_id: position for event_id, position, _ in answer if position is not None
        }
        senders = {r.pdu.event_id: r.pdu.sender for r in recorded}
        for event_id, _, state in answer:
            if state is not None:
                senders[event_id] = orjson.loads(state)["pdu"]["sender"]
        positions.update((r.pdu.event_id, r.event_position) for r in recorded)
        for recorded_fact in recorded:
            for event_id in referred_events(recorded_fact.fact):
                if event_id not in positions and event_id in self._positions:
                    positions[event_id] = self._positions[event_id]
        plain = [r for r in recorded if _is_plain(r.fact)]
        if len(plain) > 1:
            _write_events(execute, plain, positions)
        for r in recorded:
            if len(plain) <= 1 or not _is_plain(r.fact):
                _write_event(execute, r, positions)
            _write_overlay(execute, r, positions)
            target = r.pdu.redacts
            if r.fact.verdict == ACCEPTED and target is not None:
                _write_redaction(execute, r, target, senders.get(target))
            if _may_touch_gaps(r.fact):
                _write_gaps(execute, r)
        self._remember(positions)

    def _remember(self, positions: dict[EventId, int]) -> None:
        for event_id, position in positions.items():
            self._positions[event_id] = position
            self._positions.move_to_end(event_id)
        while len(self._positions) > MAX_REMEMBERED:
            self._positions.popitem(last=False)


def _write_event(execute: Execute, r: RecordedFact, positions: Mapping[EventId, int]) -> None:
    """Add an event; or say of one that was an outlier where it stands."""
    before = r.fact.before
    state_at = None if before is None else before.at
    overlay = None if before is None else before.overlay
    if before is not None and before.entries:
        overlay = r.position
    prev_events = _known(r, r.pdu.prev_events, positions)
    is_placed = _is_placed(r.fact)
    if r.fact.known_at is not None:
        execute(
            "UPDATE event_graph SET verdict = %s, prev_events = %s::int8[], state_at = %s,"
            " overlay = %s, is_outlier = %s, is_placed = %s, is_followed = %s, ordering = %s"
            " WHERE position = %s",
            (
                r.fact.verdict,
                prev_events,
                state_at,
                overlay,
                r.fact.is_outlier,
                is_placed,
                r.fact.is_followed,
                _moved_to(r),
                r.event_position,
            ),
        )
        return
    execute(
        "INSERT INTO event_graph (position, room_nid, event_id, verdict, depth,"
        " prev_events, auth_events, is_state, state_at, overlay, is_outlier, is_placed,"
        " is_followed, ordering, redacted_by)"
        " VALUES (%s, %s, %s, %s, %s, %s::int8[], %s::int8[], %s, %s, %s, %s, %s, %s, %s,"
        # The redaction may have come first.
        " (SELECT min(position) FROM redactions WHERE room_nid = %s AND event_id = %s"
        "  AND (server IS NULL OR server = %s)))",
        (
            r.position,
            r.room_nid,
            r.pdu.event_id,
            r.fact.verdict,
            r.pdu.depth,
            prev_events,
            _known(r, r.pdu.auth_events, positions),
            r.pdu.is_state,
            state_at,
            overlay,
            r.fact.is_outlier,
            is_placed,
            r.fact.is_followed,
            _moved_to(r),
            r.room_nid,
            r.pdu.event_id,
            server_name_of(r.pdu.sender),
        ),
    )


def _is_plain(fact: Fact) -> bool:
    """Whether nothing is to be said of an event but what itself says: an outlier, new to us.

    It has no place yet, so it does not matter to others whether it comes before or after them.
    """
    return not _is_placed(fact) and fact.known_at is None and fact.before is None


def _write_events(
    execute: Execute, plain: Sequence[RecordedFact], positions: Mapping[EventId, int]
) -> None:
    """Add many such events, as they come with a large room."""
    execute(
        "INSERT INTO event_graph (position, room_nid, event_id, verdict, depth,"
        " prev_events, auth_events, is_state, is_outlier, is_placed, redacted_by)"
        " SELECT e.position, e.room_nid, e.event_id, e.verdict, e.depth, e.prev_events::int8[],"
        "  e.auth_events::int8[], e.is_state, true, false,"
        "  (SELECT min(r.position) FROM redactions r WHERE r.room_nid = e.room_nid"
        "   AND r.event_id = e.event_id AND (r.server IS NULL OR r.server = e.server))"
        " FROM unnest(%b::int8[], %b::int8[], %b::text[], %b::int2[], %b::int8[], %b::text[],"
        "  %b::text[], %b::bool[], %b::text[])"
        " AS e (position, room_nid, event_id, verdict, depth, prev_events, auth_events, is_state,"
        "  server)",
        (
            [r.position for r in plain],
            [r.room_nid for r in plain],
            [r.pdu.event_id for r in plain],
            [r.fact.verdict for r in plain],
            [r.pdu.depth for r in plain],
            # Arrays of arrays must be rectangular; so each is a text.
            [_array_text(_known(r, r.pdu.prev_events, positions)) for r in plain],
            [_array_text(_known(r, r.pdu.auth_events, positions)) for r in plain],
            [r.pdu.is_state for r in plain],
            [server_name_of(r.pdu.sender) for r in plain],
        ),
    )


def _known(
    r: RecordedFact, event_ids: Iterable[EventId], positions: Mapping[EventId, int]
) -> list[int]:
    """The positions of those of the events that we knew when this one came."""
    found = (positions[event_id] for event_id in event_ids if event_id in positions)
    return [position for position in found if position < r.position]


def _array_text(numbers: Iterable[int]) -> str:
    """An array as PostgreSQL writes it."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _write_overlay(execute: Execute, r: RecordedFact, positions: Mapping[EventId, int]) -> None:
    before = r.fact.before
    if before is None or not before.entries:
        return
    execute(
        "INSERT INTO state_overlays (overlay, parent) VALUES (%s, %s)",
        (r.position, before.overlay),
    )
    execute(
        "INSERT INTO overlay_entries (overlay, type, state_key, position)"
        " SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::int8[])",
        (
            r.position,
            [type_ for type_, _ in before.entries],
            [state_key for _, state_key in before.entries],
            [None if entry is None else positions[entry] for entry in before.entries.values()],
        ),
    )


def _write_redaction(
    execute: Execute, r: RecordedFact, target: EventId, sender: UserId | None
) -> None:
    execute(
        "INSERT INTO redactions (room_nid, event_id, position, server) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (r.room_nid, target, r.event_position, r.fact.redaction_server),
    )
    if r.fact.redacts_event_of(sender):
        execute(
            "UPDATE event_graph SET redacted_by = %s"
            " WHERE event_id = %s AND room_nid = %s AND redacted_by IS NULL",
            (r.event_position, target, r.room_nid),
        )


def _may_touch_gaps(fact: Fact) -> bool:
    """Whether what the event follows may be missing, or the event itself may have been.

    An event that simply follows the end of its room is new, and follows what we have.
    """
    return _is_placed(fact) and (
        fact.before is not None or fact.is_outlier or isinstance(fact, JoinImported)
    )


def _is_placed(fact: Fact) -> bool:
    """Whether the event has a place in the history: it is known what follows it."""
    return not fact.is_outlier or fact.ordering is not None


def _moved_to(r: RecordedFact) -> int | None:
    """Where an accepted event stands in the history, if that is not its position."""
    if r.fact.verdict != ACCEPTED or not _is_placed(r.fact) or r.ordering == r.event_position:
        return None
    return r.ordering


def _write_gaps(execute: Execute, r: RecordedFact) -> None:
    """Give the event its place in the history, and remember what is missing before it."""
    place = {"room": r.room_nid, "event": r.pdu.event_id, "position": r.event_position}
    execute(
        "WITH filled AS (DELETE FROM missing_events WHERE room_nid = %(room)s"
        "  AND event_id = %(event)s RETURNING follower)"
        " UPDATE event_graph SET prev_events = array_append(prev_events, %(position)s)"
        " WHERE position IN (SELECT follower FROM filled)"
        " AND NOT %(position)s = ANY(prev_events)",
        place,
    )
    if r.fact.verdict == ACCEPTED:
        execute(
            "INSERT INTO missing_events (room_nid, event_id, follower)"
            " SELECT %(room)s, p.event_id, %(position)s FROM unnest(%(prev)s::text[])"
            "  AS p (event_id) WHERE NOT EXISTS (SELECT FROM event_graph g"
            "  WHERE g.event_id = p.event_id AND g.room_nid = %(room)s AND g.is_placed)"
            " ON CONFLICT DO NOTHING",
            {**place, "prev": list(r.pdu.prev_events)},
        )


def referred_events(fact: Fact) -> Iterable[EventId]:
    """The events that an event follows, is authorised by, or has in the state before it."""
    yield from fact.pdu.prev_events
    yield from fact.pdu.auth_events
    if fact.before is not None:
        yield from (event_id for event_id in fact.before.entries.values() if event_id is not None)


def required_events(fact: Fact) -> Iterable[EventId]:
    """Those of the `referred_events` that the log must have had before the fact.

    What an event follows need not be there: if it is an outlier, or if the state before it came
    from another server.
    """
    if may_come_from_outside(fact):
        return
    may_lack = fact.is_outlier or fact.before is not None or isinstance(fact, JoinImported)
    yield from (() if may_lack else fact.pdu.prev_events)
    yield from fact.pdu.auth_events
    if fact.before is not None:
        yield from (event_id for event_id in fact.before.entries.values() if event_id is not None)
