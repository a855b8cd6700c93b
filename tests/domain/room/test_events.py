"""Facts: what a verdict on an event changes in the room, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.pdu import Pdu
from architex.domain.room.events import (
    FACT_CLASSES,
    Fact,
    HistoryImported,
    ImportRejected,
    JoinImported,
    PduAccepted,
    PduRejected,
    PduSoftFailed,
    RecordedFact,
    StateImported,
    may_come_from_outside,
)
from tests.builders import ALICE, BOB, DAVE, RoomBuilder

SETS_STATE = {PduAccepted, StateImported, JoinImported}


def fact_of(fact_class: type[Fact], pdu: Pdu, **fields: Any) -> Fact:
    return fact_class(pdu.room_id, 1, pdu, 5, **fields)


@pytest.fixture
def room() -> RoomBuilder:
    return RoomBuilder("11")


@pytest.mark.parametrize("fact_class", FACT_CLASSES.values())
def test_state_event_sets_itself_where_it_is_part_of_the_state(
    room: RoomBuilder, fact_class: type[Fact]
) -> None:
    topic = room.send_state(ALICE, "m.room.topic", {"topic": "x"})
    own = {("m.room.topic", ""): topic.event_id}
    changes = fact_of(fact_class, topic).state_changes
    assert changes == (own if fact_class in SETS_STATE else {})
    assert fact_of(fact_class, room.message(ALICE)).state_changes == {}


@pytest.mark.parametrize("fact_class", FACT_CLASSES.values())
def test_what_a_merge_changed_counts_instead(room: RoomBuilder, fact_class: type[Fact]) -> None:
    topic = room.send_state(ALICE, "m.room.topic", {"topic": "x"})
    delta = {("m.room.name", ""): "$other", ("m.room.topic", ""): None}
    assert fact_of(fact_class, topic, delta=delta).state_changes == delta
    assert fact_of(fact_class, topic, delta={}).state_changes == {}


def test_only_what_stands_in_the_graph_is_read_by_clients() -> None:
    read = {PduAccepted, HistoryImported, JoinImported}
    assert {one for one in FACT_CLASSES.values() if one.is_in_timeline} == read
    # Of these nobody knows the state where they stand.
    outliers = {StateImported, ImportRejected, HistoryImported}
    assert {one for one in FACT_CLASSES.values() if one.is_outlier} == outliers


@pytest.mark.parametrize("version", ["10", "11"])
def test_redaction_reaches_events_of_its_own_server_or_of_all(version: str) -> None:
    room = RoomBuilder(version)
    target = room.message(ALICE)
    pdu = room.compose(ALICE, "m.room.redaction", {"reason": "spam"}, redacts=target.event_id)
    moderator = fact_of(PduAccepted, pdu)
    assert moderator.redacts_event_of(BOB)
    assert moderator.redacts_event_of(None)
    # Who lacks the power: https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions
    other = fact_of(PduAccepted, pdu, redaction_server="a.example")
    assert other.redacts_event_of(ALICE)
    assert other.redacts_event_of(DAVE)
    assert not other.redacts_event_of(BOB)
    assert not other.redacts_event_of(None)


@pytest.mark.parametrize("fact_class", [PduSoftFailed, PduRejected, ImportRejected])
def test_redaction_that_was_not_accepted_redacts_nothing(
    room: RoomBuilder, fact_class: type[Fact]
) -> None:
    pdu = room.compose(ALICE, "m.room.redaction", {}, redacts=room.message(ALICE).event_id)
    assert not fact_of(fact_class, pdu).redacts_event_of(ALICE)
    assert not fact_of(PduAccepted, room.message(ALICE)).redacts_event_of(ALICE)


@pytest.mark.parametrize(
    ("membership", "may"),
    [("invite", True), ("knock", True), ("leave", True), ("ban", True), ("join", False)],
)
def test_membership_but_a_join_may_come_from_outside(
    room: RoomBuilder, membership: str, may: bool
) -> None:
    pdu = room.compose(ALICE, "m.room.member", {"membership": membership}, state_key=BOB)
    assert may_come_from_outside(fact_of(StateImported, pdu)) is may
    # Told with the state of a room that we are in, and accepted there, it is nothing special.
    assert not may_come_from_outside(fact_of(StateImported, pdu, delta={}))
    assert not may_come_from_outside(fact_of(PduAccepted, pdu))


def test_state_other_than_a_membership_does_not_come_from_outside(room: RoomBuilder) -> None:
    topic = room.send_state(ALICE, "m.room.topic", {"topic": "x"})
    assert not may_come_from_outside(fact_of(StateImported, topic))


def test_event_keeps_the_number_of_its_first_fact_and_has_a_place_of_its_own(
    room: RoomBuilder,
) -> None:
    message = room.message(ALICE)
    first = RecordedFact(17, 1, fact_of(PduAccepted, message))
    assert (first.event_position, first.ordering) == (17, 17)
    again = RecordedFact(20, 1, fact_of(HistoryImported, message, known_at=17, ordering=-3))
    assert (again.event_position, again.ordering) == (17, -3)
    assert again.pdu is message
    assert again.content is message.content
