"""The state resolution algorithm of room version 1.

Spec: https://spec.matrix.org/v1.19/rooms/v1/#state-resolution
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from hashlib import sha1

from architex.domain.auth_rules import check_state_dependent_auth_rules
from architex.domain.errors import Forbidden
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room_versions import RoomVersionRules
from architex.domain.state_resolution.iterative_auth import FindPdu, Observe


def resolve_conflict_v1(
    rules: RoomVersionRules,
    find_unconflicted: Callable[[StateKey], EventId | None],
    conflicted: Mapping[StateKey, AbstractSet[EventId]],
    find_pdu: FindPdu,
    observe: Observe | None = None,
) -> dict[StateKey, EventId]:
    """Resolve what branches disagree about, as room version 1 does.

    Places of one kind (such as the memberships) are decided independently of each other, so that
    no order among them matters.

    Spec: https://spec.matrix.org/v1.19/rooms/v1/#state-resolution
    """
    resolved: dict[StateKey, Pdu] = {}

    def state_so_far() -> _StateSoFar:
        return _StateSoFar(resolved, find_unconflicted, find_pdu, observe)

    candidates = {
        key: _by_ascending_depth(event_ids, find_pdu) for key, event_ids in conflicted.items()
    }

    # First conflicts between m.room.power_levels events, then between m.room.join_rules, then
    # between m.room.member.
    for event_type in ("m.room.power_levels", "m.room.join_rules", "m.room.member"):
        decided = {
            key: _last_allowed(rules, pdus, state_so_far())
            for key, pdus in candidates.items()
            if key[0] == event_type and pdus
        }
        resolved.update(decided)
    # No other events affect the authorisation rules.
    others = {
        key: _highest_allowed(rules, pdus, state_so_far())
        for key, pdus in candidates.items()
        if key not in resolved and pdus
    }
    return {key: pdu.event_id for key, pdu in {**resolved, **others}.items()}


class _StateSoFar:
    """R, the results of the resolution so far, with one place under trial."""

    def __init__(
        self,
        resolved: Mapping[StateKey, Pdu],
        find_unconflicted: Callable[[StateKey], EventId | None],
        find_pdu: FindPdu,
        observe: Observe | None,
    ) -> None:
        self.observe = observe
        self._resolved = resolved
        self._find_unconflicted = find_unconflicted
        self._find_pdu = find_pdu
        self.trial: Pdu | None = None

    def find(self, type: str, state_key: str) -> Pdu | None:
        key = (type, state_key)
        if self.trial is not None and self.trial.key == key:
            return self.trial
        pdu = self._resolved.get(key)
        if pdu is not None:
            return pdu
        event_id = self._find_unconflicted(key)
        return None if event_id is None else self._find_pdu(event_id)


def _by_ascending_depth(event_ids: AbstractSet[EventId], find_pdu: FindPdu) -> list[Pdu]:
    """Return events by ascending depth, then descending sha1 of their ID."""
    pdus = [pdu for event_id in event_ids if (pdu := find_pdu(event_id)) is not None]
    return sorted(
        sorted(pdus, key=lambda pdu: _sha1(pdu.event_id), reverse=True), key=lambda pdu: pdu.depth
    )


def _last_allowed(rules: RoomVersionRules, pdus: list[Pdu], state: _StateSoFar) -> Pdu:
    """Return the last event of an unbroken row of allowed ones; the first needs no permission."""
    state.trial = pdus[0]
    for pdu in pdus[1:]:
        if not _is_allowed(rules, pdu, state):
            break
        state.trial = pdu
    return state.trial


def _highest_allowed(rules: RoomVersionRules, pdus: list[Pdu], state: _StateSoFar) -> Pdu:
    """Return the event with the highest depth (then the lowest sha1) that is allowed.

    The lowest of all when none is: a place never becomes empty because of a conflict.
    """
    for pdu in reversed(pdus):
        if _is_allowed(rules, pdu, state):
            return pdu
    return pdus[0]


def _is_allowed(rules: RoomVersionRules, pdu: Pdu, state: _StateSoFar) -> bool:
    refusal = None
    try:
        check_state_dependent_auth_rules(rules, pdu, state.find)
    except Forbidden as error:
        refusal = error.message
    if state.observe is not None:
        state.observe(pdu, refusal)
    return refusal is None


def _sha1(event_id: EventId) -> str:
    # An order that the spec fixes, not a safeguard.
    return sha1(event_id.encode(), usedforsecurity=False).hexdigest()
