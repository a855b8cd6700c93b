"""The commit queue: what many ask for at once, committed in groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from architex.bootstrap import Core
from architex.domain.errors import Forbidden
from architex.storage.pool import Database, Execute
from architex.storage.room_session import RoomCommand, RoomSession
from tests.core import (
    ALICE,
    BOB,
    create_room,
    make_core,
    message_draft,
    send_message,
)


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
