"""States where branches stand and meet: looked up, compared, their auth chains and differences.

Everything costs what the branches changed. A state is named by a `StateBefore`: the current state
at a position, an overlay, further entries. Nothing here ever lists a whole state.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import immutables
import orjson

from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey, parse_pdu
from architex.domain.room.events import REJECTED, StateBefore
from architex.domain.room_versions import RoomVersionRules
from architex.domain.state_resolution import FindPdu
from architex.projections.current_state import storable_keys
from architex.projections.disagreements import Disagreement, find_disagreement
from architex.storage.pool import PgConnection

Entries: TypeAlias = Mapping[StateKey, EventId | None]
Overlay: TypeAlias = immutables.Map[StateKey, EventId | None]

MAX_REMEMBERED_PDU_BYTES: Final = 8 * 2**20
"""Of JSON; as Python's objects they take about five times as much."""

MAX_REMEMBERED_PLACES: Final = 20_000
MAX_REMEMBERED_ENTRIES: Final = 100_000
"""Entries of overlays; what one has in common with its parent counts once."""

MAX_LOADED_AHEAD: Final = 100
"""How many events of an auth chain are loaded together with the one that is asked for."""

_CHAIN_OF_ONE: Final = """
WITH RECURSIVE chain (position) AS (
 SELECT position FROM event_graph WHERE event_id = %s
 UNION SELECT unnest(g.auth_events) FROM chain JOIN event_graph g USING (position))
SELECT g.event_id, s.state FROM chain JOIN event_graph g USING (position)
JOIN stored_events s ON s.notification_id = g.position LIMIT %s"""


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """An event that the log has.

    Attributes:
        position: of its fact.
        before: the state before it; None when it followed the end of the room as it then was.
        is_outlier: the state before it is not known.
        is_placed: it has a place in the history.
        is_followed: when it came, others were here that follow it.
    """

    pdu: Pdu
    verdict: int
    position: int
    before: StateBefore | None
    is_outlier: bool = False
    is_placed: bool = True
    is_followed: bool = False

    @property
    def state_after(self) -> StateBefore:
        """The state after the event.

        Raises:
            ValueError: it is an outlier.
        """
        if self.is_outlier:
            raise ValueError(f"nobody knows the state after {self.pdu.event_id}")
        changes_state = self.pdu.state_key is not None and self.verdict != REJECTED
        own = {self.pdu.key: self.pdu.event_id} if changes_state else {}
        if self.before is None:
            # An accepted event is in the current state at its own position.
            return StateBefore(self.position, None, own)
        # Entries of its own it has only while it is no overlay yet: of a state that was told.
        entries = {**self.before.entries, **own}
        return StateBefore(self.before.at, self.before.overlay, entries)


@dataclass(frozen=True, slots=True)
class _Place:
    """What never changes of an event in the graph."""

    room_nid: int
    verdict: int
    position: int
    before: StateBefore | None
    is_followed: bool


