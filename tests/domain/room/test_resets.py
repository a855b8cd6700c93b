"""State resets: which changes of the current state an event explains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.events import PduAccepted, StateBefore
from architex.domain.room.resets import find_resets, find_unresolved
from tests.builders import ALICE, BOB, RoomBuilder

TOPIC: StateKey = ("m.room.topic", "")
NAME: StateKey = ("m.room.name", "")


@pytest.fixture
def topic() -> Pdu:
    """An event that gives and takes no rights."""
    return RoomBuilder("11").send_state(ALICE, "m.room.topic", {"topic": "new"})


@pytest.fixture
def ban() -> Pdu:
    """An event that takes rights away."""
    room = RoomBuilder("11")
    room.join(BOB)
    return room.ban(ALICE, BOB)


def test_event_explains_that_it_stands_itself(topic: Pdu) -> None:
    assert find_resets(topic, {TOPIC: topic.event_id}, {}) == []


def test_topic_does_not_explain_that_a_name_falls_back(topic: Pdu) -> None:
    changes = {TOPIC: topic.event_id, NAME: "$older"}
    assert find_resets(topic, changes, {NAME: ["$older", "$newer"]}) == [NAME]


def test_ban_explains_that_what_another_branch_says_stands_again(ban: Pdu) -> None:
    assert find_resets(ban, {TOPIC: "$older"}, {TOPIC: ["$older", "$newer"]}) == []
    assert find_resets(ban, {TOPIC: None}, {TOPIC: [None, "$newer"]}) == []


@pytest.mark.parametrize("event_id", ["$older", None])
def test_nothing_explains_what_no_branch_says(ban: Pdu, event_id: str | None) -> None:
    assert find_resets(ban, {TOPIC: event_id}, {TOPIC: ["$newer", "$newest"]}) == [TOPIC]
    assert find_resets(ban, {TOPIC: event_id}, {}) == [TOPIC]


def test_event_that_follows_the_end_of_its_room_changes_nothing_else(topic: Pdu) -> None:
    fact = PduAccepted("!room:a.example", 5, topic, 0)
    assert find_unresolved(fact) == []
    assert find_unresolved(replace(fact, delta={TOPIC: topic.event_id})) == []
    foreign = {TOPIC: topic.event_id, NAME: None}
    assert find_unresolved(replace(fact, delta=foreign)) == [NAME]
    assert find_unresolved(replace(fact, delta=foreign, before=StateBefore(3))) == []
