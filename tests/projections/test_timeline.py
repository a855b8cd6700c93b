"""Redactions in the timeline: shown once they redact something, wherever they and it come from."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from architex.bootstrap import Core, all_projections
from architex.domain.pdu import Pdu
from architex.domain.room.pdu_checks import Outcome
from architex.projections import rebuilding
from architex.projections.rebuilding import rebuild_projection
from architex.storage.migrations import read_migrations
from tests.builders import ALICE, BOB, CAROL, RoomBuilder
from tests.projections.traffic import rows_of
from tests.usecases.test_importing import (
    enter,
    find_key,
    importing,
    judging,
    missing,
    state_events,
    timeline,
)

TABLES = ("event_graph", "timeline")


@pytest.fixture(autouse=True)
def _replay_gives_the_same(core: Core, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In whatever groups the facts are read again."""
    yield
    before = {table: rows_of(core.database, table) for table in TABLES}
    for size in (1, 2, 500):
        monkeypatch.setattr(rebuilding, "CHUNK_SIZE", size)
        for projection in all_projections():
            if projection.name in TABLES:
                rebuild_projection(core.database, projection)
        assert {table: rows_of(core.database, table) for table in TABLES} == before


def redact(builder: RoomBuilder, sender: str, target: Pdu) -> Pdu:
    content = {"redacts": target.event_id, "reason": "\0"}
    return builder.send(sender, "m.room.redaction", content, redacts=target.event_id)


def joined(core: Core, builder: RoomBuilder) -> Pdu:
    """The join by which our server entered the room."""
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    return join


def backfill(core: Core, builder: RoomBuilder, *pdus: Pdu, at_once: int = 100) -> None:
    for start in range(0, len(pdus), at_once):
        events = [pdu.event for pdu in pdus[start : start + at_once]]
        verdicts = importing(core).import_history(builder.room_id, events, find_key)
        assert {v.outcome for v in verdicts} == {Outcome.ACCEPTED}


@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize("version", ["1", "11"])
def test_backfilled_redactions_are_shown_as_far_as_they_redact(
    core: Core, version: str, at_once: int
) -> None:
    builder = RoomBuilder(version)
    builder.join(CAROL)
    first = builder.message(ALICE)
    second = builder.message(CAROL)
    # Carol has no right to the first; her redaction of it is an event like others, for servers.
    denied = redact(builder, CAROL, first) if version == "11" else builder.message(CAROL)
    own = redact(builder, CAROL, second)
    moderated = redact(builder, ALICE, second)
    join = joined(core, builder)
    past = [pdu for pdu in reversed(builder.pdus.values()) if pdu is not join]
    backfill(core, builder, *past, at_once=at_once)
    shown = [pdu.event_id for pdu in builder.pdus.values()]
    if version == "11":
        shown.remove(denied.event_id)
    assert timeline(core) == shown
    assert own.event_id in shown
    assert moderated.event_id in shown
    assert missing(core) == set()


def test_history_before_a_redaction_that_is_not_shown_stays_before_what_follows_it(
    core: Core,
) -> None:
    builder = RoomBuilder("11")
    first = builder.message(ALICE)
    builder.join(CAROL)
    denied = redact(builder, CAROL, first)
    join = joined(core, builder)
    after = builder.message(ALICE, "as it happens")
    judging(core).judge(builder.room_id, [after.event], find_key)
    backfill(core, builder, denied)
    assert timeline(core) == [join.event_id, after.event_id]
    past = [pdu for pdu in reversed(builder.pdus.values()) if pdu not in (join, after, denied)]
    backfill(core, builder, *past)
    assert timeline(core) == [e for e in builder.pdus if e != denied.event_id]


def test_redaction_that_came_first_is_shown_when_its_event_is_backfilled(core: Core) -> None:
    builder = RoomBuilder("11")
    builder.join(CAROL)
    message = builder.message(CAROL)
    join = joined(core, builder)
    redaction = redact(builder, CAROL, message)
    judging(core).judge(builder.room_id, [redaction.event], find_key)
    assert timeline(core) == [join.event_id]
    backfill(core, builder, message)
    assert timeline(core) == [message.event_id, join.event_id, redaction.event_id]


def test_redaction_that_came_first_is_shown_when_its_event_is_told_as_state(core: Core) -> None:
    builder = RoomBuilder("11")
    join = joined(core, builder)
    topic = builder.fork().send_state(ALICE, "m.room.topic", {"topic": "elsewhere"})
    redaction = redact(builder, ALICE, topic)
    judging(core).judge(builder.room_id, [redaction.event], find_key)
    assert timeline(core) == [join.event_id]
    importing(core).import_state(builder.room_id, [topic.event], find_key)
    assert timeline(core) == [join.event_id, redaction.event_id]


def test_place_of_a_waiting_redaction_is_not_given_to_another(core: Core) -> None:
    builder = RoomBuilder("11")
    builder.join(CAROL)
    message = builder.message(CAROL)
    join = joined(core, builder)
    redaction = redact(builder, CAROL, message)
    judging(core).judge(builder.room_id, [redaction.event], find_key)
    state = list(builder.state.values())
    lost = builder.message(CAROL, "missed")
    seen = builder.message(CAROL, "seen")
    judging(core).judge(builder.room_id, [seen.event], find_key, told={seen.event_id: state})
    backfill(core, builder, lost)
    backfill(core, builder, message)
    assert set(timeline(core)) == {e.event_id for e in (message, join, redaction, lost, seen)}


def test_migration_puts_old_rows_right(core: Core) -> None:
    builder = RoomBuilder("11")
    builder.join(CAROL)
    first = builder.message(ALICE)
    second = builder.message(CAROL)
    denied = redact(builder, CAROL, first)
    redact(builder, CAROL, second)
    join = joined(core, builder)
    late = redact(builder, ALICE, first)
    judging(core).judge(builder.room_id, [late.event], find_key)
    past = [pdu for pdu in reversed(builder.pdus.values()) if pdu not in (join, late)]
    backfill(core, builder, *past)
    before = {table: rows_of(core.database, table) for table in TABLES}
    migration = next(m for m in read_migrations() if m.name == "0031_moved_events")
    with psycopg.connect(core.database.conninfo) as connection:
        connection.execute("CREATE UNIQUE INDEX timeline_moved ON timeline (position)")
        # As it was: the one is shown, the other is not.
        connection.execute(
            "INSERT INTO timeline SELECT g.room_nid, g.ordering, g.position, 'm.room.redaction',"
            " %s, false, false FROM event_graph g WHERE g.event_id = %s",
            (CAROL, denied.event_id),
        )
        connection.execute(
            "DELETE FROM timeline t USING event_graph g WHERE g.position = t.position"
            " AND g.event_id = %s",
            (late.event_id,),
        )
        connection.execute("ALTER TABLE event_graph DROP COLUMN ordering")
        connection.execute(migration.sql)
    assert {table: rows_of(core.database, table) for table in TABLES} == before
