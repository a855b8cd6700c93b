"""Judging: the door through which the events of others enter a room.

Each event is checked in the spec's order, by the state where it stands in the graph; where
branches meet, their states are resolved. What that costs follows from what the branches changed.

Spec: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from architex.domain.auth_rules import FindState
from architex.domain.errors import MatrixError
from architex.domain.identifiers import EventId, RoomId, ServerName, UserId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.policy_servers import PolicyServer, is_recommended, needs_recommendation
from architex.domain.room.aggregate import (
    DUMMY_EVENT_TYPE,
    MAX_PREV_EVENTS,
    EventDraft,
    extremities_after,
    redaction_server,
)
from architex.domain.room.events import (
    Fact,
    PduAccepted,
    PduRejected,
    PduSoftFailed,
    StateBefore,
)
from architex.domain.room.pdu_checks import Outcome, Verdict, check_authorisation, check_form
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import FindEventKey
from architex.projections.branch_states import BranchStates, KnownEvent
from architex.projections.gaps import find_deepest_follower, find_followers
from architex.projections.member_reads import MemberReads
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.deciding import power_levels
from architex.usecases.resolving import USUAL_KEYS, Resolving, keys_looked_at

log = logging.getLogger(__name__)

MAX_OPEN_ENDS: Final = 10
"""A room with more forward extremities than this gets an event that follows them."""

MAX_CANDIDATES: Final = 50

MAX_AT_ONCE: Final = 50
"""Events judged in one transaction: who else waits gets a turn in between."""

ToldStates: TypeAlias = Mapping[EventId, Collection[EventId]]
"""Event ID → the IDs of all events of the state before it, as another server told it."""

AcceptedHook: TypeAlias = Callable[[RoomSession, Pdu], None]
"""What else to do within a decision that has recorded an event; adds rows by `session.also`."""

_FACT_CLASSES: Final[Mapping[Outcome, type[Fact]]] = {
    Outcome.ACCEPTED: PduAccepted,
    Outcome.SOFT_FAILED: PduSoftFailed,
    Outcome.REJECTED: PduRejected,
}


class _Unrecommended(MatrixError):
    """The room's policy server is to be asked about events before they are judged."""

    def __init__(self, policy_server: PolicyServer) -> None:
        super().__init__(f"{policy_server.server_name} has not recommended the events.")
        self.policy_server = policy_server


