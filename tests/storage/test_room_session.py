"""What a decision about a room sees and may add."""

from __future__ import annotations

import pytest

from architex.bootstrap import Core
from architex.domain.errors import Forbidden
from architex.storage.room_session import RoomCommand, RoomSession
from tests.core import (
    ALICE,
    create_room,
    message_draft,
    send_message,
)


def test_each_event_follows_the_one_before(core: Core) -> None:
    room_id = create_room(core)
    first = send_message(core, room_id, ALICE, "first")
    send_message(core, room_id, ALICE, "second")
    newest = core.event_log.facts_after(0, 100)[-1].pdu
    assert newest.prev_events == (first,)
    assert newest.depth == 6


def test_rows_of_a_session_are_written_with_its_facts_or_not_at_all(core: Core) -> None:
    room_id = create_room(core)
    store = "INSERT INTO forgotten_rooms (user_id, room_nid, position) VALUES (%s, 1, %s)"

    def decide(session: RoomSession, *, refuse: bool) -> None:
        session.append(message_draft(ALICE, "hello"))
        session.also(lambda execute, position: execute(store, (ALICE, position)))
        if refuse:
            raise Forbidden("no")

    with pytest.raises(Forbidden):
        core.commits.write_room(RoomCommand(room_id, lambda s: decide(s, refuse=True)))
    assert core.database.fetch_all("SELECT * FROM forgotten_rooms") == []
    core.commits.write_room(RoomCommand(room_id, lambda s: decide(s, refuse=False)))
    assert core.database.fetch_all("SELECT position FROM forgotten_rooms") == [(5,)]
