"""Resolving: the one state of a room where its branches meet, by what they differ in.

Spec: https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.auth_rules import FindState, auth_types_for_event
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.events import StateBefore
from architex.domain.room.resets import find_resets
from architex.domain.room_versions import RoomVersionRules
from architex.domain.state_resolution import Observe, resolve_conflict
from architex.projections.branch_states import BranchStates, KnownEvent
from architex.projections.disagreements import Disagreement
from architex.storage.pool import PgConnection

# What the rules may look at beside an event's own auth types.
USUAL_KEYS: Final[frozenset[StateKey]] = frozenset(
    {("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")}
)


@dataclass(frozen=True, slots=True)
class ChangeOfState:
    """How the current state of a room changes when an event becomes one of its ends.

    Attributes:
        entries: state key → event; None for an entry that goes away.
        resets: those of the entries that nobody's event explains.
    """

    entries: Mapping[StateKey, EventId | None]
    resets: Sequence[StateKey]


@dataclass(frozen=True)
class Resolving:
    """Resolves states of one room, asking one connection.

    Attributes:
        observe: told of each event that a resolution tries, and of the rule that refused it.
    """

    branches: BranchStates
    connection: PgConnection
    room_nid: int
    rules: RoomVersionRules
    observe: Observe | None = None

    def state_before(self, parents: Iterable[KnownEvent]) -> StateBefore:
        """The state before an event that follows `parents`: resolved, where they differ."""
        return self.resolve_states(parent.state_after for parent in parents)

    def resolve_states(self, states_after: Iterable[StateBefore]) -> StateBefore:
        """The one state where branches meet, given the states at their ends."""
        states = distinct_states(states_after)
        if len(states) == 1:
            return states[0]
        values = self.compare(states)
        resolved = self.resolve(states, values)
        newest = max(range(len(states)), key=lambda place: states[place].at)
        base = states[newest]
        entries = dict(base.entries)
        for key in {*values, *resolved}:
            stands = values[key][newest] if key in values else None
            if resolved.get(key) != stands:
                entries[key] = resolved.get(key)
        return StateBefore(base.at, base.overlay, entries)

    def finder_with_gap(
        self, pdu: Pdu, before: StateBefore, ends: Iterable[KnownEvent]
    ) -> FindState:
        """A lookup in the current state as it is once the state that was told is a part of it.

        Who came into the room while we missed what happened there is in no state after an end of
        the room that we have. If what they send were held against those alone, it would be
        soft-failed, and so would all that follows it.

        Args:
            before: the state before the event, as another server told it.
            ends: all ends that the room has.
        """
        state = self.resolve_states([before, *(end.state_after for end in ends)])
        return self.finder(state, keys_looked_at(self.rules, pdu))

    def change_of_current_state(
        self,
        pdu: Pdu,
        before: StateBefore,
        other_ends: Iterable[KnownEvent],
        current: StateBefore,
        *,
        is_recorded: bool = False,
        after_gap: bool = False,
        is_followed: bool = False,
    ) -> ChangeOfState:
        """How the current state changes when an event becomes an end of the room beside others.

        The current state is the resolution of the states after all ends.

        Args:
            before: the state before the event.
            other_ends: the ends that the room then has beside the event.
            current: the current state as it was.
            is_recorded: whether the log has the event already.
            after_gap: whether another server told the state before it.
            is_followed: it becomes none, but what it follows ceases to be one.
        """
        states = self.states_that_meet(pdu, before, other_ends)
        if is_followed:
            states = distinct_states(end.state_after for end in other_ends)
        compared = self.compare([*states, current])
        values = {key: row[:-1] for key, row in compared.items() if len(set(row[:-1])) > 1}
        resolved = self.resolve(
            states, values, newcomer=None if is_recorded or is_followed else pdu
        )
        changed: dict[StateKey, EventId | None] = {}
        for key in {*compared, *resolved}:
            agreed = compared[key][0] if key in compared and key not in values else None
            new = resolved.get(key, agreed)
            # Where all states are alike, and the current one with them, nothing stands there: what
            # they agree about does not come out of a resolution.
            stands = compared[key][-1] if key in compared else None
            if new != stands:
                changed[key] = new
        met = {key: row[:-1] for key, row in compared.items()}
        return ChangeOfState(changed, find_resets(pdu, changed, met, after_gap=after_gap))

    def states_that_meet(
        self, pdu: Pdu, before: StateBefore, other_ends: Iterable[KnownEvent]
    ) -> list[StateBefore]:
        """The states after all ends of the room: that of the newest, accepted one comes first."""
        own = {} if pdu.state_key is None else {pdu.key: pdu.event_id}
        after = StateBefore(before.at, before.overlay, {**before.entries, **own})
        return distinct_states([after, *(end.state_after for end in other_ends)])

    def compare(self, states: Sequence[StateBefore]) -> dict[StateKey, list[EventId | None]]:
        """The entries in which states differ: for each, the event in each state, or None."""
        return self.branches.compare(self.connection, self.room_nid, states)

    def resolve(
        self,
        states: Sequence[StateBefore],
        values: Mapping[StateKey, Sequence[EventId | None]],
        newcomer: Pdu | None = None,
    ) -> dict[StateKey, EventId]:
        """What states that differ in `values` resolve to, as far as they do not agree.

        Args:
            values: for each entry in which they differ, the event in each state, or None.
            newcomer: an event in one of them that is not recorded yet.
        """
        conflicted = {
            key: frozenset(event_id for event_id in row if event_id is not None)
            for key, row in values.items()
        }
        agreed: dict[StateKey, EventId] = {}
        if self.rules.state_resolution == "1":
            # In version 1, an entry that only some states have is not conflicted.
            agreed = {key: next(iter(ids)) for key, ids in conflicted.items() if len(ids) == 1}
            conflicted = {key: ids for key, ids in conflicted.items() if len(ids) > 1}
        if not conflicted:
            return agreed
        connection, branches = self.connection, self.branches
        at_hand = {} if newcomer is None else {newcomer.event_id: newcomer}
        disagreement = Disagreement(frozenset(), frozenset(), frozenset())
        if self.rules.state_resolution != "1":
            disagreement = branches.disagreement(
                connection,
                self.room_nid,
                states,
                values,
                newcomer=newcomer,
                with_subgraph=self.rules.state_resolution == "2.1",
            )
        conflict = set().union(
            *conflicted.values(), disagreement.difference, disagreement.subgraph
        )
        at_hand.update(branches.find_pdus(connection, self.rules, conflict - set(at_hand)))
        tried = [at_hand[event_id] for event_id in conflict if event_id in at_hand]
        shared = self._shared_entries(states[0], values, agreed, tried)
        authorising = {event_id for pdu in tried for event_id in pdu.auth_events}
        at_hand.update(
            branches.find_pdus(
                connection, self.rules, (authorising | set(shared.values())) - set(at_hand)
            )
        )
        resolved = resolve_conflict(
            self.rules,
            find_unconflicted=shared.get,
            conflicted=conflicted,
            difference=disagreement.difference,
            find_pdu=branches.pdu_finder(connection, self.rules, at_hand),
            is_rejected=disagreement.rejected.__contains__,
            subgraph=disagreement.subgraph,
            observe=self.observe,
        )
        return {**agreed, **resolved}

    def finder(self, state: StateBefore, keys: Collection[StateKey]) -> FindState:
        """A lookup in a state, for the entries under `keys`."""
        entries = self.branches.find_entries(self.connection, self.room_nid, state, keys)
        pdus = self.branches.find_pdus(self.connection, self.rules, entries.values())
        found = {key: pdus[event_id] for key, event_id in entries.items()}
        return lambda type, state_key: found.get((type, state_key))

    def auth_types(self, pdu: Pdu) -> frozenset[StateKey]:
        """The entries of a state that decide about an event."""
        return auth_types_of(self.rules, pdu)

    def _shared_entries(
        self,
        state: StateBefore,
        values: Mapping[StateKey, Sequence[EventId | None]],
        agreed: Mapping[StateKey, EventId],
        tried: Iterable[Pdu],
    ) -> dict[StateKey, EventId]:
        """What the states agree about, of all that the rules ask about the events tried."""
        keys = set(USUAL_KEYS)
        for pdu in tried:
            if pdu.state_key is not None:
                keys.add(pdu.key)
                keys |= self.auth_types(pdu)
        entries = self.branches.find_entries(
            self.connection, self.room_nid, state, [key for key in keys if key not in values]
        )
        return {**entries, **agreed}


def auth_types_of(rules: RoomVersionRules, pdu: Pdu) -> frozenset[StateKey]:
    """The entries of a state that decide about an event."""
    return auth_types_for_event(
        rules, type=pdu.type, state_key=pdu.state_key, sender=pdu.sender, content=pdu.content
    )


def keys_looked_at(rules: RoomVersionRules, pdu: Pdu) -> frozenset[StateKey]:
    """The entries of the current state that judging an event looks at."""
    own = frozenset() if pdu.state_key is None else frozenset({pdu.key})
    return USUAL_KEYS | auth_types_of(rules, pdu) | own


def distinct_states(states: Iterable[StateBefore]) -> list[StateBefore]:
    """The states, each once."""
    distinct = {
        (state.at, state.overlay, frozenset(state.entries.items())): state for state in states
    }
    return list(distinct.values())
