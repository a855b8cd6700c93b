"""Explaining: why an entry of a room's current state is what it is.

Spec: https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from architex.domain.identifiers import EventId, RoomId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.events import StateBefore
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.projections.branch_states import BranchStates, KnownEvent
from architex.projections.room_graph import (
    GraphEvent,
    find_event,
    find_standing,
    list_auth_chain,
    list_branchings,
    list_ends,
    list_events,
)
from architex.storage.event_log import RoomHead
from architex.storage.pool import Database, PgConnection
from architex.usecases.resolving import Resolving

MAX_MEETINGS: Final = 10
"""Of the latest meetings of branches so many are looked at for one that disputed the entry."""

MAX_AUTH_CHAIN: Final = 200


class Fate(Enum):
    """What became of a candidate in a resolution."""

    STANDS = "stands"
    REFUSED = "refused"
    """A rule refused it on the state as resolved so far."""
    GAVE_WAY = "gave way"
    """It was allowed, but one that comes later in the order took its place."""
    NOT_REACHED = "not reached"
    """The order put others before it, so it was not tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An event that could stand at the entry.

    Attributes:
        rule: what refused it.
        ends: of the branches in whose state it stands, the last events; none when it comes from
            the auth chains only.
        place: when it was tried, from 1 on, among all events that were.
    """

    event: GraphEvent
    fate: Fate
    rule: str | None
    ends: Sequence[EventId]
    place: int | None


@dataclass(frozen=True, slots=True)
class Meeting:
    """Branches that met, and disagreed about the entry.

    Attributes:
        came_with: the event whose arrival let them meet.
        algorithm: of state resolution: 1, 2 or 2.1.
        ends: last event of each branch → what it has at the entry; None for nothing.
        candidates: in the order in which they were tried.
        tried: how many events were tried in all, for this entry and others.
    """

    came_with: GraphEvent
    algorithm: str
    ends: Mapping[EventId, EventId | None]
    candidates: Sequence[Candidate]
    tried: int


class How(Enum):
    """How an entry came to be what it is."""

    NEVER_SET = "never set"
    SET = "set"
    """Its event was sent, accepted, and became the current one."""
    RESOLVED = "resolved"
    """It came back, or came in from a branch, when branches met."""
    WENT_AWAY = "went away"
    """The resolution left nothing there."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an entry of the current state is what it is.

    Attributes:
        event: what stands there; what stood there last, if the entry went away.
        since: the event with whose arrival it became so.
        auth_events: the events that `event` names as those that allow it.
        auth_chain: all that allow it, directly or not, oldest first: the room's create event, and
            so on.
        meeting: the meeting of branches that put it there, or else the last that disputed it;
            None: none did.
    """

    room_id: RoomId
    room_version: str
    type: str
    state_key: str
    how: How
    event: GraphEvent | None = None
    since: GraphEvent | None = None
    auth_events: Sequence[EventId] = ()
    auth_chain: Sequence[GraphEvent] = ()
    meeting: Meeting | None = None


@dataclass(frozen=True)
class Explaining:
    """Explains the state of rooms."""

    database: Database

    def explain(self, head: RoomHead, type: str, state_key: str) -> Explanation:
        """Explain an entry of a room's current state."""
        with self.database.snapshot() as connection:
            return _Explainer(connection, head).explain((type, state_key))


