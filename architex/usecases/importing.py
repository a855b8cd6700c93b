"""Importing: events that another server tells us without the state of the room where they stand.

States and auth chains, and the history from before this server came. Their signatures, hashes and
authorization by their own auth events are checked like everybody's; what cannot be checked is that
this is all there is.

Spec: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from architex.domain.auth_rules import (
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
    find_state_among,
)
from architex.domain.errors import Forbidden
from architex.domain.identifiers import EventId, RoomId, ServerName
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.aggregate import redaction_server
from architex.domain.room.events import (
    REJECTED,
    Fact,
    HistoryImported,
    ImportRejected,
    JoinImported,
    StateBefore,
    StateImported,
)
from architex.domain.room.pdu_checks import Outcome, Verdict, check_form, check_imported
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import FindEventKey
from architex.projections.branch_states import BranchStates, KnownEvent
from architex.projections.gaps import find_followers, find_free_ordering
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession

MAX_AT_ONCE: Final = 200
"""Events imported in one transaction."""


@dataclass(frozen=True)
class Importing:
    """Records what other servers tell of a room's state and past."""

    commits: CommitQueue
    branches: BranchStates

    def import_state(
        self,
        room_id: RoomId,
        events: Sequence[Mapping[str, Any]],
        find_verify_key: FindEventKey,
        *,
        is_backfilled: bool = False,
    ) -> list[Verdict]:
        """Remember events of a state or an auth chain, each alone, as outliers.

        Args:
            events: in any order; those that they are authorised by are among them or known.
            is_backfilled: they came as history, and may name any number of events.

        Returns a verdict for each, in their order.

        Raises:
            UnknownRoom: this server does not know the room.
        """
        rules = self.commits.event_log.rules_of(room_id)
        formed = [
            check_form(rules, room_id, event, find_verify_key, limit_references=not is_backfilled)
            for event in events
        ]
        verdicts = self.record_state(room_id, [pdu for pdu in formed if isinstance(pdu, Pdu)])
        return [
            verdicts.get(pdu.event_id, Verdict(Outcome.DROPPED, reason="It authorises itself."))
            if isinstance(pdu, Pdu)
            else pdu
            for pdu in formed
        ]

    def record_state(
        self,
        room_id: RoomId,
        pdus: Iterable[Pdu],
        *,
        as_state: Collection[EventId] = frozenset(),
        creates: RoomVersionRules | None = None,
    ) -> dict[EventId, Verdict]:
        """Record events whose form was checked, those first that authorise others.

        Args:
            as_state: which of them become part of the current state.
            creates: the rules of a room that may not be known here yet.
        """
        ordered = _auth_events_first(pdus)
        verdicts: dict[EventId, Verdict] = {}
        while ordered:
            decide = partial(self._record_state, ordered[:MAX_AT_ONCE], as_state)
            verdicts |= self.commits.write_room(RoomCommand(room_id, decide, creates=creates))
            del ordered[:MAX_AT_ONCE]
        return verdicts

    def record_join(self, room_id: RoomId, join: Pdu, state: Collection[EventId]) -> None:
        """Let our server be in a room from the join of its user on.

        Args:
            state: all events of the state before it; they are recorded.

        Raises:
            Forbidden: that state, as far as it is recorded and not rejected, does not allow the
                join.
        """
        self.commits.write_room(RoomCommand(room_id, partial(self._record_join, join, state)))

    def import_history(
        self,
        room_id: RoomId,
        events: Sequence[Mapping[str, Any]],
        find_verify_key: FindEventKey,
    ) -> list[Verdict]:
        """Put backfilled events into the timeline, before those that follow them.

        Args:
            events: those first that follow others; an event that nothing follows which is here is
                dropped.

        Returns a verdict for each, in their order; MISSING where auth events are not known.

        Raises:
            UnknownRoom: this server does not know the room.
        """
        rules = self.commits.event_log.rules_of(room_id)
        formed = [
            check_form(rules, room_id, event, find_verify_key, limit_references=False)
            for event in events
        ]
        pdus = [pdu for pdu in formed if isinstance(pdu, Pdu)]
        verdicts: list[Verdict] = []
        for start in range(0, len(pdus), MAX_AT_ONCE):
            decide = partial(self._import_history, pdus[start : start + MAX_AT_ONCE])
            verdicts += self.commits.write_room(RoomCommand(room_id, decide))
        in_turn = iter(verdicts)
        return [next(in_turn) if isinstance(pdu, Pdu) else pdu for pdu in formed]

    # Under the room's lock

    def _record_state(
        self, pdus: Sequence[Pdu], as_state: Collection[EventId], session: RoomSession
    ) -> dict[EventId, Verdict]:
        checks = _Checks(session, self.branches, pdus)
        verdicts = {}
        for pdu in pdus:
            verdict = verdicts[pdu.event_id] = checks.check(pdu)
            if verdict.outcome is Outcome.ACCEPTED:
                fact = StateImported(**checks.described(pdu))
                is_state = pdu.event_id in as_state
                checks.record(fact if is_state else replace(fact, delta={}))
            elif verdict.outcome is Outcome.REJECTED:
                checks.record(ImportRejected(**checks.described(pdu), reason=verdict.reason))
        return verdicts

    def _record_join(self, join: Pdu, state: Collection[EventId], session: RoomSession) -> None:
        rules, head, connection = session.room.rules, session.head, session.connection
        if join.event_id in session.room.extremities:
            return
        known = self.branches.find_events(
            connection, head.room_nid, rules, [join.event_id, *join.auth_events]
        )
        itself = known.pop(join.event_id, None)
        changes = self.branches.compare_told(connection, head.room_nid, rules, state)
        self._check_join(session, join, known, changes)
        replaced = session.find_state(join.type, join.state_key or "")
        session.record(
            JoinImported(
                originator_id=session.room.room_id,
                originator_version=session.room.version + 1,
                pdu=join,
                received_ts=session.now_ms,
                replaces=None if replaced is None else replaced.event_id,
                delta={**changes, join.key: join.event_id} if changes else None,
                before=StateBefore(head.last_position, None, changes) if changes else None,
                known_at=None if itself is None else itself.position,
            ),
            after_gap=True,
        )

    def _check_join(
        self,
        session: RoomSession,
        join: Pdu,
        auth_events: Mapping[EventId, KnownEvent],
        changes: Mapping[StateKey, EventId | None],
    ) -> None:
        """Check a join by its auth events, and by the current state with what changes in it."""
        rules = session.room.rules
        if len(auth_events) < len(set(join.auth_events)):
            raise Forbidden("Auth events of the join are not known.")
        needed = auth_types_for_event(
            rules,
            type=join.type,
            state_key=join.state_key,
            sender=join.sender,
            content=join.content,
        )
        told = {key: changes[key] for key in {("m.room.create", ""), *needed} & changes.keys()}
        pdus = self.branches.find_pdus(session.connection, rules, filter(None, told.values()))

        def find_state(type: str, state_key: str) -> Pdu | None:
            if (type, state_key) not in told:
                return session.find_state(type, state_key)
            event_id = told[type, state_key]
            return None if event_id is None else pdus[event_id]

        create = find_state("m.room.create", "")
        if create is None:
            raise Forbidden("The room has no m.room.create event that counts.")
        check_state_independent_auth_rules(
            rules,
            join,
            [known.pdu for known in auth_events.values()],
            create=create,
            rejected={e for e, known in auth_events.items() if known.verdict == REJECTED},
        )
        check_state_dependent_auth_rules(rules, join, find_state)

    def _import_history(self, pdus: Sequence[Pdu], session: RoomSession) -> list[Verdict]:
        connection, room_nid = session.connection, session.head.room_nid
        checks = _Checks(session, self.branches, pdus, with_places=True)
        followers = find_followers(connection, room_nid, [pdu.event_id for pdu in pdus])
        taken: set[int] = set()
        verdicts = []
        for pdu in pdus:
            verdict = checks.check(pdu)
            if verdict.outcome in (Outcome.ACCEPTED, Outcome.REJECTED):
                below = followers.get(pdu.event_id)
                if below is None:
                    verdict = Verdict(Outcome.DROPPED, pdu, "Nothing here follows it.")
                else:
                    ordering = find_free_ordering(connection, room_nid, below, taken)
                    taken.add(ordering)
                    checks.record(_history_fact(checks, pdu, verdict, ordering))
                    if verdict.outcome is Outcome.ACCEPTED:
                        for event_id in pdu.prev_events:
                            followers[event_id] = min(ordering, followers.get(event_id, ordering))
            verdicts.append(verdict)
        return verdicts


