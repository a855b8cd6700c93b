"""Importing: what another server tells of a room's state and past, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from psycopg import sql

from architex.bootstrap import Core, all_projections
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.pdu_checks import Outcome
from architex.domain.room_versions import get_room_version
from architex.projections.branch_states import BranchStates
from architex.projections.gaps import list_missing_events
from architex.projections.member_reads import MemberReads
from architex.projections.rebuilding import rebuild_projection
from architex.usecases.importing import Importing
from architex.usecases.judging import Judging
from architex.usecases.verifying import Verifying
from tests.builders import ALICE, BOB, CAROL, TEST_KEY, RoomBuilder

VERSIONS = ("1", "6", "11", "12")


def importing(core: Core) -> Importing:
    return Importing(core.commits, BranchStates())


def judging(core: Core) -> Judging:
    return Judging(core.commits, BranchStates(), MemberReads(core.database))


def find_key(server_name: str, key_id: str, made_ts: int) -> bytes | None:
    return TEST_KEY.verify_key


@pytest.fixture(autouse=True)
def _log_stays_whole(core: Core) -> Iterator[None]:
    """Whatever was imported: `architex verify` finds nothing wrong."""
    yield
    report = Verifying(core.database, all_projections, lambda *_: TEST_KEY.verify_key).verify()
    assert [problem.what for problem in report.problems] == []
    assert report.resets == []


def enter(core: Core, builder: RoomBuilder, join: Pdu, state: Iterable[Pdu]) -> None:
    """What a join through another server does."""
    state = list(state)
    rules = get_room_version(builder.rules.version)
    importing(core).record_state(
        join.room_id, state, as_state={pdu.event_id for pdu in state}, creates=rules
    )
    importing(core).record_join(join.room_id, join, [pdu.event_id for pdu in state])


def current_state(core: Core, builder: RoomBuilder) -> dict[StateKey, EventId]:
    rows = core.database.fetch_all(
        "SELECT c.type, c.state_key, g.event_id FROM current_state c JOIN rooms USING (room_nid)"
        " JOIN event_graph g ON g.position = c.position"
        " WHERE room_id = %s AND valid_to = 9223372036854775807",
        (builder.room_id,),
    )
    return {(type_, state_key): event_id for type_, state_key, event_id in rows}


def timeline(core: Core) -> list[EventId]:
    rows = core.database.fetch_all(
        "SELECT event_id FROM timeline t JOIN event_graph USING (position) ORDER BY t.ordering"
    )
    return [event_id for (event_id,) in rows]


def missing(core: Core, room_nid: int = 1) -> set[EventId]:
    with core.database.connection() as connection:
        found = list_missing_events(connection, room_nid, -(2**62), 2**62, 100)
    return {event.event_id for event in found}


def state_events(builder: RoomBuilder) -> list[Pdu]:
    return [builder.pdus[event_id] for event_id in builder.state.values()]


def room_with_history(version: str) -> tuple[RoomBuilder, list[Pdu]]:
    """A room in which five messages were sent, and those."""
    builder = RoomBuilder(version)
    builder.join(CAROL)
    messages = [
        builder.send(CAROL, "m.room.message", {"msgtype": "m.text", "body": str(n)})
        for n in range(5)
    ]
    return builder, messages


@pytest.mark.parametrize("version", VERSIONS)
def test_join_through_another_server_brings_the_state_and_begins_the_timeline(
    core: Core, version: str
) -> None:
    builder, messages = room_with_history(version)
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    assert current_state(core, builder) == builder.state
    assert timeline(core) == [join.event_id]
    room = core.event_log.get_room(builder.room_id)
    assert set(room.extremities) == {join.event_id}
    assert room.depth == join.depth
    assert missing(core) == {messages[-1].event_id}


def test_what_follows_the_join_is_judged_as_in_any_room(core: Core) -> None:
    builder, _ = room_with_history("11")
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    follower = builder.send(CAROL, "m.room.message", {"msgtype": "m.text", "body": "hello"})
    topic = builder.send(ALICE, "m.room.topic", {"topic": "t"}, state_key="")
    verdicts = judging(core).judge(builder.room_id, [follower.event, topic.event], find_key)
    assert [v.outcome for v in verdicts] == [Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert current_state(core, builder)["m.room.topic", ""] == topic.event_id


@pytest.mark.parametrize("version", VERSIONS)
def test_backfilled_history_takes_its_place_before_the_join(core: Core, version: str) -> None:
    builder, messages = room_with_history(version)
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    past = [pdu for pdu in builder.pdus.values() if pdu is not join]
    verdicts = importing(core).import_history(
        builder.room_id, [pdu.event for pdu in reversed(past)], find_key
    )
    assert {v.outcome for v in verdicts} == {Outcome.ACCEPTED}
    assert timeline(core) == list(builder.pdus)
    assert missing(core) == set()
    assert current_state(core, builder) == builder.state
    again = importing(core).import_history(builder.room_id, [messages[0].event], find_key)
    assert [v.outcome for v in again] == [Outcome.KNOWN]


def test_history_that_nothing_follows_is_dropped(core: Core) -> None:
    builder, messages = room_with_history("11")
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    (verdict,) = importing(core).import_history(builder.room_id, [messages[1].event], find_key)
    assert verdict.outcome is Outcome.DROPPED
    assert timeline(core) == [join.event_id]


def test_event_after_a_gap_waits_for_a_state_and_then_is_accepted(core: Core) -> None:
    builder, _ = room_with_history("11")
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    topic = builder.send(ALICE, "m.room.topic", {"topic": "missed"}, state_key="")
    lost = builder.send(CAROL, "m.room.message", {"msgtype": "m.text", "body": "missed"})
    state_before = list(builder.state.values())
    seen = builder.send(CAROL, "m.room.message", {"msgtype": "m.text", "body": "seen"})
    (verdict,) = judging(core).judge(builder.room_id, [seen.event], find_key)
    assert verdict.outcome is Outcome.MISSING
    assert verdict.missing == {lost.event_id}
    told = importing(core).import_state(builder.room_id, [topic.event], find_key)
    assert [v.outcome for v in told] == [Outcome.ACCEPTED]
    (verdict,) = judging(core).judge(
        builder.room_id, [seen.event], find_key, told={seen.event_id: state_before}
    )
    assert verdict.outcome is Outcome.ACCEPTED
    assert current_state(core, builder)["m.room.topic", ""] == topic.event_id
    assert missing(core) >= {lost.event_id}
    # What was missed finds its place between the join and the event after the gap.
    history = importing(core).import_history(builder.room_id, [lost.event, topic.event], find_key)
    assert [v.outcome for v in history] == [Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert timeline(core)[-4:] == [p.event_id for p in (join, topic, lost, seen)]


def test_state_that_was_told_counts_also_once_what_was_missed_has_come(core: Core) -> None:
    builder, _ = room_with_history("11")
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    known_before = list(builder.state.values())
    topic = builder.send(ALICE, "m.room.topic", {"topic": "missed"}, state_key="")
    lost = builder.send(CAROL, "m.room.message", {"msgtype": "m.text", "body": "missed"})
    # Nobody tells who was removed what happened before; they go by what they know.
    kick = builder.kick(ALICE, BOB)
    (verdict,) = judging(core).judge(
        builder.room_id, [kick.event], find_key, told={kick.event_id: known_before}
    )
    assert verdict.outcome is Outcome.ACCEPTED
    late = judging(core).judge(builder.room_id, [topic.event, lost.event], find_key)
    assert [v.outcome for v in late] == [Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert ("m.room.topic", "") not in current_state(core, builder)


def test_event_that_follows_an_outlier_needs_the_state_there(core: Core) -> None:
    builder, _ = room_with_history("11")
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    branch = builder.fork()
    fork_at = builder.pdus[builder.state["m.room.member", CAROL]]
    sibling = branch.send(
        CAROL, "m.room.message", {"msgtype": "m.text", "body": "x"}, prev_events=[fork_at.event_id]
    )
    (verdict,) = judging(core).judge(builder.room_id, [sibling.event], find_key)
    assert verdict.outcome is Outcome.MISSING
    assert verdict.missing == set()
    assert verdict.missing_states == {fork_at.event_id}
    before = [pdu.event_id for pdu in state if pdu is not fork_at]
    (verdict,) = judging(core).judge(
        builder.room_id, [sibling.event], find_key, told={fork_at.event_id: before}
    )
    assert verdict.outcome is Outcome.ACCEPTED


def test_outlier_that_comes_as_an_event_joins_the_timeline(core: Core) -> None:
    builder, _ = room_with_history("11")
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    topic = builder.send(ALICE, "m.room.topic", {"topic": "t"}, state_key="")
    importing(core).import_state(builder.room_id, [topic.event], find_key)
    assert topic.event_id not in timeline(core)
    (verdict,) = judging(core).judge(builder.room_id, [topic.event], find_key)
    assert verdict.outcome is Outcome.ACCEPTED
    assert timeline(core) == [join.event_id, topic.event_id]
    assert current_state(core, builder)["m.room.topic", ""] == topic.event_id
    (verdict,) = judging(core).judge(builder.room_id, [topic.event], find_key)
    assert verdict.outcome is Outcome.KNOWN
    follower = builder.send(ALICE, "m.room.topic", {"topic": "u"}, state_key="")
    (verdict,) = judging(core).judge(builder.room_id, [follower.event], find_key)
    assert verdict.outcome is Outcome.ACCEPTED


def test_imported_event_that_its_auth_events_forbid_is_rejected(core: Core) -> None:
    builder, _ = room_with_history("11")
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    forged = builder.compose(CAROL, "m.room.power_levels", {"users": {CAROL: 100}}, state_key="")
    (verdict,) = importing(core).import_state(builder.room_id, [forged.event], find_key)
    assert verdict.outcome is Outcome.REJECTED


def test_second_entry_takes_over_the_state_that_is_told(core: Core) -> None:
    builder, _ = room_with_history("11")
    state = state_events(builder)
    enter(core, builder, builder.join(BOB), state)
    leave = builder.send(BOB, "m.room.member", {"membership": "leave"}, state_key=BOB)
    judging(core).judge(builder.room_id, [leave.event], find_key)
    builder.send(ALICE, "m.room.topic", {"topic": "while we were away"}, state_key="")
    state = state_events(builder)
    rejoin = builder.join(BOB)
    enter(core, builder, rejoin, state)
    assert current_state(core, builder) == builder.state
    assert set(core.event_log.get_room(builder.room_id).extremities) == {rejoin.event_id}
    assert timeline(core)[-1] == rejoin.event_id


def test_rebuilding_from_the_log_gives_the_same_tables(core: Core) -> None:
    builder, _ = room_with_history("11")
    state = state_events(builder)
    join = builder.join(BOB)
    enter(core, builder, join, state)
    past = [pdu for pdu in builder.pdus.values() if pdu is not join]
    importing(core).import_history(
        builder.room_id, [pdu.event for pdu in reversed(past)][:4], find_key
    )
    tables = [table for p in all_projections() for table in p.tables if p.timing.name == "INLINE"]

    def contents() -> dict[str, list[str]]:
        return {
            table: sorted(
                str(row)
                for row in core.database.fetch_all(
                    sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)).as_string()
                )
            )
            for table in tables
        }

    before = contents()
    for projection in all_projections():
        if projection.timing.name == "INLINE":
            rebuild_projection(core.database, projection)
    assert contents() == before
