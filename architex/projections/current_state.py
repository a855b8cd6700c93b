"""current_state: the state of each room, now and at every earlier position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

from architex.domain.identifiers import EventId, RoomId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.events import Fact, RecordedFact
from architex.domain.room_versions import get_room_version
from architex.projections.base import Projection, Timing
from architex.projections.earlier_members import (
    SELECT_FACTS,
    SaidMember,
    earlier_members,
    memberships_said,
)
from architex.storage.event_log import RoomHead
from architex.storage.fact_feed import STATE_MARKS
from architex.storage.pool import Execute, Params, PgConnection, Row
from architex.storage.room_facts import decode_pdu

FOREVER: Final = 2**63 - 1
"""`valid_to` of what is current."""


class CurrentState(Projection):
    """Writes `current_state`: an entry begins with a fact and ends with the next one's."""

    name: ClassVar[str] = "current_state"
    timing: ClassVar[Timing] = Timing.INLINE
    tables: ClassVar[tuple[str, ...]] = ("current_state",)
    marks: ClassVar[tuple[str, ...]] = STATE_MARKS

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """The earlier member events that the facts let stand again."""
        earlier = earlier_members(facts)
        return (SELECT_FACTS, (earlier,)) if earlier else None

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """End the entries that the facts replace, begin those that they set."""
        said = memberships_said(recorded, answer)
        for run in _runs(recorded):
            if len(run) > 1:
                _set_at_once(execute, run)
            else:
                self._apply(execute, run[0], said)

    def _apply(
        self, execute: Execute, r: RecordedFact, said: Mapping[EventId, SaidMember]
    ) -> None:
        changes = r.fact.state_changes
        if changes:
            self._end(execute, r, list(changes))
        earlier = []
        for (type_, state_key), event_id in changes.items():
            if event_id == r.pdu.event_id:
                execute(
                    "INSERT INTO current_state (room_nid, type, state_key, position,"
                    " valid_from, membership) VALUES (%s, %s, %s, %s, %s, %s)",
                    (
                        r.room_nid,
                        type_,
                        state_key,
                        r.event_position,
                        r.position,
                        _membership_said(r, type_),
                    ),
                )
            elif event_id is not None:
                earlier.append((type_, state_key, event_id))
        if earlier:
            self._set(execute, r, earlier, said)

    def _end(self, execute: Execute, r: RecordedFact, keys: Sequence[StateKey]) -> None:
        """Let entries end with a fact."""
        if len(keys) == 1:
            execute(
                "UPDATE current_state SET valid_to = %s WHERE room_nid = %s AND type = %s"
                " AND state_key = %s AND valid_to = 9223372036854775807",
                (r.position, r.room_nid, *keys[0]),
            )
            return
        execute(
            # Looked up key by key: else the planner may read the state of the room for each.
            "UPDATE current_state SET valid_to = %s WHERE ctid = ANY (ARRAY("
            " SELECT c.ctid FROM unnest(%s::text[], %s::text[]) AS k (type, state_key), LATERAL"
            " (SELECT c.ctid FROM current_state c WHERE c.room_nid = %s AND c.type = k.type"
            " AND c.state_key = k.state_key AND c.valid_to = 9223372036854775807 LIMIT 1) c))",
            (r.position, [type_ for type_, _ in keys], [key for _, key in keys], r.room_nid),
        )

    def _set(
        self,
        execute: Execute,
        r: RecordedFact,
        entries: Sequence[tuple[str, str, EventId]],
        said: Mapping[EventId, SaidMember],
    ) -> None:
        """Let events of earlier facts stand again."""
        execute(
            "INSERT INTO current_state (room_nid, type, state_key, position, valid_from,"
            " membership) SELECT %(room)s, k.type, k.state_key, g.position, %(from)s, k.membership"
            " FROM unnest(%(types)s::text[], %(keys)s::text[], %(events)s::text[],"
            "  %(memberships)s::text[]) AS k (type, state_key, event_id, membership)"
            " JOIN event_graph g USING (event_id)",
            {
                "room": r.room_nid,
                "from": r.position,
                "types": [type_ for type_, _, _ in entries],
                "keys": [key for _, key, _ in entries],
                "events": [event_id for _, _, event_id in entries],
                "memberships": [
                    told.membership if (told := said.get(event_id)) else None
                    for _, _, event_id in entries
                ],
            },
        )