class _Explainer:
    """The looking up, in one snapshot."""

    def __init__(self, connection: PgConnection, head: RoomHead) -> None:
        self._connection = connection
        self._head = head
        self._rules: RoomVersionRules = get_room_version(head.room_version)
        self._branches = BranchStates()

    def explain(self, key: StateKey) -> Explanation:
        head, connection = self._head, self._connection
        standing = find_standing(connection, head, key)
        if standing is None:
            return Explanation(
                head.room_id,
                head.room_version,
                *key,
                how=How.NEVER_SET,
                meeting=self._find_meeting(key, 0),
            )
        turned = standing.since if standing.until is None else standing.until
        events = {
            event.position: event
            for event in list_events(connection, head, {standing.position, turned})
        }
        event = events[standing.position]
        if standing.until is not None:
            how = How.WENT_AWAY
        elif standing.since == standing.position:
            how = How.SET
        else:
            how = How.RESOLVED
        positions = list_auth_chain(connection, event.position)
        chain = list_events(connection, head, positions[:MAX_AUTH_CHAIN])
        if self._rules.room_id_is_create_hash and event.type != "m.room.create":
            # No event names it, since every room ID stands for one.
            create = find_event(connection, head, "$" + head.room_id[1:])
            chain = chain if create is None else [create, *chain]
        by_position = {link.position: link.event_id for link in chain}
        return Explanation(
            head.room_id,
            head.room_version,
            *key,
            how=how,
            event=event,
            since=events[turned],
            auth_events=[by_position[p] for p in event.auth_events if p in by_position],
            auth_chain=chain,
            meeting=self._find_meeting(key, turned),
        )

    def _find_meeting(self, key: StateKey, since: int) -> Meeting | None:
        """The meeting of branches that disputed the entry: at a position, or the newest since."""
        connection, head = self._connection, self._head
        deciding = [event.event_id for event in list_events(connection, head, {since})]
        later = list_branchings(connection, head, since, MAX_MEETINGS)
        for event_id in dict.fromkeys([*deciding, *later]):
            newcomer = self._find_known([event_id])[event_id]
            if newcomer.before is None:  # it followed the end of the room: nothing met
                continue
            ends = list_ends(connection, head, newcomer.position)
            others = [
                event.event_id
                for event in list_events(connection, head, ends)
                if event.event_id != event_id
            ]
            meeting = self._meet(key, newcomer, self._find_known(others))
            if meeting is not None:
                return meeting
        return None

    def _meet(
        self, key: StateKey, newcomer: KnownEvent, others: Mapping[EventId, KnownEvent]
    ) -> Meeting | None:
        """The meeting of some ends, resolved again; None when they agree about the entry."""
        trials = _Trials(key)
        resolving = Resolving(
            self._branches, self._connection, self._head.room_nid, self._rules, trials.observe
        )
        ends = {newcomer.pdu.event_id: newcomer, **others}
        states: list[StateBefore] = [end.state_after for end in ends.values()]
        values = resolving.compare(states)
        if key not in values:
            return None
        stands = resolving.resolve(states, values).get(key)
        said = dict(zip(ends, values[key], strict=True))
        candidates = {event_id for event_id in said.values() if event_id is not None}
        candidates |= trials.places.keys()
        found = {
            event.event_id: event
            for event_id in candidates
            if (event := find_event(self._connection, self._head, event_id)) is not None
        }
        came_with = find_event(self._connection, self._head, newcomer.pdu.event_id)
        assert came_with is not None  # noqa: S101 - it was found in the same snapshot
        told = [
            Candidate(
                event=event,
                fate=Fate.STANDS if event_id == stands else trials.fate_of(event_id),
                rule=None if event_id == stands else trials.refusals.get(event_id),
                ends=[end for end, value in said.items() if value == event_id],
                place=trials.places.get(event_id),
            )
            for event_id, event in found.items()
        ]
        told.sort(key=lambda candidate: (candidate.place or 0, candidate.event.position))
        return Meeting(came_with, self._rules.state_resolution, said, told, trials.count)

    def _find_known(self, event_ids: Sequence[EventId]) -> dict[EventId, KnownEvent]:
        return self._branches.find_events(
            self._connection, self._head.room_nid, self._rules, event_ids
        )


@dataclass
class _Trials:
    """Takes down how the events of one state key fare in a resolution."""

    key: StateKey
    count: int = 0
    places: dict[EventId, int] = field(default_factory=dict)
    refusals: dict[EventId, str] = field(default_factory=dict)

    def observe(self, pdu: Pdu, refusal: str | None) -> None:
        """See `Observe`."""
        self.count += 1
        if pdu.key != self.key:
            return
        self.places[pdu.event_id] = self.count
        if refusal is not None:
            self.refusals[pdu.event_id] = refusal

    def fate_of(self, event_id: EventId) -> Fate:
        """What became of a candidate that does not stand."""
        if event_id in self.refusals:
            return Fate.REFUSED
        return Fate.GAVE_WAY if event_id in self.places else Fate.NOT_REACHED