class BranchStates:
    """Reads `event_graph`, `current_state` and the overlays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pdus: OrderedDict[EventId, tuple[Pdu, int]] = OrderedDict()
        self._pdu_bytes = 0
        self._places: OrderedDict[EventId, _Place] = OrderedDict()
        self._overlays: OrderedDict[int, tuple[Overlay, int]] = OrderedDict()
        self._overlay_entries = 0

    # Events

    def find_events(
        self,
        connection: PgConnection,
        room_nid: int,
        rules: RoomVersionRules,
        event_ids: Collection[EventId],
    ) -> dict[EventId, KnownEvent]:
        """Those of the events that the room's log has, whatever their verdict; one query."""
        found: dict[EventId, KnownEvent] = {}
        missing = []
        for event_id in event_ids:
            place, pdu = self._places.get(event_id), self._find_remembered(event_id)
            if place is None or pdu is None:
                missing.append(event_id)
            elif place.room_nid == room_nid:
                found[event_id] = KnownEvent(
                    pdu,
                    place.verdict,
                    place.position,
                    place.before,
                    is_followed=place.is_followed,
                )
        if not missing:
            return found
        rows = connection.execute(
            "SELECT g.event_id, g.verdict, g.position, g.state_at, g.overlay, g.is_outlier,"
            " g.is_placed, g.is_followed, s.state FROM event_graph g"
            " JOIN stored_events s ON s.notification_id = g.position"
            " WHERE g.event_id = ANY(%b) AND g.room_nid = %s",
            (missing, room_nid),
        ).fetchall()
        for row in rows:
            event_id, verdict, position, state_at, overlay, outlier, placed, followed, state = row
            before = None if state_at is None else StateBefore(state_at, overlay)
            pdu = self._parse(rules, event_id, state)
            found[event_id] = KnownEvent(pdu, verdict, position, before, outlier, placed, followed)
            if outlier:  # it may get its place
                continue
            with self._lock:
                self._places[event_id] = _Place(room_nid, verdict, position, before, followed)
                while len(self._places) > MAX_REMEMBERED_PLACES:
                    self._places.popitem(last=False)
        return found

    def find_elsewhere(
        self, connection: PgConnection, room_nid: int, event_ids: Collection[EventId]
    ) -> set[EventId]:
        """Those of the event IDs that an event of another room has.

        For room versions 1 and 2, where whoever makes an event chooses its ID.
        """
        rows = connection.execute(
            "SELECT event_id FROM event_graph WHERE event_id = ANY(%s) AND room_nid <> %s",
            (list(event_ids), room_nid),
        )
        return {event_id for (event_id,) in rows.fetchall()}

    def find_pdus(
        self, connection: PgConnection, rules: RoomVersionRules, event_ids: Iterable[EventId]
    ) -> dict[EventId, Pdu]:
        """Those of the events that the log has; at most one query."""
        found = {}
        missing = []
        for event_id in event_ids:
            pdu = self._find_remembered(event_id)
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

    def pdu_finder(
        self, connection: PgConnection, rules: RoomVersionRules, at_hand: Mapping[EventId, Pdu]
    ) -> FindPdu:
        """A lookup of events at hand, and of all others when somebody asks for them.

        Who walks down a long auth chain gets it piece by piece, and nobody has it whole.
        """

        def find(event_id: EventId) -> Pdu | None:
            pdu = at_hand.get(event_id) or self._find_remembered(event_id)
            if pdu is None:
                rows = connection.execute(_CHAIN_OF_ONE, (event_id, MAX_LOADED_AHEAD))
                for ahead_id, state in rows.fetchall():
                    ahead = self._parse(rules, ahead_id, state)
                    if ahead_id == event_id:
                        pdu = ahead
            return pdu

        return find

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

    def compare_told(
        self,
        connection: PgConnection,
        room_nid: int,
        rules: RoomVersionRules,
        told: Collection[EventId],
    ) -> dict[StateKey, EventId | None]:
        """How a state that another server told differs from the current state of a room.

        Costs one comparison by event IDs; only what differs is loaded.

        Args:
            told: the events of that state; those that the log does not have, and those that are
                rejected or no state events, are left out.
        """
        told = list(told)
        rows = connection.execute(
            "WITH told AS MATERIALIZED (SELECT DISTINCT g.position FROM unnest(%(told)b::text[])"
            "  AS t (event_id), LATERAL (SELECT g.position, g.room_nid, g.is_state, g.verdict"
            "   FROM event_graph g WHERE g.event_id = t.event_id OFFSET 0) g"
            "  WHERE g.room_nid = %(room)s AND g.is_state AND g.verdict < 2),"
            " held AS MATERIALIZED (SELECT type, state_key, position FROM current_state"
            "  WHERE room_nid = %(room)s AND valid_to = 9223372036854775807)"
            " SELECT h.type, h.state_key, NULL, NULL::bytea FROM held h"
            "  WHERE h.position NOT IN (SELECT position FROM told)"
            " UNION ALL SELECT NULL, NULL, g.event_id, s.state FROM told t"
            "  JOIN event_graph g USING (position)"
            "  JOIN stored_events s ON s.notification_id = t.position"
            "  WHERE t.position NOT IN (SELECT position FROM held)",
            {"told": told, "room": room_nid},
        ).fetchall()
        changes: dict[StateKey, EventId | None] = {
            (type_, state_key): None for type_, state_key, event_id, _ in rows if event_id is None
        }
        for _, _, event_id, state in rows:
            if event_id is not None:
                changes[self._parse(rules, event_id, state).key] = event_id
        return changes

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
        *,
        newcomer: Pdu | None = None,
        with_subgraph: bool = False,
    ) -> Disagreement:
        """The auth difference and the conflicted subgraph of states that differ in `values`.

        Args:
            newcomer: an event in one of the states that is not recorded yet.
            with_subgraph: whether the room version has a use for the subgraph.
        """
        return find_disagreement(
            connection,
            room_nid,
            {state.at for state in states},
            [self._changes(connection, state) for state in states],
            values,
            newcomer=newcomer,
            with_subgraph=with_subgraph,
        )

    # Within. (LATERAL with an OFFSET or a LIMIT has the planner look up key by key, also while it
    # knows nothing of a young table; else it may read all of a room for each key.)

    def _entries_at(
        self, connection: PgConnection, room_nid: int, at: int, keys: Collection[StateKey]
    ) -> dict[StateKey, EventId]:
        keys = storable_keys(keys)
        if not keys:
            return {}
        rows = connection.execute(
            "SELECT k.type, k.state_key, g.event_id"
            " FROM unnest(%s::text[], %s::text[]) AS k (type, state_key), LATERAL"
            " (SELECT c.position FROM current_state c WHERE c.room_nid = %s AND c.type = k.type"
            " AND c.state_key = k.state_key AND c.valid_from <= %s AND c.valid_to > %s"
            " ORDER BY c.valid_from DESC LIMIT 1) c JOIN event_graph g USING (position)",
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
        keys = storable_keys(keys)
        if not keys:
            return {}
        rows = connection.execute(
            "SELECT k.type, k.state_key, c.valid_from, c.valid_to, g.event_id"
            " FROM unnest(%s::text[], %s::text[]) AS k (type, state_key), LATERAL"
            " (SELECT c.position, c.valid_from, c.valid_to FROM current_state c"
            " WHERE c.room_nid = %s AND c.type = k.type AND c.state_key = k.state_key"
            " AND c.valid_from <= %s AND c.valid_to > %s OFFSET 0) c"
            " JOIN event_graph g USING (position) ORDER BY c.valid_from",
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
        overlay = self._overlay(connection, state.overlay)
        return overlay.update(state.entries) if state.entries else overlay

    def _overlay(self, connection: PgConnection, overlay: int) -> Overlay:
        """All changes of an overlay and those it stands on.

        The overlays of one branch share what they have in common. Who goes on at the end of a
        branch reads the last one only.
        """
        remembered = self._overlays.get(overlay)
        if remembered is not None:
            return remembered[0]
        rows = connection.execute(
            "SELECT o.parent, e.type, e.state_key, g.event_id FROM state_overlays o"
            " JOIN overlay_entries e USING (overlay)"
            " LEFT JOIN event_graph g ON g.position = e.position WHERE o.overlay = %s",
            (overlay,),
        ).fetchall()
        parent = rows[0][0] if rows else None
        below = None if parent is None else self._overlays.get(parent)
        base: Overlay = immutables.Map() if below is None else below[0]
        if parent is not None and below is None:
            rows = connection.execute(
                "WITH RECURSIVE stack (overlay, parent, above) AS ("
                " SELECT overlay, parent, 0 FROM state_overlays WHERE overlay = %s"
                " UNION ALL SELECT o.overlay, o.parent, s.above + 1 FROM stack s"
                " JOIN state_overlays o ON o.overlay = s.parent)"
                " SELECT s.parent, e.type, e.state_key, g.event_id"
                " FROM stack s JOIN overlay_entries e USING (overlay)"
                " LEFT JOIN event_graph g ON g.position = e.position ORDER BY s.above DESC",
                (overlay,),
            ).fetchall()
        entries = base.update({(type_, key): event_id for _, type_, key, event_id in rows})
        with self._lock:
            if overlay not in self._overlays:
                self._overlays[overlay] = (entries, len(rows))
                self._overlay_entries += len(rows)
            while self._overlay_entries > MAX_REMEMBERED_ENTRIES and len(self._overlays) > 1:
                _, (_, weight) = self._overlays.popitem(last=False)
                self._overlay_entries -= weight
        return entries

    def _find_remembered(self, event_id: EventId) -> Pdu | None:
        remembered = self._pdus.get(event_id)
        return None if remembered is None else remembered[0]

    def _parse(self, rules: RoomVersionRules, event_id: EventId, state: bytes) -> Pdu:
        pdu = self._find_remembered(event_id)
        if pdu is None:
            pdu = parse_pdu(rules, orjson.loads(state)["pdu"], event_id=event_id)
            with self._lock:
                if event_id not in self._pdus:
                    self._pdus[event_id] = (pdu, len(state))
                    self._pdu_bytes += len(state)
                while self._pdu_bytes > MAX_REMEMBERED_PDU_BYTES and len(self._pdus) > 1:
                    _, (_, weight) = self._pdus.popitem(last=False)
                    self._pdu_bytes -= weight
        return pdu


def _value_at(spans: Sequence[tuple[int, int, EventId]], at: int) -> EventId | None:
    """The event of the span that a position lies in."""
    place = bisect_right(spans, at, key=_span_start) - 1
    return spans[place][2] if place >= 0 and at < spans[place][1] else None


def _span_start(span: tuple[int, int, EventId]) -> int:
    return span[0]