class _Checks:
    """The checks on imported events of one room, within one decision."""

    def __init__(
        self,
        session: RoomSession,
        branches: BranchStates,
        pdus: Sequence[Pdu],
        *,
        with_places: bool = False,
    ) -> None:
        """Look up what they refer to.

        Args:
            with_places: events that are known already count as new while they have no place.
        """
        self._session = session
        self._with_places = with_places
        rules = self.rules = session.room.rules
        connection, room_nid = session.connection, session.head.room_nid
        named = {e for pdu in pdus for e in (pdu.event_id, *pdu.auth_events)}
        self._known = branches.find_events(connection, room_nid, rules, named)
        self._elsewhere: set[EventId] = set()
        if rules.event_id_format == "domain":
            self._elsewhere = branches.find_elsewhere(connection, room_nid, named)
        self._pdus = {event_id: known.pdu for event_id, known in self._known.items()}
        self._rejected = {
            event_id for event_id, known in self._known.items() if known.verdict == REJECTED
        }
        self._fresh: set[EventId] = set()
        self._create = session.find_state("m.room.create") or next(
            (pdu for pdu in (*self._pdus.values(), *pdus) if pdu.type == "m.room.create"), None
        )

    def check(self, pdu: Pdu) -> Verdict:
        """What to think of an event."""
        known = self._known.get(pdu.event_id)
        if pdu.event_id in self._fresh or (
            known is not None and (known.is_placed or not self._with_places)
        ):
            return Verdict(Outcome.KNOWN, pdu)
        if pdu.event_id in self._elsewhere:
            return Verdict(Outcome.DROPPED, reason="Another room has an event of this ID.")
        if pdu.type == "m.room.create" and (
            self._create is None or pdu.event_id != self._create.event_id
        ):
            return Verdict(Outcome.DROPPED, reason="The room has its m.room.create event.")
        missing = frozenset(event_id for event_id in pdu.auth_events if event_id not in self._pdus)
        if missing:
            return Verdict(Outcome.MISSING, pdu, "Its auth events are not here.", missing)
        auth_events = self.auth_events(pdu)
        reason = check_imported(
            self.rules, pdu, auth_events, create=self._create, rejected=self._rejected
        )
        return Verdict(Outcome.ACCEPTED if reason is None else Outcome.REJECTED, pdu, reason)

    def auth_events(self, pdu: Pdu) -> list[Pdu]:
        """The events that authorise an event whose auth events are all known."""
        return [self._pdus[event_id] for event_id in pdu.auth_events]

    def described(self, pdu: Pdu) -> dict[str, Any]:
        """What every fact says of its event."""
        known = self._known.get(pdu.event_id)
        return {
            "originator_id": self._session.room.room_id,
            "originator_version": self._session.room.version + 1,
            "pdu": pdu,
            "received_ts": self._session.now_ms,
            "redaction_server": self._redaction_server(pdu),
            "known_at": None if known is None else known.position,
        }

    def _redaction_server(self, pdu: Pdu) -> ServerName | None:
        if pdu.type != "m.room.redaction":
            return None
        find_state = find_state_among(self.auth_events(pdu), create=self._create)
        return redaction_server(self.rules, pdu, find_state)

    def record(self, fact: Fact) -> None:
        """Record a fact about one of the events."""
        self._session.record(fact)
        self._pdus[fact.pdu.event_id] = fact.pdu
        self._fresh.add(fact.pdu.event_id)
        if fact.verdict == REJECTED:
            self._rejected.add(fact.pdu.event_id)


