"""What servers tell of a room to those outside: what is not of its form is left out or refused.

Spec: https://spec.matrix.org/v1.19/client-server-api/#stripped-state
"""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.errors import InvalidParam
from architex.domain.room.stripped_state import (
    MAX_BYTES,
    MAX_EVENTS,
    find_told,
    read_told_state,
    strip_told_state,
    verify_told_state,
)
from tests.builders import ALICE, BOB, TEST_KEY, RoomBuilder

GOOD: dict[str, Any] = {
    "type": "m.room.name",
    "state_key": "",
    "sender": "@b:y.example",
    "content": {"name": "N"},
}


def test_malformed_entries_are_left_out() -> None:
    told = [
        {**GOOD, "extra": 1, "unsigned": {}},
        {"type": "m.room.topic"},
        7,
        None,
        {**GOOD, "type": "m.room.a", "content": []},
        {**GOOD, "type": "m.room.b", "state_key": None},
        {**GOOD, "type": "m.room.c", "sender": "b"},
        {**GOOD, "type": "m" * 256},
        {**GOOD, "type": "m.room.d", "content": {"big": 2**70}},
    ]
    assert strip_told_state(told) == [GOOD]


@pytest.mark.parametrize("told", [None, 3, "x", {}, {"a": GOOD}, []])
def test_what_is_no_list_tells_nothing(told: object) -> None:
    assert strip_told_state(told) == []


def test_first_of_two_entries_counts() -> None:
    assert strip_told_state([GOOD, {**GOOD, "content": {"name": "other"}}]) == [GOOD]


def test_it_is_bounded() -> None:
    many = [{**GOOD, "state_key": str(number)} for number in range(1000)]
    assert len(strip_told_state(many)) == MAX_EVENTS
    large = [{**GOOD, "state_key": str(n), "content": {"x": "x" * 30_000}} for n in range(20)]
    assert sum(len(str(event)) for event in strip_told_state(large)) <= MAX_BYTES


def test_entry_is_found_by_its_type() -> None:
    told = strip_told_state([{**GOOD, "state_key": "other"}, GOOD])
    assert find_told(told, "m.room.name") == GOOD
    assert find_told(told, "m.room.topic") is None


@pytest.mark.parametrize("version", ["11", "12"])
def test_whole_events_are_verified(version: str) -> None:
    room = RoomBuilder(version, creator=ALICE)
    name = room.send_state(ALICE, "m.room.name", {"name": "N"})
    create = room.find_state("m.room.create")
    assert create is not None
    told = read_told_state(room.rules, room.room_id, [create.event, name.event])
    stripped = verify_told_state(room.rules, told, lambda *_: TEST_KEY.verify_key)
    assert [event["type"] for event in stripped] == ["m.room.create", "m.room.name"]
    with pytest.raises(InvalidParam):
        verify_told_state(room.rules, told, lambda *_: bytes(32))


def test_only_a_create_event_that_names_the_room_proves_itself() -> None:
    for version, expected in (("11", []), ("12", ["m.room.create"])):
        room = RoomBuilder(version, creator=ALICE)
        name = room.send_state(ALICE, "m.room.name", {"name": "N"})
        create = room.find_state("m.room.create")
        assert create is not None
        told = read_told_state(room.rules, room.room_id, [create.event, name.event])
        stripped = verify_told_state(room.rules, told, lambda *_: None)
        assert [event["type"] for event in stripped] == expected


def test_events_of_other_rooms_and_messages_are_refused() -> None:
    room, other = RoomBuilder("12", creator=ALICE), RoomBuilder("12", creator=BOB)
    create, foreign = room.find_state("m.room.create"), other.find_state("m.room.create")
    assert create is not None
    assert foreign is not None
    message = room.message(ALICE)
    wrong: list[object] = [
        [foreign.event],
        [create.event, foreign.event],
        [create.event, message.event],
        [message.event],
        [create.event, 5],
        [create.event, {"type": "m.room.name"}],
        [create.event] * (MAX_EVENTS + 1),
        {},
        None,
    ]
    for told in wrong:
        with pytest.raises(InvalidParam):
            read_told_state(room.rules, room.room_id, told)


@pytest.mark.parametrize("entries", [None, {}, "events", 5, [{}] * (MAX_EVENTS + 1)])
def test_state_that_is_told_is_a_list_of_a_few_events(entries: object) -> None:
    room = RoomBuilder("11")
    with pytest.raises(InvalidParam):
        read_told_state(room.rules, room.room_id, entries)


def test_state_that_is_told_holds_the_beginning_of_the_room() -> None:
    room = RoomBuilder("11")
    entries = [pdu.event for pdu in room.pdus.values()]
    assert len(read_told_state(room.rules, room.room_id, entries)) == len(entries)
    with pytest.raises(InvalidParam, match="create"):
        read_told_state(room.rules, room.room_id, entries[1:])
