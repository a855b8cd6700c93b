"""State resolution: one state of the room where its branches meet.

Three algorithms: of room version 1, of 2 to 11 ("v2"), and of 12 ("v2.1"). All are pure, know no
recursion, and cost what the conflict costs: `resolve_conflict` never looks at state that the
branches agree about, unless a rule asks for it.

Spec: https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room_versions import RoomVersionRules
from architex.domain.state_resolution.conflicts import (
    auth_difference,
    conflicted_state_subgraph,
    split_conflicted_state,
)
from architex.domain.state_resolution.iterative_auth import (
    FindPdu,
    IsRejected,
    IterativeAuth,
    Observe,
)
from architex.domain.state_resolution.ordering import (
    mainline_order,
    reverse_topological_power_order,
    select_power_events,
)
from architex.domain.state_resolution.version_1 import resolve_conflict_v1

__all__ = [
    "FindPdu",
    "IsRejected",
    "Observe",
    "StateMap",
    "auth_difference",
    "conflicted_state_subgraph",
    "resolve_conflict",
    "resolve_state",
    "split_conflicted_state",
]

#: (type, state key) → event ID: the state of a room.
StateMap: TypeAlias = Mapping[StateKey, EventId]


def _nothing_is_rejected(event_id: EventId) -> bool:
    return False


def resolve_state(
    rules: RoomVersionRules,
    state_sets: Sequence[StateMap],
    auth_chains: Sequence[AbstractSet[EventId]],
    find_pdu: FindPdu,
    *,
    is_rejected: IsRejected = _nothing_is_rejected,
) -> dict[StateKey, EventId]:
    """Resolve the state of a room at a merge of several branches.

    Args:
        state_sets: one map (type, state key) → event ID per branch; at least one.
        auth_chains: for each branch, every event its state is authorised by, transitively. Not
            used in room version 1.
        find_pdu: looks an event up; None when we do not have it. Must not touch the network.
        is_rejected: tells whether an event was rejected on receipt; a rejected auth event is no
            help to the event that names it.

    Returns the resolved map. The order of state_sets does not matter.

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#state-resolution (and of v1 and v2)
    """
    unconflicted, conflicted = split_conflicted_state(rules, state_sets)
    if not conflicted:
        return unconflicted
    difference: AbstractSet[EventId] = frozenset()
    if rules.state_resolution != "1":
        difference = auth_difference(state_sets, auth_chains, find_pdu)
    resolved = resolve_conflict(
        rules,
        find_unconflicted=unconflicted.get,
        conflicted=conflicted,
        difference=difference,
        find_pdu=find_pdu,
        is_rejected=is_rejected,
    )
    return {**unconflicted, **resolved}


def resolve_conflict(
    rules: RoomVersionRules,
    *,
    find_unconflicted: Callable[[StateKey], EventId | None],
    conflicted: Mapping[StateKey, AbstractSet[EventId]],
    difference: AbstractSet[EventId],
    find_pdu: FindPdu,
    is_rejected: IsRejected = _nothing_is_rejected,
    subgraph: AbstractSet[EventId] | None = None,
    observe: Observe | None = None,
) -> dict[StateKey, EventId]:
    """Resolve what the branches disagree about; the way in for who knows the differences already.

    Args:
        find_unconflicted: the event at a place of the state that all branches share; None when the
            place is empty or conflicted.
        conflicted: the places where the branches differ → every event that stands there in one.
        difference: the auth difference of the branches (empty for room version 1).
        find_pdu: looks an event up; None when we do not have it.
        is_rejected: tells whether an event was rejected on receipt.
        subgraph: the conflicted state subgraph (v12) when the caller has it; else it is walked.
        observe: told of each event as it is tried, for those who want to know why.

    Returns what to change in the shared state. Places that resolve to nothing are not in it.

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#algorithm
    """
    if rules.state_resolution == "1":
        return resolve_conflict_v1(rules, find_unconflicted, conflicted, find_pdu, observe)

    conflicted_ids = frozenset().union(*conflicted.values())
    full = set(conflicted_ids | difference)
    starts_empty = rules.state_resolution == "2.1"
    # Since v12, the full conflicted set has the conflicted state subgraph, too.
    if starts_empty:
        full |= (
            conflicted_state_subgraph(conflicted_ids, find_pdu) if subgraph is None else subgraph
        )
    events = _find_state_events(full, find_pdu)

    # 1. Select the power events, enlarged by the events of their auth chains.
    power_events = select_power_events(events)
    power_order = reverse_topological_power_order(rules, power_events, find_pdu)
    # 2. Apply the iterative auth checks, starting from the unconflicted state map.
    # Since v12, from an empty map.
    auth = IterativeAuth(
        rules,
        find_initial=_find_nothing if starts_empty else find_unconflicted,
        find_pdu=find_pdu,
        is_rejected=is_rejected,
        observe=observe,
    )
    auth.apply(power_order)
    # 3. Order the remaining events by the mainline of the power levels resolved so far.
    remaining = [pdu for event_id, pdu in events.items() if event_id not in power_events]
    power_levels_id = auth.find_id(("m.room.power_levels", ""))
    # 4. Apply the iterative auth checks to them.
    auth.apply(mainline_order(remaining, power_levels_id, find_pdu))
    # 5. What the branches agree about stands.
    return {
        key: event_id for key, event_id in auth.applied.items() if find_unconflicted(key) is None
    }


def _find_nothing(key: StateKey) -> None:
    return None


def _find_state_events(event_ids: AbstractSet[EventId], find_pdu: FindPdu) -> dict[EventId, Pdu]:
    """Return those of the events that we have and that are state events, in a fixed order."""
    events = {}
    for event_id in sorted(event_ids):
        pdu = find_pdu(event_id)
        if pdu is not None and pdu.state_key is not None:
            events[event_id] = pdu
    return events