def _runs(recorded: Sequence[RecordedFact]) -> list[list[RecordedFact]]:
    """The facts, cut into runs of those that set nothing but themselves, at different places.

    All others are alone.
    """
    runs: list[list[RecordedFact]] = []
    places: set[tuple[int, StateKey]] | None = None
    for r in recorded:
        changes = r.fact.state_changes
        own_change = next(iter(changes.items())) if len(changes) == 1 else None
        if own_change is None or own_change[1] != r.pdu.event_id:
            runs.append([r])
            places = None
            continue
        place = (r.room_nid, own_change[0])
        if places is None or place in places:
            runs.append([])
            places = set()
        runs[-1].append(r)
        places.add(place)
    return runs


def _set_at_once(execute: Execute, run: Sequence[RecordedFact]) -> None:
    """Let many facts, each of a place of its own, end what stood there and set themselves."""
    keys = [next(iter(r.fact.state_changes)) for r in run]
    columns = {
        "rooms": [r.room_nid for r in run],
        "types": [type_ for type_, _ in keys],
        "keys": [state_key for _, state_key in keys],
        "froms": [r.position for r in run],
    }
    execute(
        "UPDATE current_state u SET valid_to = e.valid_from FROM ("
        " SELECT c.ctid AS place, k.valid_from"
        " FROM unnest(%(rooms)b::int8[], %(types)b::text[], %(keys)b::text[], %(froms)b::int8[])"
        "  AS k (room_nid, type, state_key, valid_from), LATERAL"
        " (SELECT c.ctid FROM current_state c WHERE c.room_nid = k.room_nid AND c.type = k.type"
        "  AND c.state_key = k.state_key AND c.valid_to = 9223372036854775807 LIMIT 1) c) e"
        " WHERE u.ctid = e.place",
        columns,
    )
    execute(
        "INSERT INTO current_state (room_nid, type, state_key, position, valid_from, membership)"
        " SELECT * FROM unnest(%(rooms)b::int8[], %(types)b::text[], %(keys)b::text[],"
        " %(positions)b::int8[], %(froms)b::int8[], %(memberships)b::text[])",
        {
            **columns,
            "positions": [r.event_position for r in run],
            "memberships": [
                _membership_said(r, type_) for r, (type_, _) in zip(run, keys, strict=True)
            ],
        },
    )


def _membership_said(r: RecordedFact, type_: str) -> str | None:
    return r.content.get("membership") if type_ == "m.room.member" else None


def storable_keys(keys: Iterable[StateKey]) -> list[StateKey]:
    """Without those that hold U+0000: no state has such, and PostgreSQL cannot be asked.

    Events may: for the member that is to have authorised a join, or the token of an invite.
    """
    return [(type_, state_key) for type_, state_key in keys if "\0" not in type_ + state_key]


class CurrentStateFinder:
    """Looks up entries of current states for decisions."""

    def find_states(
        self, connection: PgConnection, keys: Sequence[tuple[RoomHead, StateKey]]
    ) -> Mapping[tuple[RoomId, StateKey], Pdu]:
        """The current events of those entries that exist; one query."""
        wanted = set(storable_keys(key for _, key in keys))
        keys = [(head, key) for head, key in keys if key in wanted]
        heads = {head.room_nid: head for head, _ in keys}
        rows = connection.execute(
            "SELECT k.room_nid, k.type, k.state_key, s.state"
            " FROM unnest(%s::int8[], %s::text[], %s::text[]) AS k (room_nid, type, state_key),"
            " LATERAL (SELECT c.position FROM current_state c WHERE c.room_nid = k.room_nid"
            " AND c.type = k.type AND c.state_key = k.state_key"
            " AND c.valid_to = 9223372036854775807 LIMIT 1) c"
            " JOIN stored_events s ON s.notification_id = c.position",
            (
                [head.room_nid for head, _ in keys],
                [type_ for _, (type_, _) in keys],
                [state_key for _, (_, state_key) in keys],
            ),
        )
        return {
            (heads[room_nid].room_id, (type_, state_key)): decode_pdu(
                state, get_room_version(heads[room_nid].room_version)
            )
            for room_nid, type_, state_key, state in rows.fetchall()
        }
