"""What the branches disagree about: conflicted state, auth difference, conflicted subgraph.

Spec: https://spec.matrix.org/v1.19/rooms/v12/#definitions
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from architex.domain.identifiers import EventId
from architex.domain.pdu import StateKey
from architex.domain.room_versions import RoomVersionRules
from architex.domain.state_resolution.iterative_auth import FindPdu


def split_conflicted_state(
    rules: RoomVersionRules, state_sets: Sequence[Mapping[StateKey, EventId]]
) -> tuple[dict[StateKey, EventId], dict[StateKey, frozenset[EventId]]]:
    """Divide branches' states into what they agree about and what they do not.

    Returns the unconflicted state map, and for every other place all events that stand there. From
    room version 2 on a place that only some branches have is conflicted; in version 1 it is not.

    Raises:
        ValueError: there are no state sets.

    Spec: https://spec.matrix.org/v1.19/rooms/v2/#definitions
    """
    if not state_sets:
        raise ValueError("there is no state to resolve")
    first, *others = state_sets
    unconflicted = dict(first)
    conflicted: dict[StateKey, set[EventId]] = {}
    for other in others:
        if other is first:
            continue
        for key, event_id in other.items():
            known = first.get(key)
            if known is None:
                conflicted.setdefault(key, set()).add(event_id)
            elif known != event_id:
                conflicted.setdefault(key, {known}).add(event_id)
        # Places that this branch lacks.
        if len(other) < len(first) or conflicted:
            for key, event_id in first.items():
                if key not in other:
                    conflicted.setdefault(key, set()).add(event_id)
    for key, event_ids in list(conflicted.items()):
        # What stands there in the first branch is among them already.
        unconflicted.pop(key, None)
        # v1: a conflict occurs between states where those have different event IDs for a key.
        if rules.state_resolution == "1" and len(event_ids) == 1:
            unconflicted[key] = next(iter(event_ids))
            del conflicted[key]
    return unconflicted, {key: frozenset(event_ids) for key, event_ids in conflicted.items()}


def auth_difference(
    state_sets: Sequence[Mapping[StateKey, EventId]],
    auth_chains: Sequence[AbstractSet[EventId]],
    find_pdu: FindPdu,
) -> frozenset[EventId]:
    """Return the events that are in some branch's full auth chain, but not in all.

    An event that stands in a branch's state counts as one of that branch's chain, as it does in
    every implementation we could compare with: what all branches share is no difference, even
    where only one of them has built on it.

    Spec: https://spec.matrix.org/v1.19/rooms/v2/#definitions
    """
    if not auth_chains:
        return frozenset()
    everywhere = frozenset(auth_chains[0]).intersection(*auth_chains[1:])
    somewhere = frozenset().union(*auth_chains)
    return frozenset(
        event_id
        for event_id in somewhere - everywhere
        if not _is_in_every_branch(event_id, state_sets, auth_chains, find_pdu)
    )


def conflicted_state_subgraph(
    conflicted: AbstractSet[EventId], find_pdu: FindPdu
) -> frozenset[EventId]:
    """Return every event on a path of auth events from one conflicted event to another (v12).

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#definitions
    """
    # Down the auth events from the conflicted ones: who refers to whom.
    referrers: dict[EventId, list[EventId]] = {}
    seen: set[EventId] = set(conflicted)
    stack = list(conflicted)
    while stack:
        event_id = stack.pop()
        for auth_id in _auth_events_of(event_id, find_pdu):
            referrers.setdefault(auth_id, []).append(event_id)
            if auth_id not in seen:
                seen.add(auth_id)
                stack.append(auth_id)
    # Back up from the conflicted ones: all that lead to one of them.
    on_a_path: set[EventId] = set(conflicted)
    stack = list(conflicted)
    while stack:
        for event_id in referrers.get(stack.pop(), ()):
            if event_id not in on_a_path:
                on_a_path.add(event_id)
                stack.append(event_id)
    return frozenset(on_a_path)


def _is_in_every_branch(
    event_id: EventId,
    state_sets: Sequence[Mapping[StateKey, EventId]],
    auth_chains: Sequence[AbstractSet[EventId]],
    find_pdu: FindPdu,
) -> bool:
    pdu = find_pdu(event_id)
    if pdu is None or pdu.state_key is None:
        return False
    key = pdu.key
    return all(
        event_id in chain or state.get(key) == event_id
        for state, chain in zip(state_sets, auth_chains, strict=True)
    )


def _auth_events_of(event_id: EventId, find_pdu: FindPdu) -> Iterable[EventId]:
    pdu = find_pdu(event_id)
    return () if pdu is None else pdu.auth_events
