"""States where branches stand and meet: looked up, compared, their auth chains and differences.

Everything costs what the branches changed. A state is named by a `StateBefore`: the current state
at a position, an overlay, further entries. Nothing here ever lists a whole state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeAlias

import orjson
from pyroaring import BitMap64

from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey, parse_pdu
from architex.domain.room.events import REJECTED, StateBefore
from architex.domain.room_versions import RoomVersionRules
from architex.storage.pool import PgConnection

Entries: TypeAlias = Mapping[StateKey, EventId | None]

MAX_REMEMBERED_PDUS: Final = 20_000
MAX_REMEMBERED_OVERLAYS: Final = 500
NEWCOMER: Final = 2**62
"""Stands for the position of an event that has none yet."""


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """An event that the log has.

    Attributes:
        position: of its fact.
        before: the state before it; None when it followed the end of the room as it then was.
    """

    pdu: Pdu
    verdict: int
    position: int
    before: StateBefore | None

    @property
    def state_after(self) -> StateBefore:
        """The state after the event."""
        changes_state = self.pdu.state_key is not None and self.verdict != REJECTED
        own = {self.pdu.key: self.pdu.event_id} if changes_state else {}
        if self.before is None:
            # An accepted event is in the current state at its own position.
            return StateBefore(self.position, None, own)
        return StateBefore(self.before.at, self.before.overlay, own)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What several states differ in.

    Attributes:
        difference: the auth difference.
        subgraph: events on paths of auth events between conflicted ones (room version 12).
        chain: all events that authorise the conflicted ones, and these.
    """

    difference: AbstractSet[EventId]
    subgraph: AbstractSet[EventId]
    chain: AbstractSet[EventId]


