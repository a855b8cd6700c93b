"""Disagreements: what several states of a room differ in, and what authorises that.

It costs what the conflict costs. Auth chains are walked down from the conflicted events as far as
to what all states have; whether all states are authorised by an event that none of them has any
more is asked the other way round, from that event up to those it authorised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.events import REJECTED
from architex.storage.pool import PgConnection

NEWCOMER: Final = 2**62
"""Stands for the position of an event that has none yet."""

_NOWHERE: Final = 2**63 - 1
_USUAL_TYPES: Final = ("m.room.power_levels", "m.room.join_rules", "m.room.create")

# Whether all states have the event at {position}: its times in the current state cover all their
# positions, and no overlay changes the entry. (`+ 0` keeps the planner from looking through all
# that the room once had by time: few entries have one event.)
_STANDS: Final = """(
 SELECT count(*) FROM current_state cs, unnest(%(positions)s::int8[]) AS t (at)
 WHERE cs.position = {position}
 AND cs.valid_from + 0 <= t.at AND cs.valid_to + 0 > t.at AND (cs.type, cs.state_key) NOT IN
  (SELECT * FROM unnest(%(types)s::text[], %(keys)s::text[]))
) = cardinality(%(positions)s::int8[])"""

# Down from the conflicted events. What all states have ends the walk, since what authorises it
# authorises all of them; unless paths between conflicted events may lead on below it.
_CHAIN: Final = f"""
WITH RECURSIVE chain (position, is_shared) AS (
 SELECT g.position, {_STANDS.format(position="g.position")}
 FROM event_graph g WHERE g.event_id = ANY(%(wanted)s)
UNION
 SELECT a.position, {_STANDS.format(position="a.position")}
 FROM (SELECT DISTINCT unnest(g.auth_events) AS position
  FROM chain JOIN event_graph g USING (position)
  WHERE NOT chain.is_shared OR chain.position > %(lowest)s) a
)
SELECT g.position, g.event_id, g.auth_events, g.verdict, chain.is_shared
FROM chain JOIN event_graph g USING (position) ORDER BY g.position DESC"""  # noqa: S608 - all of it is our own text

# Down from what all states have of the entries that authorise most events.
_USUAL_CHAIN: Final = f"""
WITH RECURSIVE chain (position) AS (
 SELECT c.position FROM unnest(%(usual_types)s::text[]) AS k (type)
 JOIN current_state c ON c.room_nid = %(room)s AND c.type = k.type
 WHERE c.state_key = '' AND c.valid_from + 0 <= %(newest)s AND c.valid_to + 0 > %(newest)s
 AND {_STANDS.format(position="c.position")}
UNION
 SELECT position FROM event_graph WHERE event_id = ANY(%(usual_events)s)
UNION
 SELECT a.position FROM chain JOIN event_graph g USING (position),
  unnest(g.auth_events) AS a (position)
 WHERE a.position >= %(lowest)s
)
SELECT position FROM chain WHERE position = ANY(%(candidates)s)"""  # noqa: S608 - all of it is our own text

# Those that authorise an event that all states have: for events that authorise a great many.
_AUTHORISES_WHAT_STANDS: Final = f"""
SELECT k.position FROM unnest(%(candidates)s::int8[]) AS k (position)
WHERE EXISTS (SELECT FROM event_graph g WHERE g.is_state AND g.verdict < 2
 AND g.auth_events @> ARRAY[k.position] AND {_STANDS.format(position="g.position")})"""  # noqa: S608 - all of it is our own text

# Up from the candidates to all that they authorise, as far as to what all states have.
_AUTHORISED: Final = f"""
WITH RECURSIVE cone (position, is_shared) AS (
 SELECT k.position, false FROM unnest(%(candidates)s::int8[]) AS k (position)
UNION
 SELECT a.position, {_STANDS.format(position="a.position")}
 FROM (SELECT DISTINCT g.position FROM cone JOIN event_graph g
  ON g.is_state AND g.verdict < 2 AND g.auth_events @> ARRAY[cone.position]
  WHERE NOT cone.is_shared) a
)
SELECT g.position, g.event_id, g.auth_events, cone.is_shared
FROM cone JOIN event_graph g USING (position) ORDER BY g.position DESC"""  # noqa: S608 - all of it is our own text


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What several states differ in.

    Attributes:
        difference: the auth difference.
        subgraph: events on paths of auth events between conflicted ones; only if asked for.
        rejected: those of all these and of their auth events that were rejected.
    """

    difference: AbstractSet[EventId]
    subgraph: AbstractSet[EventId]
    rejected: AbstractSet[EventId]


def find_disagreement(
    connection: PgConnection,
    room_nid: int,
    positions: Collection[int],
    overlays: Sequence[Mapping[StateKey, EventId | None]],
    values: Mapping[StateKey, Sequence[EventId | None]],
    *,
    newcomer: Pdu | None = None,
    with_subgraph: bool = False,
) -> Disagreement:
    """The auth difference of states, and the conflicted subgraph.

    Args:
        positions: the states are the current states at these positions,
        overlays: each with its changes.
        values: for each entry in which the states differ, the event in each of them, or None.
        newcomer: an event in one of them that is not recorded yet.
        with_subgraph: whether the room version has a use for the subgraph.

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#definitions
    """
    search = _Search(connection, room_nid, positions, overlays, values)
    return search.run(newcomer, with_subgraph)


