"""In which order events are tried: reverse topological power ordering and mainline ordering.

Spec: https://spec.matrix.org/v1.19/rooms/v2/#definitions
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

from architex.domain.auth_rules import PowerLevels
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu
from architex.domain.room_versions import RoomVersionRules
from architex.domain.state_resolution.iterative_auth import FindPdu, create_event_id_of

_BEYOND_THE_MAINLINE: Final = float("inf")

#: (power of the sender, negated; origin_server_ts; event ID): the smaller is tried earlier.
_PowerRank: TypeAlias = tuple[int, int, EventId]


def is_power_event(pdu: Pdu) -> bool:
    """Tell whether a state event might remove somebody's ability to do something in the room.

    Spec: https://spec.matrix.org/v1.19/rooms/v2/#definitions
    """
    if pdu.type in ("m.room.power_levels", "m.room.join_rules"):
        return True
    return pdu.membership in ("leave", "ban") and pdu.sender != pdu.state_key


def select_power_events(events: Mapping[EventId, Pdu]) -> dict[EventId, Pdu]:
    """Return the power events of the full conflicted set, enlarged by their auth chains within it.

    The chains are followed as far as they run inside the set: the reading of all implementations
    that rooms are shared with.

    Spec: https://spec.matrix.org/v1.19/rooms/v2/#algorithm
    """
    selected = {event_id: pdu for event_id, pdu in events.items() if is_power_event(pdu)}
    stack = list(selected.values())
    while stack:
        for auth_id in stack.pop().auth_events:
            if auth_id in events and auth_id not in selected:
                selected[auth_id] = events[auth_id]
                stack.append(events[auth_id])
    return selected


def reverse_topological_power_order(
    rules: RoomVersionRules, events: Mapping[EventId, Pdu], find_pdu: FindPdu
) -> list[Pdu]:
    """Return events earliest first: after those that authorise them, and the mighty first.

    Spec: https://spec.matrix.org/v1.19/rooms/v2/#definitions
    """
    # Kahn's algorithm. Of all events whose auth events are out, the smallest comes next.
    waiting_for: dict[EventId, int] = {}
    dependents: dict[EventId, list[EventId]] = {}
    for event_id, pdu in events.items():
        inside = {auth_id for auth_id in pdu.auth_events if auth_id in events}
        waiting_for[event_id] = len(inside)
        for auth_id in inside:
            dependents.setdefault(auth_id, []).append(event_id)

    def rank(event_id: EventId) -> _PowerRank:
        pdu = events[event_id]
        return (-_power_of_sender(rules, pdu, find_pdu), pdu.origin_server_ts, event_id)

    ready = [rank(event_id) for event_id, count in waiting_for.items() if count == 0]
    heapify(ready)
    ordered = []
    while ready:
        event_id = heappop(ready)[2]
        ordered.append(events[event_id])
        for dependent in dependents.get(event_id, ()):
            waiting_for[dependent] -= 1
            if waiting_for[dependent] == 0:
                heappush(ready, rank(dependent))
    # Events of a cycle (only possible in v1 and v2, where IDs are no hashes) never become ready.
    return ordered


def mainline_order(
    events: Iterable[Pdu], power_levels_id: EventId | None, find_pdu: FindPdu
) -> list[Pdu]:
    """Return events in the mainline ordering based on a power levels event.

    Args:
        power_levels_id: the power levels whose mainline it is; None when the room has none.

    Spec: https://spec.matrix.org/v1.19/rooms/v2/#definitions
    """
    positions = _mainline_positions(power_levels_id, find_pdu)
    return sorted(
        events,
        key=lambda pdu: (
            -_position_on_mainline(pdu, positions, find_pdu),
            pdu.origin_server_ts,
            pdu.event_id,
        ),
    )


def _power_of_sender(rules: RoomVersionRules, pdu: Pdu, find_pdu: FindPdu) -> int:
    """Return the power level of an event's sender, looking at its auth events."""
    create: Pdu | None = None
    power_levels: Pdu | None = None
    if rules.room_id_is_create_hash:
        create = find_pdu(create_event_id_of(pdu))
    for auth_id in pdu.auth_events:
        auth_event = find_pdu(auth_id)
        if auth_event is None or auth_event.state_key != "":
            continue
        if auth_event.type == "m.room.create":
            create = auth_event
        elif auth_event.type == "m.room.power_levels":
            power_levels = auth_event
    if create is None:
        # Only an event whose auth events we lack, and a create event, come without one.
        return 0
    return PowerLevels(rules, create, power_levels).of_user(pdu.sender)


def _power_levels_authorising(pdu: Pdu, find_pdu: FindPdu) -> Pdu | None:
    for auth_id in pdu.auth_events:
        auth_event = find_pdu(auth_id)
        if (
            auth_event is not None
            and auth_event.type == "m.room.power_levels"
            and auth_event.state_key == ""
        ):
            return auth_event
    return None


def _mainline_positions(
    power_levels_id: EventId | None, find_pdu: FindPdu
) -> dict[EventId, float]:
    """Return the mainline of power levels: event ID → position, 0 for the one it starts from."""
    positions: dict[EventId, float] = {}
    current = find_pdu(power_levels_id) if power_levels_id is not None else None
    while current is not None and current.event_id not in positions:
        positions[current.event_id] = len(positions)
        current = _power_levels_authorising(current, find_pdu)
    return positions


def _position_on_mainline(pdu: Pdu, positions: dict[EventId, float], find_pdu: FindPdu) -> float:
    """Return an event's mainline position, and remember that of the events met on the way."""
    walked: list[EventId] = []
    position = _BEYOND_THE_MAINLINE
    current = _power_levels_authorising(pdu, find_pdu)
    while current is not None:
        known = positions.get(current.event_id)
        if known is not None:
            position = known
            break
        walked.append(current.event_id)
        # Breaks the cycles that v1 and v2 could have.
        positions[current.event_id] = _BEYOND_THE_MAINLINE
        current = _power_levels_authorising(current, find_pdu)
    for event_id in walked:
        positions[event_id] = position
    return position
