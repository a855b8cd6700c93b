"""One transaction for many commands: rooms locked, decisions, positions, rows, answers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from architex.bootstrap import Core
from architex.domain.errors import Forbidden, UnknownRoom
from architex.storage.pool import Database, Execute
from tests.core import (
    ALICE,
    BOB,
    append,
    create_room,
    make_core,
    member_draft,
    send_message,
)


def test_every_fact_has_the_next_position_and_the_next_version(core: Core) -> None:
    room_id = create_room(core)
    for number in range(3):
        send_message(core, room_id, ALICE, f"message {number}")
    facts = core.event_log.facts_after(0, 100)
    assert [fact.fact.originator_version for fact in facts] == [1, 2, 3, 4, 5, 6, 7]
    assert [fact.position for fact in facts] == [1, 2, 3, 4, 5, 6, 7]
    assert core.event_log.position() == 7


def test_repeated_transaction_gives_the_same_event(core: Core) -> None:
    room_id = create_room(core)
    first = send_message(core, room_id, ALICE, "hello", txn_id="1")
    again = send_message(core, room_id, ALICE, "hello", txn_id="1")
    other = send_message(core, room_id, ALICE, "hello", txn_id="2")
    assert first == again != other
    assert len(core.event_log.facts_after(4, 100)) == 2


def test_decisions_of_two_processes_see_each_other(core: Core, database: Database) -> None:
    other = make_core(database)
    room_id = create_room(core, join_rule="public")
    send_message(other, room_id, ALICE, "through the other process")
    append(core, room_id, member_draft(BOB, BOB, "join"))
    send_message(other, room_id, BOB, "bob joined through the first")
    append(core, room_id, member_draft(ALICE, BOB, "ban"))
    with pytest.raises(Forbidden):
        send_message(other, room_id, BOB, "and was banned through it")
    facts = core.event_log.facts_after(0, 100)
    for before, after in pairwise(facts):
        assert after.pdu.prev_events == (before.pdu.event_id,)


def test_unknown_room_is_refused(core: Core) -> None:
    with pytest.raises(UnknownRoom):
        send_message(core, "!nowhere:architex.test", ALICE, "hello?")


def test_rows_and_facts_share_one_order(core: Core) -> None:
    room_id = create_room(core)
    written: list[int] = []

    def write(execute: Execute, position: int) -> None:
        written.append(position)

    position = core.commits.write_rows(write)
    send_message(core, room_id, ALICE, "after the rows")
    assert position == 5
    assert written == [5]
    assert core.event_log.facts_after(5, 100)[0].position == 6
