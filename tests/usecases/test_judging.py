"""Judging: every event of others is judged by the state where it stands in the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - seeded, and the seed is the test's parameter
from typing import Any

import pytest

from architex.bootstrap import Core
from architex.domain.identifiers import EventId, RoomId
from architex.domain.pdu import Pdu, StateKey, parse_pdu
from architex.domain.room.pdu_checks import Outcome, check_authorisation
from architex.domain.room_versions import ROOM_VERSIONS, RoomVersionRules
from architex.domain.signing import add_event_signature, servers_that_must_sign
from architex.domain.state_resolution import resolve_state
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.judging import MAX_OPEN_ENDS, Judging
from tests.builders import ALICE, BOB, TEST_KEY, RoomBuilder, auth_chain_of
from tests.core import SERVER_NAME
from tests.differential.random_rooms import RandomRoom

State = dict[StateKey, EventId]


def found_room(core: Core, create: Pdu, rules: RoomVersionRules) -> None:
    """Put a room with nothing but its create event into the log."""

    def decide(session: RoomSession) -> None:
        session.append_composed(create)

    core.commits.write_room(RoomCommand(create.room_id, decide, creates=rules))


def judge(core: Core, room_id: RoomId, pdus: Iterable[Pdu]) -> list[Outcome]:
    judging = Judging(core.commits, BranchStates(), MemberReads(core.database))
    events = [pdu.event for pdu in pdus]
    verdicts = judging.judge(room_id, events, lambda *_: TEST_KEY.verify_key)
    return [verdict.outcome for verdict in verdicts]


def current_state(core: Core, room_id: RoomId) -> State:
    rows = core.database.fetch_all(
        "SELECT c.type, c.state_key, g.event_id FROM current_state c JOIN rooms USING (room_nid)"
        " JOIN event_graph g ON g.position = c.position"
        " WHERE room_id = %s AND valid_to = 9223372036854775807",
        (room_id,),
    )
    return {(type_, state_key): event_id for type_, state_key, event_id in rows}


def state_before(core: Core, rules: RoomVersionRules, pdu: Pdu, keys: set[StateKey]) -> State:
    """The state before an event as the log knows it, under `keys`."""
    head = core.event_log.find_head(pdu.room_id)
    assert head is not None
    branches = BranchStates()
    with core.database.connection() as connection:
        known = branches.find_events(connection, head.room_nid, rules, [pdu.event_id])
        event = known[pdu.event_id]
        before = event.before
        if before is None:
            rows = connection.execute(
                "SELECT c.type, c.state_key, g.event_id FROM current_state c"
                " JOIN event_graph g ON g.position = c.position"
                " WHERE c.room_nid = %s AND valid_from < %s AND valid_to >= %s",
                (head.room_nid, event.position, event.position),
            )
            return {(type_, key): event_id for type_, key, event_id in rows.fetchall()}
        return branches.find_entries(connection, head.room_nid, before, keys)


@dataclass
class Reference:
    """The same judgement by whole states held in memory: slow, and plain to see."""

    rules: RoomVersionRules
    create: Pdu
    pdus: dict[EventId, Pdu] = field(default_factory=dict)
    before: dict[EventId, State] = field(default_factory=dict)
    after: dict[EventId, State] = field(default_factory=dict)
    outcomes: dict[EventId, Outcome] = field(default_factory=dict)
    ends: set[EventId] = field(default_factory=set)

    def __post_init__(self) -> None:
        create_id = self.create.event_id
        self.pdus[create_id] = self.create
        self.before[create_id] = {}
        self.after[create_id] = {self.create.key: create_id}
        self.outcomes[create_id] = Outcome.ACCEPTED
        self.ends.add(create_id)
        self.current = self.after[create_id]

    def judge(self, pdu: Pdu) -> Outcome:
        before = self._resolve([self.after[event_id] for event_id in sorted(pdu.prev_events)])
        auth_events = [self.pdus[event_id] for event_id in pdu.auth_events]
        verdict = check_authorisation(
            self.rules,
            pdu,
            auth_events,
            create=self.create,
            rejected={e for e in pdu.auth_events if self._is_rejected(e)},
            find_before=lambda type, key: self._find(before, type, key),
            find_current=lambda type, key: self._find(self.current, type, key),
        )
        self.pdus[pdu.event_id] = pdu
        self.before[pdu.event_id] = before
        self.outcomes[pdu.event_id] = verdict.outcome
        after = dict(before)
        if pdu.state_key is not None and verdict.outcome is not Outcome.REJECTED:
            after[pdu.key] = pdu.event_id
        self.after[pdu.event_id] = after
        if verdict.outcome is Outcome.ACCEPTED:
            follows_the_end = set(pdu.prev_events) == self.ends
            self.ends = (self.ends - set(pdu.prev_events)) | {pdu.event_id}
            ends = [self.after[event_id] for event_id in sorted(self.ends)]
            self.current = after if follows_the_end else self._resolve(ends)
        return verdict.outcome

    def _find(self, state: State, type: str, key: str) -> Pdu | None:
        event_id = state.get((type, key))
        return None if event_id is None else self.pdus[event_id]

    def _is_rejected(self, event_id: EventId) -> bool:
        return self.outcomes[event_id] is Outcome.REJECTED

    def _resolve(self, states: Sequence[State]) -> State:
        chains = [auth_chain_of(self.pdus, state.values()) for state in states]
        return resolve_state(
            self.rules, states, chains, self.pdus.get, is_rejected=self._is_rejected
        )


def random_room(version: str, seed: int, steps: int) -> list[Pdu]:
    """The events of a random room, parents before children; some break the rules."""
    random = Random(seed)  # noqa: S311 - seeded, so that a failure can be repeated
    refused: list[Pdu] = []

    def remember(branch: RoomBuilder, pdu: Pdu) -> None:
        if random.random() < 0.5:
            refused.append(pdu)

    room = RandomRoom(version, random, remember)
    room.grow(steps)
    allowed = dict(room.room.pdus)
    extra = {pdu.event_id: pdu for pdu in refused if pdu.event_id not in allowed}
    everything = [signed_by_all(room.room.rules, p) for p in (*allowed.values(), *extra.values())]
    return _shuffled_topologically(everything, random)


def signed_by_all(rules: RoomVersionRules, pdu: Pdu) -> Pdu:
    """The event with the signatures of all servers that must sign it, as a restricted join has."""
    event: Mapping[str, Any] = pdu.event
    for server in servers_that_must_sign(rules, pdu):
        event = add_event_signature(rules, event, server, TEST_KEY)
    return parse_pdu(rules, event, event_id=pdu.event_id)


def _shuffled_topologically(pdus: list[Pdu], random: Random) -> list[Pdu]:
    waiting = {pdu.event_id: pdu for pdu in pdus}
    ordered: list[Pdu] = []
    done: set[EventId] = set()
    while waiting:
        ready = [
            pdu
            for pdu in waiting.values()
            if all(e in done for e in (*pdu.prev_events, *pdu.auth_events))
        ]
        if not ready:
            break
        # Mostly the oldest: branches are short, as in life.
        pdu = min(random.sample(ready, min(len(ready), 2)), key=lambda p: p.depth)
        del waiting[pdu.event_id]
        done.add(pdu.event_id)
        ordered.append(pdu)
    return ordered


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_judgement_by_differences_equals_judgement_by_whole_states(
    core: Core, version: str, seed: int
) -> None:
    create, *pdus = random_room(version, seed, steps=60)
    rules = ROOM_VERSIONS[version]
    found_room(core, create, rules)
    reference = Reference(rules, create)
    expected = [reference.judge(pdu) for pdu in pdus]
    random = Random(seed)  # noqa: S311 - seeded, so that a failure can be repeated
    outcomes: list[Outcome] = []
    while len(outcomes) < len(pdus):
        size = random.choice((1, 2, 5, 20))
        outcomes += judge(core, create.room_id, pdus[len(outcomes) :][:size])
    assert outcomes == expected
    assert current_state(core, create.room_id) == reference.current
    keys = {key for state in reference.after.values() for key in state}
    for pdu in pdus:
        assert state_before(core, rules, pdu, keys) == reference.before[pdu.event_id], pdu


def test_event_judged_before_is_known(core: Core) -> None:
    room = RoomBuilder("11")
    room.message(ALICE)
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    judge(core, create.room_id, pdus)
    assert judge(core, create.room_id, pdus) == [Outcome.KNOWN] * len(pdus)


def test_event_whose_parents_are_absent_is_missing_them(core: Core) -> None:
    room = RoomBuilder("11")
    room.message(ALICE, "one")
    last = room.message(ALICE, "two")
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    judge(core, create.room_id, pdus[:-2])
    assert judge(core, create.room_id, [last]) == [Outcome.MISSING]


def test_banned_users_event_on_an_old_branch_is_soft_failed(core: Core) -> None:
    room = RoomBuilder("11")
    room.join(BOB)
    old_branch = room.fork()
    room.ban(ALICE, BOB)
    late = old_branch.message(BOB, "from before the ban, says bob")
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    outcomes = judge(core, create.room_id, pdus)
    assert outcomes[-1] is Outcome.SOFT_FAILED
    assert late.event_id == pdus[-1].event_id


def test_redacted_event_is_kept_when_its_content_hash_is_wrong(core: Core) -> None:
    room = RoomBuilder("11")
    message = room.message(ALICE, "original")
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    judge(core, create.room_id, pdus[:-1])
    forged = dict(message.event) | {"content": {"body": "forged"}}
    judging = Judging(core.commits, BranchStates(), MemberReads(core.database))
    (verdict,) = judging.judge(create.room_id, [forged], lambda *_: TEST_KEY.verify_key)
    assert verdict.outcome is Outcome.ACCEPTED
    assert verdict.pdu is not None
    assert dict(verdict.pdu.content) == {}


def test_room_with_many_open_ends_is_merged_by_whoever_of_ours_may_send(core: Core) -> None:
    room = RoomBuilder("11", creator=f"@alice:{SERVER_NAME}")
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    judge(core, create.room_id, pdus)
    for number in range(60):
        room.fork().send_state(room.creator, "m.room.topic", {"topic": f"{number}"})
    branches = list(room.pdus.values())[len(pdus) + 1 :]
    assert set(judge(core, create.room_id, branches)) == {Outcome.ACCEPTED}
    assert len(core.event_log.get_room(create.room_id).extremities) <= MAX_OPEN_ENDS
    dummies = core.database.fetch_all(
        "SELECT 1 FROM stored_events WHERE convert_from(state, 'UTF8')::jsonb"
        " #>> '{pdu,type}' = 'org.matrix.dummy_event'"
    )
    shown = core.database.fetch_all("SELECT 1 FROM timeline")
    assert len(dummies) >= 3
    assert len(shown) == len(pdus) + 1 + 60


def _redactions(core: Core) -> dict[EventId, bool]:
    rows = core.database.fetch_all("SELECT event_id, redacted_by IS NOT NULL FROM event_graph")
    return dict(rows)


def test_redaction_reaches_as_far_as_the_senders_power(core: Core) -> None:
    room = RoomBuilder("11")
    room.join(BOB)
    alices = room.message(ALICE, "alice's")
    bobs = room.message(BOB, "bob's")
    room.send(BOB, "m.room.redaction", {}, redacts=alices.event_id)
    room.send(BOB, "m.room.redaction", {}, redacts=bobs.event_id)
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    judge(core, create.room_id, pdus)
    assert _redactions(core)[alices.event_id] is False
    assert _redactions(core)[bobs.event_id] is True
    by_alice = room.send(ALICE, "m.room.redaction", {}, redacts=alices.event_id)
    judge(core, create.room_id, [by_alice])
    assert _redactions(core)[alices.event_id] is True


def test_redaction_applies_to_an_event_that_comes_after_it(core: Core) -> None:
    room = RoomBuilder("11")
    room.join(BOB)
    branch = room.fork()
    late = branch.message(BOB, "comes after its redaction")
    redaction = room.send(ALICE, "m.room.redaction", {}, redacts=late.event_id)
    create, *pdus = [pdu for pdu in room.pdus.values() if pdu not in (late, redaction)]
    found_room(core, create, room.rules)
    judge(core, create.room_id, [*pdus, redaction, late])
    assert _redactions(core)[late.event_id] is True


def in_timeline(core: Core, room_id: RoomId) -> set[EventId]:
    rows = core.database.fetch_all(
        "SELECT event_id FROM timeline t JOIN event_graph USING (position)"
        " JOIN rooms r ON r.room_nid = t.room_nid WHERE room_id = %s",
        (room_id,),
    )
    return {event_id for (event_id,) in rows}


def test_redaction_is_shown_once_it_redacts_something(core: Core) -> None:
    room = RoomBuilder("11")
    room.join(BOB)
    branch = room.fork()
    message = branch.message(BOB)
    redaction = room.send(BOB, "m.room.redaction", {"redacts": message.event_id})
    create, *rest = [pdu for pdu in room.pdus.values() if pdu not in (message, redaction)]
    found_room(core, create, room.rules)
    judge(core, create.room_id, [*rest, redaction])
    assert redaction.event_id not in in_timeline(core, create.room_id)
    judge(core, create.room_id, [message])
    assert {message.event_id, redaction.event_id} <= in_timeline(core, create.room_id)


def test_redaction_of_another_rooms_event_is_never_shown(core: Core) -> None:
    other = RoomBuilder("12")
    message = other.message(ALICE)
    found_room(core, next(iter(other.pdus.values())), other.rules)
    judge(core, other.room_id, list(other.pdus.values())[1:])
    room = RoomBuilder("12", create_content={"x": 1})
    redaction = room.send(ALICE, "m.room.redaction", {"redacts": message.event_id})
    found_room(core, next(iter(room.pdus.values())), room.rules)
    judge(core, room.room_id, list(room.pdus.values())[1:])
    assert redaction.event_id not in in_timeline(core, room.room_id)