def _history_fact(checks: _Checks, pdu: Pdu, verdict: Verdict, ordering: int) -> Fact:
    described = checks.described(pdu)
    if verdict.outcome is Outcome.REJECTED:
        return ImportRejected(**described, ordering=ordering, reason=verdict.reason)
    return HistoryImported(**described, ordering=ordering)


def _auth_events_first(pdus: Iterable[Pdu]) -> list[Pdu]:
    """The events, each once and after those that authorise it; without those in circles."""
    by_id = {pdu.event_id: pdu for pdu in pdus}
    waits_for = {
        event_id: {auth_id for auth_id in pdu.auth_events if auth_id in by_id}
        for event_id, pdu in by_id.items()
    }
    authorises: dict[EventId, list[EventId]] = {}
    for event_id, auth_ids in waits_for.items():
        for auth_id in auth_ids:
            authorises.setdefault(auth_id, []).append(event_id)
    ordered = [event_id for event_id, auth_ids in waits_for.items() if not auth_ids]
    # Since room version 12 no event names it, and still all need it.
    ordered.sort(key=lambda event_id: by_id[event_id].type != "m.room.create")
    for event_id in ordered:  # it grows
        for authorised in authorises.get(event_id, ()):
            waits_for[authorised].discard(event_id)
            if not waits_for[authorised]:
                ordered.append(authorised)
    return [by_id[event_id] for event_id in ordered]
