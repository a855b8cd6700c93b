"""The commit queue: decisions and rows, committed in groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from architex.bootstrap import Core
from architex.domain.errors import Forbidden, UnknownRoom
from architex.storage.commit_queue import Execute, RoomCommand, RoomSession
from architex.storage.pool import Database
from tests.core import (
    ALICE,
    BOB,
    append,
    create_room,
    make_core,
    member_draft,
    message_draft,
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


def test_each_event_follows_the_one_before(core: Core) -> None:
    room_id = create_room(core)
    first = send_message(core, room_id, ALICE, "first")
    send_message(core, room_id, ALICE, "second")
    newest = core.event_log.facts_after(0, 100)[-1].pdu
    assert newest.prev_events == (first,)
    assert newest.depth == 6


def test_repeated_transaction_gives_the_same_event(core: Core) -> None:
    room_id = create_room(core)
    first = send_message(core, room_id, ALICE, "hello", txn_id="1")
    again = send_message(core, room_id, ALICE, "hello", txn_id="1")
    other = send_message(core, room_id, ALICE, "hello", txn_id="2")
    assert first == again != other
    assert len(core.event_log.facts_after(4, 100)) == 2


def test_transactions_sent_at_once_through_two_processes_make_one_event(
    core: Core, database: Database
) -> None:
    room_id = create_room(core)
    cores = [core, make_core(database)]
    with ThreadPoolExecutor(16) as threads:
        sent = list(
            threads.map(
                lambda n: send_message(cores[n % 2], room_id, ALICE, "hello", txn_id=str(n // 8)),
                range(64),
            )
        )
    assert len(set(sent)) == 8
    assert len(core.event_log.facts_after(4, 100)) == 8


def test_refused_decision_writes_nothing_and_disturbs_nobody(core: Core) -> None:
    room_id = create_room(core)

    def two_events_and_a_refusal(session: RoomSession) -> None:
        session.append(message_draft(ALICE, "never seen"))
        session.append(message_draft(BOB, "bob is not in the room"))

    with ThreadPoolExecutor(8) as threads:
        fine = [
            threads.submit(send_message, core, room_id, ALICE, f"message {number}")
            for number in range(8)
        ]
        refused = threads.submit(
            core.commits.write_room, RoomCommand(room_id, two_events_and_a_refusal)
        )
        with pytest.raises(Forbidden):
            refused.result()
        event_ids = {future.result() for future in fine}
    assert {fact.pdu.event_id for fact in core.event_log.facts_after(4, 100)} == event_ids


def test_error_in_one_decision_does_not_fail_the_group(core: Core) -> None:
    room_id = create_room(core)

    def defect(session: RoomSession) -> None:
        raise ZeroDivisionError

    def broken_rows(execute: Execute, position: int) -> None:
        execute("INSERT INTO no_such_table VALUES (%s)", (position,))

    with ThreadPoolExecutor(16) as threads:
        fine = [
            threads.submit(send_message, core, room_id, ALICE, f"message {number}")
            for number in range(12)
        ]
        defective = threads.submit(core.commits.write_room, RoomCommand(room_id, defect))
        broken = threads.submit(core.commits.write_rows, broken_rows)
        assert len({future.result() for future in fine}) == 12
        with pytest.raises(ZeroDivisionError):
            defective.result()
        with pytest.raises(Exception, match="no_such_table"):
            broken.result()
    assert len(core.event_log.facts_after(4, 100)) == 12


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
