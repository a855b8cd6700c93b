"""Loading events for readers."""

from __future__ import annotations

import pytest

from architex.bootstrap import Core
from architex.domain.client_event import RecordedEvent
from architex.domain.identifiers import EventId, RoomId
from architex.domain.room.aggregate import EventDraft
from architex.projections.event_reads import EventPlace, EventReads
from tests.core import ALICE, append, create_room, message_draft


@pytest.fixture
def room_id(core: Core) -> RoomId:
    """A room."""
    return create_room(core)


def place_of(core: Core, reads: EventReads, event_id: EventId) -> EventPlace:
    """Where an event stands."""
    with core.database.connection() as connection:
        return reads.find_places(connection, [event_id])[event_id]


def load(core: Core, reads: EventReads, event_id: EventId) -> RecordedEvent:
    """An event."""
    place = place_of(core, reads, event_id)
    with core.database.connection() as connection:
        return reads.load_events(connection, [place.reference])[place.position]


def test_event_is_remembered_until_it_is_redacted(core: Core, room_id: RoomId) -> None:
    reads = EventReads()
    (pdu,) = append(core, room_id, message_draft(ALICE, "oops"))
    first = load(core, reads, pdu.event_id)
    assert load(core, reads, pdu.event_id) is first
    draft = EventDraft("m.room.redaction", ALICE, {"redacts": pdu.event_id})
    append(core, room_id, draft)
    redacted = load(core, reads, pdu.event_id)
    assert redacted.content == {}
    assert b"oops" not in redacted.body


def test_memory_is_bounded(core: Core, room_id: RoomId) -> None:
    reads = EventReads(cache_bytes=40_000)
    pdus = append(core, room_id, *(message_draft(ALICE, str(n)) for n in range(30)))
    events = [load(core, reads, pdu.event_id) for pdu in pdus]
    # The newest is still there, the oldest is not.
    assert load(core, reads, pdus[-1].event_id) is events[-1]
    assert load(core, reads, pdus[0].event_id) is not events[0]
    huge = EventReads(cache_bytes=10)
    assert load(core, huge, pdus[0].event_id).event_id == pdus[0].event_id


def test_companions_are_what_was_replaced_and_what_redacted(core: Core, room_id: RoomId) -> None:
    reads = EventReads()
    names = [EventDraft("m.room.name", ALICE, {"name": name}, "") for name in ("A", "B")]
    old, new = append(core, room_id, *names)
    event = load(core, reads, new.event_id)
    with core.database.connection() as connection:
        companions = reads.load_companions(connection, [event])
    assert companions.events[old.event_id].content == {"name": "A"}
    (redaction,) = append(
        core, room_id, EventDraft("m.room.redaction", ALICE, {"redacts": new.event_id})
    )
    event = load(core, reads, new.event_id)
    assert event.redacted_by is not None
    with core.database.connection() as connection:
        companions = reads.load_companions(connection, [event])
    assert companions.redactions[event.redacted_by].event_id == redaction.event_id


def test_unknown_events_are_nowhere(core: Core) -> None:
    reads = EventReads()
    with core.database.connection() as connection:
        assert reads.find_places(connection, ["$nothing", "", "a\0"]) == {}
        assert reads.load_events(connection, [(10**9, None)]) == {}