class _Search:
    """One search for the difference of states."""

    def __init__(
        self,
        connection: PgConnection,
        room_nid: int,
        positions: Collection[int],
        overlays: Sequence[Mapping[StateKey, EventId | None]],
        values: Mapping[StateKey, Sequence[EventId | None]],
    ) -> None:
        self._connection = connection
        overlaid = {key: event_id for changes in overlays for key, event_id in changes.items()}
        # What overlays have in common, or one of them with the current states of the others.
        agreed = {key: event_id for key, event_id in overlaid.items() if key not in values}
        self._agreed = {event_id for event_id in agreed.values() if event_id is not None}
        # In which states an event stands, as bits.
        self._standing: dict[EventId, int] = defaultdict(int)
        self._everywhere = 0
        for row in values.values():
            self._everywhere = (1 << len(row)) - 1
            for place, event_id in enumerate(row):
                if event_id is not None:
                    self._standing[event_id] |= 1 << place
        self._params: dict[str, Any] = {
            "room": room_nid,
            "positions": sorted(set(positions)),
            "newest": max(positions),
            "types": [type_ for type_, _ in overlaid],
            "keys": [state_key for _, state_key in overlaid],
            "usual_types": list(_USUAL_TYPES),
            "usual_events": [
                event_id
                for type_ in _USUAL_TYPES
                if (event_id := agreed.get((type_, ""))) is not None
            ],
        }
        self._auth_events: dict[int, Sequence[int]] = {}

    def run(self, newcomer: Pdu | None, with_subgraph: bool) -> Disagreement:
        """Walk down, then up from what is left undecided."""
        if newcomer is not None and newcomer.event_id not in self._standing:
            newcomer = None
        rows = self._load_chain(newcomer, with_subgraph)
        ids = {position: event_id for position, event_id, *_ in rows}
        self._auth_events = {position: auth_events for position, _, auth_events, *_ in rows}
        # The bits of an event: the states that have it, or are authorised by it.
        bits: dict[int, int] = defaultdict(int)
        if newcomer is not None:
            ids[NEWCOMER] = newcomer.event_id
            by_id = {event_id: position for position, event_id in ids.items()}
            self._auth_events[NEWCOMER] = [by_id[event_id] for event_id in newcomer.auth_events]
        shared = set()
        # Those that authorise an event come before it: one pass in order of position is enough.
        for position in sorted(ids, reverse=True):
            bits[position] |= self._standing.get(ids[position], 0)
            for authorising in self._auth_events[position]:
                bits[authorising] |= bits[position]
        for position, event_id, _, _, is_shared in rows:
            if is_shared or event_id in self._agreed:
                shared.add(position)
        self._spread(shared)
        conflicted = {position for position in ids if ids[position] in self._standing}
        difference = {
            position
            for position in ids
            if bits[position] != self._everywhere and position not in shared
        }
        difference -= self._find_shared(difference - conflicted)
        subgraph = self._on_paths(conflicted) if with_subgraph else set()
        return Disagreement(
            {ids[position] for position in difference},
            {ids[position] for position in subgraph},
            {event_id for _, event_id, _, verdict, _ in rows if verdict == REJECTED},
        )

    def _load_chain(self, newcomer: Pdu | None, with_subgraph: bool) -> list[tuple[Any, ...]]:
        wanted = [*self._standing, *(() if newcomer is None else newcomer.auth_events)]
        lowest = _NOWHERE
        if with_subgraph:
            row = self._connection.execute(
                "SELECT min(position) FROM event_graph WHERE event_id = ANY(%s)",
                (list(self._standing),),
            ).fetchone()
            if row is not None and row[0] is not None:
                lowest = row[0]
        return self._connection.execute(
            _CHAIN.encode(), {**self._params, "wanted": wanted, "lowest": lowest}
        ).fetchall()

    def _find_shared(self, candidates: set[int]) -> set[int]:
        """Those of the candidates by which all states are authorised, beside the conflict."""
        shared: set[int] = set()
        for find in (self._in_usual_chain, self._authorising_what_stands, self._authorising):
            undecided = candidates - shared
            if not undecided:
                break
            shared |= find(undecided)
            self._spread(shared)
        return shared & candidates

    def _in_usual_chain(self, candidates: Collection[int]) -> set[int]:
        return self._positions(_USUAL_CHAIN, candidates, lowest=min(candidates))

    def _authorising_what_stands(self, candidates: Collection[int]) -> set[int]:
        return self._positions(_AUTHORISES_WHAT_STANDS, candidates)

    def _authorising(self, candidates: Collection[int]) -> set[int]:
        rows = self._connection.execute(
            _AUTHORISED.encode(), {**self._params, "candidates": list(candidates)}
        ).fetchall()
        shared: set[int] = set()
        for position, event_id, auth_events, is_shared in rows:
            if is_shared or position in shared or event_id in self._agreed:
                shared.add(position)
                shared.update(auth_events)
        return shared

    def _positions(self, sql: str, candidates: Collection[int], **params: int) -> set[int]:
        rows = self._connection.execute(
            sql.encode(), {**self._params, "candidates": list(candidates), **params}
        )
        return {position for (position,) in rows.fetchall()}

    def _spread(self, positions: set[int]) -> None:
        """Add to the positions all that authorise them, as far as known."""
        waiting: list[int] = list(positions)
        while waiting:
            for authorising in self._auth_events.get(waiting.pop(), ()):
                if authorising not in positions:
                    positions.add(authorising)
                    waiting.append(authorising)

    def _on_paths(self, conflicted: Collection[int]) -> set[int]:
        """The events that lead to a conflicted one: all that were loaded come from one."""
        leading: set[int] = set(conflicted)
        for position in sorted(self._auth_events):
            if not leading.isdisjoint(self._auth_events[position]):
                leading.add(position)
        return leading
