"""Explaining: which event stands, why it may, and what the others lost by."""

from __future__ import annotations

import pytest

from architex.bootstrap import Core
from architex.domain.identifiers import RoomId
from architex.domain.room_versions import ROOM_VERSIONS
from architex.usecases.explaining import Explaining, Explanation, Fate, How
from tests import core as server
from tests.builders import ALICE, BOB, RoomBuilder
from tests.usecases.test_judging import current_state, found_room, judge, random_room


def explain(core: Core, room_id: RoomId, type: str, state_key: str = "") -> Explanation:
    head = core.event_log.find_head(room_id)
    assert head is not None
    return Explaining(core.database).explain(head, type, state_key)


def recorded(core: Core, room: RoomBuilder) -> RoomId:
    """The builder's room, judged event by event."""
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    judge(core, create.room_id, pdus)
    return create.room_id


def test_state_that_was_sent_and_stands_is_explained_by_its_auth_events(core: Core) -> None:
    room_id = server.create_room(core)
    told = explain(core, room_id, "m.room.join_rules")
    assert told.how is How.SET
    assert told.event is not None
    assert told.event.sender == server.ALICE
    assert [link.type for link in told.auth_chain] == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
    ]
    assert set(told.auth_events) == {link.event_id for link in told.auth_chain}
    assert told.meeting is None


def test_create_event_allows_everything_where_the_room_id_stands_for_it(core: Core) -> None:
    told = explain(core, server.create_room(core, version="12"), "m.room.join_rules")
    assert told.auth_chain[0].type == "m.room.create"
    assert told.auth_chain[0].event_id not in told.auth_events
    assert explain(core, told.room_id, "m.room.create").auth_chain == []


def test_state_that_nobody_set_is_never_set(core: Core) -> None:
    told = explain(core, server.create_room(core), "m.room.topic")
    assert (told.how, told.event, told.auth_chain) == (How.NEVER_SET, None, ())


def test_topic_of_somebody_who_was_banned_meanwhile_is_refused_by_the_rule(core: Core) -> None:
    room = RoomBuilder("11")
    room.join(BOB)
    room.set_power_levels(ALICE, users={ALICE: 100, BOB: 50})
    first = room.send_state(ALICE, "m.room.topic", {"topic": "first"})
    branch = room.fork()
    theirs = branch.send_state(BOB, "m.room.topic", {"topic": "theirs"})
    room.ban(ALICE, BOB)
    after = room.message(ALICE)
    told = explain(core, recorded(core, room), "m.room.topic")
    assert told.how is How.RESOLVED
    assert told.event is not None
    assert told.event.event_id == first.event_id
    assert told.meeting is not None
    assert dict(told.meeting.ends) == {
        room.state["m.room.member", BOB]: first.event_id,
        theirs.event_id: theirs.event_id,
    }
    fates = {c.event.event_id: (c.fate, c.rule) for c in told.meeting.candidates}
    assert fates[first.event_id] == (Fate.STANDS, None)
    assert fates[theirs.event_id] == (Fate.REFUSED, f"{BOB} is not in the room.")
    assert after.event_id not in fates


def test_later_of_two_topics_takes_the_place_of_the_earlier(core: Core) -> None:
    room = RoomBuilder("11")
    branch = room.fork()
    earlier = room.send_state(ALICE, "m.room.topic", {"topic": "earlier"})
    later = branch.send_state(ALICE, "m.room.topic", {"topic": "later"})
    told = explain(core, recorded(core, room), "m.room.topic")
    assert told.how is How.SET
    assert told.meeting is not None
    assert [(c.event.event_id, c.fate) for c in told.meeting.candidates] == [
        (earlier.event_id, Fate.GAVE_WAY),
        (later.event_id, Fate.STANDS),
    ]


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_explanation_of_every_entry_ends_with_what_stands(core: Core, version: str) -> None:
    create, *pdus = random_room(version, int(version) + 20, steps=50)
    found_room(core, create, ROOM_VERSIONS[version])
    judge(core, create.room_id, pdus)
    state = current_state(core, create.room_id)
    for (type_, state_key), event_id in state.items():
        told = explain(core, create.room_id, type_, state_key)
        assert told.event is not None
        assert told.event.event_id == event_id
        if told.meeting is not None:
            standing = [c for c in told.meeting.candidates if c.fate is Fate.STANDS]
            if told.since is not None and told.how is How.RESOLVED:
                assert [c.event.event_id for c in standing] in ([event_id], [])