@dataclass(frozen=True)
class Judging:
    """Judges events, and records those that are kept."""

    commits: CommitQueue
    branches: BranchStates
    members: MemberReads

    def judge(
        self,
        room_id: RoomId,
        events: Sequence[Mapping[str, Any]],
        find_verify_key: FindEventKey,
        *,
        told: ToldStates | None = None,
        also: AcceptedHook | None = None,
    ) -> list[Verdict]:
        """Judge events of a room, in the order given, each alone; one bad one spoils nothing.

        Args:
            events: as they came; parents before children.
            find_verify_key: such as `KeyRing.for_events` gives; it must not touch the network.
            told: event ID → the IDs of all events of the state before it, as another server told
                it (`Importing.import_state` recorded them): for events that follow missing ones,
                and for outliers that others follow.
            also: called within the decision that has recorded an event as accepted.

        Returns a verdict for each.

        Raises:
            UnknownRoom: this server does not know the room.
        """
        rules = self.commits.event_log.rules_of(room_id)
        formed = [check_form(rules, room_id, event, find_verify_key) for event in events]
        waiting = [pdu for pdu in formed if isinstance(pdu, Pdu)]
        judged: list[Verdict] = []
        refused: dict[EventId, str] = {}
        while len(judged) < len(waiting):
            next_ones = waiting[len(judged) : len(judged) + MAX_AT_ONCE]
            prefetch = frozenset().union(*(keys_looked_at(rules, pdu) for pdu in next_ones))
            decide = partial(self._judge, waiting[len(judged) :], told or {}, also, refused)
            try:
                verdicts, open_ends = self.commits.write_room(
                    RoomCommand(room_id, decide, prefetch)
                )
            except _Unrecommended as needed:
                waiting[len(judged) : len(judged) + MAX_AT_ONCE] = self._recommend(
                    rules, needed.policy_server, next_ones, refused
                )
                continue
            judged += verdicts
            while open_ends > MAX_OPEN_ENDS:
                before, open_ends = open_ends, self.merge_ends(room_id)
                if open_ends >= before:  # nobody here may
                    break
        in_turn = iter(judged)
        return [next(in_turn) if isinstance(pdu, Pdu) else pdu for pdu in formed]

    def _recommend(
        self,
        rules: RoomVersionRules,
        policy_server: PolicyServer,
        pdus: Sequence[Pdu],
        refused: dict[EventId, str],
    ) -> list[Pdu]:
        """Events with the signature of the room's policy server, where it gives one.

        Args:
            refused: is told why it gives none.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures
        """
        places = [
            place
            for place, pdu in enumerate(pdus)
            if _lacks_recommendation(rules, policy_server, pdu) and pdu.event_id not in refused
        ]
        policy_servers = self.commits.policy_servers
        if policy_servers is None:
            return list(pdus)
        answers = policy_servers.sign_each(rules, policy_server, [pdus[place] for place in places])
        signed = list(pdus)
        for place, answer in zip(places, answers, strict=True):
            if isinstance(answer, Pdu):
                signed[place] = answer
            else:
                refused[pdus[place].event_id] = (
                    f"{policy_server.server_name}, the room's policy server, does not"
                    f" recommend it: {answer.message}"
                )
        return signed

    def merge_ends(self, room_id: RoomId) -> int:
        """Let an event of ours follow up to 20 ends of a room, if anybody here may send one.

        Returns how many ends the room has then.
        """
        return self.commits.write_room(RoomCommand(room_id, self._merge_ends))

    # Under the room's lock

    def _judge(
        self,
        pdus: Sequence[Pdu],
        told: ToldStates,
        also: AcceptedHook | None,
        refused: Mapping[EventId, str],
        session: RoomSession,
    ) -> tuple[list[Verdict], int]:
        """Verdicts on as many of the events as can be judged in this transaction; open ends."""
        coming, pdus = pdus, pdus[:MAX_AT_ONCE]
        named = {e for pdu in pdus for e in (pdu.event_id, *pdu.prev_events, *pdu.auth_events)}
        door = _Door(session, self.branches, named, told, coming, refused)
        verdicts: list[Verdict] = []
        for pdu in pdus:
            if verdicts and len(session.room.extremities) > MAX_PREV_EVENTS:
                break  # merge some ends first
            policy_server = session.policy_server
            if (
                policy_server is not None
                and _lacks_recommendation(session.room.rules, policy_server, pdu)
                and pdu.event_id not in refused
                and not door.is_judged(pdu)
            ):
                if verdicts:
                    break
                raise _Unrecommended(policy_server)
            verdict = door.judge(pdu)
            if verdict is None:  # it stands beside an event that has no position yet
                break
            verdicts.append(verdict)
            if also is not None and verdict.outcome is Outcome.ACCEPTED:
                also(session, pdu)
        return verdicts, len(session.room.extremities)

    def _merge_ends(self, session: RoomSession) -> int:
        room = session.room
        sender = self._find_merger(session)
        if len(room.extremities) > MAX_OPEN_ENDS and sender is not None:
            prev_events = room.prev_events()
            door = _Door(session, self.branches, prev_events)
            door.append_dummy(EventDraft(DUMMY_EVENT_TYPE, sender, {}), prev_events)
        return len(session.room.extremities)

    def _find_merger(self, session: RoomSession) -> UserId | None:
        """A member on this server who may send the event that merges ends."""
        levels = power_levels(session)
        needed = levels.to_send(DUMMY_EVENT_TYPE, False)
        server_name = self.commits.signer.server_name
        members = self.members.list_local_members(
            session.head.room_nid, server_name, MAX_CANDIDATES
        )
        return next((user_id for user_id in members if levels.of_user(user_id) >= needed), None)


def _lacks_recommendation(rules: RoomVersionRules, policy_server: PolicyServer, pdu: Pdu) -> bool:
    return needs_recommendation(pdu) and not is_recommended(rules, policy_server, pdu.event)