class BranchStates:
    """Reads `event_graph`, `current_state` and the overlays."""

    def __init__(self) -> None:
        self._pdus: OrderedDict[EventId, Pdu] = OrderedDict()
        self._overlays: OrderedDict[int, Entries] = OrderedDict()

    # Events

    def find_events(
        self,
        connection: PgConnection,
        room_nid: int,
        rules: RoomVersionRules,
        event_ids: Collection[EventId],
    ) -> dict[EventId, KnownEvent]:
        """Those of the events that the room's log has, whatever their verdict; one query."""
        if not event_ids:
            return {}
        rows = connection.execute(
            "SELECT g.event_id, g.verdict, g.position, g.state_at, g.overlay, s.state"
            " FROM event_graph g JOIN stored_events s ON s.notification_id = g.position"
            " WHERE g.event_id = ANY(%s) AND g.room_nid = %s",
            (list(event_ids), room_nid),
        ).fetchall()
        return {
            event_id: KnownEvent(
                self._parse(rules, event_id, state),
                verdict,
                position,
                None if state_at is None else StateBefore(state_at, overlay),
            )
            for event_id, verdict, position, state_at, overlay, state in rows
        }

    def find_pdus(
        self, connection: PgConnection, rules: RoomVersionRules, event_ids: Iterable[EventId]
    ) -> dict[EventId, Pdu]:
        """Those of the events that the log has; at most one query."""
        found = {}
        missing = []
        for event_id in event_ids:
            pdu = self._pdus.get(event_id)
            if pdu is None:
                missing.append(event_id)
            else:
                found[event_id] = pdu
        if missing:
            rows = connection.execute(
                "SELECT g.event_id, s.state FROM event_graph g"
                " JOIN stored_events s ON s.notification_id = g.position"
                " WHERE g.event_id = ANY(%s)",
                (missing,),
            )
            for event_id, state in rows.fetchall():
                found[event_id] = self._parse(rules, event_id, state)
        return found

    def find_rejected(
        self, connection: PgConnection, event_ids: Iterable[EventId]
    ) -> set[EventId]:
        """Those of the events that were rejected."""
        rows = connection.execute(
            "SELECT event_id FROM event_graph WHERE event_id = ANY(%s) AND verdict = %s",
            (list(event_ids), REJECTED),
        )
        return {row[0] for row in rows.fetchall()}

    # Entries of states

    def find_entries(
        self,
        connection: PgConnection,
        room_nid: int,
        state: StateBefore,
        keys: Collection[StateKey],
    ) -> dict[StateKey, EventId]:
        """The events that a state has under `keys`."""
        found: dict[StateKey, EventId | None] = {}
        found.update(self._entries_at(connection, room_nid, state.at, keys))
        changes = self._changes(connection, state)
        for key in keys:
            if key in changes:
                found[key] = changes[key]
        return {key: event_id for key, event_id in found.items() if event_id is not None}

    def compare(
        self, connection: PgConnection, room_nid: int, states: Sequence[StateBefore]
    ) -> dict[StateKey, list[EventId | None]]:
        """The entries in which states differ: for each, the event in each state, or None."""
        positions = sorted({state.at for state in states})
        keys: set[StateKey] = set()
        if len(positions) > 1:
            rows = connection.execute(
                "SELECT type, state_key FROM current_state WHERE room_nid = %(room)s"
                " AND valid_from > %(low)s AND valid_from <= %(high)s"
                " UNION SELECT type, state_key FROM current_state WHERE room_nid = %(room)s"
                " AND valid_to > %(low)s AND valid_to <= %(high)s"
                " AND valid_to < 9223372036854775807",
                {"room": room_nid, "low": positions[0], "high": positions[-1]},
            )
            keys.update((type_, state_key) for type_, state_key in rows.fetchall())
        changes = [self._changes(connection, state) for state in states]
        for changed in changes:
            keys.update(changed)
        history = self._history(connection, room_nid, keys, positions[0], positions[-1])
        compared: dict[StateKey, list[EventId | None]] = {}
        for key in keys:
            values = [
                changed[key] if key in changed else _value_at(history.get(key, ()), state.at)
                for state, changed in zip(states, changes, strict=True)
            ]
            if any(value != values[0] for value in values):
                compared[key] = values
        return compared

    # Auth chains

    def disagreement(
        self,
        connection: PgConnection,
        room_nid: int,
        states: Sequence[StateBefore],
        values: Mapping[StateKey, Sequence[EventId | None]],
        newcomer: Pdu | None = None,
    ) -> Disagreement:
        """The auth difference and the conflicted subgraph of states that differ in `values`.

        Args:
            newcomer: an event in one of the states that is not recorded yet.
        """
        conflicted = {
            event_id for row in values.values() for event_id in row if event_id is not None
        }
        ids, chains = self._load_chains(connection, conflicted, newcomer)
        positions = {event_id: position for position, event_id in ids.items()}
        full: list[BitMap64] = []
        for place in range(len(states)):
            chain = BitMap64()
            for row in values.values():
                event_id = row[place]
                if event_id is not None and event_id in positions:
                    chain |= chains[positions[event_id]]
                    chain.add(positions[event_id])
            full.append(chain)
        somewhere = BitMap64.union(*full)
        everywhere = BitMap64.intersection(*full)
        conflicted_positions = BitMap64(positions[e] for e in conflicted if e in positions)
        candidates = somewhere - everywhere - conflicted_positions
        shared = self._authorising_unconflicted(
            connection, room_nid, states, set(values), candidates
        )
        difference = (somewhere - everywhere) - shared
        subgraph = {
            ids[position]
            for position in somewhere
            if position in conflicted_positions or chains[position] & conflicted_positions
        }
        return Disagreement({ids[p] for p in difference}, subgraph, frozenset(ids.values()))

    def _load_chains(
        self, connection: PgConnection, event_ids: Collection[EventId], newcomer: Pdu | None
    ) -> tuple[dict[int, EventId], dict[int, BitMap64]]:
        """Position → event ID and position → auth chain, for the events and their chains."""
        wanted = [*event_ids, *(() if newcomer is None else newcomer.auth_events)]
        rows = connection.execute(
            "WITH RECURSIVE chain (position) AS ("
            " SELECT position FROM event_graph WHERE event_id = ANY(%s)"
            " UNION SELECT unnest(g.auth_events) FROM chain JOIN event_graph g USING (position))"
            " SELECT g.position, g.event_id, g.auth_events"
            " FROM chain JOIN event_graph g USING (position) ORDER BY g.position",
            (wanted,),
        ).fetchall()
        ids: dict[int, EventId] = {}
        chains: dict[int, BitMap64] = {}
        # Facts come after those that authorise them, so one pass in order of position is enough.
        for position, event_id, auth_events in rows:
            ids[position] = event_id
            chain = BitMap64(auth_events)
            for auth_position in auth_events:
                chain |= chains.get(auth_position, _EMPTY)
            chains[position] = chain
        if newcomer is not None:
            positions = {event_id: position for position, event_id in ids.items()}
            authorising = [positions[event_id] for event_id in newcomer.auth_events]
            ids[NEWCOMER] = newcomer.event_id
            chains[NEWCOMER] = BitMap64.union(
                BitMap64(authorising), *(chains[position] for position in authorising)
            )
        return ids, chains

    def _authorising_unconflicted(
        self,
        connection: PgConnection,
        room_nid: int,
        states: Sequence[StateBefore],
        conflicted_keys: Collection[StateKey],
        candidates: BitMap64,
    ) -> BitMap64:
        """Those of the candidates that every state has, or is authorised by, beside the conflict.

        Instead of walking the chains of whole states down, it walks from each candidate up to the
        events it authorises, and stops at the first that all states share.
        """
        shared = BitMap64()
        low = min(state.at for state in states)
        high = max(state.at for state in states)
        types = [type_ for type_, _ in conflicted_keys]
        state_keys = [state_key for _, state_key in conflicted_keys]
        for candidate in candidates:
            seen = {candidate}
            frontier = [candidate]
            while frontier:
                row = connection.execute(
                    "SELECT 1 FROM current_state c WHERE c.room_nid = %(room)s"
                    " AND c.valid_from <= %(low)s AND c.valid_to > %(high)s"
                    " AND (c.position = ANY(%(these)s) OR c.position IN"
                    "  (SELECT g.position FROM event_graph g"
                    "   WHERE g.is_state AND g.auth_events && %(these)s::int8[]))"
                    " AND NOT EXISTS (SELECT 1 FROM unnest(%(types)s::text[], %(keys)s::text[])"
                    "  AS k (type, state_key) WHERE k.type = c.type AND k.state_key = c.state_key)"
                    " LIMIT 1",
                    {
                        "room": room_nid,
                        "low": low,
                        "high": high,
                        "these": frontier,
                        "types": types,
                        "keys": state_keys,
                    },
                ).fetchone()
                if row is not None:
                    shared.add(candidate)
                    break
                children = connection.execute(
                    "SELECT position FROM event_graph WHERE is_state AND verdict < %s"
                    " AND auth_events && %s::int8[]",
                    (REJECTED, frontier),
                ).fetchall()
                frontier = [child for (child,) in children if child not in seen]
                seen.update(frontier)
        return shared

    # Within

    def _entries_at(
        self, connection: PgConnection, room_nid: int, at: int, keys: Collection[StateKey]
    ) -> dict[StateKey, EventId]:
        if not keys:
            return {}
        rows = connection.execute(
            "SELECT c.type, c.state_key, g.event_id"
            " FROM unnest(%s::text[], %s::text[]) AS k (type, state_key)"
            " JOIN current_state c ON c.room_nid = %s AND c.type = k.type"
            " AND c.state_key = k.state_key AND c.valid_from <= %s AND c.valid_to > %s"
            " JOIN event_graph g ON g.position = c.position",
            (
                [type_ for type_, _ in keys],
                [state_key for _, state_key in keys],
                room_nid,
                at,
                at,
            ),
        )
        return {(type_, state_key): event_id for type_, state_key, event_id in rows.fetchall()}

    def _history(
        self,
        connection: PgConnection,
        room_nid: int,
        keys: Collection[StateKey],
        low: int,
        high: int,
    ) -> dict[StateKey, list[tuple[int, int, EventId]]]:
        """Under `keys`, what stood between two positions: (valid from, valid to, event)."""
        if not keys:
            return {}
        rows = connection.execute(
            "SELECT c.type, c.state_key, c.valid_from, c.valid_to, g.event_id"
            " FROM unnest(%s::text[], %s::text[]) AS k (type, state_key)"
            " JOIN current_state c ON c.room_nid = %s AND c.type = k.type"
            " AND c.state_key = k.state_key AND c.valid_from <= %s AND c.valid_to > %s"
            " JOIN event_graph g ON g.position = c.position ORDER BY c.valid_from",
            (
                [type_ for type_, _ in keys],
                [state_key for _, state_key in keys],
                room_nid,
                high,
                low,
            ),
        )
        history: dict[StateKey, list[tuple[int, int, EventId]]] = {}
        for type_, state_key, valid_from, valid_to, event_id in rows.fetchall():
            history.setdefault((type_, state_key), []).append((valid_from, valid_to, event_id))
        return history

    def _changes(self, connection: PgConnection, state: StateBefore) -> Entries:
        """What a state has otherwise than the current state at its position."""
        if state.overlay is None:
            return state.entries
        return {**self._overlay(connection, state.overlay), **state.entries}

    def _overlay(self, connection: PgConnection, overlay: int) -> Entries:
        """All changes of an overlay and those it stands on."""
        known = self._overlays.get(overlay)
        if known is None:
            rows = connection.execute(
                "WITH RECURSIVE stack (overlay, parent, above) AS ("
                " SELECT overlay, parent, 0 FROM state_overlays WHERE overlay = %s"
                " UNION ALL SELECT o.overlay, o.parent, s.above + 1 FROM stack s"
                " JOIN state_overlays o ON o.overlay = s.parent)"
                " SELECT e.type, e.state_key, g.event_id"
                " FROM stack s JOIN overlay_entries e USING (overlay)"
                " LEFT JOIN event_graph g ON g.position = e.position ORDER BY s.above DESC",
                (overlay,),
            )
            known = {(type_, key): event_id for type_, key, event_id in rows.fetchall()}
            self._overlays[overlay] = known
            while len(self._overlays) > MAX_REMEMBERED_OVERLAYS:
                self._overlays.popitem(last=False)
        return known

    def _parse(self, rules: RoomVersionRules, event_id: EventId, state: bytes) -> Pdu:
        pdu = self._pdus.get(event_id)
        if pdu is None:
            pdu = parse_pdu(rules, orjson.loads(state)["pdu"], event_id=event_id)
            self._pdus[event_id] = pdu
            while len(self._pdus) > MAX_REMEMBERED_PDUS:
                self._pdus.popitem(last=False)
        return pdu


def _value_at(spans: Sequence[tuple[int, int, EventId]], at: int) -> EventId | None:
    """The event of the span that a position lies in."""
    place = bisect_right(spans, at, key=_span_start) - 1
    return spans[place][2] if place >= 0 and at < spans[place][1] else None


def _span_start(span: tuple[int, int, EventId]) -> int:
    return span[0]


_EMPTY: Final = BitMap64()
