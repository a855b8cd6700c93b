"""Iterative auth checks: building a state from an ordered list of events.

Spec: https://spec.matrix.org/v1.19/rooms/v2/#definitions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from architex.domain.auth_rules import check_state_dependent_auth_rules
from architex.domain.errors import Forbidden
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room_versions import RoomVersionRules

#: An event by its ID; None when we do not have it.
FindPdu: TypeAlias = Callable[[EventId], Pdu | None]
#: Whether an event was rejected when it was received.
IsRejected: TypeAlias = Callable[[EventId], bool]
#: Told of each event that is tried, and of the rule that refused it; None when it was allowed.
Observe: TypeAlias = Callable[[Pdu, str | None], None]


class IterativeAuth:
    """A state under construction: an initial state, and the events that were allowed on top.

    Attributes:
        applied: (type, state key) → the last event that was allowed there.

    Spec: https://spec.matrix.org/v1.19/rooms/v2/#definitions
    """

    def __init__(
        self,
        rules: RoomVersionRules,
        *,
        find_initial: Callable[[StateKey], EventId | None],
        find_pdu: FindPdu,
        is_rejected: IsRejected,
        observe: Observe | None = None,
    ) -> None:
        self.applied: dict[StateKey, EventId] = {}
        self._rules = rules
        self._find_initial = find_initial
        self._find_pdu = find_pdu
        self._is_rejected = is_rejected
        self._observe = observe

    def find_id(self, key: StateKey) -> EventId | None:
        """Return the event at a place of the state so far."""
        return self.applied.get(key) or self._find_initial(key)

    def apply(self, pdus: Iterable[Pdu]) -> None:
        """Take state events in turn; each that the rules allow enters the state."""
        for pdu in pdus:
            refusal = self._find_refusal(pdu)
            if refusal is None:
                self.applied[pdu.key] = pdu.event_id
            if self._observe is not None:
                self._observe(pdu, refusal)

    def _find_refusal(self, pdu: Pdu) -> str | None:
        """Return the rule that refuses an event; None when it is allowed."""
        auth_events: dict[StateKey, Pdu] | None = None

        def find_state(type: str, state_key: str) -> Pdu | None:
            nonlocal auth_events
            key = (type, state_key)
            event_id = self.find_id(key)
            found = self._find_pdu(event_id) if event_id is not None else None
            if found is not None:
                return found
            # If a key that is required for checking the authorisation rules is not present in the
            # state, then the appropriate state event from the event's auth_events is used if the
            # auth event is not rejected.
            if auth_events is None:
                auth_events = self._auth_events_of(pdu)
            return auth_events.get(key)

        try:
            check_state_dependent_auth_rules(self._rules, pdu, find_state)
        except Forbidden as error:
            return error.message
        return None

    def _auth_events_of(self, pdu: Pdu) -> dict[StateKey, Pdu]:
        auth_ids = pdu.auth_events
        # Since v12 the create event is not named: the room ID stands for it.
        if self._rules.room_id_is_create_hash:
            auth_ids = (*auth_ids, create_event_id_of(pdu))
        auth_events = {}
        for auth_id in auth_ids:
            auth_event = self._find_pdu(auth_id)
            if (
                auth_event is not None
                and auth_event.state_key is not None
                and not self._is_rejected(auth_id)
            ):
                auth_events[auth_event.key] = auth_event
        return auth_events


def create_event_id_of(pdu: Pdu) -> EventId:
    """Return the ID of the create event that the room ID stands for (since v12).

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#event-format
    """
    return "$" + pdu.room_id[1:]
