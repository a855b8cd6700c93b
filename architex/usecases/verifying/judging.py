"""What needs the state where an event stands: is it authorised, and what did it change?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import immutables

from architex.domain.auth_rules import FindState
from architex.domain.identifiers import EventId
from architex.domain.pdu import (
    Pdu,
    StateKey,
)
from architex.domain.room.aggregate import (
    DUMMY_EVENT_TYPE,
    MAX_PREV_EVENTS,
    Room,
    extremities_after,
    redaction_server,
)
from architex.domain.room.events import (
    ACCEPTED,
    FACT_CLASSES,
    REJECTED,
    SOFT_FAILED,
    Fact,
    JoinImported,
    RecordedFact,
    StateBefore,
    may_come_from_outside,
)
from architex.domain.room.pdu_checks import Outcome, check_authorisation, check_imported
from architex.projections.branch_states import KnownEvent
from architex.projections.event_graph import referred_events
from architex.usecases.verifying.reports import RESTORE, Reset
from architex.usecases.verifying.verified_room import VerifiedRoom

_CREATE: Final[StateKey] = ("m.room.create", "")


_VERDICTS: Final = {
    Outcome.ACCEPTED: ACCEPTED,
    Outcome.SOFT_FAILED: SOFT_FAILED,
    Outcome.REJECTED: REJECTED,
}


class FactJudging:
    """Judges the facts of one room, in order."""

    def __init__(self, at: VerifiedRoom, on_evolved: Callable[[int, Room], None]) -> None:
        """Stand before the first fact.

        Args:
            on_evolved: told the room as it is after the fact at a position.
        """
        # Of the room only what does not grow with it: its ends and its depth, no state.
        self._room: Room | None = None
        self._at = at
        self._create: Pdu | None = None
        self._on_evolved = on_evolved

    def judge(self, facts: Sequence[RecordedFact]) -> None:
        """The next facts, which were replayed."""
        known = self._at.find_events({e for r in facts for e in referred_events(r.fact)})
        entries = self._at.replay.find_entries(
            self._at.room_nid,
            [
                (r.position - 1, key)
                for r in facts
                for key in self._keys_of(r.pdu)
                if r.pdu.type != "m.room.create"
            ],
        )
        pdus = self._at.find_pdus(set(entries.values()))
        for recorded in facts:
            at = recorded.position - 1
            current = {
                key: pdus[entries[at, key]]
                for key in self._keys_of(recorded.pdu)
                if (at, key) in entries
            }
            self._judge_one(recorded, known, current)
            self._evolve(recorded)

    def _keys_of(self, pdu: Pdu) -> set[StateKey]:
        keys = {_CREATE, *self._at.resolving.auth_types(pdu)}
        if pdu.state_key is not None:
            keys.add(pdu.key)
        return keys

    def _judge_one(
        self,
        recorded: RecordedFact,
        known: Mapping[EventId, KnownEvent],
        current: Mapping[StateKey, Pdu],
    ) -> None:
        fact, pdu = recorded.fact, recorded.pdu
        if pdu.type == "m.room.create" and self._create is None:
            self._create = pdu
        if fact.is_outlier:
            self._judge_outlier(recorded, known)
            return
        before: StateBefore | None = None
        find_before = find_current = lambda type, state_key: current.get((type, state_key))
        if isinstance(fact, JoinImported):
            # Where it stands is what another server told.
            find_current = find_before = self._at.resolving.finder(
                fact.before or StateBefore(recorded.position - 1), self._keys_of(pdu)
            )
        elif not self._follows_the_end(fact):
            before = self._state_before(recorded, known)
            find_before = self._at.resolving.finder(before, self._keys_of(pdu))
            self._check_state_before(recorded, before)
        elif fact.before is not None and fact.known_at is None:
            self._at.problem_at(
                recorded,
                "It follows the end of the room, but a state of its own is recorded for it",
                RESTORE,
            )
        check = functools.partial(
            check_authorisation,
            self._at.rules,
            pdu,
            [known[event_id].pdu for event_id in pdu.auth_events],
            create=self._create,
            rejected={e for e in pdu.auth_events if known[e].verdict == REJECTED},
            find_before=find_before,
        )
        verdict = check(find_current=find_current)
        if (
            verdict.outcome is Outcome.SOFT_FAILED
            and fact.verdict == ACCEPTED
            and before is not None
            and self._room is not None
            and self._was_told(recorded, known)
        ):
            ends = self._at.find_events(self._room.extremities).values()
            verdict = check(find_current=self._at.resolving.finder_with_gap(pdu, before, ends))
        # The event with which we merge ends is not asked for by anybody: it is never soft-failed.
        is_merging = pdu.type == DUMMY_EVENT_TYPE and verdict.outcome is Outcome.SOFT_FAILED
        if _VERDICTS[verdict.outcome] != fact.verdict and not (
            is_merging and fact.verdict == ACCEPTED
        ):
            self._wrong_verdict(recorded, verdict.outcome, verdict.reason)
        self._check_changes(recorded, before, current, find_before)
        reach = redaction_server(self._at.rules, pdu, find_before)
        if fact.redaction_server != reach:
            self._at.problem_at(
                recorded,
                f"It is recorded that it redacts events of {fact.redaction_server or 'anybody'};"
                f" by the rules it does those of {reach or 'anybody'}",
                RESTORE,
            )

    def _judge_outlier(self, recorded: RecordedFact, known: Mapping[EventId, KnownEvent]) -> None:
        """What can be said of an event without the state where it stands."""
        if may_come_from_outside(recorded.fact):
            return
        pdu = recorded.pdu
        auth_events = [known[event_id].pdu for event_id in pdu.auth_events]
        reason = check_imported(
            self._at.rules,
            pdu,
            auth_events,
            create=self._create,
            rejected={e for e in pdu.auth_events if known[e].verdict == REJECTED},
        )
        outcome = Outcome.ACCEPTED if reason is None else Outcome.REJECTED
        if _VERDICTS[outcome] != recorded.fact.verdict:
            self._wrong_verdict(recorded, outcome, reason)

    def _wrong_verdict(self, recorded: RecordedFact, outcome: Outcome, reason: str | None) -> None:
        recorded_as = {verdict: outcome for outcome, verdict in _VERDICTS.items()}
        why = f" ({reason})" if reason else ""
        self._at.problem_at(
            recorded,
            f"It was recorded as {recorded_as[recorded.fact.verdict].value}, but by the rules"
            f" it is {outcome.value}{why}",
            RESTORE,
        )

    def _state_before(
        self, recorded: RecordedFact, known: Mapping[EventId, KnownEvent]
    ) -> StateBefore:
        """The state before an event that stands on branches.

        Where what it follows was not here, or was here as an outlier, another server told it.
        """
        fact = recorded.fact
        if fact.before is not None and self._was_told(recorded, known):
            return fact.before
        parents = (known.get(event_id) for event_id in sorted(set(fact.pdu.prev_events)))
        return self._at.resolving.state_before(
            parent for parent in parents if parent is not None and not parent.is_outlier
        )

    def _was_told(self, recorded: RecordedFact, known: Mapping[EventId, KnownEvent]) -> bool:
        """Whether the state before an event cannot have been computed here.

        Args:
            known: what it follows, as far as we have it by now; that may be more than then.
        """
        return any(
            event_id not in known
            or known[event_id].position > recorded.position
            or self._came_as_outlier(known[event_id])
            for event_id in recorded.pdu.prev_events
        )

    def _came_as_outlier(self, event: KnownEvent) -> bool:
        if event.is_outlier:
            return True
        first = self._at.replay.find_fact_at(event.position)
        return first is not None and FACT_CLASSES[first.stored.topic].is_outlier

    def _follows_the_end(self, fact: Fact) -> bool:
        """Whether the state before the event is the current state of the room."""
        if self._room is None:
            return True
        prev_events, ends = set(fact.pdu.prev_events), set(self._room.extremities)
        # What we send in a room with more ends than an event can follow is sent into its current
        # state, too.
        follows_most = len(prev_events) == MAX_PREV_EVENTS and prev_events < ends
        return prev_events == ends or (follows_most and fact.before is None)

    def _check_state_before(self, recorded: RecordedFact, before: StateBefore) -> None:
        told = recorded.fact.before
        if told is None:
            self._at.problem_at(
                recorded, "It stands on a branch, but no state before it is recorded", RESTORE
            )
            return
        if told == before:
            return
        for (type_, key), (was, wanted) in sorted(
            self._at.resolving.compare([told, before]).items()
        ):
            self._at.problem_at(
                recorded,
                f"The state before it is recorded with {type_} {key!r} = {was}; its parents give"
                f" {wanted}",
                RESTORE,
            )
            break

    def _check_changes(
        self,
        recorded: RecordedFact,
        before: StateBefore | None,
        current: Mapping[StateKey, Pdu],
        find_before: FindState,
    ) -> None:
        """What the fact says it changed in the current state, and which event it replaced."""
        fact, pdu = recorded.fact, recorded.pdu
        wanted: Mapping[StateKey, EventId | None] = {}
        replaced: EventId | None = None
        if fact.verdict == ACCEPTED:
            wanted = {} if pdu.state_key is None else {pdu.key: pdu.event_id}
            if isinstance(fact, JoinImported):
                entries = {} if fact.before is None else fact.before.entries
                wanted = {**entries, pdu.key: pdu.event_id}
            elif before is not None and self._room is not None:
                ends = set(
                    extremities_after(
                        self._at.rules,
                        self._room.extremities,
                        pdu,
                        is_followed=fact.is_followed,
                    )
                )
                change = self._at.resolving.change_of_current_state(
                    pdu,
                    before,
                    self._at.find_events(ends - {pdu.event_id}).values(),
                    StateBefore(recorded.position - 1),
                    is_recorded=True,
                    after_gap=fact.is_followed
                    or self._was_told(recorded, self._at.find_events(pdu.prev_events)),
                    is_followed=fact.is_followed,
                )
                wanted = change.entries
                self._at.report.resets += [
                    Reset(self._at.room_id, *key, wanted[key], recorded.position, pdu.event_id)
                    for key in change.resets
                ]
            if pdu.state_key is not None:
                held = current.get(pdu.key)
                if before is not None:
                    held = find_before(pdu.type, pdu.state_key)
                replaced = None if held is None else held.event_id
        told = fact.state_changes
        for key in sorted({*told, *wanted}):
            if key in told and key in wanted and told[key] == wanted[key]:
                continue
            says = told[key] or "nothing" if key in told else "what was there"
            gives = wanted[key] or "nothing" if key in wanted else "what was there"
            self._at.problem_at(
                recorded,
                f"State reset: it is recorded that since this event {key[0]} {key[1]!r} is"
                f" {says}; no event explains that, the rules give {gives}",
                RESTORE,
            )
            break
        if fact.replaces != replaced:
            self._at.problem_at(
                recorded,
                f"It is recorded that it replaced {fact.replaces}; it replaced {replaced}",
                RESTORE,
            )

    def _evolve(self, recorded: RecordedFact) -> None:
        room = self._room or Room(self._at.room_id, self._at.rules)
        self._room = replace(room.evolve(recorded.fact), state=immutables.Map())
        self._on_evolved(recorded.position, self._room)