class _Door:
    """The checks on events of one room, within one decision."""

    def __init__(
        self,
        session: RoomSession,
        branches: BranchStates,
        named: Collection[EventId],
        told: ToldStates = MappingProxyType({}),
        coming: Sequence[Pdu] = (),
        refused: Mapping[EventId, str] = MappingProxyType({}),
    ) -> None:
        self._told = told
        # Event ID → why the room's policy server does not recommend it.
        self._refused = refused
        self._coming = coming
        self._followed: set[EventId] | None = None
        self._session = session
        self._branches = branches
        self._rules = session.room.rules
        self._resolving = Resolving(
            branches, session.connection, session.head.room_nid, self._rules
        )
        self._known = branches.find_events(
            session.connection, session.head.room_nid, self._rules, named
        )
        self._elsewhere: set[EventId] = set()
        if self._rules.event_id_format == "domain":
            self._elsewhere = branches.find_elsewhere(
                session.connection, session.head.room_nid, named
            )
        # Judged here, and so without a position: the event, and whether it was rejected.
        self._fresh: dict[EventId, tuple[Pdu, bool]] = {}

    def is_judged(self, pdu: Pdu) -> bool:
        """Whether an event has its verdict already."""
        known = self._known.get(pdu.event_id)
        return pdu.event_id in self._fresh or (known is not None and known.is_placed)

    def judge(self, pdu: Pdu) -> Verdict | None:
        """The verdict on an event, recorded; None when it must wait for the next transaction."""
        known = self._known.get(pdu.event_id)
        if self.is_judged(pdu):
            return Verdict(Outcome.KNOWN, pdu)
        if pdu.type == "m.room.create":
            return Verdict(Outcome.DROPPED, reason="The room has its m.room.create event.")
        if known is not None and self._is_before_gap(pdu) and not self._closes_gap(pdu):
            # Part of a state that we were told. Its place is found when history is filled in.
            return Verdict(Outcome.KNOWN, pdu)
        if pdu.event_id in self._elsewhere:
            return Verdict(Outcome.DROPPED, reason="Another room has an event of this ID.")
        if self._session.is_uncommitted(pdu.event_id):
            return None
        if pdu.event_id in (*pdu.prev_events, *pdu.auth_events):
            return Verdict(Outcome.DROPPED, reason="It refers to itself.")
        if not pdu.prev_events:
            return Verdict(Outcome.DROPPED, reason="Only m.room.create follows no event.")
        is_told = pdu.event_id in self._told
        missing = frozenset(
            event_id
            for event_id in (*pdu.auth_events, *(() if is_told else pdu.prev_events))
            if event_id not in self._known and event_id not in self._fresh
        )
        stateless = frozenset(() if is_told else filter(self._lacks_state, pdu.prev_events))
        if missing or stateless:
            if any(self._session.is_uncommitted(event_id) for event_id in missing):
                return None
            return Verdict(
                Outcome.MISSING,
                pdu,
                "It refers to events or follows states that are not here.",
                missing,
                stateless,
            )
        if known is None and not is_told and self._follows_the_end(pdu):
            before = None
        else:
            ends = self._session.room.extremities
            if not self._all_committed((*pdu.prev_events, *pdu.auth_events, *ends)):
                return None
            before = self._told_before(pdu) if is_told else self._state_before(pdu.prev_events)
        find_before = self._find_before(pdu, before)
        verdict = self._check(pdu, find_before, self._session.find_state)
        if (
            verdict.outcome is Outcome.SOFT_FAILED
            and before is not None
            and self._stands_on_what_was_told(pdu)
        ):
            known_ends = self._find_ends(self._session.room.extremities)
            find_current = self._resolving.finder_with_gap(pdu, before, known_ends)
            verdict = self._check(pdu, find_before, find_current)
        if verdict.outcome is Outcome.ACCEPTED and pdu.event_id in self._refused:
            verdict = Verdict(Outcome.SOFT_FAILED, pdu, self._refused[pdu.event_id])
        replaced = None
        if pdu.state_key is not None and verdict.outcome is Outcome.ACCEPTED:
            replaced = find_before(pdu.type, pdu.state_key)
        server = redaction_server(self._rules, pdu, find_before)
        self._record(verdict, pdu, before, server, replaced)
        return verdict

    def append_dummy(self, draft: EventDraft, prev_events: Sequence[EventId]) -> None:
        """Add an event of ours that follows some ends of the room, perhaps not all it has."""
        session = self._session
        if set(prev_events) == set(session.room.extremities):
            session.append(draft)
        elif self._all_committed(session.room.extremities):
            before = self._state_before(prev_events)
            keys = USUAL_KEYS | session.room.auth_types(draft)
            pdu = session.compose(draft, find_before=self._resolving.finder(before, keys))
            self._record(Verdict(Outcome.ACCEPTED, pdu), pdu, before, None)

    def _follows_the_end(self, pdu: Pdu) -> bool:
        """Whether the state before the event is the current state of the room."""
        return set(pdu.prev_events) == set(self._session.room.extremities)

    def _all_committed(self, event_ids: Iterable[EventId]) -> bool:
        return not any(
            event_id in self._fresh or self._session.is_uncommitted(event_id)
            for event_id in event_ids
        )

    def _find_before(self, pdu: Pdu, before: StateBefore | None) -> FindState:
        if before is None:
            return self._session.find_state
        keys = USUAL_KEYS | self._resolving.auth_types(pdu)
        if pdu.state_key is not None:
            keys |= {pdu.key}
        return self._resolving.finder(before, keys)

    def _check(self, pdu: Pdu, find_before: FindState, find_current: FindState) -> Verdict:
        auth_events, rejected = self._auth_events(pdu)
        return check_authorisation(
            self._rules,
            pdu,
            auth_events,
            create=self._session.find_state("m.room.create", ""),
            rejected=rejected,
            find_before=find_before,
            find_current=find_current,
        )

    def _auth_events(self, pdu: Pdu) -> tuple[list[Pdu], set[EventId]]:
        auth_events = []
        rejected = set()
        for event_id in pdu.auth_events:
            known = self._known.get(event_id)
            if known is not None:
                auth_event, is_rejected = known.pdu, known.verdict == PduRejected.verdict
            else:
                auth_event, is_rejected = self._fresh[event_id]
            auth_events.append(auth_event)
            if is_rejected:
                rejected.add(event_id)
        return auth_events, rejected

    def _record(
        self,
        verdict: Verdict,
        pdu: Pdu,
        before: StateBefore | None,
        redaction_server: ServerName | None,
        replaced: Pdu | None = None,
    ) -> None:
        session = self._session
        delta: dict[StateKey, EventId | None] | None = None
        is_followed = False
        if verdict.outcome is Outcome.ACCEPTED and before is not None:
            is_followed = self._is_followed(pdu)
            moves_on = not is_followed and self._only_moves_an_end_on(pdu)
            delta = {} if moves_on else self._change_of_current_state(pdu, before, is_followed)
        fact_class = _FACT_CLASSES[verdict.outcome]
        known = self._known.get(pdu.event_id)
        follows_missing = any(
            event_id not in self._fresh
            and (event_id not in self._known or not self._known[event_id].is_placed)
            for event_id in pdu.prev_events
        )
        session.record(
            fact_class(
                originator_id=session.room.room_id,
                originator_version=session.room.version + 1,
                pdu=pdu,
                received_ts=session.now_ms,
                replaces=None if replaced is None else replaced.event_id,
                delta=delta,
                redaction_server=redaction_server,
                before=before,
                reason=verdict.reason,
                known_at=None if known is None else known.position,
                is_followed=is_followed,
            ),
            after_gap=follows_missing,
        )
        self._fresh[pdu.event_id] = (pdu, verdict.outcome is Outcome.REJECTED)
        # What the event changed is not in the database yet: the room must be told now.
        earlier = {
            key: event_id
            for key, event_id in (delta or {}).items()
            if event_id is not None and event_id != pdu.event_id
        }
        if earlier:
            pdus = self._branches.find_pdus(session.connection, self._rules, earlier.values())
            session.learn({key: pdus[event_id] for key, event_id in earlier.items()})

    # States

    def _state_before(self, prev_events: Iterable[EventId]) -> StateBefore:
        """The state before an event that stands on branches: resolved, where they differ."""
        return self._resolving.resolve_states(
            self._state_after(self._known[event_id]) for event_id in sorted(set(prev_events))
        )

    def _state_after(self, event: KnownEvent) -> StateBefore:
        if not event.is_outlier:
            return event.state_after
        before = self._told_before(event.pdu)
        return replace(event, before=before, is_outlier=False).state_after

    def _lacks_state(self, event_id: EventId) -> bool:
        """Whether an event is known, but nobody has told the state before it."""
        known = self._known.get(event_id)
        return known is not None and known.is_outlier and event_id not in self._told

    def _told_before(self, pdu: Pdu) -> StateBefore:
        """The state before an event as another server told it."""
        session = self._session
        entries = self._branches.compare_told(
            session.connection, session.head.room_nid, self._rules, self._told[pdu.event_id]
        )
        # A room has one m.room.create, whatever a state that was told leaves out.
        entries.pop(("m.room.create", ""), None)
        return StateBefore(session.head.last_position, None, entries)

    def _stands_on_what_was_told(self, pdu: Pdu) -> bool:
        """Whether no state of ours has that which was told before an event, or before a parent.

        That of a parent which was accepted is a part of the current state since.
        """
        return pdu.event_id in self._told or any(
            event_id in self._told and self._known[event_id].is_outlier
            for event_id in pdu.prev_events
            if event_id in self._known
        )

    def _follows_gap(self, pdu: Pdu) -> bool:
        """Whether another server told the state before an event, or that before a parent of it."""
        return any(event_id in self._told for event_id in (pdu.event_id, *pdu.prev_events))

    def _find_ends(self, event_ids: Collection[EventId]) -> Collection[KnownEvent]:
        session = self._session
        return self._branches.find_events(
            session.connection, session.head.room_nid, self._rules, event_ids
        ).values()

    def _only_moves_an_end_on(self, pdu: Pdu) -> bool:
        """Whether the states after the ends of the room stay what they are."""
        follows_one_end = {*pdu.prev_events} <= {*self._session.room.extremities}
        return pdu.state_key is None and len({*pdu.prev_events}) == 1 and follows_one_end

    def _is_followed(self, pdu: Pdu) -> bool:
        """Whether events that we have, or that are about to be judged, lead on from an event.

        Then it is an old one that was missing. If it became an end of the room, the state of long
        ago would meet that of today. What hangs in the air, and what follows only such events, is
        taken for a part of what is missing when it is not as deep as what comes after a gap; if
        it is none, those who know will send what follows it.
        """
        if self._closes_gap(pdu):
            return True
        is_hanging = pdu.event_id in self._told or all(
            event_id in self._told
            or (event_id in self._known and self._known[event_id].is_followed)
            for event_id in pdu.prev_events
        )
        return is_hanging and self._is_before_gap(pdu)

    def _is_before_gap(self, pdu: Pdu) -> bool:
        """Whether an event is less deep than one before which something is missing."""
        session = self._session
        deepest = find_deepest_follower(session.connection, session.head.room_nid)
        return deepest is not None and pdu.depth < deepest

    def _closes_gap(self, pdu: Pdu) -> bool:
        """Whether an event is missing before those that we have, or those about to be judged."""
        if self._followed is None:
            session = self._session
            named = {one.event_id for one in self._coming}
            followers = find_followers(session.connection, session.head.room_nid, named)
            self._followed = set(followers)
            for one in reversed(self._coming):  # parents come before children
                if one.event_id in self._followed:
                    self._followed.update(one.prev_events)
        return pdu.event_id in self._followed

    def _change_of_current_state(
        self, pdu: Pdu, before: StateBefore, is_followed: bool
    ) -> dict[StateKey, EventId | None]:
        """How the current state changes when the event becomes an end of the room beside others.

        A change that nobody's event explains is told to the operator.
        """
        session = self._session
        extremities = session.room.extremities
        ends = set(extremities_after(self._rules, extremities, pdu, is_followed=is_followed))
        if is_followed and ends == set(extremities):
            return {}
        change = self._resolving.change_of_current_state(
            pdu,
            before,
            self._find_ends(ends - {pdu.event_id}),
            StateBefore(session.head.last_position),
            after_gap=is_followed or self._follows_gap(pdu),
            is_followed=is_followed,
        )
        for type_, state_key in change.resets:
            log.warning(
                "State reset in %s: %s %r now is %s, and %s does not explain it. See"
                " `architex room explain`.",
                pdu.room_id,
                type_,
                state_key,
                change.entries[type_, state_key] or "away",
                pdu.event_id,
            )
        return dict(change.entries)
