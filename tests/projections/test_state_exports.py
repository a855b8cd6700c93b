"""States and auth chains as others are told them are those by which events were judged."""

from __future__ import annotations

import orjson
import pytest

from architex.bootstrap import Core
from architex.domain.identifiers import EventId
from architex.domain.pdu import compute_event_id
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.events import StateBefore
from architex.domain.room_versions import get_room_version
from architex.projections import state_exports
from architex.projections.branch_states import BranchStates
from architex.projections.state_exports import (
    event_json,
    list_auth_chain,
    list_state,
    list_state_under,
    list_state_without_members,
    load_events,
    load_stripped_state,
    stream_events,
)
from architex.storage.pool import PgConnection
from architex.storage.room_facts import encode_fact
from tests.core import ALICE, BOB, append, create_room, member_draft
from tests.usecases.test_judging import Reference, found_room, judge, random_room


def event_ids(connection: PgConnection, positions: list[int]) -> set[EventId]:
    rows = connection.execute(
        "SELECT event_id FROM event_graph WHERE position = ANY(%s)", (positions,)
    )
    return {event_id for (event_id,) in rows.fetchall()}


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_state_before_an_event_is_told_also_on_branches(
    core: Core, version: str, seed: int
) -> None:
    rules = get_room_version(version)
    create, *pdus = random_room(version, seed, 40)
    found_room(core, create, rules)
    judge(core, create.room_id, pdus)
    reference = Reference(rules, create)
    for pdu in pdus:
        reference.judge(pdu)
    head = core.event_log.find_head(create.room_id)
    assert head is not None
    branches, on_branches = BranchStates(), 0
    with core.database.connection() as connection:
        known = branches.find_events(
            connection, head.room_nid, rules, [pdu.event_id for pdu in pdus]
        )
        for pdu in pdus:
            event = known[pdu.event_id]
            on_branches += event.before is not None
            before = event.before or StateBefore(event.position - 1)
            state = list_state(connection, head.room_nid, before)
            expected = reference.before[pdu.event_id]
            assert event_ids(connection, state) == set(expected.values())
            without = list_state_without_members(connection, head.room_nid, before)
            assert event_ids(connection, without) == {
                event_id for key, event_id in expected.items() if key[0] != "m.room.member"
            }
            keys = list(expected)[:3]
            under = list_state_under(connection, head.room_nid, before, keys)
            assert event_ids(connection, under) == {expected[key] for key in keys}
    assert on_branches


def test_auth_chain_reaches_the_beginning(core: Core) -> None:
    room_id = create_room(core)
    *_, rejoin = append(
        core,
        room_id,
        member_draft(BOB, BOB, "join"),
        member_draft(BOB, BOB, "leave"),
        member_draft(BOB, BOB, "join"),
    )
    with core.database.connection() as connection:
        row = connection.execute(
            "SELECT position FROM event_graph WHERE event_id = %s", (rejoin.event_id,)
        ).fetchone()
        assert row is not None
        chain = list_auth_chain(connection, [row[0]])
        events = [
            orjson.loads(event)
            for event in load_events(connection, core.event_log.rules_of(room_id), chain)
        ]
    # create, Alice's join (her power levels need it), power levels, join rules, Bob's two before
    assert [event["type"] for event in events] == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.member",
        "m.room.member",
    ]


def test_events_are_told_as_they_were_signed(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_exports, "PIECE", 2)
    room_id = create_room(core)
    rules = core.event_log.rules_of(room_id)
    head = core.event_log.find_head(room_id)
    assert head is not None
    with core.database.connection() as connection:
        now = StateBefore(head.last_position)
        positions = list_state(connection, head.room_nid, now)
        ids = event_ids(connection, positions)
    told = orjson.loads(b"[" + b"".join(stream_events(core.database, rules, positions)) + b"]")
    assert {compute_event_id(rules, event) for event in told} == ids
    assert len(told) == len(positions) == 4


def test_stripped_state_is_what_outsiders_may_know(core: Core) -> None:
    room_id = create_room(core)
    append(core, room_id, EventDraft("m.room.name", ALICE, {"name": "Tea"}, ""))
    head = core.event_log.find_head(room_id)
    assert head is not None
    rules = core.event_log.rules_of(room_id)
    with core.database.connection() as connection:
        stripped = load_stripped_state(
            connection, rules, head.room_nid, [("m.room.member", ALICE)]
        )
    kinds = [orjson.loads(event)["type"] for event in stripped]
    assert kinds == ["m.room.create", "m.room.member", "m.room.join_rules", "m.room.name"]


def test_no_text_of_an_event_is_mistaken_for_its_beginning(core: Core) -> None:
    room_id = create_room(core)
    tricky = 'x","pdu":{"a":1}'
    (pdu,) = append(core, room_id, EventDraft("m.room.name", ALICE, {"name": tricky}, ""))
    fact = core.event_log.facts_after(0, 100)[-1].fact
    stored = encode_fact(fact)
    assert orjson.loads(event_json(core.event_log.rules_of(room_id), stored)) == pdu.event
