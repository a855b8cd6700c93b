"""room_servers: which servers have members in which room."""

from __future__ import annotations

import dataclasses

import pytest

from architex.bootstrap import Core
from architex.domain.identifiers import EventId, RoomId
from architex.domain.pdu import StateKey
from architex.projections.room_servers import RoomServers, write_changes
from architex.storage.room_session import RoomCommand, RoomSession
from tests.core import ALICE, BOB, SERVER_NAME, append, create_room, member_draft, message_draft

CAROL = "@carol:c.example"
CLARA = "@clara:c.example"
DAVE = "@dave:d.example:8448"


def servers_of(core: Core, room_id: RoomId) -> list[str]:
    return list(RoomServers(core.database).list_servers_of_room(room_id))


def row_of(core: Core, server_name: str) -> tuple[int, bool, bool]:
    """How many members, whether anything says since when and until when."""
    row = core.database.fetch_one(
        "SELECT joined, since IS NOT NULL, until IS NOT NULL FROM room_servers"
        " WHERE server_name = %s",
        (server_name,),
    )
    assert row is not None
    return row[0], row[1], row[2]


def change_members(core: Core, room_id: RoomId, **delta: EventId | None) -> None:
    """A message of Alice's with which members come or go, as where branches meet."""

    def decide(session: RoomSession) -> None:
        for type_, state_key in [
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.join_rules", ""),
            ("m.room.member", ALICE),
        ]:
            session.find_state(type_, state_key)
        pdu = session.compose(message_draft(ALICE, "branches meet"))
        changes: dict[StateKey, EventId | None] = {
            ("m.room.member", f"@{name}:c.example"): event_id for name, event_id in delta.items()
        }
        fact = session.room.accepted(pdu, session.now_ms)
        session.record(dataclasses.replace(fact, delta=changes))

    core.commits.write_room(RoomCommand(room_id, decide))


def test_server_is_in_the_room_from_its_first_join_to_its_last_leave(core: Core) -> None:
    room_id = create_room(core)
    assert servers_of(core, room_id) == [SERVER_NAME]
    append(core, room_id, member_draft(CAROL, CAROL, "join"))
    append(core, room_id, member_draft(CLARA, CLARA, "join"), member_draft(BOB, BOB, "join"))
    append(core, room_id, member_draft(DAVE, DAVE, "join"))
    assert servers_of(core, room_id) == [SERVER_NAME, "c.example", "d.example:8448"]
    append(core, room_id, member_draft(CAROL, CAROL, "leave"))
    assert "c.example" in servers_of(core, room_id)
    append(core, room_id, member_draft(ALICE, CLARA, "ban"))
    assert "c.example" not in servers_of(core, room_id)
    assert row_of(core, "c.example") == (0, True, True)


def test_invited_and_repeated_joins_do_not_count(core: Core) -> None:
    room_id = create_room(core)
    append(core, room_id, member_draft(ALICE, CAROL, "invite"))
    assert servers_of(core, room_id) == [SERVER_NAME]
    append(core, room_id, member_draft(CAROL, CAROL, "join"))
    append(core, room_id, member_draft(CAROL, CAROL, "join"))
    assert row_of(core, "c.example") == (1, True, False)


def test_all_changes_of_one_transaction_count(core: Core) -> None:
    room_id = create_room(core)
    membership = ["join", "leave", "join"]
    append(core, room_id, *(member_draft(CAROL, CAROL, one) for one in membership))
    assert row_of(core, "c.example") == (1, True, False)
    append(core, room_id, member_draft(CAROL, CAROL, "leave"), member_draft(CLARA, CLARA, "join"))
    assert row_of(core, "c.example") == (1, True, False)


def test_members_whom_a_resolution_brings_or_takes_count(core: Core) -> None:
    room_id = create_room(core)
    (join,) = append(core, room_id, member_draft(CAROL, CAROL, "join"))
    change_members(core, room_id, carol=None)
    assert servers_of(core, room_id) == [SERVER_NAME]
    change_members(core, room_id, carol=join.event_id)
    assert servers_of(core, room_id) == [SERVER_NAME, "c.example"]


def test_asked_whether_a_server_is_in_a_room(core: Core) -> None:
    room_id = create_room(core)
    append(core, room_id, member_draft(CAROL, CAROL, "join"))
    head = core.event_log.find_head(room_id)
    assert head is not None
    reads = RoomServers(core.database)
    assert reads.is_in_room(head.room_nid, "c.example")
    assert not reads.is_in_room(head.room_nid, "d.example:8448")
    assert set(reads.list_servers_sharing(ALICE)) == {SERVER_NAME, "c.example"}
    assert reads.list_servers_sharing(DAVE) == []
    assert reads.list_servers_of_room("!unknown") == []


def test_any_number_of_members_of_one_fact_is_one_statement() -> None:
    statements: list[object] = []
    changes = [(1, f"@user{n}:s{n % 400}.example", 1, 7) for n in range(10_000)]
    write_changes(lambda sql, params: statements.append(params), changes)
    assert len(statements) == 1


def test_what_cannot_be_a_server_is_none(core: Core) -> None:
    room_id = create_room(core)
    names = ["", "b b", "c/../d", "[::1", "e:99999999", "f\n.example", "g.example\x00"]
    changes = [(1, f"@user:{name}", 1, 7) for name in names] + [(1, "no user", 1, 7)]
    write_changes(lambda sql, params: pytest.fail(f"{sql} {params}"), changes)
    assert servers_of(core, room_id) == [SERVER_NAME]
