"""federation_outbox: which events are owed to others at all."""

from __future__ import annotations

import dataclasses

import pytest

from architex.bootstrap import Core
from architex.domain.identifiers import RoomId
from architex.domain.room.aggregate import DUMMY_EVENT_TYPE, EventDraft
from architex.domain.room.events import (
    Fact,
    HistoryImported,
    JoinImported,
    PduAccepted,
    PduRejected,
    PduSoftFailed,
    StateImported,
)
from architex.projections.federation_outbox import (
    list_owed_events,
    list_owed_servers,
    load_outgoing_pdus,
)
from architex.storage.room_session import RoomCommand, RoomSession
from tests.core import ALICE, SERVER_NAME, append, create_room, member_draft, message_draft

CAROL = "@carol:c.example"


def owed(core: Core) -> int:
    """How many events are owed to others."""
    row = core.database.fetch_one("SELECT count(*) FROM outgoing_events")
    assert row is not None
    return int(row[0])


@pytest.fixture
def room_id(core: Core) -> RoomId:
    room_id = create_room(core)
    append(core, room_id, member_draft(CAROL, CAROL, "join"))
    return room_id


def record(core: Core, room_id: RoomId, draft: EventDraft, kind: type[Fact]) -> None:
    """Record an event as a fact of some kind."""

    def decide(session: RoomSession) -> None:
        for key in [
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.join_rules", ""),
            ("m.room.member", ALICE),
        ]:
            session.find_state(*key)
        accepted = session.room.accepted(session.compose(draft), session.now_ms)
        fields = {f.name: getattr(accepted, f.name) for f in dataclasses.fields(Fact)}
        session.record(kind(**fields))

    core.commits.write_room(RoomCommand(room_id, decide))


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (PduAccepted, 1),
        (PduSoftFailed, 0),
        (PduRejected, 0),
        (StateImported, 0),
        (HistoryImported, 0),
        (JoinImported, 0),
    ],
)
def test_only_what_is_part_of_the_room_and_made_here_is_owed(
    core: Core, room_id: RoomId, kind: type[Fact], count: int
) -> None:
    record(core, room_id, message_draft(ALICE, "hello"), kind)
    assert owed(core) == count


def test_events_that_clients_never_see_are_owed_too(core: Core, room_id: RoomId) -> None:
    append(core, room_id, EventDraft(DUMMY_EVENT_TYPE, ALICE, {}))
    assert owed(core) == 1


def test_event_by_which_the_last_other_member_goes_is_owed_and_none_after_it(
    core: Core, room_id: RoomId
) -> None:
    append(core, room_id, member_draft(ALICE, CAROL, "ban"))
    assert owed(core) == 1
    append(core, room_id, message_draft(ALICE, "alone"))
    assert owed(core) == 1


def test_invited_servers_are_owed_nothing(core: Core) -> None:
    room_id = create_room(core)
    append(core, room_id, member_draft(ALICE, CAROL, "invite"), message_draft(ALICE, "hello"))
    assert owed(core) == 0


def test_names_that_only_end_like_ours_are_not_ours(core: Core, room_id: RoomId) -> None:
    stranger = "@mallory:evil.architex.test"
    append(core, room_id, member_draft(stranger, stranger, "join"))
    assert owed(core) == 0


@pytest.mark.parametrize("membership", ["leave", "ban"])
def test_server_hears_that_an_invite_of_its_user_is_taken_back(
    core: Core, membership: str
) -> None:
    room_id = create_room(core, join_rule="invite")
    append(core, room_id, member_draft(ALICE, CAROL, "invite"))
    assert owed(core) == 0
    append(core, room_id, member_draft(ALICE, CAROL, membership))
    with core.database.connection() as connection:
        assert list(list_owed_servers(connection, SERVER_NAME, 0, 10**9)) == ["c.example"]
        events = list_owed_events(connection, SERVER_NAME, "c.example", 0, 10**9, 10)
        assert len(events) == 1
        (pdu,) = load_outgoing_pdus(connection, [events[0].event_position]).values()
        assert list_owed_events(connection, SERVER_NAME, "d.example", 0, 10**9, 10) == []
    assert pdu.event["content"] == {"membership": membership}


def test_server_whose_user_was_never_invited_hears_of_no_ban(core: Core) -> None:
    room_id = create_room(core)
    append(core, room_id, member_draft(ALICE, CAROL, "ban"))
    append(core, room_id, member_draft(ALICE, CAROL, "leave"))
    assert owed(core) == 0


def test_server_in_the_room_is_told_once_that_an_invite_is_taken_back(
    core: Core, room_id: RoomId
) -> None:
    other = "@dora:c.example"
    append(core, room_id, member_draft(ALICE, other, "invite"))
    append(core, room_id, member_draft(ALICE, other, "leave"))
    with core.database.connection() as connection:
        events = list_owed_events(connection, SERVER_NAME, "c.example", 0, 10**9, 10)
    assert len(events) == len({event.event_position for event in events}) == 2
